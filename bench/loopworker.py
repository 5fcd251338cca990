"""One contender in a process of its own that has an event loop running: the orders and answers of worker.py.

`python -m bench.loopworker ASSIGNMENT`. A post is timed from before its call to behind its await. What it began may go
on in the loop: before the next burst all of it is done, and its CPU counts as that burst's, in `aside_ns`. Where
answers come so late that nobody waits for them between posts, it goes on during these, and its CPU is not told. Between
the orders the loop runs on, as an application's does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from .contenders import KNOWN
from .descriptors import allow_many_descriptors
from .worker import DOZE, RUN_UP_NS, Assignment, Posts, Timed, end_with_parent, pace_of

if TYPE_CHECKING:
    from .payload import Body
    from .ways import AsyncPost, AsyncWay, Said, Target
    from .worker import Block, Pace


# From so long before a post at a fixed rate the loop is kept turning: its timers are of whole milliseconds.
AWAKE_NS = 2_000_000
# Seconds that the loop gets before the next burst where nobody waits for answers: to open what is to be open by then.
TURN = 0.001


async def timed(post: AsyncPost, content: Body, begins: int | None = None) -> Timed:
    """Make one post, timed from when it `begins` (None: now)."""
    said: Said | Exception
    cpu = time.process_time_ns()
    start = time.perf_counter_ns()
    try:
        said = await post(content)
    except Exception as failure:  # noqa: BLE001 - whatever a contender raises is a result, shown in its row
        said = failure
    end = time.perf_counter_ns()
    return Timed.of(end - start, time.process_time_ns() - cpu, said).later(start - (begins or start))


async def wait_until(ns: int) -> None:
    """Let the loop do what it has to do, until it is time; it may take longer than that."""
    while (left := ns - time.perf_counter_ns()) > 0:  # noqa: ASYNC110 - a time is waited for, no event
        await asyncio.sleep((left - AWAKE_NS) / 1e9 if left > AWAKE_NS else 0)


class AsyncCaller:
    """Posts by one contender, for as long as its worker lives."""

    def __init__(self, way: AsyncWay, target: Target, pace: Pace | None, *, late: bool = False) -> None:
        self._way = way
        self._target = target
        self._pace = pace
        self._late = late

    async def block(self, posts: Posts, most: int, limit_ns: int) -> Block:
        """Make at most so many posts, and begin no burst after the limit (but the first)."""
        end = time.perf_counter_ns() + limit_ns
        while len(posts) < most and not (len(posts) and time.perf_counter_ns() > end):
            contents = posts.next_bodies(min(self._target.burst, most - len(posts)))
            if self._pace:
                self._pace.rest()
            start = time.process_time_ns()
            burst = [await timed(self._way.post, content) for content in contents]
            if self._late:
                posts.note(burst, None)
            else:
                await self._way.finish()
                posts.note(burst, time.process_time_ns() - start - sum(each.cpu_ns for each in burst))
            if self._pace:
                posts.made["unpaced"] += await self.unsettled(self._pace, len(contents))
        return posts.made

    async def unsettled(self, pace: Pace, posts: int) -> int:
        """Let the loop run until so many more posts are accounted for; returns how many were not in time."""
        pace.expect(posts)
        while pace.waits():  # noqa: ASYNC110 - another process is waited for, which sets no event of ours
            await asyncio.sleep(DOZE if pace.beside else 0)
        if self._late:
            await asyncio.sleep(TURN)
        return pace.write_off()

    async def at_fixed_rate(self, posts: Posts, most: int, interval_ns: int, *, ready: bool) -> Block:
        """Make so many posts, one every interval, while the loop works on those before.

        Without an interval no post is late. With `ready` all that they began is done on return, and the next ones can
        be made, unless answers are not waited for.
        """
        contents = posts.next_bodies(most)
        begins = time.perf_counter_ns() + RUN_UP_NS
        made = []
        for content in contents:
            await wait_until(begins)
            made.append(await timed(self._way.post, content, begins if interval_ns else None))
            begins += interval_ns
        if ready and not self._late:
            await self._way.finish()
        posts.note(made, None)
        return posts.made

    async def settle(self, *, ready: bool = True) -> dict[str, object] | None:
        """Let the contender finish what it began, and get ready; returns its books, if it keeps any."""
        sender = self._way.sender
        if sender is not None:
            await sender.flush()
        if ready:
            await self._way.finish()
        return None if sender is None else sender.stats._asdict()


async def prepared(assignment: Assignment) -> AsyncWay:
    """Let the contender make its preparations."""
    make = KNOWN[assignment.contender].make
    made = make(assignment.target) if make else None
    if not isinstance(made, Awaitable):
        raise SystemExit(f"{assignment.contender} knows nothing of event loops")
    return await made


async def orders() -> asyncio.StreamReader:
    """Return standard input; a thread that reads it would be one more in every row."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def serve(assignment: Assignment) -> None:
    """Prepare the contender, say so, and post on demand."""
    way = await prepared(assignment)
    caller = AsyncCaller(way, assignment.target, pace_of(assignment), late=assignment.late)
    lines = await orders()
    print("ready", flush=True)
    while line := await lines.readline():
        order, *numbers = line.decode().split()
        answer: Block | dict[str, object] | None
        if order in {"settle", "books"}:
            answer = await caller.settle(ready=order == "settle")
        else:
            first, most, ns = map(int, numbers)
            posts = Posts(assignment.kind, first)
            if order == "block":
                answer = await caller.block(posts, most, ns)
            else:
                answer = await caller.at_fixed_rate(posts, most, ns, ready=order == "rate")
        print(json.dumps(answer), flush=True)


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Return asyncio's own, or uvloop's."""
    if kind == "uvloop":
        import uvloop  # the other contenders' workers do not load it

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def main() -> None:
    """Serve in the contender's kind of loop."""
    end_with_parent()
    allow_many_descriptors()
    assignment = Assignment.from_json(sys.argv[1])
    loop = new_loop(KNOWN[assignment.contender].loop)
    try:
        loop.run_until_complete(serve(assignment))
    finally:
        loop.close()


if __name__ == "__main__":
    main()
