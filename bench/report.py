"""The tables on the terminal."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from .columns import caveats, comparisons, comparisons_mean, leaders
from .figures import NOTHING, show_left, show_memory, show_ratio, show_time
from .layout import WIDE, grid, section
from .overview import beside, overview, who
from .scenarios import TOGETHER
from .stats import not_ranked, percentile, uneven

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console, RenderableType
    from rich.table import Table as Grid

    from .columns import Column
    from .results import Goal, Row, Run, Table

PERCENTILES = (50, 90, 99, 99.9, 100)
NAMES = {50: "p50", 90: "p90", 99: "p99", 99.9: "p99.9", 100: "max"}
ONLY_WIDE = 90  # of these
ERROR_LENGTH = 120
# Of a core, by other processes: a quiet machine stays below a twentieth.
DISTURBED = 0.1
# Nanoseconds, of time and of CPU: below, it is the clock and an empty function.
NOTICED, CPU_NOTICED = 10_000, 1_000

DELIVERED = (
    "delivered: bodies whole at the receiver with the right SHA-256 / posts that raised nothing, warm-up included. "
)
LEGEND = (
    "p50 to max: how long the caller is held. CPU: user + system per call, median. ÷C: p50 ÷ the C socket loop's p50. "
    "trick÷: the requests trick's p50 ÷ this p50. thr, fd: threads and descriptors kept once all answers were "
    "given, a Sender's spares among them. -: not measured, or too few posts to say. ✗: something was lost, doubled, "
    "altered or raised, or the contender failed; the latency is void."
)
OF_MEMORY = " memory: resident, after the last post minus after those to warm up; noisy by some 0.1M."
OF_TOLD = (
    "Where nothing can arrive, the times are how long a caller was held. raised: the post said so itself. in its "
    "books: a Sender's stats said so afterwards (unanswered, reset, held). NOTHING✗: the post went nowhere; the call "
    "said nothing, nor did any books: at most there is a traceback on standard error, or in a log."
)
OF_READY = f"Held besides, around each burst, by pump(), warm() and the like, p50, from {NOTICED // 1000} µs on"
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
    "--open-loop; what arrives at real servers: python -m bench delivery"
)
CANNOT_TELL = f"""\
- Loopback has no round trip and loses nothing; where a scenario names neither, add your own.
- The receiver is a forgiving one: it reads what has arrived and does not take a FIN for a client that is gone. nginx, \
Envoy, Puma, Go and others do, and lose requests that were delivered here: `python -m bench delivery` counts these.
- A simulated round trip is made by a relay on the same machine, which takes its share of the cores.
- On loopback the sender's system call also carries the packets up to the receiver's socket and wakes it: the kernel's \
work for both sides is in every row's time and CPU, and none of the receiver's own.
- C send, open is the C socket loop without what can be done ahead: the bare send() on an open connection. Nobody who \
posts can be faster. Of a post now and then most of it is the wake-up of the receiver.
- CPU is what the process used during the call. What a Sender does around its calls, and its thread at any time, is \
told below its table. So is the time that its caller gives it around each burst, by pump() and warm() ("held \
besides"): it is in none of the percentiles. Each clock is read twice around the call, which adds up to a microsecond \
to every row.
- Posts are made when the receiver has slept for 50 µs: one at a time, or a whole burst back to back. Not so with a \
round trip, at a fixed rate, at a closed port, where posts may be held for seconds, and at brokers. A Sender without \
a thread has had the time to open a connection for each of them by then; --open-loop does not wait for it. Nothing is \
said about throughput.
- This receiver lets connections be used again, and aiohttp and a Session do: where each is closed after its answer, \
they cost more. rawfnf opens one for each post, everywhere.
- Over TLS all contenders trust the receiver's certificate alone. That favours requests, which else loads certifi's \
whole bundle.
- Where there is a round trip, up to {TOGETHER} contenders post at the same time and share a core: milliseconds in the \
tail may be a neighbour's.
- Contenders have one core and the receiver another, where there are two; see the first post's time for what it costs \
to come to a core whose caches are somebody else's."""

CANNOT_TELL_OF_ENDPOINT = """\
- What arrived: nobody counted. A latency is void until you have counted at your end; each body has an id of its own, \
from 0, once per contender.
- Posts are few, from one place, one at a time: nothing is said about throughput or other hours of the day.
- Nobody was warmed up: max is mostly the first post, which imports modules and loads what the others find there.
- Names are resolved by each contender in its own way and are part of its time, except for the C socket loop's."""


