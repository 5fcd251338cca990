"""Whether memory and descriptors stay what they are over very many posts in one process, and a Sender's books true."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .lanes import WARM_UP, Lane, row_of
from .measure import Measurement
from .scenarios import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from .contenders import Contender
    from .ledger import Ledger
    from .results import Row
    from .stage import Bench

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
    """What the process held after so many posts, and what was known of them."""

    posts: int
    rss_kib: int
    descriptors: int
    threads: int
    arrived: int  # counted by the receiver
    ledger: Ledger | None

    @property
    def true(self) -> bool:
        """Whether what was posted, what arrived and what the books say is the same; the law of conservation holds."""
        if self.ledger is None:
            return self.arrived == self.posts
        return self.ledger.lawful and self.arrived == self.posts == self.ledger.posted


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

    @property
    def true(self) -> bool:
        """Whether nothing was lost, and the books were true, at every look."""
        return self.row.whole and all(look.true for look in self.looks)


def look(lane: Lane, arrived: int) -> Look:
    """Return what the lane's worker holds now, and says."""
    lane.leave()
    held = lane.after
    return Look(lane.next, held.memory_kib, held.descriptors, held.threads, arrived, lane.ledger)


def post_until(lane: Lane, posts: int, number: int, tick: Callable[[int], None]) -> None:
    """Go on until the lane has made so many posts, or its worker fails."""
    while lane.next < posts and not lane.failure:
        lane.post(number, min(BLOCK_POSTS, posts - lane.next), FOREVER)
        tick(lane.next)


def measure(bench: Bench, contender: Contender, posts: int, tick: Callable[[int], None]) -> Flatness:
    """Post so many times over plain TCP, to a receiver that answers at once."""
    with Measurement(bench, Scenario("flat", "plain TCP, answered at once", timed=False)) as measurement:
        ((slot, lane),) = measurement.open([contender]).items()
        post_until(lane, SETTLING_POSTS, WARM_UP, tick)
        looks = [look(lane, bench.receiver.count(slot))]
        for part in range(1, LOOKS + 1):
            post_until(lane, SETTLING_POSTS + posts * part // LOOKS, part, tick)
            looks.append(look(lane, bench.receiver.count(slot)))
        return Flatness(looks, row_of(lane, bench.receiver.report(slot), cold_posts=0))
