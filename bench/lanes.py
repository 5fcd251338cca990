"""A lane: one contender's worker, all that came back from it, and the row that becomes of it."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import psutil

from .payload import Kind, form_encoded, payload
from .processes import ChildError, WorkerProcess
from .results import PROMISES, Row
from .ways import LINGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .contenders import Contender
    from .ledger import Ledger
    from .receiver import Report
    from .worker import Block

BLOCK_SECONDS = 0.1
# Rounds of what is not part of the interleaved rounds.
WARM_UP, ALONGSIDE = -2, -1


class Left(NamedTuple):
    """What a process holds."""

    threads: int
    descriptors: int
    memory_kib: int  # resident


def held_by(pid: int) -> Left:
    """Return what the process, without its children, holds now; ChildError if it is gone."""
    try:
        process = psutil.Process(pid)
        return Left(process.num_threads(), descriptors_of(process), process.memory_info().rss // 1024)
    except psutil.Error as error:
        raise ChildError(f"the process cannot be looked at: {error}") from error


def descriptors_of(process: psutil.Process) -> int:
    """Its open descriptors; on Windows, handles."""
    if sys.platform == "win32":
        return process.num_handles()
    return process.num_fds()


class Lane:
    """One contender's worker, and all that came back from it."""

    def __init__(self, contender: Contender, worker: WorkerProcess, kind: Kind = "json") -> None:
        self.contender = contender
        self.worker = worker
        self.kind = kind
        self.blocks: list[tuple[int, Block]] = []
        self.next = 0
        self.failure = ""
        self.before = self.after = Left(0, 0, 0)
        self.warm: Left | None = None  # after the posts to warm up
        self.ledger: Ledger | None = None

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
        """Collect the block as part of round `number`; after one to warm up note what its worker holds by then."""
        try:
            if not self.failure:
                made = self.worker.finish_block(seconds)
                self.next += len(made["ns"])
                self.blocks.append((number, made))
                if number == WARM_UP:
                    self.warm = held_by(self.worker.pid)
        except ChildError as error:
            self.failure = str(error)

    def post(self, number: int, posts: int, seconds: float = BLOCK_SECONDS) -> None:
        """Ask for a block and collect it."""
        if posts > 0:
            self.start(posts, seconds)
            self.finish(number, seconds)

    def post_at_rate(self, posts: int, interval: float) -> None:
        """Ask for a post every so many seconds, and collect them."""
        try:
            if not self.failure:
                self.worker.start_pace(self.next, posts, interval)
                self.finish(0, posts * interval)
        except ChildError as error:
            self.failure = str(error)

    def leave(self) -> None:
        """Let the worker read what has been answered; note its books, and what it holds."""
        try:
            if not self.failure:
                self.ledger = self.worker.settle(LINGER)
                self.after = held_by(self.worker.pid)
        except ChildError as error:
            self.failure = str(error)

    def expected(self, number: int) -> str:
        """Return the SHA-256 of what post `number` sent."""
        if isinstance(self.kind, int):
            content = self.contender.sized(number, self.kind)
        else:
            content = (form_encoded if self.kind == "form" else self.contender.body)(payload(number))
        return hashlib.sha256(content).hexdigest()


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


def left_behind(lane: Lane) -> dict[str, int | None]:
    """Return what the worker holds after its posts, and did not hold before them; nothing of one that failed.

    Memory counts from after the posts to warm up, which load modules and fill caches; None where there were none. It
    moves by some 100 KiB to and fro without any leak: by pages that the allocator keeps or gives back, and by the
    worker's own lists of timings. Whether it grows with the number of posts is what `--flat` asks.
    """
    if lane.failure:
        return {}
    return {
        "threads": lane.after.threads - lane.before.threads,
        "descriptors": lane.after.descriptors - lane.before.descriptors,
        "memory_kib": lane.after.memory_kib - lane.warm.memory_kib if lane.warm else None,
    }


def row_of(lane: Lane, report: Report | None, cold_posts: int, *, arrives: bool = True) -> Row:
    """Put together what the worker said and what the receiver saw; the first posts of each round are not timed.

    Posts that raised are timed where nothing `arrives`: all of them are to raise there.
    """
    made = list(posts_of(lane))
    sent = [post for post in made if not post.error]
    of_interest = sent if arrives else made
    interleaved = [post for post in of_interest if post.round >= 0]
    timed = [post for post in of_interest if post.round == ALONGSIDE or (post.round >= 0 and post.nth >= cold_posts)]
    promised = [post for post in sent if post.claim in PROMISES]
    arrived = report["bodies"] if report else {}
    numbers = {post.number for post in made if lane.expected(post.number) in arrived}
    delivered = sum(post.number in numbers for post in sent)
    ledger = lane.ledger
    promises = ledger.promised if ledger else len(promised)
    return Row(
        contender=lane.contender.name,
        note=lane.failure or contradiction(ledger, len(sent)),
        ns=[post.ns for post in timed],
        cpu_ns=[post.cpu_ns for post in timed],
        rounds=[post.round for post in timed],
        aside_ns=[ns for number, block in lane.blocks if number >= 0 for ns in block["aside_ns"]],
        ready_ns=[ns for number, block in lane.blocks if number >= 0 for ns in block["ready_ns"]],
        whole_cpu_ns=[cpu_per_post(block) for number, block in lane.blocks if number >= 0 and block["aside_ns"]],
        cold_ns=[post.ns for post in interleaved if post.nth == 0 and cold_posts],
        sent=len(sent),
        delivered=delivered if report else None,
        twice=sum(times > 1 for times in arrived.values()),
        strange=len(arrived) - len(numbers),
        promised=promises,
        broken_promises=broken_promises(promised, numbers, ledger) if report else 0,
        claims=ledger.claims if ledger else dict(Counter(post.claim for post in sent if post.claim)),
        errors=dict(Counter(post.error for post in made if post.error)),
        unpaced=sum(block["unpaced"] for _, block in lane.blocks),
        arrives=arrives,
        **left_behind(lane),
    )


def cpu_per_post(block: Block) -> int:
    """Return what a block's posts took, on average, in their calls and around them."""
    return (sum(block["cpu_ns"]) + sum(block["aside_ns"])) // len(block["ns"])


def contradiction(ledger: Ledger | None, sent: int) -> str:
    """Say what is wrong with the books of a Sender; nothing, if nothing is."""
    if ledger is None or (ledger.lawful and ledger.posted == sent):
        return ""
    return f"the law of conservation does not hold: {sent} posts, {ledger}"


def broken_promises(promised: list[Post], arrived: set[int], ledger: Ledger | None) -> int:
    """Return how many posts were said to have arrived and did not; a Sender's books do not say which: at least."""
    if ledger:
        return max(0, ledger.promised - len(arrived))
    return sum(post.number not in arrived for post in promised)
