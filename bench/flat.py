"""Whether memory and descriptors stay what they are over very many posts in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import psutil

from .contenders import NOW
from .measure import WARM_UP, Lane, Measurement, descriptors_of, row_of
from .scenarios import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from .measure import Bench
    from .results import Row

# Posts before the first look: allocator arenas and caches have reached their size by then.
SETTLING_POSTS = 2000
# Looks along the way, and posts per block: the worker's own lists of timings are part of what is looked at.
LOOKS = 10
BLOCK_POSTS = 500
# What a process's pages in memory move by without any leak; a leak of one small object per post is 20 times as much.
NOISE_KIB = 256
# Seconds: blocks here are limited by their posts alone.
FOREVER = 3600.0


class Look(NamedTuple):
    """What the process held after so many posts."""

    posts: int
    rss_kib: int
    descriptors: int
    threads: int


class Flatness(NamedTuple):
    """All looks, and the row of the posts between them."""

    looks: list[Look]
    row: Row

    @property
    def flat(self) -> bool:
        """Whether the last look is like the first."""
        first, last = self.looks[0], self.looks[-1]
        same = (first.descriptors, first.threads) == (last.descriptors, last.threads)
        return same and last.rss_kib - first.rss_kib <= NOISE_KIB


def look(lane: Lane) -> Look:
    """Return what the lane's worker holds now."""
    process = psutil.Process(lane.worker.pid)
    with process.oneshot():
        return Look(lane.next, process.memory_info().rss // 1024, descriptors_of(process), process.num_threads())


def post_until(lane: Lane, posts: int, number: int, tick: Callable[[int], None]) -> None:
    """Go on until the lane has made so many posts, or its worker fails."""
    while lane.next < posts and not lane.failure:
        lane.post(number, min(BLOCK_POSTS, posts - lane.next), FOREVER)
        tick(lane.next)


def measure(bench: Bench, posts: int, tick: Callable[[int], None]) -> Flatness:
    """Post so many times, closing now over plain TCP, to a receiver that answers at once."""
    with Measurement(bench, Scenario("flat", "plain TCP, closing now, the receiver answers at once")) as measurement:
        ((slot, lane),) = measurement.open([NOW]).items()
        post_until(lane, SETTLING_POSTS, WARM_UP, tick)
        looks = [look(lane)]
        for part in range(1, LOOKS + 1):
            post_until(lane, SETTLING_POSTS + posts * part // LOOKS, part, tick)
            looks.append(look(lane))
        return Flatness(looks, row_of(lane, bench.receiver.report(slot), cold_posts=0))
