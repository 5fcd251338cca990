"""The tables on the terminal."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from .columns import comparisons, comparisons_mean
from .contenders import CONTENDERS, FLOORS
from .figures import NOTHING, show_left, show_ratio, show_time
from .stats import not_ranked, percentile, uneven

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType

    from .columns import Column
    from .results import Footprint, Goal, Row, Run, Table

PERCENTILES = (50, 99, 99.9, 100)
ERROR_LENGTH = 120
# Of a core, by other processes: a quiet machine stays below a twentieth.
DISTURBED = 0.1

DELIVERED = (
    "delivered: bodies whole at the receiver with the right SHA-256 / posts that raised nothing, warm-up included. "
)
LEGEND = (
    "p50 to max: how long the caller is held. CPU: user + system per call, median. ÷C: p50 ÷ the C socket loop's p50. "
    "trick÷: the requests trick's p50 ÷ this p50. thr, fd: threads and descriptors kept once all answers were "
    "given, a Sender's spares among them. -: not measured, or too few posts to say. ✗: something was lost, doubled, "
    "altered or raised; the latency is void."
)
OF_BURSTS = (
    "{burst} posts back to back, each timed: the first finds the receiver asleep and pays for its wake-up (see p99), "
    "the others only where they are slower than the receiver."
)
OF_REGIMES = (
    "Now and then: each post finds the receiver asleep, and pays for its wake-up. Back to back (the scenarios burst…): "
    "only the first of a burst does."
)
ELSEWHERE = (
    "memory and descriptors after many posts: --flat 100000; system calls: --syscalls; a fixed rate of posts: "
    "--open-loop; what arrives behind nginx: --nginx"
)
CANNOT_TELL = """\
- Loopback has no round trip and loses nothing; add your own.
- The receiver is a forgiving one: it reads what has arrived and does not take a FIN for a client that is gone. nginx, \
Envoy, Puma, Go and others do, and lose requests that were delivered here.
- On loopback the sender's system call also carries the packets up to the receiver's socket and wakes it: the kernel's \
work for both sides is in every row's time and CPU, and none of the receiver's own.
- C send, open is the C socket loop without what can be done ahead: the bare send() on an open connection. Nobody who \
posts can be faster. Of a post now and then most of it is the wake-up of the receiver.
- CPU is what the process used during the call. What a Sender does around its calls, and its thread at any time, is \
told below its table. Each clock is read twice around the call, which adds up to a microsecond to every row.
- Posts are made when the receiver has slept for 50 µs: one at a time, or a whole burst back to back. A Sender without \
a thread has had the time to open a connection for each of them by then; --open-loop does not wait for it. Nothing is \
said about throughput.
- This receiver lets connections be used again, and aiohttp and a Session do: where each is closed after its answer, \
they cost more. rawfnf opens one for each post, everywhere.
- Contenders have one core and the receiver another, where there are two; see the first post's time for what it costs \
to come to a core whose caches are somebody else's."""

CANNOT_TELL_OF_ENDPOINT = """\
- What arrived: nobody counted. A latency is void until you have counted at your end; each body has an id of its own, \
from 0, once per contender.
- Posts are few, from one place, one at a time: nothing is said about throughput or other hours of the day.
- Names are resolved by each contender in its own way and are part of its time, except for the C socket loop's."""


def show_delivered(row: Row) -> str:
    """How many of those sent were delivered, marked if anything is wrong with it."""
    mark = "" if row.whole else "✗"
    return ("unknown" if row.delivered is None else f"{row.delivered}/{row.sent}") + mark


def show_claims(row: Row) -> str:
    """Return what a contender says became of its posts."""
    return ", ".join(f"{times} {claim}" for claim, times in row.claims.items())


def cells(row: Row, comparing: Sequence[Column]) -> list[str]:
    """One row of a table, without its name."""
    return [
        show_delivered(row),
        *(show_time(percentile(row.ns, percent)) for percent in PERCENTILES),
        show_time(median(row.cpu_ns)),
        *(column.show(row) for column in comparing),
        show_left(row.threads),
        show_left(row.descriptors),
    ]


def grid(title: str, *columns: str) -> Grid:
    """Return an empty table that fits 80 columns: the first column left, the others right."""
    made = Grid(box=box.SIMPLE_HEAD, show_edge=False, padding=0, title=title, title_justify="left")
    made.title_style = "bold"
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left", no_wrap=bool(index))
    return made


def fastest(rows: Sequence[Row]) -> str:
    """Name the contender with the lowest p50 of those that lost nothing; the floors do not compete."""
    whole = [row for row in rows if row.whole and row.contender not in FLOORS]
    return min(whole, key=lambda row: median(row.ns)).contender if whole else ""


def latency_table(table: Table) -> Grid:
    """All rows of one scenario."""
    comparing = comparisons(table)
    names = ("contender", "delivered", "p50", "p99", "p99.9", "max", "CPU", *(each.name for each in comparing))
    made = grid(f"{table.scenario.name}: {table.scenario.title}", *names, "thr", "fd")
    best = fastest(table.rows)
    for row in table.rows:
        if row.ns:
            style = "red" if not row.whole else "green" if row.contender == best else ""
            made.add_row(row.contender, *cells(row, comparing), style=style)
        else:
            made.add_row(row.contender, *[NOTHING] * (len(made.columns) - 1), style="dim")
    return made


