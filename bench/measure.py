"""Runs one scenario: a fresh worker for each contender, asked for small blocks in random order, round after round."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

from . import floor, held
from .bystanders import Usage, cores_used_by_others, usage
from .lanes import ALONGSIDE, BLOCK_SECONDS, WARM_UP, Lane, row_of
from .processes import ChildError, ReceiverProcess, WorkerProcess, python
from .results import Row, Table
from .ways import LINGER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from typing_extensions import Self

    from .contenders import Contender
    from .scenarios import Scenario
    from .stage import Bench

# A block is over after so many posts (and the rest of a burst), or BLOCK_SECONDS: small, so that a disturbance hits all
# contenders alike.
BLOCK_POSTS = 34
# The first posts of a block find the core's caches full of the contender before. The very first is shown apart: it is
# what a caller pays who posts now and then. From the fifth on the times are even.
COLD_POSTS = 4
# Records come so slowly that there are few in a block, and caches have gone cold again before each; before the first of
# a block other contenders have had the core.
COLD_RECORDS = 1
WARM_UP_POSTS = 20
WARM_UP_SECONDS = 0.5
# A contender that waits for a late answer is asked for so many posts, all at once, alongside everything else.
FEWEST_ALONGSIDE, MOST_ALONGSIDE = 3, 100
# Posts of a block at a fixed rate: half a second at 100 a second, or what would be that if they were not late.
RATE_POSTS = 16
RATE_POSTS_ALONGSIDE = 20
# Posts of a block where the port is refused: nothing waits for them to be accounted for.
REFUSED_POSTS = 20
# Seconds the receiver may be late with its last answers.
LATE = 10.0
DUE_POLL = 0.02
# Seconds in which what is not there yet may still come, where packets are lost or posts are not waited for: some
# retransmissions.
RESENDING = 3.0
# A body of so many bytes fills the caches by itself: every post finds them cold.
LARGE = 1 << 20
# Part of the receiver's descriptors that connections waiting for their answers may use.
USABLE = 0.8


def in_groups(lanes: list[Lane], size: int) -> Iterator[list[Lane]]:
    """Yield so many at a time."""
    return (lanes[first : first + size] for first in range(0, len(lanes), size))


class Measurement:
    """One scenario. Entering it starts what has to run alongside everything else; `run` does the rest."""

    def __init__(self, bench: Bench, scenario: Scenario) -> None:
        self.bench = bench
        self.scenario = scenario
        self.lanes: dict[int, Lane] = {}
        self.alongside: dict[int, Lane] = {}
        self.held: list[held.Held] = []  # of those alongside: posts that may never return
        self.missing: dict[str, Row] = {}
        self.stack = ExitStack()
        self.overdue = 0.0  # when what runs alongside should be done
        self.before = Usage(0.0, 0.0, 0.0)
        self.others: float | None = None
        self.ended = 0.0  # when the last post was made

    def __enter__(self) -> Self:
        if self.scenario.busy and not self.scenario.holds:
            self.alongside = self.open(
                [contender for contender in self.bench.contenders(self.scenario) if contender.waits]
            )
        self.overdue = time.monotonic() + self.bench.seconds + LINGER
        if not self.scenario.answers:
            self.held = [held.Held(lane, ALONGSIDE, self.scenario) for lane in self.alongside.values()]
        for lane in self.alongside.values() if self.scenario.answers else ():
            self.start_alongside(lane)
        return self

    def start_alongside(self, lane: Lane) -> None:
        """Ask for all posts of one that waits for late answers."""
        if self.scenario.rate:
            self.start_at_rate(lane, RATE_POSTS_ALONGSIDE)
            return
        fewest = max(1, FEWEST_ALONGSIDE // self.scenario.repetitions)
        posts = int(self.bench.seconds / self.scenario.delay)
        lane.start(max(fewest, min(MOST_ALONGSIDE, posts)), self.bench.seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def open(self, contenders: list[Contender]) -> dict[int, Lane]:
        """Start a worker for each contender, by slot."""
        lanes = {}
        for contender in contenders:
            slot = next(self.bench.slots)
            command = self.command(contender, slot)
            if isinstance(command, Row):
                self.missing[contender.name] = command
            else:
                worker = self.stack.enter_context(WorkerProcess(self.bench.inside(command)))
                lanes[slot] = Lane(contender, worker, self.scenario.kind)
        # They start on all cores: nothing is measured yet.
        for lane in lanes.values():
            lane.is_ready()
            lane.worker.pin(self.bench.cores.contenders)
        return lanes

    def command(self, contender: Contender, slot: int) -> list[str] | Row:
        """How to start a worker, or a row that says what is missing."""
        if lack := contender.lacks or self.lack(contender):
            return Row(contender.name, f"missing: {lack}", arrives=self.scenario.arrives)
        assignment = self.bench.assignment(contender, self.scenario, slot)
        if contender.make:
            return python(contender.worker, assignment.to_json())
        if isinstance(self.bench.floor, str):
            return Row(contender.name, f"missing: {self.bench.floor}")
        return floor.arguments(self.bench.floor, assignment)

    def lack(self, contender: Contender) -> str:
        """Say what the contender lacks for this scenario; empty when nothing is missing."""
        scenario = self.scenario
        if contender.make is None and (scenario.trouble or scenario.rate or isinstance(scenario.kind, int)):
            return "the C loop knows small bodies and a server that takes them, and no fixed rate"
        broker = self.bench.broker(contender)
        return broker if isinstance(broker, str) else ""

    def run(self, seconds: float, tick: Callable[[float], None]) -> None:
        """Measure for so long; `tick` gets the seconds gone, between rounds only."""
        asked = [lane.contender for lane in self.alongside.values()]
        self.lanes = self.open([known for known in self.bench.contenders(self.scenario) if known not in asked])
        pids = self.pids()
        if self.scenario.holds:
            self.before, start = usage(pids), time.monotonic()
            held.post_together(self.lanes.values(), self.scenario, lambda: tick(time.monotonic() - start))
        else:
            self.warm_up()
            self.before = usage(pids)
            self.rounds(seconds, tick)
        self.others = self.used_by_others(pids)

    def warm_up(self) -> None:
        """Let each load what it loads at its first posts; where nothing can arrive nobody gets warm."""
        if not self.scenario.arrives:
            return
        # Cold caches do not show beside a large body or a round trip: there what is loaded at first posts is enough.
        seconds = BLOCK_SECONDS if self.scenario.together > 1 or self.large else WARM_UP_SECONDS
        for lanes in in_groups(list(self.lanes.values()), self.scenario.together):
            for lane in lanes:
                lane.start(self.scenario.whole_bursts(WARM_UP_POSTS), seconds)
            for lane in lanes:
                lane.finish(WARM_UP, seconds)

    def rounds(self, seconds: float, tick: Callable[[float], None]) -> None:
        """Ask each for a block, in random order, round after round."""
        lanes, most = list(self.lanes.values()), self.most()
        start = time.monotonic()
        for number in itertools.count():
            self.bench.random.shuffle(lanes)
            for group in in_groups(lanes, self.scenario.together):
                self.block(group, number, most)
            gone = time.monotonic() - start
            tick(gone)
            if gone > seconds or all(lane.failure or lane.next >= most for lane in lanes):
                return

    def block(self, lanes: list[Lane], number: int, most: int) -> None:
        """Let these make a block each, at the same time; mostly it is one."""
        asked, limit = [lane for lane in lanes if lane.next < most], BLOCK_SECONDS * len(lanes)
        for lane in asked:
            left = most - lane.next
            if self.scenario.rate:
                self.start_at_rate(lane, min(RATE_POSTS, left))
            elif not self.scenario.arrives:
                self.start_at_rate(lane, min(REFUSED_POSTS, left))
            else:
                lane.start(min(self.scenario.whole_bursts(BLOCK_POSTS), left), limit)
        for lane in asked:
            lane.finish(number, limit)

    def start_at_rate(self, lane: Lane, posts: int) -> None:
        """Ask for posts at the scenario's rate; without one, for posts that nobody gets ready for."""
        try:
            if not lane.failure:
                interval = 1 / self.scenario.rate if self.scenario.rate else 0.0
                lane.worker.start_pace(lane.next, posts, interval, ready=bool(self.scenario.rate))
        except ChildError as error:
            lane.failure = str(error)

    def pids(self) -> list[int]:
        """Return the processes that measure."""
        lanes = [*self.lanes.values(), *self.alongside.values()]
        return [self.bench.receiver.pid, *self.bench.beside, *(lane.worker.pid for lane in lanes if not lane.failure)]

    def used_by_others(self, pids: list[int]) -> float | None:
        """Cores that bystanders used since `before`; None when a worker is gone, and with it its share."""
        return cores_used_by_others(self.before, usage(pids)) if pids == self.pids() else None

    def most(self) -> int:
        """Return how many posts per contender: what the scenario wants, but no more than the receiver can hold open."""
        most = self.scenario.most
        if self.scenario.busy and self.bench.receiver.descriptors:
            most = min(most, int(self.bench.receiver.descriptors * USABLE / len(self.lanes)))
        return most - most % self.scenario.burst

    def cold_posts(self, lane: Lane) -> int:
        """Return how many posts of each block are not timed with the others."""
        if self.scenario.within == "logging":
            return COLD_RECORDS
        # With a round trip, or where nothing takes its turn in blocks, a block is too short to leave any out.
        apart = self.scenario.far or self.scenario.holds or self.scenario.rate or not self.scenario.arrives
        # Nor do they beside posts of which a block has only a few: each takes milliseconds.
        blocks = [len(block["ns"]) for number, block in lane.blocks if number >= 0]
        few = bool(blocks) and median(blocks) < 2 * COLD_POSTS
        return 0 if apart or self.large or few else COLD_POSTS

    @property
    def large(self) -> bool:
        """Whether bodies are so large that they fill the caches by themselves."""
        return isinstance(self.scenario.kind, int) and self.scenario.kind >= LARGE

    def finish(self, tick: Callable[[], None]) -> Table:
        """Wait for what runs alongside and for the answers still due; then see what is left behind and what arrived."""
        if not self.scenario.answers:
            held.start_books(self.lanes.values())
        self.finish_alongside(tick)
        lanes = self.alongside | self.lanes
        self.await_answers(lanes, tick)
        self.leave(tick)
        rows = {lane.contender.name: self.row(slot, lane) for slot, lane in lanes.items()}
        rows |= self.missing
        self.stack.close()
        for slot, lane in lanes.items():
            if receiver := self.bench.counts(lane.contender):
                receiver.forget(slot)
        ordered = [rows[known.name] for known in self.bench.contenders(self.scenario) if known.name in rows]
        return Table(self.scenario, ordered, self.others)

    def leave(self, tick: Callable[[], None]) -> None:
        """Note everybody's books, and what is left behind; where nobody answers, nobody gets ready once more either."""
        every = [*self.alongside.values(), *self.lanes.values()]
        if self.scenario.arrives and self.scenario.answers and not self.scenario.holds:
            for lane in every:
                lane.leave()
            return
        held.start_books(self.alongside.values() if not self.scenario.answers else every)
        tick()
        held.finish_books(every, LINGER)

    def finish_alongside(self, tick: Callable[[], None]) -> None:
        """Collect what those made that wait for late answers."""
        held.collect(self.held, tick)
        for lane in self.alongside.values() if self.scenario.answers else ():
            while not lane.worker.speaks_within(DUE_POLL) and time.monotonic() < self.overdue:
                tick()
            lane.finish(ALONGSIDE, 0)

    def row(self, slot: int, lane: Lane) -> Row:
        """Return what becomes of a lane."""
        receiver = self.bench.counts(lane.contender)
        report = receiver.report(slot) if receiver else None
        return row_of(lane, report, self.cold_posts(lane), arrives=self.scenario.arrives)

    def await_answers(self, slots: Iterable[int], tick: Callable[[], None]) -> None:
        """Wait until the receiver has given its answers, and a slow one has read what was sent."""
        self.ended = time.monotonic()
        limit = self.ended + self.scenario.delay + LATE
        while any(self.is_due(slot) for slot in slots) and time.monotonic() < limit:
            tick()
            time.sleep(DUE_POLL)

    def is_due(self, slot: int) -> bool:
        """Whether there is something to wait for."""
        lane = self.lanes.get(slot) or self.alongside.get(slot)
        receiver = self.bench.counts(lane.contender) if lane else self.bench.receiver
        if receiver is None:
            return False
        if lane and isinstance(receiver, ReceiverProcess) and receiver.count(slot) < lane.next:
            if self.scenario.reads:
                return True
            # A last flight that was lost is sent again; a thread may still be at it.
            if (self.scenario.loss or self.scenario.rate) and time.monotonic() < self.ended + RESENDING:
                return True
        return bool(receiver.due(slot))
