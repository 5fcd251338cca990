"""The numbers that rawfnf set out to reach, computed from this run."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from .contenders import FLOOR, NOW, TRICK
from .footprint import BASELINE, RAWFNF
from .results import Goal
from .stats import percentile, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .results import Footprint, Table


def p50(tables: Sequence[Table], scenario: str, contender: str) -> int | None:
    """Return a median of this run, but only of a row that lost nothing: any other latency is void."""
    rows = [table.row(contender) for table in tables if table.scenario.name == scenario]
    return next((percentile(row.ns, 50) for row in rows if row and row.whole), None)


def footprint_ratio(footprints: Sequence[Footprint], *, memory: bool) -> float | None:
    """Medians of rawfnf ÷ those of h11 and socket: the import's time, or the peak memory."""
    samples = {each.what: each.peak_kib if memory else each.import_ns for each in footprints}
    if not (samples.get(RAWFNF.name) and samples.get(BASELINE.name)):
        return None
    return ratio(median(samples[RAWFNF.name]), median(samples[BASELINE.name]))


def goals(tables: Sequence[Table], footprints: Sequence[Footprint]) -> list[Goal]:
    """Each number to reach, with what this run measured."""
    now, trick, late_now, late_trick, floor = (
        p50(tables, scenario, contender.name)
        for scenario, contender in (
            ("at-once", NOW),
            ("at-once", TRICK),
            ("after-200ms", NOW),
            ("after-200ms", TRICK),
            ("at-once", FLOOR),
        )
    )
    return [
        Goal("rawfnf now p50 ÷ C socket loop p50, answered at once", ratio(now, floor), 1.8, at_most=True),
        Goal("requests trick p50 ÷ rawfnf now p50, answered at once", ratio(trick, now), 15, at_most=False),
        Goal("requests trick p50 ÷ rawfnf now p50, after 200 ms", ratio(late_trick, late_now), 38, at_most=False),
        Goal("import rawfnf ÷ import h11, socket: time", footprint_ratio(footprints, memory=False), 1.25, at_most=True),
        Goal(
            "peak memory: import rawfnf and one post ÷ import h11, socket",
            footprint_ratio(footprints, memory=True),
            1.10,
            at_most=True,
        ),
    ]
