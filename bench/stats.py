"""Percentiles that the samples support, and whether two rows can be told apart."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise
from statistics import median, quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .results import Row

# Two rows are ranked when chance alone would order their rounds so clearly less often than this.
SIGNIFICANT = 0.02
# Quartiles of the rounds' medians stay within a tenth of each other on a quiet machine.
EVEN = 1.25
FEWEST_ROUNDS = 4


def percentile(samples: Sequence[int], percent: float) -> int | None:
    """Return the nearest-rank percentile, always a value that was measured; None when there are too few samples for it.

    p99 needs 100 samples and p99.9 a thousand. The median and the maximum (100) are shown of any number.
    """
    enough = 1 if percent in {50, 100} else round(100 / (100 - percent))
    if len(samples) < enough:
        return None
    return sorted(samples)[math.ceil(len(samples) * percent / 100) - 1]


def ratio(one: float | None, other: float | None) -> float | None:
    """Divide; None when either is missing."""
    return one / other if one is not None and other else None


def round_medians(row: Row) -> dict[int, float]:
    """Return the median of each round's posts."""
    rounds: dict[int, list[int]] = defaultdict(list)
    for number, ns in zip(row.rounds, row.ns, strict=True):
        rounds[number].append(ns)
    return {number: median(samples) for number, samples in rounds.items() if number >= 0}


def chance(one: Row, other: Row) -> float | None:
    """How often chance alone orders two equal rows as clearly as this (sign test over rounds); None: no shared rounds.

    Rounds are interleaved, so what disturbs the machine for a while disturbs both rows, and posts of one round are not
    independent of each other: whole rounds are compared, never single posts.
    """
    ones, others = round_medians(one), round_medians(other)
    signs = [ones[number] < others[number] for number in ones.keys() & others.keys() if ones[number] != others[number]]
    if not signs:
        return None
    rarer = min(sum(signs), len(signs) - sum(signs))
    tail: float = sum(math.comb(len(signs), hits) for hits in range(rarer + 1)) / 2 ** len(signs)
    return min(1.0, 2 * tail)


def equal(one: Row, other: Row) -> bool:
    """Whether this run cannot tell two rows apart."""
    by_chance = chance(one, other)
    return by_chance is not None and by_chance > SIGNIFICANT


def overlap(one: Row, other: Row) -> bool:
    """Whether the middle halves of their posts have times in common."""
    lows, highs = zip(*(middle_half(row.ns) for row in (one, other)), strict=True)
    return bool(max(lows) <= min(highs))


def middle_half(samples: Sequence[int]) -> tuple[float, float]:
    """Return the first and the third quartile; of a single post its own time."""
    low, _, high = quantiles(samples, n=4) if len(samples) > 1 else [float(samples[0])] * 3
    return low, high


def uneven(row: Row) -> tuple[float, float] | None:
    """Return the quartiles of the rounds' medians, if they are further apart than a quiet machine makes them."""
    medians = list(round_medians(row).values())
    if len(medians) < FEWEST_ROUNDS:
        return None
    low, _, high = quantiles(medians, n=4)
    return (low, high) if high > low * EVEN else None


def not_ranked(rows: Sequence[Row]) -> list[list[str]]:
    """Return the rows, by p50, that this run cannot rank with their neighbours: each chain of them by its names."""
    whole = sorted((row for row in rows if row.whole), key=lambda row: median(row.ns))
    chains = [[row.contender] for row in whole[:1]]
    for one, other in pairwise(whole):
        if equal(one, other):
            chains[-1].append(other.contender)
        else:
            chains.append([other.contender])
    return [chain for chain in chains if len(chain) > 1]
