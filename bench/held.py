"""Posts that may hold their caller for seconds, or for ever: one of each contender at a time, and an end to it.

Nobody gets ready for these: the trouble begins when the process does. A caller that is still held when its time is over
is not waited for. Its post is noted with the time until then, which is less than it would have taken, and its row says
so.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

import psutil

from .lanes import held_by
from .processes import ChildError
from .results import LOWER_BOUND
from .worker import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .lanes import Lane
    from .scenarios import Scenario

# Seconds that one post may hold its caller. rawfnf's own limits, and LINGER, are 10.
LONGEST = 12.0
# Posts of each contender: the second only if the first was over within half of that.
POSTS = 2
POLL = 0.02


class Held:
    """A lane whose worker makes one post."""

    def __init__(self, lane: Lane, number: int, scenario: Scenario) -> None:
        self.lane = lane
        self.number = number  # its round
        self.scenario = scenario
        self.since = time.monotonic()
        self.cpu = 0.0
        try_with(lane, self.begin)

    def begin(self) -> None:
        """Ask for the post."""
        self.cpu = cpu_of(self.lane)
        self.lane.worker.start_pace(self.lane.next, 1, 0.0)

    def over(self) -> bool:
        """Collect the post if it is over; give up if it has taken too long."""
        if self.lane.failure or self.lane.worker.speaks_within(0):
            self.lane.finish(self.number, 0)
        elif time.monotonic() - self.since > LONGEST:
            self.give_up(time.monotonic() - self.since)
        else:
            return False
        return True

    def give_up(self, seconds: float) -> None:
        """Note a post that has not returned for so long, and be done with its worker."""
        lane, ns, cpu_ns = self.lane, round(seconds * 1e9), round((cpu_of(self.lane) - self.cpu) * 1e9)
        # Where something can arrive, the receiver counts whether it has: the post is none that failed.
        told = f"held for more than {LONGEST:g} s"
        errors = {} if self.scenario.arrives else {"0": told}
        made = Block(
            first=lane.next, unpaced=0, claims=[], ns=[ns], cpu_ns=[cpu_ns], aside_ns=[], ready_ns=[], errors=errors
        )
        lane.blocks.append((self.number, made))
        lane.next += 1
        lane.failure = f"{told}, then ended: {LOWER_BOUND}"


def cpu_of(lane: Lane) -> float:
    """Return the CPU seconds of its worker so far; ChildError when it is gone."""
    try:
        times = psutil.Process(lane.worker.pid).cpu_times()
    except psutil.Error as error:
        raise ChildError(f"the process cannot be looked at: {error}") from error
    return times.user + times.system


def post_together(lanes: Iterable[Lane], scenario: Scenario, tick: Callable[[], None]) -> None:
    """Let all post at the same time; and once more whoever was quick."""
    start = time.monotonic()
    left = [Held(lane, 0, scenario) for lane in lanes]
    while left:
        over = [each for each in left if each.over()]
        left = [each for each in left if each not in over]
        if time.monotonic() - start < LONGEST / 2:
            left += [Held(each.lane, each.number + 1, scenario) for each in over if each.number + 1 < POSTS]
        tick()
        time.sleep(POLL)


def collect(left: list[Held], tick: Callable[[], None]) -> None:
    """Wait until all these posts are over, or given up."""
    while left := [each for each in left if not each.over()]:
        tick()
        time.sleep(POLL)


def start_books(lanes: Iterable[Lane]) -> None:
    """Let each lane's worker read what was answered, all at the same time."""
    for lane in lanes:
        try_with(lane, lane.worker.start_books)


def finish_books(lanes: Iterable[Lane], seconds: float) -> None:
    """Note the books, and what the workers hold."""

    def note(lane: Lane) -> None:
        lane.ledger = lane.worker.finish_books(seconds)
        lane.after = held_by(lane.worker.pid)

    for lane in lanes:
        try_with(lane, functools.partial(note, lane))


def try_with(lane: Lane, what: Callable[[], None]) -> None:
    """Do it, unless its worker has failed; note when it does."""
    try:
        if not lane.failure:
            what()
    except ChildError as error:
        lane.failure = str(error)