def show_delivered(row: Row) -> str:
    """How many of those sent were delivered, marked if anything is wrong with it."""
    mark = "✗" if row.void else ""
    return ("unknown" if row.delivered is None else f"{row.delivered}/{row.sent}") + mark


def show_claims(row: Row) -> str:
    """Return what a contender says became of its posts."""
    return ", ".join(f"{times} {claim}" for claim, times in row.claims.items())


def cells(row: Row, comparing: Sequence[Column], *, wide: bool) -> list[str]:
    """One row of a table, without its name."""
    return [
        show_delivered(row),
        *(show_time(percentile(row.ns, percent)) for percent in percents(wide=wide)),
        show_time(median(row.cpu_ns)),
        *(column.show(row) for column in comparing),
        show_left(row.threads),
        show_left(row.descriptors),
        *([show_memory(row.memory_kib)] if wide else []),
    ]


def percents(*, wide: bool) -> list[float]:
    """Return the percentiles to show."""
    return [percent for percent in PERCENTILES if wide or percent != ONLY_WIDE]


def latency_table(table: Table, *, wide: bool = False) -> Grid:
    """All rows of one scenario."""
    comparing = comparisons(table)
    shown = [NAMES[percent] for percent in percents(wide=wide)]
    names = ["contender", "delivered", *shown, "CPU", *(each.name for each in comparing), "thr", "fd"]
    made = grid(title_of(table), *names, *(["memory"] if wide else []))
    best = leaders(table.rows)
    for row in table.rows:
        if row.ns:
            style = "red" if row.void else "green" if row.contender in best else ""
            made.add_row(row.contender, *cells(row, comparing, wide=wide), style=style)
        else:
            made.add_row(row.contender, *[NOTHING] * (len(made.columns) - 1), style="dim")
    return made


def title_of(table: Table) -> str:
    """Return what stands above a table."""
    return f"{table.scenario.name}: {table.scenario.title}"


def told_table(table: Table) -> Grid:
    """All rows of a scenario in which nothing can arrive: who is told so, and how long that takes."""
    made = grid(title_of(table), "contender", "posts", "raised", "in its books", "NOTHING", "p50", "p99", "max")
    for row in table.rows:
        if not row.made:
            made.add_row(row.contender, *[NOTHING] * (len(made.columns) - 1), style="dim")
            continue
        told = (row.made, sum(row.errors.values()), row.doubted)
        silent = f"{row.silent}✗" if row.silent else "0"
        held = (show_time(percentile(row.ns, percent)) for percent in (50, 99, 100))
        made.add_row(row.contender, *map(str, told), silent, *held, style="red" if row.marked else "")
    return made


def disturbed(table: Table) -> bool:
    """Whether others used so much of the machine that the figures do not count."""
    return table.others is not None and table.others > DISTURBED


