"""Which system calls one post makes, by strace: those of the thread that posts, between two marks."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from .contenders import NOW, SENDER, SENDER_THREAD, TRICK
from .processes import ROOT, ChildError, environment, python
from .results import Goal
from .scenarios import Scenario
from .traced import BEGIN, END, POSTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .contenders import Contender
    from .stage import Bench

SECONDS = 60  # that a traced contender may take; it takes one or two
# Under strace a post takes so long that an answer given at once would come in the middle of it, and wake the thread.
DELAY = 0.05
SCENARIOS = (Scenario("plain", "plain TCP", DELAY), Scenario("tls1.3", "TLS 1.3", DELAY, tls="1.3"))
CONTENDERS = (SENDER, SENDER_THREAD, NOW, TRICK)
# At most a look at the connection, and the send; with the thread: the send, and what wakes it.
MOST = 2
# strace -f -o: the thread's id, then the call; one that another thread interrupted is told in two lines.
CALL = re.compile(r"(?P<thread>\d+) +(?P<name>\w+)\(")


# The interpreter's, not the post's: it hands its lock over to the thread that was just woken, if that asks for it
# before the post is done. Which of them is faster is a race that strace distorts: left out.
HANDING_OVER = "futex"


class Trace(NamedTuple):
    """What a post usually does."""

    contender: Contender
    scenario: Scenario
    calls: list[str]

    @property
    def goal(self) -> Goal:
        """A Sender is to make few."""
        what = f"system calls of one post: {self.contender.name}, {self.scenario.title}"
        return Goal(what, len(self.calls), MOST, at_most=True)


def usual(posts: list[list[str]]) -> list[str]:
    """Return the calls of most posts: now and then one also asks for more memory."""
    return list(Counter(map(tuple, posts)).most_common(1)[0][0])


def missing() -> str | None:
    """Say what this machine lacks; None when nothing is missing."""
    return None if shutil.which("strace") else "--syscalls needs strace (Debian's package of that name)"


def calls_of_posts(trace: str) -> Iterator[list[str]]:
    """Yield the names of the system calls of each post."""
    thread, calls = "", list[str]()
    for line in trace.splitlines():
        call = CALL.match(line)
        if call is None or (thread and call["thread"] != thread):
            continue
        if BEGIN in line:
            thread, calls = call["thread"], []
        elif END in line:
            yield calls
            thread = ""
        elif thread and call["name"] != HANDING_OVER:
            calls.append(call["name"])


def trace(bench: Bench, contender: Contender, scenario: Scenario) -> Trace:
    """Let it post under strace."""
    assignment = bench.assignment(contender, scenario, next(bench.slots))
    file: Path = bench.counters.with_name("trace")
    done = subprocess.run(  # noqa: S603 - our own command line
        ["strace", "-f", "-o", str(file), *python("traced", assignment.to_json())],  # noqa: S607 - found on PATH
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    posts = list(calls_of_posts(file.read_text(encoding="utf-8", errors="replace"))) if file.exists() else []
    if done.returncode or len(posts) != POSTS:
        raise ChildError(f"strace of {contender.name} failed: {done.stderr.strip()[-300:]}")
    return Trace(contender, scenario, usual(posts[POSTS // 2 :]))  # the first ones load modules and fill caches


def measure(bench: Bench, tick: Callable[[], None]) -> list[Trace]:
    """Every contender, plain and over TLS."""
    found = []
    for contender in CONTENDERS:
        for scenario in SCENARIOS:
            found.append(trace(bench, contender, scenario))
            tick()
    return found


def goals(traces: list[Trace]) -> list[Goal]:
    """Return the numbers to reach."""
    return [each.goal for each in traces if each.contender in {SENDER, SENDER_THREAD}]
