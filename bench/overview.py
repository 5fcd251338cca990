"""A run at a glance, and what has no scenario of its own: the wire, the system calls, the imports, the code."""

from __future__ import annotations

from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING

from rich.text import Text

from .columns import caveats, leaders
from .contenders import KNOWN
from .figures import NOTHING, show_time
from .layout import fitting, grid, left, section
from .stats import percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType
    from rich.table import Table as Grid

    from .results import Footprint, Run, Table, Trace, Wire

# Scenarios that tell most, by their names: those of the README.
TELLING = ("at-once", "after-200ms", "tls1.3", "far-tls1.3", "1MiB")
TITLE = "at a glance: how long the caller is held, p50"
OF_OVERVIEW = (
    "Green: the lowest p50 of those that lost nothing, the C programs aside, and whatever this run cannot tell from "
    "it. ✗: something was lost, doubled, altered or raised, or the contender failed; the latency is void. Where "
    "nothing can arrive ✗ says that posts were lost, and neither the call nor any books said so. -: not measured there."
)
OF_SYSCALLS = (
    "What most of some posts did. Left out: futex, by which the interpreter hands its lock over to the thread that was "
    "just woken; whether it must is a race, which strace distorts. in all: of all threads, until the answer is dealt "
    "with and the next post can be made; median."
)
OF_WIRE = "Medians over some posts, each alone; bytes with IP and TCP headers, without Ethernet's."


def overview(tables: Sequence[Table], width: int) -> list[RenderableType]:
    """Return the p50 of everybody everywhere, in as many tables as this width asks for."""
    names = list(dict.fromkeys(row.contender for table in tables for row in table.rows))
    columns = [[cell(table, name, best) for name in names] for table in tables for best in (leaders(table.rows),)]
    heads = [table.scenario.name.replace("-", "-\n") for table in tables]
    widths = [
        max(len(text) for text in (*head.split("\n"), *(shown.plain for shown in column)))
        for head, column in zip(heads, columns, strict=True)
    ]
    room = width - max(map(len, ("contender", *names))) - 1
    parts: list[RenderableType] = []
    for chosen in fitting(widths, room):
        made = grid("continued" if parts else TITLE, "contender", *(heads[index] for index in chosen))
        made.columns[0].no_wrap = True
        for number, name in enumerate(names):
            made.add_row(name, *(columns[index][number] for index in chosen))
        parts += [made, ""]
    return [*parts[:-1], section(" ".join([OF_OVERVIEW, *caveats(tables)]))]


def cell(table: Table, contender: str, best: set[str]) -> Text:
    """Return one p50, marked if it is void or the best."""
    row = next((row for row in table.rows if row.contender == contender), None)
    if row is None or not row.ns:
        return Text(NOTHING, style="dim")
    time = show_time(percentile(row.ns, 50))
    if row.marked:
        return Text(f"{time}✗", style="red")
    return Text(time, style="green" if contender in best else "")


def wire_table(wires: Sequence[Wire]) -> Grid:
    """Return what one post puts on the wire."""
    columns = ("contender", "", "posts", "segments out", "in", "bytes out", "in")
    made = left(grid("one post on the wire, medians", *columns), 1)
    for wire in wires:
        if wire.note:
            made.add_row(wire.contender, f"{wire.scenario}: {wire.note}", style="dim")
            continue
        counts = (wire.segments_out, wire.segments_in, wire.bytes_out, wire.bytes_in)
        made.add_row(wire.contender, wire.scenario, str(wire.posts), *(f"{value:g}" for value in counts))
    return made


def trace_table(traces: Sequence[Trace]) -> Grid:
    """Return every post's system calls."""
    title = "system calls of one post, by the thread that posts"
    made = left(grid(title, "contender", "", "calls", "in all", "names"), 1, 4)
    for trace in traces:
        count = NOTHING if trace.note else str(len(trace.calls))
        in_all = NOTHING if trace.in_all is None else f"{trace.in_all:g}"
        made.add_row(trace.contender, trace.scenario, count, in_all, trace.note or in_short(trace.calls))
    return made


def in_short(calls: Sequence[str]) -> str:
    """Return the calls in order, repetitions counted."""
    runs = ((name, len(list(run))) for name, run in groupby(calls))
    return ", ".join(f"{times} {name}" if times > 1 else name for name, times in runs)


def footprint_table(footprints: Sequence[Footprint]) -> Grid:
    """Return what imports cost."""
    made = grid("fresh interpreters, medians", "import", "time", "peak memory", "interpreters")
    for footprint in footprints:
        name = f"{footprint.what}, then {footprint.then}" if footprint.then else footprint.what
        if footprint.note or not footprint.import_ns:
            made.add_row(f"{name}: {footprint.note}", *[NOTHING] * 3, style="dim")
            continue
        peak = f"{median(footprint.peak_kib) / 1024:.1f} MiB" if footprint.peak_kib else "unknown"
        made.add_row(name, show_time(median(footprint.import_ns)), peak, str(len(footprint.import_ns)))
    return made


def beside(run: Run) -> list[RenderableType]:
    """Return all that has no scenario of its own."""
    parts: list[RenderableType] = []
    if run.wires:
        parts += [wire_table(run.wires), section(OF_WIRE), ""]
    if run.traces:
        parts += [trace_table(run.traces), section(OF_SYSCALLS), ""]
    if run.footprints:
        parts += [footprint_table(run.footprints), ""]
    return parts


def who(contenders: Iterable[str], missing: dict[str, str]) -> list[RenderableType]:
    """Return where each contender's code is, and who is not there."""
    made = left(grid("who they are: the code of each", "contender", "bench/", "what it does"), 1, 2)
    made.columns[1].no_wrap = True
    for name in dict.fromkeys(contenders):
        known = KNOWN.get(name)
        made.add_row(name, *((known.code, known.says) if known else ("unknown", "not in this version of the bench")))
    return [made, "", *not_there(missing)]


def not_there(missing: dict[str, str]) -> list[RenderableType]:
    """Return contenders that could not be measured, and what to install."""
    if not missing:
        return []
    made = left(grid("missing, not measured", "contender", "why"), 1)
    for name, why in missing.items():
        made.add_row(name, why)
    return [made, ""]