def remarks(table: Table) -> list[str]:
    """Return what a reader of the table must know besides."""
    found = []
    if disturbed(table):
        found.append(f"DISTURBED: other processes used {table.others:.0%} of a core meanwhile. Run it again in quiet.")
    found += each("First post after others had the core, p50", table.rows, lambda row: p50_of(row.cold_ns))
    found += each(
        "CPU around each call and in threads, p50", table.rows, lambda row: noticed(row.aside_ns, CPU_NOTICED)
    )
    found += each(OF_READY, table.rows, lambda row: noticed(row.ready_ns, NOTICED))
    found += caveats([table])
    found += [meaning] if (meaning := comparisons_mean(table.scenario)) else []
    if (burst := table.scenario.burst) > 1:
        found.append(OF_BURSTS.format(burst=burst))
    found += [f"{row.contender}: {'; '.join(said)}." for row in table.rows if (said := faults(row))]
    found += each("Receipts and stats said", table.rows, show_claims)
    found += each("Noisy, half of its rounds had their median outside of", table.rows, show_uneven)
    close = [" ≈ ".join(names) for names in not_ranked(table.rows)] if table.scenario.arrives else []
    found += [f"Too close to rank in this run: {'; '.join(close)}."] if close else []
    return found


def each(what: str, rows: Sequence[Row], say: Callable[[Row], str]) -> list[str]:
    """Return one remark on those rows of which there is something to say."""
    said = [f"{row.contender} {text}" for row in rows if (text := say(row))]
    return [f"{what}: {'; '.join(said)}."] if said else []


def p50_of(samples: Sequence[int]) -> str:
    """Return their median; nothing if there are none."""
    return show_time(median(samples)) if samples else ""


def noticed(samples: Sequence[int], least: int) -> str:
    """Return their median; nothing below the least that is more than the clocks' own."""
    return p50_of(samples) if samples and median(samples) >= least else ""


def show_uneven(row: Row) -> str:
    """Return the quartiles of its rounds' medians, if they are far apart."""
    quartiles = uneven(row)
    return f"({show_time(quartiles[0])} to {show_time(quartiles[1])})" if quartiles else ""


def faults(row: Row) -> list[str]:
    """Return what went wrong in a row."""
    said = [row.note] if row.note else []
    said += [f"{row.lost} of {row.sent} lost"] if row.lost else []
    if row.silent and not row.arrives:
        said.append(f"{row.silent} of {row.made} went nowhere, and neither the call nor any books said so")
    said += [f"{row.twice} arrived twice"] if row.twice else []
    said += [f"{row.strange} bodies arrived that were not sent"] if row.strange else []
    said += [f"{row.broken_promises} of {row.promised} promised did not arrive"] if row.broken_promises else []
    said += [f"{times} raised {shorten(error)}" for error, times in row.errors.items()]
    return said + ([f"{row.unpaced} not seen by the receiver in time"] if row.unpaced else [])


def shorten(error: str) -> str:
    """Return an error's beginning."""
    return error if len(error) <= ERROR_LENGTH else error[:ERROR_LENGTH] + "…"


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
    wide = console.width >= WIDE
    parts: list[RenderableType] = [*overview(run.tables, console.width), ""] if len(run.tables) > 1 else []
    for table in run.tables:
        made = latency_table(table, wide=wide) if table.scenario.arrives else told_table(table)
        parts += [made, *map(section, remarks(table)), ""]
    parts += [section(DELIVERED * counted + LEGEND + OF_MEMORY * wide), ""]
    if not all(table.scenario.arrives for table in run.tables):
        parts += [section(OF_TOLD), ""]
    parts += beside(run)
    parts += who((row.contender for table in run.tables for row in table.rows), run.missing)
    if run.goals:
        parts += [goal_table(run.goals), section(OF_REGIMES), section(ELSEWHERE), ""]
    if run.goals and any(map(disturbed, run.tables)):
        parts += [Text("The machine was disturbed: these verdicts do not count.", style="red"), ""]
    console.print(Group(*parts, *limits(CANNOT_TELL if counted else CANNOT_TELL_OF_ENDPOINT, run.metadata)))


def limits(cannot_tell: str, metadata: dict[str, str]) -> list[RenderableType]:
    """Return how a report ends: what it cannot tell, and what it was made with."""
    facts = "; ".join(f"{name}: {value}" for name, value in metadata.items())
    return [Text("What these numbers cannot tell", style="bold"), section(cannot_tell), "", section(facts)]
