"""The numbers that rawfnf set out to reach, computed from this run."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from .columns import p50, whole_cpu
from .contenders import (
    AIO_POST,
    AIO_POST_UVLOOP,
    AIO_SENDER,
    AIOHTTP,
    FLOOR,
    HTTP_HANDLER,
    NOW,
    POST_HANDLER,
    SENDER,
    SENDER_NOW,
    TRICK,
)
from .footprint import BASELINE, RAWFNF
from .results import Goal
from .scenarios import BURST
from .stats import ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .contenders import Contender
    from .results import Footprint, Row, Table


def footprint_ratio(footprints: Sequence[Footprint], *, memory: bool) -> float | None:
    """Medians of rawfnf ÷ those of h11 and socket: the import's time, or the peak memory."""
    samples = {each.what: each.peak_kib if memory else each.import_ns for each in footprints}
    if not (samples.get(RAWFNF.name) and samples.get(BASELINE.name)):
        return None
    return ratio(median(samples[RAWFNF.name]), median(samples[BASELINE.name]))


class Ratio(NamedTuple):
    """A median of one scenario that is to be so many times another one of it."""

    scenario: str
    one: Contender
    other: Contender
    bound: float
    at_most: bool
    over: str = ""  # what `one` posts over; the floor knows nothing but plain TCP
    when: str = ""  # how the scenario differs from plain TCP, answered at once, for both
    of: Callable[[Row | None], float | None] = p50

    def goal(self, tables: Sequence[Table], group: str) -> Goal:
        """Return it with what was measured."""
        table = next((table for table in tables if table.scenario.name == self.scenario), None)
        medians = (self.of(table.row(each.name)) if table else None for each in (self.one, self.other))
        what = f"{self.one.name}{self.over} ÷ {self.other.name}{self.when}"
        return Goal(what, ratio(*medians), self.bound, self.at_most, group)


OVER_TLS, LATE = " over TLS 1.3", ", after 200 ms"
# By regime: of a post that comes alone a good part is the wake-up of the receiver, which nobody who posts can avoid.
RATIOS = {
    "posts now and then, p50 ÷ p50": (
        Ratio("at-once", NOW, FLOOR, 1.8, at_most=True),
        Ratio("at-once", SENDER, FLOOR, 0.45, at_most=True),
        Ratio("tls1.3", SENDER, FLOOR, 1.0, at_most=True, over=OVER_TLS),
        Ratio("at-once", SENDER_NOW, FLOOR, 1.5, at_most=True),
        Ratio("at-once", TRICK, NOW, 15, at_most=False),
        Ratio("after-200ms", TRICK, NOW, 38, at_most=False, when=LATE),
        Ratio("at-once", TRICK, SENDER, 60, at_most=False),
        Ratio("after-200ms", TRICK, SENDER, 150, at_most=False, when=LATE),
        Ratio("far-tls1.3", TRICK, SENDER, 1000, at_most=False, when=", TLS 1.3 at 20 ms"),
    ),
    f"{BURST} posts back to back, p50 ÷ p50": (
        Ratio("burst", SENDER, FLOOR, 0.45, at_most=True),
        Ratio("burst-tls1.3", SENDER, FLOOR, 1.0, at_most=True, over=OVER_TLS),
        Ratio("burst", SENDER_NOW, FLOOR, 1.5, at_most=True),
        Ratio("burst", TRICK, SENDER, 60, at_most=False),
        Ratio("burst-200ms", TRICK, SENDER, 150, at_most=False, when=LATE),
    ),
    "from an event loop, p50 ÷ p50": (
        Ratio("at-once", AIO_POST, NOW, 2, at_most=True),
        Ratio("at-once", AIO_POST_UVLOOP, NOW, 2, at_most=True),
    ),
    "from an event loop, all CPU ÷ all CPU": (
        Ratio("asyncio", AIO_SENDER, AIOHTTP, 0.6, at_most=True, of=whole_cpu),
        Ratio("burst-asyncio", AIO_SENDER, AIOHTTP, 0.6, at_most=True, when=f", {BURST} back to back", of=whole_cpu),
    ),
    "logging handlers, p50 ÷ p50": (
        Ratio("logging", HTTP_HANDLER, POST_HANDLER, 300, at_most=False, when=" at 20 ms"),
    ),
}
OF_IMPORTS = "fresh interpreters, median ÷ median"


def goals(tables: Sequence[Table], footprints: Sequence[Footprint]) -> list[Goal]:
    """Each number to reach, with what this run measured."""
    time, memory = (footprint_ratio(footprints, memory=memory) for memory in (False, True))
    return [
        *(each.goal(tables, group) for group, ratios in RATIOS.items() for each in ratios),
        Goal("time: import rawfnf ÷ import h11, socket", time, 1.25, at_most=True, group=OF_IMPORTS),
        Goal("peak memory: the same, and one post", memory, 1.10, at_most=True, group=OF_IMPORTS),
    ]
