"""One contender in a process of its own: makes blocks of posts when asked, and times each of them alone.

`python -m bench.worker ASSIGNMENT`, where the assignment is JSON. It says `ready`, then answers each line
`block FIRST POSTS LIMIT_NS` on standard input with one line of JSON, a `Block`. It ends with standard input, and with
its parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from .contenders import CONTENDERS, Post, Target
from .counter import Counters
from .payload import body

if TYPE_CHECKING:
    from .payload import Body

# How long a worker waits for the receiver to account for a post; ten thousand times what it takes.
PACE_NS = 250_000_000
# The caller's pause before each post. Without it a quick contender now and then catches the receiver between its last
# word and its sleep and is spared the wake-up: the C loop then took 11 µs instead of 24, by luck, row by row.
REST_NS = 50_000
# <linux/prctl.h>
PR_SET_PDEATHSIG = 1


class Assignment(NamedTuple):
    """What a worker is started with."""

    contender: str
    target: Target
    form: bool
    counters: str  # path; empty: nobody counts, as with the user's own endpoint
    slot: int

    def to_json(self) -> str:
        """As a command line argument."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Assignment:
        """Undo to_json."""
        contender, target, *rest = json.loads(text)
        return cls(contender, Target(*target), *rest)


class Block(TypedDict):
    """What a worker answers: one entry per post, but for `errors`, by the post's index within the block."""

    first: int
    unpaced: int  # posts that the receiver did not account for in time
    claims: list[str]  # Receipt.delivery, or empty
    ns: list[int]
    cpu_ns: list[int]
    errors: dict[str, str]


class Pace:
    """Waits until the receiver has accounted for the last post and sleeps: its backlog never overflows."""

    def __init__(self, counters: Counters, slot: int) -> None:
        self._counters = counters
        self._slot = slot
        self._made = 0

    def wait(self) -> bool:
        """Wait for one more post; False when the receiver did not see it within PACE_NS."""
        self._made += 1
        limit = time.perf_counter_ns() + PACE_NS
        while self._counters[self._slot] < self._made:
            if time.perf_counter_ns() > limit:
                self._made -= 1  # it may never come, as after an error: do not wait for it again
                return False
            yield_processor()
        rested = time.perf_counter_ns() + REST_NS
        while time.perf_counter_ns() < rested:
            yield_processor()
        return True


def yield_processor() -> None:
    """Let the receiver run where there is one core for both; a sleep would let this core go idle before each post."""
    if sys.platform == "win32":
        time.sleep(0)
    else:
        os.sched_yield()


def timed(post: Post, content: Body) -> tuple[int, int, str, str]:
    """Make one post: nanoseconds the caller was held, CPU nanoseconds, what it claims, and its error."""
    claim = error = ""
    cpu = time.process_time_ns()
    start = time.perf_counter_ns()
    try:
        receipt = post(content)
    except Exception as failure:  # noqa: BLE001 - whatever a contender raises is a result, shown in its row
        end = time.perf_counter_ns()
        error = f"{type(failure).__name__}: {failure}"
    else:
        end = time.perf_counter_ns()
        claim = receipt.delivery if receipt else ""
    return end - start, time.process_time_ns() - cpu, claim, error


def block(post: Post, pace: Pace | None, order: tuple[int, int, int], *, form: bool) -> Block:
    """Make at most so many posts, the first numbered `first`, and start none after the limit (but the first)."""
    first, posts, limit_ns = order
    made = Block(first=first, unpaced=0, claims=[], ns=[], cpu_ns=[], errors={})
    end = time.perf_counter_ns() + limit_ns
    for index in range(posts):
        if index and time.perf_counter_ns() > end:
            break
        ns, cpu_ns, claim, error = timed(post, body(first + index, form=form))
        made["ns"].append(ns)
        made["cpu_ns"].append(cpu_ns)
        made["claims"].append(claim)
        if error:
            made["errors"][str(index)] = error
        if pace and not pace.wait():
            made["unpaced"] += 1
    return made


def end_with_parent() -> None:
    """On Linux, have this process killed when its parent dies; elsewhere it ends after the block in hand."""
    if sys.platform == "linux":
        import ctypes  # of no use elsewhere

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Prepare the contender, say so, and post on demand."""
    end_with_parent()
    assignment = Assignment.from_json(sys.argv[1])
    make = next(known.make for known in CONTENDERS if known.name == assignment.contender)
    if make is None:
        raise SystemExit(f"{assignment.contender} is a program of its own")
    post = make(assignment.target)
    counters = Counters(Path(assignment.counters)) if assignment.counters else None
    pace = Pace(counters, assignment.slot) if counters else None
    print("ready", flush=True)
    for line in sys.stdin:
        first, posts, limit_ns = map(int, line.split()[1:])
        print(json.dumps(block(post, pace, (first, posts, limit_ns), form=assignment.form)), flush=True)


if __name__ == "__main__":
    main()
