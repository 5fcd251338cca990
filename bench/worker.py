"""One contender in a process of its own: makes posts when asked, and times each of them alone.

`python -m bench.worker ASSIGNMENT`, where the assignment is JSON. It says `ready`, then answers each line on standard
input with one line of JSON, and ends with standard input, and with its parent.

- `block FIRST POSTS LIMIT_NS`: posts in bursts (mostly of one), each burst when the receiver sleeps and all that came
  before is accounted for, its posts back to back, no sooner after the one before than the target says. Returns a
  `Block`.
- `pace FIRST POSTS INTERVAL_NS`: posts at a fixed rate, whatever became of those before, as the traffic of many users
  would. Each is timed from when it was to begin: what a slow one delays counts as well (wrk2's way). Returns a `Block`.
- `rate FIRST POSTS INTERVAL_NS`: the same, but in the time left until the next post the contender gets ready for it, as
  it does before a burst. What takes longer than that delays the next post, and counts.
- `books`: reads the answers that are there, and no more; returns what `settle` does.
- `settle`: reads the answers that are there, lets the contender get ready, and returns the `Ledger` of one that keeps
  any, else null.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from .contenders import KNOWN
from .counter import Counters
from .descriptors import allow_many_descriptors
from .payload import body
from .ways import Span, Target, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from .payload import Body, Kind
    from .ways import Post, Said

# How long a worker waits for the receiver to account for a burst; hundreds of times what it takes.
PACE_NS = 250_000_000
# How long the receiver must have slept before each burst. Without it a quick contender now and then catches the
# receiver between its last word and its sleep and is spared the wake-up: the C loop then took 11 µs instead of 24, by
# luck, row by row.
REST_NS = 50_000
# From so long before a post at a fixed rate its caller stays awake: a sleeper is woken some 0.1 ms late.
AWAKE_NS = 300_000
# Seconds between looks at what the receiver has accounted for, where others post meanwhile: a round trip is long.
DOZE = 0.0005
# From being asked for posts at a fixed rate to the first.
RUN_UP_NS = 10_000_000
# <linux/prctl.h>
PR_SET_PDEATHSIG = 1


class Assignment(NamedTuple):
    """What a worker is started with."""

    contender: str
    target: Target
    kind: Kind
    counters: str = ""  # path; empty: nobody counts, as with the user's own endpoint
    slot: int = 0
    asleep: int | None = None  # slot in which the receiver says whether it sleeps; None: nobody asks
    beside: bool = False  # do other contenders post at the same time?
    late: bool = False  # are answers so late that nobody waits for them between posts?

    def to_json(self) -> str:
        """As a command line argument."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Assignment:
        """Undo to_json."""
        contender, target, *rest = json.loads(text)
        return cls(contender, Target(*target), *rest)


class Block(TypedDict):
    """What a worker answers: one entry per post (in `aside_ns` none where that cannot be told).

    `errors` are by the post's index within the block.
    """

    first: int
    unpaced: int  # posts that the receiver did not account for in time
    claims: list[str]  # Receipt.delivery, or empty
    ns: list[int]
    cpu_ns: list[int]
    aside_ns: list[int]  # CPU since the last burst, of what a contender does around it and of its threads, per post
    ready_ns: list[int]  # wall time of what the contender does before a burst, one per burst
    errors: dict[str, str]


class Pace:
    """Waits for the receiver: its backlog never overflows, and every burst finds it asleep."""

    def __init__(self, counters: Counters, slot: int, asleep: int | None, *, beside: bool = False) -> None:
        self._counters = counters
        self._slot = slot
        self._asleep = asleep
        self._made = 0
        self._limit = 0
        self.beside = beside  # do other contenders post at the same time?

    def unsettled(self, posts: int = 1) -> int:
        """Wait until so many more posts are accounted for; returns how many were not within PACE_NS."""
        self.expect(posts)
        while self.waits():
            if self.beside:
                time.sleep(DOZE)
            else:
                yield_processor()
        return self.write_off()

    def expect(self, posts: int) -> None:
        """Begin to wait for so many more posts."""
        self._made += posts
        self._limit = time.perf_counter_ns() + PACE_NS

    def waits(self) -> bool:
        """Whether some are not accounted for, and may yet be in time."""
        return self._made > self._counters[self._slot] and time.perf_counter_ns() < self._limit

    def write_off(self) -> int:
        """Return how many are not accounted for: they may never be, as after an error, and are not waited for again."""
        missing = max(0, self._made - self._counters[self._slot])
        self._made -= missing
        return missing

    def rest(self) -> bool:
        """Wait until the receiver has slept for REST_NS on end, for PACE_NS at most; False where nobody asks for it."""
        if self._asleep is None:
            return False
        start = since = time.perf_counter_ns()
        seen = self._counters[self._asleep]
        while (now := time.perf_counter_ns()) < since + REST_NS and now < start + PACE_NS:
            yield_processor()
            state = self._counters[self._asleep]
            if state != seen or state % 2 == 0:
                since, seen = time.perf_counter_ns(), state
        return True


