"""Runs one scenario: a fresh worker for each contender, asked for small blocks in random order, round after round."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from . import floor
from .bystanders import Usage, cores_used_by_others, usage
from .contenders import CONTENDERS, Contender
from .lanes import ALONGSIDE, WARM_UP, Lane, row_of
from .processes import WorkerProcess, python
from .results import Row, Table
from .ways import LINGER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self

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
# Seconds the receiver may be late with its last answers.
LATE = 10.0
DUE_POLL = 0.02
# Part of the receiver's descriptors that connections waiting for their answers may use.
USABLE = 0.8


class Measurement:
    """One scenario. Entering it starts what has to run alongside everything else; `run` does the rest."""

    def __init__(self, bench: Bench, scenario: Scenario) -> None:
        self.bench = bench
        self.scenario = scenario
        self.lanes: dict[int, Lane] = {}
        self.alongside: dict[int, Lane] = {}
        self.missing: dict[str, Row] = {}
        self.stack = ExitStack()
        self.overdue = 0.0  # when what runs alongside should be done
        self.before = Usage(0.0, 0.0, 0.0)
        self.others: float | None = None

    def __enter__(self) -> Self:
        if self.scenario.busy:
            self.alongside = self.open([contender for contender in self.contenders() if contender.waits])
        self.overdue = time.monotonic() + self.bench.seconds + LINGER
        for lane in self.alongside.values():
            posts = int(self.bench.seconds / self.scenario.delay)
            lane.start(max(FEWEST_ALONGSIDE, min(MOST_ALONGSIDE, posts)), self.bench.seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def contenders(self) -> list[Contender]:
        """Return who is measured in this scenario."""
        return [contender for contender in CONTENDERS if contender.where(self.scenario)]

    def open(self, contenders: list[Contender]) -> dict[int, Lane]:
        """Start a worker for each contender, by slot."""
        lanes = {}
        for contender in contenders:
            slot = next(self.bench.slots)
            command = self.command(contender, slot)
            if isinstance(command, Row):
                self.missing[contender.name] = command
            else:
                worker = self.stack.enter_context(
                    WorkerProcess(self.bench.inside(command), self.bench.cores.contenders)
                )
                lanes[slot] = Lane(contender, worker, self.scenario.kind)
        for lane in lanes.values():
            lane.is_ready()
        return lanes

    def command(self, contender: Contender, slot: int) -> list[str] | Row:
        """How to start a worker, or a row that says what is missing."""
        if contender.lacks:
            return Row(contender.name, f"missing: {contender.lacks}")
        assignment = self.bench.assignment(contender, self.scenario, slot)
        if contender.make:
            return python(contender.worker, assignment.to_json())
        if isinstance(self.bench.floor, str):
            return Row(contender.name, f"missing: {self.bench.floor}")
        return floor.arguments(self.bench.floor, assignment)

    def run(self, seconds: float, tick: Callable[[float], None]) -> None:
        """Measure for so long; `tick` gets the seconds gone, between rounds only."""
        asked = [lane.contender for lane in self.alongside.values()]
        self.lanes = self.open([known for known in self.contenders() if known not in asked])
        lanes = list(self.lanes.values())
        for lane in lanes:
            lane.post(WARM_UP, self.scenario.whole_bursts(WARM_UP_POSTS), WARM_UP_SECONDS)
        most, in_block = self.most(), self.scenario.whole_bursts(BLOCK_POSTS)
        pids = self.pids()
        self.before = usage(pids)
        start = time.monotonic()
        for number in itertools.count():
            self.bench.random.shuffle(lanes)
            for lane in lanes:
                lane.post(number, min(in_block, most - lane.next))
            gone = time.monotonic() - start
            tick(gone)
            if gone > seconds or all(lane.failure or lane.next >= most for lane in lanes):
                self.others = self.used_by_others(pids)
                return

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

    def cold_posts(self) -> int:
        """Return how many posts of each block are not timed with the others."""
        if self.scenario.within == "logging":
            return COLD_RECORDS
        # With a round trip a block is too short to leave any out, and cold caches do not show beside it.
        return 0 if self.scenario.far else COLD_POSTS

    def finish(self, tick: Callable[[], None]) -> Table:
        """Wait for what runs alongside and for the answers still due; then see what is left behind and what arrived."""
        for lane in self.alongside.values():
            while not lane.worker.speaks_within(DUE_POLL) and time.monotonic() < self.overdue:
                tick()
            lane.finish(ALONGSIDE, 0)
        lanes = self.alongside | self.lanes
        self.await_answers(lanes, tick)
        for lane in lanes.values():
            lane.leave()
        cold_posts = self.cold_posts()
        rows = {
            lane.contender.name: row_of(lane, self.bench.receiver.report(slot), cold_posts)
            for slot, lane in lanes.items()
        }
        rows |= self.missing
        self.stack.close()
        return Table(self.scenario, [rows[known.name] for known in CONTENDERS if known.name in rows], self.others)

    def await_answers(self, slots: Iterable[int], tick: Callable[[], None]) -> None:
        """Wait until the receiver has given its answers."""
        limit = time.monotonic() + self.scenario.delay + LATE
        while any(self.bench.receiver.due(slot) for slot in slots) and time.monotonic() < limit:
            tick()
            time.sleep(DUE_POLL)
