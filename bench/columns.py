"""What the rows of a table are compared by, in two columns: that depends on what their posts come from."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from .contenders import AIOHTTP, CONTENDERS, FLOOR, FLOORS, HTTP_HANDLER, TRICK
from .figures import NOTHING, show_ratio, show_time
from .stats import equal, overlap, percentile, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .results import Row, Table
    from .scenarios import Scenario, Within

# Wherever it has a row: its figure looks like a post's, and is none.
OF_TASK = (
    f"{AIOHTTP.name}: its p50 is only the making of a task. The post is made later, in the loop that the caller runs."
)
# The programs in C know nothing of TLS: what it costs is seen beside them.
OF_PLAIN = "{names}: over plain TCP beside TLS as well, to compare with."
MEANINGS: dict[Within, str] = {
    "": "",
    "asyncio": (
        "all CPU: user + system per post, until the answer is read and what the next post needs is there; median of "
        "the rounds. task÷: the aiohttp task's all CPU ÷ this one's."
    ),
    "logging": (
        "p50 to max: of handle(), called by logger.info(). A record is logged 20 ms after the one before, or when that "
        "has arrived (of QueueHandler: is answered; its thread does one after the other). all CPU: of handle() and of "
        "threads, per record; median of the rounds. HTTP÷: HTTPHandler's p50 ÷ this p50."
    ),
    "queues": (
        "A broker's answer says that the broker has the message: who carries it to an endpoint, and when, is not in "
        "these figures. all CPU: user + system per post in the caller's process; median of the rounds. ÷best: p50 ÷ "
        "the lowest p50 of those that lost nothing."
    ),
}


class Column(NamedTuple):
    """One of the two."""

    name: str
    show: Callable[[Row], str]


def p50(row: Row | None) -> int | None:
    """Return how long the caller was held, median, but only of a row that lost nothing: any other is void."""
    return percentile(row.ns, 50) if row and row.whole else None


def whole_cpu(row: Row | None) -> float | None:
    """Return the CPU per post, in the calls and around them, median of the rounds; as above."""
    return median(row.whole_cpu_ns) if row and row.whole and row.whole_cpu_ns else None


def fastest(rows: Sequence[Row]) -> str:
    """Name the contender with the lowest p50 of those that lost nothing; the floors do not compete."""
    whole = [row for row in rows if row.ranked and row.contender not in FLOORS]
    return min(whole, key=lambda row: median(row.ns)).contender if whole else ""


def leaders(rows: Sequence[Row]) -> set[str]:
    """Name the fastest, and those that lost nothing either and that this run cannot tell from it.

    Of few rounds none can be ranked: then those are left out of whose posts hardly any was as quick.
    """
    best = fastest(rows)
    first = next((row for row in rows if row.contender == best), None)
    whole = [row for row in rows if first and row.ranked and row.contender not in FLOORS]
    return {row.contender for row in whole if first and (row is first or (equal(first, row) and overlap(first, row)))}


def comparisons(table: Table) -> tuple[Column, Column]:
    """Return both."""
    floor, trick, aiohttp, handler = (table.row(each.name) for each in (FLOOR, TRICK, AIOHTTP, HTTP_HANDLER))
    all_cpu = Column("all CPU", lambda row: show_time(whole_cpu(row)))
    if table.scenario.within == "asyncio":
        return all_cpu, Column("task÷", lambda row: compare(row, whole_cpu(aiohttp), whole_cpu(row)))
    if table.scenario.within == "logging":
        return all_cpu, Column("HTTP÷", lambda row: compare(row, p50(handler), p50(row)))
    if table.scenario.within == "queues":
        best = min((held for row in table.rows if (held := p50(row)) is not None), default=None)
        return all_cpu, Column("÷best", lambda row: compare(row, p50(row), best))
    return (
        Column("÷C", lambda row: compare(row, p50(row), p50(floor))),
        Column("trick÷", lambda row: compare(row, p50(trick), p50(row))),
    )


def compare(row: Row, one: float | None, other: float | None) -> str:
    """Return a ratio in which the row takes part."""
    if row.whole:
        return show_ratio(ratio(one, other))
    return "void" if row.void else NOTHING


def comparisons_mean(scenario: Scenario) -> str:
    """Say what a reader cannot guess; nothing of what this version does not know."""
    return MEANINGS.get(scenario.within, "")


def caveats(tables: Iterable[Table]) -> list[str]:
    """Say which rows' figures look like something that they are not."""
    shown = {(row.contender, bool(table.scenario.tls)) for table in tables for row in table.rows if row.ns}
    found = [OF_TASK] if any(name == AIOHTTP.name for name, _ in shown) else []
    plain = [known.name for known in CONTENDERS if not known.speaks_tls and (known.name, True) in shown]
    return [*found, *([OF_PLAIN.format(names="; ".join(plain))] if plain else [])]
