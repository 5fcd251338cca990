"""The tables of the options that measure one thing of their own: --flat, --open-loop, --syscalls, --nginx."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.text import Text

from .figures import NOTHING, show_time
from .report import disturbed, goal_table, grid, section, show_claims, show_delivered
from .stats import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from rich.table import Table as Grid

    from .delivery import Cell
    from .flat import Flatness, Look
    from .openloop import OpenLoop
    from .results import Goal, Row, Table
    from .syscalls import Trace

OF_SYSCALLS = (
    "What most of some posts did. Left out: futex, by which the interpreter hands its lock over to the thread that was "
    "just woken; whether it must is a race, which strace distorts."
)
PERCENTILES = (50, 90, 99, 99.9, 100)


def show_look(look: Look) -> str:
    """Say whether the books are true."""
    return "true" if look.true else f"NOT true: {look.posts} posted, {look.arrived} arrived, {look.ledger}"


def flat_table(flatness: Flatness) -> Grid:
    """Memory and descriptors along the way."""
    title = f"one process, {flatness.row.contender}, plain TCP"
    made = grid(title, "posts", "resident", "descriptors", "threads", "arrived", "books")
    for look in flatness.looks:
        counts = (f"{look.rss_kib} KiB", look.descriptors, look.threads, look.arrived)
        made.add_row(str(look.posts), *map(str, counts), show_look(look))
    return made


def flat_verdict(flatness: Flatness) -> str:
    """Flat or not, and whether all of it arrived."""
    row = flatness.row
    verdict = "flat" if flatness.flat else "NOT flat"
    failure = f"The worker failed: {row.note}." if row.note else ""
    return f"{verdict}; delivered {show_delivered(row)}. {books(row)}{failure}"


def open_loop_report(found: OpenLoop) -> list[RenderableType]:
    """Return both rows, and the verdict."""
    made = grid("latency from the intended start", "contender", "delivered", "p50", "p90", "p99", "p99.9", "max")
    notes: list[RenderableType] = []
    for table in found:
        (row,) = table.rows
        times = (show_time(percentile(row.ns, percent)) for percent in PERCENTILES)
        made.add_row(row.contender, NOTHING if row.delivered is None else show_delivered(row), *times)
        notes.append(section(f"{row.contender}: {table.scenario.title}. {books(row)}{row.note}"))
    return [made, *notes, goal_table(found.goals), *warning(found.sender)]


def books(row: Row) -> str:
    """Return what the books of a Sender say."""
    return f"Stats said: {show_claims(row)}. " if row.claims else ""


def warning(table: Table) -> list[RenderableType]:
    """Say that the machine was not quiet, if it was not."""
    if not disturbed(table):
        return []
    return [Text(f"DISTURBED: other processes used {table.others:.0%} of a core meanwhile.", style="red")]


def syscall_report(traces: Sequence[Trace], goals: Sequence[Goal]) -> list[RenderableType]:
    """Return every post's calls, and the verdict."""
    made = grid("system calls of one post, by the thread that posts", "contender", "", "calls", "names")
    for column in (made.columns[1], made.columns[3]):
        column.justify, column.no_wrap = "left", False
    made.padding = (0, 1, 0, 0)
    for trace in traces:
        made.add_row(trace.contender.name, trace.scenario.title, str(len(trace.calls)), in_short(trace.calls))
    return [made, section(OF_SYSCALLS), "", goal_table(goals)]


def in_short(calls: Sequence[str]) -> str:
    """Return the calls in order, repetitions counted."""
    runs = ((name, len(list(run))) for name, run in groupby(calls))
    return ", ".join(f"{times} {name}" if times > 1 else name for name, times in runs)


def delivery_report(cells: Sequence[Cell], goals: Sequence[Goal]) -> list[RenderableType]:
    """Return a table for each transport, what nginx said about the losses, and the verdict."""
    parts: list[RenderableType] = []
    for transport, group in groupby(cells, key=lambda cell: cell.transport):
        of_transport = list(group)
        sizes = list(dict.fromkeys(cell.size for cell in of_transport))
        made = grid(f"delivered / sent behind nginx, {transport}", "contender", *(size.name for size in sizes))
        for contender in dict.fromkeys(cell.contender for cell in of_transport):
            row = [show_cell(cell) for cell in of_transport if cell.contender is contender]
            made.add_row(contender.name, *row)
        parts += [made, ""]
    losses = [section(loss(cell)) for cell in cells if not cell.row.whole or cell.row.note]
    return [*parts, *losses, "", goal_table(goals)]


def show_cell(cell: Cell) -> str:
    """How many of those sent were delivered; a cell without a post has nothing to show."""
    return show_delivered(cell.row) if cell.row.sent else "-"


def loss(cell: Cell) -> str:
    """Say what nginx made of the posts that did not arrive."""
    logged = ", ".join(f"{times} times {status}" for status, times in cell.statuses.items()) or "nothing"
    row = cell.row
    said = [f"{times} raised {error}" for error, times in row.errors.items()] + ([row.note] if row.note else [])
    where = f"{cell.contender.name}, {cell.transport}, {cell.size.name}"
    return f"{where}: nginx logged {logged}. {'; '.join(said)} {cell.example}".rstrip()
