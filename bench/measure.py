"""Runs one scenario: a fresh worker for each contender, asked for small blocks in random order, round after round."""

from __future__ import annotations

import hashlib
import itertools
import sys
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import psutil

from . import floor
from .bystanders import Usage, cores_used_by_others, usage
from .contenders import CONTENDERS, LINGER, Contender, Target
from .payload import form_encoded, payload
from .processes import ChildError, WorkerProcess, python
from .results import PROMISES, Row, Table
from .worker import Assignment

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from .certificates import Certificates
    from .processes import ReceiverProcess
    from .receiver import Report
    from .scenarios import Scenario
    from .worker import Block

PATH = "/readings"
# A block is over after so many posts or seconds: small, so that a disturbance hits all contenders alike.
BLOCK_POSTS = 34
# The first posts of a block find the core's caches full of the contender before. The very first is shown apart: it is
# what a caller pays who posts now and then. From the fifth on the times are even.
COLD_POSTS = 4
BLOCK_SECONDS = 0.1
WARM_UP_POSTS = 20
WARM_UP_SECONDS = 0.5
# Rounds of what is not part of the interleaved rounds.
WARM_UP, ALONGSIDE = -2, -1
# A contender that waits for a late answer is asked for so many posts, all at once, alongside everything else.
FEWEST_ALONGSIDE, MOST_ALONGSIDE = 3, 100
# Seconds the receiver may be late with its last answers.
LATE = 10.0
DUE_POLL = 0.02
# Part of the receiver's descriptors that connections waiting for their answers may use.
USABLE = 0.8


class Bench(NamedTuple):
    """What all scenarios share."""

    receiver: ReceiverProcess
    counters: Path
    certificates: Certificates
    floor: Path | str  # the C loop, or why it is missing
    core: int | None  # of the contenders
    seconds: float  # of measuring, in all scenarios together
    random: random.Random
    slots: Iterator[int]


class Left(NamedTuple):
    """What a process holds."""

    threads: int
    descriptors: int


def held_by(pid: int) -> Left:
    """Return what the process holds now."""
    process = psutil.Process(pid)
    return Left(process.num_threads(), descriptors_of(process))


def descriptors_of(process: psutil.Process) -> int:
    """Its open descriptors; on Windows, handles."""
    if sys.platform == "win32":
        return process.num_handles()
    return process.num_fds()


class Lane:
    """One contender's worker, and all that came back from it."""

    def __init__(self, contender: Contender, worker: WorkerProcess, *, form: bool) -> None:
        self.contender = contender
        self.worker = worker
        self.form = form
        self.blocks: list[tuple[int, Block]] = []
        self.next = 0
        self.failure = ""
        self.before = self.after = Left(0, 0)

    def is_ready(self) -> None:
        """Wait until the worker has made its preparations, and note what it holds."""
        try:
            self.worker.hear()
            self.before = self.after = held_by(self.worker.pid)
        except ChildError as error:
            self.failure = str(error)

    def start(self, posts: int, seconds: float) -> None:
        """Ask for a block."""
        try:
            if not self.failure:
                self.worker.start_block(self.next, posts, seconds)
        except ChildError as error:
            self.failure = str(error)

    def finish(self, number: int, seconds: float) -> None:
        """Collect the block as part of round `number`."""
        try:
            if not self.failure:
                made = self.worker.finish_block(seconds)
                self.next += len(made["ns"])
                self.blocks.append((number, made))
        except ChildError as error:
            self.failure = str(error)

    def post(self, number: int, posts: int, seconds: float = BLOCK_SECONDS) -> None:
        """Ask for a block and collect it."""
        if posts > 0:
            self.start(posts, seconds)
            self.finish(number, seconds)

    def leave(self) -> None:
        """Note what the worker holds at the end."""
        if not self.failure:
            self.after = held_by(self.worker.pid)

    def expected(self, number: int) -> str:
        """Return the SHA-256 of what post `number` sent."""
        encode = form_encoded if self.form else self.contender.json
        return hashlib.sha256(encode(payload(number))).hexdigest()


class Post(NamedTuple):
    """One post of a lane."""

    round: int
    nth: int  # of its block, from 0
    number: int
    ns: int
    cpu_ns: int
    claim: str
    error: str


def posts_of(lane: Lane) -> Iterator[Post]:
    """All posts that a lane made, in order."""
    for number, block in lane.blocks:
        claims = block["claims"] or [""] * len(block["ns"])
        for index, (ns, cpu_ns, claim) in enumerate(zip(block["ns"], block["cpu_ns"], claims, strict=True)):
            error = block["errors"].get(str(index), "")
            yield Post(number, index, block["first"] + index, ns, cpu_ns, claim, error)