def yield_processor() -> None:
    """Let the receiver run where there is one core for both; a sleep would let this core go idle before each post."""
    if sys.platform == "win32":
        time.sleep(0)
    else:
        os.sched_yield()


class Timed(NamedTuple):
    """What came of one post."""

    ns: int
    cpu_ns: int
    claim: str
    error: str
    status: int | None = None  # of the answer, where the call returned it
    others_ns: int = 0  # part of cpu_ns: of other threads

    @classmethod
    def of(cls, ns: int, cpu_ns: int, said: Said | Exception) -> Timed:
        """Tell by what it returned or raised; one that looked at its own clock knows better what it took."""
        if isinstance(said, Span):
            return cls(*said, "", "")
        if isinstance(said, Exception):
            return cls(ns, cpu_ns, "", f"{type(said).__name__}: {said}")
        if said is False:
            return cls(ns, cpu_ns, "", "dropped")
        if said is None or said is True:
            return cls(ns, cpu_ns, "", "")
        return cls(ns, cpu_ns, said.delivery, "", said.status)

    def later(self, ns: int) -> Timed:
        """Return it with so much more time, by which it began too late."""
        return self._replace(ns=self.ns + ns)


def timed(post: Post, content: Body, begins: int | None = None) -> Timed:
    """Make one post, timed from when it `begins` (None: now)."""
    said: Said | Exception
    others = cpu_of_other_threads()
    cpu = time.process_time_ns()
    start = time.perf_counter_ns()
    try:
        said = post(content)
    except Exception as failure:  # noqa: BLE001 - whatever a contender raises is a result, shown in its row
        said = failure
    end = time.perf_counter_ns()
    made = Timed.of(end - start, time.process_time_ns() - cpu, said).later(start - (begins or start))
    return made._replace(others_ns=cpu_of_other_threads(others) - others)


def prepare(way: Way, pace: Pace | None) -> Span:
    """Let the contender do what it does around its bursts; returns what that took of this thread.

    It is asked once more when the receiver sleeps again: what that has said meanwhile is to be read before the posts.
    """
    spent = span_of(way.between)
    if pace and pace.rest():
        more = span_of(way.between)
        spent = Span(spent.ns + more.ns, spent.cpu_ns + more.cpu_ns)
    return spent


def span_of(what: Callable[[], None]) -> Span:
    """Do it; returns what it took of this thread."""
    cpu = time.thread_time_ns()
    start = time.perf_counter_ns()
    what()
    return Span(time.perf_counter_ns() - start, time.thread_time_ns() - cpu)


def cpu_of_other_threads(before: int = 0) -> int:
    """CPU nanoseconds of this process so far, without this thread's; what was known before is the least.

    Two clocks, read one after the other: where no other thread works, their difference runs some ns to and fro.
    """
    return max(before, time.process_time_ns() - time.thread_time_ns())


