"""The tables of the options that measure one thing of their own: --flat, --open-loop, --syscalls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from .figures import NOTHING, show_time
from .layout import grid, section
from .overview import OF_SYSCALLS, trace_table
from .report import disturbed, goal_table, show_claims, show_delivered
from .stats import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from rich.table import Table as Grid

    from .flat import Flatness, Look
    from .openloop import OpenLoop
    from .results import Goal, Row, Table, Trace

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
    return [trace_table(traces), section(OF_SYSCALLS), "", goal_table(goals)]
