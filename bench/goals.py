"""The numbers that rawfnf set out to reach, computed from this run."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from .contenders import FLOOR, NOW, SENDER, SENDER_NOW, TRICK
from .footprint import BASELINE, RAWFNF
from .results import Goal
from .stats import percentile, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .contenders import Contender
    from .results import Footprint, Table


def p50(tables: Sequence[Table], scenario: str, contender: Contender) -> int | None:
    """Return a median of this run, but only of a row that lost nothing: any other latency is void."""
    rows = [table.row(contender.name) for table in tables if table.scenario.name == scenario]
    return next((percentile(row.ns, 50) for row in rows if row and row.whole), None)


def footprint_ratio(footprints: Sequence[Footprint], *, memory: bool) -> float | None:
    """Medians of rawfnf ÷ those of h11 and socket: the import's time, or the peak memory."""
    samples = {each.what: each.peak_kib if memory else each.import_ns for each in footprints}
    if not (samples.get(RAWFNF.name) and samples.get(BASELINE.name)):
        return None
    return ratio(median(samples[RAWFNF.name]), median(samples[BASELINE.name]))


class Ratio(NamedTuple):
    """A median of one scenario that is to be so many times another one of it."""

    scenario: str
    when: str
    one: Contender
    other: Contender
    bound: float
    at_most: bool

    def goal(self, tables: Sequence[Table]) -> Goal:
        """Return it with what was measured."""
        medians = (p50(tables, self.scenario, contender) for contender in (self.one, self.other))
        what = f"{self.one.name} p50 ÷ {self.other.name} p50, {self.when}"
        return Goal(what, ratio(*medians), self.bound, at_most=self.at_most)


RATIOS = (
    Ratio("at-once", "answered at once", NOW, FLOOR, 1.8, at_most=True),
    Ratio("at-once", "answered at once", SENDER, FLOOR, 0.45, at_most=True),
    Ratio("tls1.3", "the Sender's over TLS 1.3", SENDER, FLOOR, 1.0, at_most=True),
    Ratio("at-once", "answered at once", SENDER_NOW, FLOOR, 1.5, at_most=True),
    Ratio("at-once", "answered at once", TRICK, NOW, 15, at_most=False),
    Ratio("after-200ms", "after 200 ms", TRICK, NOW, 38, at_most=False),
    Ratio("at-once", "answered at once", TRICK, SENDER, 60, at_most=False),
    Ratio("after-200ms", "after 200 ms", TRICK, SENDER, 150, at_most=False),
    Ratio("far-tls1.3", "TLS 1.3 at 20 ms", TRICK, SENDER, 1000, at_most=False),
)


def goals(tables: Sequence[Table], footprints: Sequence[Footprint]) -> list[Goal]:
    """Each number to reach, with what this run measured."""
    return [
        *(each.goal(tables) for each in RATIOS),
        Goal("import rawfnf ÷ import h11, socket: time", footprint_ratio(footprints, memory=False), 1.25, at_most=True),
        Goal(
            "peak memory: import rawfnf and one post ÷ import h11, socket",
            footprint_ratio(footprints, memory=True),
            1.10,
            at_most=True,
        ),
    ]
