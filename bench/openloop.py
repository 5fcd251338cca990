"""A Sender at a fixed rate of posts, late answers, latency from the intended start; beside it the trick's p50.

The trick posts before and after, to a receiver that answers at once: the best it can do, and as far apart as the run is
long, so that a machine that changes meanwhile shows. So does a caller that does nothing, at the Sender's rate: it is
late as well when the machine has something else to do, and no Sender can be earlier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .bystanders import cores_used_by_others, usage
from .contenders import NO_POST, SENDER_THREAD, TRICK
from .lanes import WARM_UP, row_of
from .measure import WARM_UP_POSTS, WARM_UP_SECONDS, Measurement
from .results import Goal, Row, Table
from .scenarios import Scenario
from .stats import percentile, ratio

if TYPE_CHECKING:
    from .lanes import Lane
    from .stage import Bench

RATE = 1000  # posts per second
DELAY = 0.2  # seconds that the receiver works before it answers
# Before, and again after.
TRICK_POSTS, TRICK_SECONDS = 300, 2.0
PART = 1 / 6  # of the Sender's posts

OPEN_LOOP = Scenario("open-loop", f"plain TCP, {RATE} posts a second, answered after {DELAY * 1000:g} ms", delay=DELAY)
NOTHING_TO_DO = Scenario("clock", f"{RATE} times a second, as late as the machine makes a caller that does nothing")
CLOSED_LOOP = Scenario("closed-loop", "plain TCP, one after the other, answered at once")


class OpenLoop(NamedTuple):
    """What was found, a row each."""

    sender: Table
    trick: Table
    nobody: Table

    @property
    def goals(self) -> list[Goal]:
        """The numbers to reach."""
        (sender,), (trick,) = self.sender.rows, self.trick.rows
        tail, usual = percentile(sender.ns, 99.9), percentile(trick.ns, 50)
        return [
            Goal("Sender, thread p99.9 ÷ requests trick p50", ratio(tail, usual), 1.0, at_most=True),
            Goal("posts of it lost, doubled, altered or raised", wrong(sender), 0, at_most=True),
            Goal("its books' contradictions", float(bool(sender.note)), 0, at_most=True),
        ]


def wrong(row: Row) -> float:
    """Return how many posts did not end as they were to."""
    return float(row.lost + row.twice + row.strange + sum(row.errors.values()))


def only(lanes: dict[int, Lane]) -> tuple[int, Lane]:
    """Return the one lane, with its slot."""
    ((slot, lane),) = lanes.items()
    return slot, lane


def measure(bench: Bench, seconds: float) -> OpenLoop:
    """Post for so many seconds."""
    with Measurement(bench, OPEN_LOOP) as late, Measurement(bench, CLOSED_LOOP) as at_once:
        slot, trick = only(at_once.open([TRICK]))
        late_slot, sender = only(late.open([SENDER_THREAD]))
        _, nobody = only(late.open([NO_POST]))
        for lane in (trick, sender):
            lane.post(WARM_UP, WARM_UP_POSTS, WARM_UP_SECONDS)
        pids = [bench.receiver.pid, *(lane.worker.pid for lane in (trick, sender, nobody))]
        around(0, trick, nobody, seconds)
        before = usage(pids)
        sender.post_at_rate(round(seconds * RATE), 1 / RATE)
        others = cores_used_by_others(before, usage(pids))
        around(1, trick, nobody, seconds)
        late.await_answers([late_slot], lambda: None)
        for lane in (trick, sender):
            lane.leave()
        report, late_report = map(bench.receiver.report, (slot, late_slot))
        return OpenLoop(
            Table(OPEN_LOOP, [row_of(sender, late_report, cold_posts=0)], others),
            Table(CLOSED_LOOP, [row_of(trick, report, cold_posts=0)]),
            Table(NOTHING_TO_DO, [row_of(nobody, None, cold_posts=0)]),
        )


def around(number: int, trick: Lane, nobody: Lane, seconds: float) -> None:
    """Measure what the Sender is compared with, before it or after."""
    trick.post(number, TRICK_POSTS, TRICK_SECONDS)
    nobody.post_at_rate(round(seconds * RATE * PART), 1 / RATE)
