"""Which system calls one post makes, by strace: those of the thread that posts, between two marks.

And how many it makes in all: in all threads, from its beginning to that of the next post, which begins when the answer
has been dealt with and all is ready. Whoever has others do its work, later, pays here. The programs in C are left out:
nobody marks their posts.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TYPE_CHECKING

from .alone import able_alone
from .contenders import NOW, SENDER, SENDER_THREAD, TRICK
from .processes import ROOT, ChildError, environment, python
from .results import Goal, Trace
from .scenarios import Scenario
from .traced import BEGIN, END, POSTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .contenders import Contender
    from .stage import Bench
    from .worker import Assignment

SECONDS = 20.0  # that a traced contender may take; it takes one or two
# Traced at the same time: what is counted does not depend on how long it takes.
AT_A_TIME = 4
# Under strace a post takes so long that an answer given at once would come in the middle of it, and wake the thread.
DELAY = 0.05
PLAIN = Scenario("plain", "plain TCP", DELAY)
TLS = Scenario("tls1.3", "TLS 1.3", DELAY, tls="1.3")
SCENARIOS = (PLAIN, TLS)
# Over TLS as well: what its records cost is the same for all that use the same library.
OVER_TLS = (SENDER, SENDER_THREAD, NOW, TRICK)
# At most a look at the connection, and the send; with the thread: the send, and what wakes it.
MOST = 2
# strace -f -o: the thread's id, then the call; one that another thread interrupted is told in two lines.
CALL = re.compile(r"(?P<thread>\d+) +(?P<name>\w+)\(")
# Left out. The interpreter hands its lock over to the thread that was just woken, if that asks for it before the post
# is done: which of them is faster is a race that strace distorts. The others are the bench's own: how it waits for the
# receiver, and reads the clocks of CPU time, which are the only ones that need a system call.
NOT_THE_POSTS = frozenset({"futex", "sched_yield", "clock_gettime"})


def usual(posts: list[list[str]]) -> list[str]:
    """Return the calls of most posts: now and then one also asks for more memory."""
    return list(Counter(map(tuple, posts)).most_common(1)[0][0])


def missing() -> str | None:
    """Say what this machine lacks; None when nothing is missing."""
    return None if shutil.which("strace") else "system calls need strace (Debian's package of that name)"


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
        elif thread and call["name"] not in NOT_THE_POSTS:
            calls.append(call["name"])


def calls_until_the_next(trace: str) -> Iterator[int]:
    """Yield how many system calls all threads made from the beginning of each post to that of the next."""
    count: int | None = None
    for line in trace.splitlines():
        call = CALL.match(line)
        if BEGIN in line:
            if count is not None:
                yield count
            count = 0
        elif call and count is not None and END not in line and call["name"] not in NOT_THE_POSTS:
            count += 1


def watched(assignment: Assignment, file: Path) -> str:
    """Let it post under strace, which writes to `file`; returns what it wrote, or raises ChildError."""
    try:
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
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"{POSTS} posts were not done within {SECONDS:g} s") from error
    if done.returncode or not file.exists():
        raise ChildError(f"strace of {assignment.contender} failed: {done.stderr.strip()[-300:]}")
    return file.read_text(encoding="utf-8", errors="replace")


def trace(bench: Bench, contender: Contender, scenario: Scenario) -> Trace:
    """Trace one contender."""
    return traced(bench, contender, scenario)()


def traced(bench: Bench, contender: Contender, scenario: Scenario) -> Callable[[], Trace]:
    """Open what it posts to; returns what does the rest, in any thread. Who cannot be traced gets a note."""
    if lack := missing() or (f"missing: {contender.lacks}" if contender.lacks else ""):
        return lambda: Trace(contender.name, scenario.title, [], note=lack)
    slot = next(bench.slots)
    assignment = bench.assignment(contender, scenario, slot)

    def run() -> Trace:
        try:
            text = watched(assignment, bench.counters.with_name(f"trace-{slot}"))
        except ChildError as error:
            return Trace(contender.name, scenario.title, [], note=str(error))
        # The first ones load modules and fill caches.
        posts = list(calls_of_posts(text))[POSTS // 2 :]
        in_all = list(calls_until_the_next(text))[POSTS // 2 :]
        if not posts or not in_all:
            return Trace(contender.name, scenario.title, [], note="strace saw no posts")
        return Trace(contender.name, scenario.title, usual(posts), in_all=median(in_all))

    return run


def chosen(contenders: Sequence[Contender]) -> list[tuple[Contender, Scenario]]:
    """Return what is traced: everybody in Python over plain TCP, some over TLS as well."""
    plain = [(contender, PLAIN) for contender in able_alone(contenders, PLAIN) if contender.make]
    return plain + [(contender, TLS) for contender in contenders if contender in OVER_TLS]


def measure(bench: Bench, contenders: Sequence[Contender], tick: Callable[[], None]) -> list[Trace]:
    """Trace each that can be traced, see `chosen`; one tick each."""
    # The receiver is asked here, one question after the other; its answers are given to all at once.
    jobs = [traced(bench, contender, scenario) for contender, scenario in chosen(contenders)]
    found = []
    pool = ThreadPoolExecutor(AT_A_TIME)
    try:
        for one in pool.map(lambda job: job(), jobs):
            found.append(one)
            tick()
    finally:  # Ctrl-C waits for those that are running, and begins no others
        pool.shutdown(cancel_futures=True)
    return found


def goals(traces: Sequence[Trace]) -> list[Goal]:
    """Return the numbers to reach: a Sender is to make few."""
    few = {SENDER.name, SENDER_THREAD.name}
    return [
        Goal(
            f"system calls of one post: {each.contender}, {each.scenario}",
            None if each.note else len(each.calls),
            MOST,
            at_most=True,
        )
        for each in traces
        if each.contender in few
    ]