class Posts:
    """The posts of one block, and what came of them."""

    def __init__(self, kind: Kind, first: int) -> None:
        self.kind = kind
        self.first = first
        self.made = Block(first=first, unpaced=0, claims=[], ns=[], cpu_ns=[], aside_ns=[], ready_ns=[], errors={})

    def __len__(self) -> int:
        return len(self.made["ns"])

    def next_bodies(self, count: int) -> list[Body]:
        """Return what is posted next."""
        first = self.first + len(self)
        return [body(number, self.kind) for number in range(first, first + count)]

    def note(self, burst: list[Timed], aside: int | None) -> None:
        """Note what was made; `aside` was spent on all of it, outside of the calls. None: that cannot be told."""
        made = self.made
        for each in burst:
            if each.error:
                made["errors"][str(len(self))] = each.error
            made["ns"].append(each.ns)
            made["cpu_ns"].append(each.cpu_ns)
            made["claims"].append(each.claim)
            if aside is not None:
                made["aside_ns"].append(aside // len(burst))


class Caller:
    """Posts by one contender, for as long as its worker lives."""

    def __init__(self, way: Way, target: Target, pace: Pace | None = None) -> None:
        self.way = way
        self._target = target
        self._pace = pace
        self._others = cpu_of_other_threads()

    def post(self, posts: Posts, contents: list[Body], before: Span, begins: int | None = None) -> None:
        """Make a burst, and note it, with what was spent on it before. Threads may have worked since the last burst."""
        burst = [timed(self.way.post, content, begins) for content in contents]
        others = cpu_of_other_threads(self._others)
        within = sum(each.others_ns for each in burst)  # counts as the calls'
        posts.note(burst, before.cpu_ns + max(0, others - self._others - within))
        posts.made["ready_ns"].append(before.ns)
        self._others = others

    def block(self, posts: Posts, most: int, limit_ns: int) -> Block:
        """Make at most so many posts, and begin no burst after the limit.

        But the first; and the second, where they are apart: of those the first is not timed with the others.
        """
        begins = time.perf_counter_ns()
        end = begins + limit_ns
        fewest = self._target.burst * (2 if self._target.apart else 1)
        while len(posts) < most and not (len(posts) >= fewest and time.perf_counter_ns() > end):
            contents = posts.next_bodies(min(self._target.burst, most - len(posts)))
            before = prepare(self.way, self._pace)
            wait_until(begins)
            begins = time.perf_counter_ns() + round(self._target.apart * 1e9)
            self.post(posts, contents, before)
            if self._pace:
                posts.made["unpaced"] += self._pace.unsettled(len(contents))
        return posts.made

    def at_fixed_rate(self, posts: Posts, most: int, interval_ns: int, *, ready: bool) -> Block:
        """Make so many posts, one every interval; each that cannot begin in time begins at once, and is late.

        Without an interval none is late. With `ready` the contender does in between what it does before a burst.
        """
        begins = time.perf_counter_ns() + RUN_UP_NS
        for _ in range(most):
            before = prepare(self.way, None) if ready else Span(0, 0)
            contents = posts.next_bodies(1)
            wait_until(begins)
            self.post(posts, contents, before, begins if interval_ns else None)
            begins += interval_ns
        return posts.made


def wait_until(ns: int) -> None:
    """Wait, at the end awake."""
    while (left := ns - time.perf_counter_ns()) > 0:
        if left > AWAKE_NS:
            time.sleep((left - AWAKE_NS) / 1e9)
        else:
            yield_processor()


def settle(way: Way, *, ready: bool = True) -> dict[str, object] | None:
    """Let a contender read what has been answered, and get ready; returns its books, if it keeps any."""
    if way.sender is not None:
        way.sender.flush()
    if ready:
        way.between()
    return None if way.sender is None else way.sender.stats._asdict()


def end_with_parent() -> None:
    """On Linux, have this process killed when its parent dies; elsewhere it ends after the block in hand."""
    if sys.platform == "linux":
        import ctypes  # of no use elsewhere

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def prepared(assignment: Assignment) -> Way:
    """Let the contender make its preparations."""
    contender = KNOWN[assignment.contender]
    if contender.make is None or contender.loop:
        raise SystemExit(f"{assignment.contender} has a worker of its own: {contender.worker}")
    made = contender.make(assignment.target)
    if isinstance(made, Awaitable):
        raise TypeError(f"{assignment.contender} needs an event loop, and says nothing of it")
    return made if isinstance(made, Way) else Way(made)


def pace_of(assignment: Assignment) -> Pace | None:
    """Return what waits for the receiver; None: there is none of ours."""
    if not assignment.counters:
        return None
    counters = Counters(Path(assignment.counters))
    return Pace(counters, assignment.slot, assignment.asleep, beside=assignment.beside)


def main() -> None:
    """Prepare the contender, say so, and post on demand."""
    end_with_parent()
    allow_many_descriptors()
    assignment = Assignment.from_json(sys.argv[1])
    caller = Caller(prepared(assignment), assignment.target, pace_of(assignment))
    print("ready", flush=True)
    for line in sys.stdin:
        order, *numbers = line.split()
        answer: Block | dict[str, object] | None
        if order in {"settle", "books"}:
            answer = settle(caller.way, ready=order == "settle")
        else:
            first, most, ns = map(int, numbers)
            posts = Posts(assignment.kind, first)
            if order == "block":
                answer = caller.block(posts, most, ns)
            else:
                answer = caller.at_fixed_rate(posts, most, ns, ready=order == "rate")
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