def disturbed(table: Table) -> bool:
    """Whether others used so much of the machine that the figures do not count."""
    return table.others is not None and table.others > DISTURBED


def remarks(table: Table) -> list[str]:
    """Return what a reader of the table must know besides."""
    found = []
    if disturbed(table):
        found.append(f"DISTURBED: other processes used {table.others:.0%} of a core meanwhile. Run it again in quiet.")
    cold = [f"{row.contender} {show_time(median(row.cold_ns))}" for row in table.rows if row.cold_ns]
    found += [f"First post after others had the core, p50: {'; '.join(cold)}."] if cold else []
    aside = [f"{row.contender} {show_time(median(row.aside_ns))}" for row in table.rows if row.aside_ns]
    found += [f"CPU around each call and in threads, p50: {'; '.join(aside)}."] if aside else []
    found += [meaning] if (meaning := comparisons_mean(table.scenario)) else []
    if (burst := table.scenario.burst) > 1:
        found.append(OF_BURSTS.format(burst=burst))
    plain = [known.name for known in CONTENDERS if table.scenario.tls and not known.speaks_tls]
    found += [f"Over plain TCP, to compare with: {'; '.join(plain)}."] if any(map(table.row, plain)) else []
    for row in table.rows:
        said = [row.note] if row.note else []
        said += [f"{row.lost} of {row.sent} lost"] if row.lost else []
        said += [f"{row.twice} arrived twice"] if row.twice else []
        said += [f"{row.strange} bodies arrived that were not sent"] if row.strange else []
        said += [f"{row.broken_promises} of {row.promised} promised did not arrive"] if row.broken_promises else []
        said += [f"{times} raised {shorten(error)}" for error, times in row.errors.items()]
        said += [f"{row.unpaced} not seen by the receiver in time"] if row.unpaced else []
        if said:
            found.append(f"{row.contender}: {'; '.join(said)}.")
    receipts = [f"{row.contender} {show_claims(row)}" for row in table.rows if row.claims]
    found += [f"Receipts and stats said: {'; '.join(receipts)}."] if receipts else []
    rough = [
        f"{row.contender} ({show_time(quartiles[0])} to {show_time(quartiles[1])})"
        for row in table.rows
        if (quartiles := uneven(row))
    ]
    found += [f"Noisy, half of its rounds had their median outside of: {'; '.join(rough)}."] if rough else []
    close = [" ≈ ".join(names) for names in not_ranked(table.rows)]
    found += [f"Too close to rank in this run: {'; '.join(close)}."] if close else []
    return found


def shorten(error: str) -> str:
    """Return an error's beginning."""
    return error if len(error) <= ERROR_LENGTH else error[:ERROR_LENGTH] + "…"


def footprint_table(footprints: Sequence[Footprint]) -> Grid:
    """Return what imports cost."""
    made = grid("fresh interpreters, medians", "import", "time", "peak memory", "interpreters")
    for footprint in footprints:
        peak = f"{median(footprint.peak_kib) / 1024:.1f} MiB" if footprint.peak_kib else "unknown"
        name = footprint.what if footprint is footprints[0] else f"{footprint.what}, then one plain post"
        made.add_row(name, show_time(median(footprint.import_ns)), peak, str(len(footprint.import_ns)))
    return made


def goal_table(found: Sequence[Goal]) -> Grid:
    """Return the numbers to reach."""
    made = grid("numbers to reach", "what", "this run", "to reach", "")
    group = ""
    for goal in found:
        if goal.group != group:
            group = goal.group
            made.add_row(f"{group}:", style="bold")
        verdict = {True: "reached", False: "missed", None: "not measured"}[goal.reached]
        style = "red" if goal.reached is False else ""
        bound = f"{'≤' if goal.at_most else '≥'} {goal.bound:g}"
        what = f"  {goal.what}" if group else goal.what
        made.add_row(what, show_ratio(goal.value), bound, verdict, style=style)
    return made


def section(text: str) -> Text:
    """Return a paragraph in the lighter voice of notes."""
    return Text(text, style="dim")


def broken_promises(tables: Sequence[Table]) -> list[str]:
    """Who promised delivery and lost something."""
    return [
        f"{row.contender} in {table.scenario.name}: {row.broken_promises} of {row.promised} posts did not arrive"
        for table in tables
        for row in table.rows
        if row.broken_promises
    ]


def show(run: Run, console: Console) -> None:
    """Print the whole report."""
    counted = any(row.delivered is not None for table in run.tables for row in table.rows)
    parts: list[RenderableType] = []
    for table in run.tables:
        parts += [latency_table(table), *map(section, remarks(table)), ""]
    parts += [section(DELIVERED * counted + LEGEND), ""]
    if run.footprints:
        parts += [footprint_table(run.footprints), ""]
    if run.goals:
        parts += [goal_table(run.goals), section(OF_REGIMES), section(ELSEWHERE), ""]
    if run.goals and any(map(disturbed, run.tables)):
        parts += [Text("The machine was disturbed: these verdicts do not count.", style="red"), ""]
    parts += [
        Text("What these numbers cannot tell", style="bold"),
        section(CANNOT_TELL if counted else CANNOT_TELL_OF_ENDPOINT),
        "",
    ]
    parts += [section("; ".join(f"{name}: {value}" for name, value in run.metadata.items()))]
    console.print(Group(*parts))