def row_of(lane: Lane, report: Report | None, cold_posts: int) -> Row:
    """Put together what the worker said and what the receiver saw; the first posts of each round are not timed."""
    made = list(posts_of(lane))
    sent = [post for post in made if not post.error]
    interleaved = [post for post in sent if post.round >= 0]
    timed = [post for post in sent if post.round == ALONGSIDE or (post.round >= 0 and post.nth >= cold_posts)]
    promised = [post for post in sent if post.claim in PROMISES]
    arrived = report["bodies"] if report else {}
    numbers = {post.number for post in made if lane.expected(post.number) in arrived}
    return Row(
        contender=lane.contender.name,
        note=lane.failure,
        ns=[post.ns for post in timed],
        cpu_ns=[post.cpu_ns for post in timed],
        rounds=[post.round for post in timed],
        cold_ns=[post.ns for post in interleaved if post.nth == 0 and cold_posts],
        sent=len(sent),
        delivered=sum(post.number in numbers for post in sent) if report else None,
        twice=sum(times > 1 for times in arrived.values()),
        strange=len(arrived) - len(numbers),
        promised=len(promised),
        broken_promises=sum(post.number not in numbers for post in promised) if report else 0,
        claims=dict(Counter(post.claim for post in sent if post.claim)),
        errors=dict(Counter(post.error for post in made if post.error)),
        unpaced=sum(block["unpaced"] for _, block in lane.blocks),
        threads=lane.after.threads - lane.before.threads,
        descriptors=lane.after.descriptors - lane.before.descriptors,
    )


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
            self.alongside = self.open([contender for contender in CONTENDERS if contender.waits])
        self.overdue = time.monotonic() + self.bench.seconds + LINGER
        for lane in self.alongside.values():
            posts = int(self.bench.seconds / self.scenario.delay)
            lane.start(max(FEWEST_ALONGSIDE, min(MOST_ALONGSIDE, posts)), self.bench.seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def open(self, contenders: list[Contender]) -> dict[int, Lane]:
        """Start a worker for each contender that can be measured here, by slot."""
        lanes = {}
        for contender in contenders:
            if contender.over_tls if self.scenario.tls else contender.plain:
                slot = next(self.bench.slots)
                command = self.command(contender, slot)
                if isinstance(command, Row):
                    self.missing[contender.name] = command
                else:
                    worker = self.stack.enter_context(WorkerProcess(command, self.bench.core))
                    lanes[slot] = Lane(contender, worker, form=self.scenario.form)
            elif self.scenario.tls:
                self.missing[contender.name] = Row(contender.name, "not applicable over TLS")
        for lane in lanes.values():
            lane.is_ready()
        return lanes

    def command(self, contender: Contender, slot: int) -> list[str] | Row:
        """How to start a worker, or a row that says what is missing."""
        port = self.bench.receiver.listen(slot, self.scenario)
        scheme = "https" if self.scenario.tls else "http"
        cafile = str(self.bench.certificates.authority)
        target = Target(f"{scheme}://127.0.0.1:{port}{PATH}", "127.0.0.1", port, PATH, scheme == "https", cafile)
        assignment = Assignment(contender.name, target, self.scenario.form, str(self.bench.counters), slot)
        if contender.make:
            return python("worker", assignment.to_json())
        if isinstance(self.bench.floor, str):
            return Row(contender.name, f"missing: {self.bench.floor}")
        return floor.arguments(self.bench.floor, assignment)

    def run(self, seconds: float, tick: Callable[[float], None]) -> None:
        """Measure for so long; `tick` gets the seconds gone, between rounds only."""
        asked = {lane.contender.name for lane in self.alongside.values()}
        self.lanes = self.open([contender for contender in CONTENDERS if contender.name not in asked])
        lanes = list(self.lanes.values())
        for lane in lanes:
            lane.post(WARM_UP, WARM_UP_POSTS, WARM_UP_SECONDS)
        most = self.most()
        pids = self.pids()
        self.before = usage(pids)
        start = time.monotonic()
        for number in itertools.count():
            self.bench.random.shuffle(lanes)
            for lane in lanes:
                lane.post(number, min(BLOCK_POSTS, most - lane.next))
            gone = time.monotonic() - start
            tick(gone)
            if gone > seconds or all(lane.failure or lane.next >= most for lane in lanes):
                self.others = self.used_by_others(pids)
                return

    def pids(self) -> list[int]:
        """Return the processes that measure."""
        lanes = [*self.lanes.values(), *self.alongside.values()]
        return [self.bench.receiver.pid, *(lane.worker.pid for lane in lanes if not lane.failure)]

    def used_by_others(self, pids: list[int]) -> float | None:
        """Cores that bystanders used since `before`; None when a worker is gone, and with it its share."""
        return cores_used_by_others(self.before, usage(pids)) if pids == self.pids() else None

    def most(self) -> int:
        """Return how many posts per contender: what the scenario wants, but no more than the receiver can hold open."""
        if self.scenario.busy and self.bench.receiver.descriptors:
            return min(self.scenario.most, int(self.bench.receiver.descriptors * USABLE / len(self.lanes)))
        return self.scenario.most

    def finish(self, tick: Callable[[], None]) -> Table:
        """Wait for what runs alongside and for the answers still due; then see what is left behind and what arrived."""
        for lane in self.alongside.values():
            while not lane.worker.speaks_within(DUE_POLL) and time.monotonic() < self.overdue:
                tick()
            lane.finish(ALONGSIDE, 0)
        lanes = self.alongside | self.lanes
        limit = time.monotonic() + self.scenario.delay + LATE
        while any(self.bench.receiver.due(slot) for slot in lanes) and time.monotonic() < limit:
            tick()
            time.sleep(DUE_POLL)
        for lane in lanes.values():
            lane.leave()
        rows = {
            lane.contender.name: row_of(lane, self.bench.receiver.report(slot), COLD_POSTS)
            for slot, lane in lanes.items()
        }
        rows |= self.missing
        self.stack.close()
        return Table(self.scenario, [rows[known.name] for known in CONTENDERS if known.name in rows], self.others)
