"""One contender in a process of its own that has an event loop running: the orders and answers of worker.py.

`python -m bench.loopworker ASSIGNMENT`. A post is timed from before its call to behind its await. What it began may go
on in the loop: before the next burst all of it is done, and its CPU counts as that burst's, in `aside_ns`. Between the
orders the loop runs on, as an application's does.
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
from .worker import Assignment, Posts, Timed, end_with_parent, pace_of

if TYPE_CHECKING:
    from .payload import Body
    from .ways import AsyncPost, AsyncWay, Said, Target
    from .worker import Block, Pace


async def timed(post: AsyncPost, content: Body) -> Timed:
    """Make one post."""
    said: Said | Exception
    cpu = time.process_time_ns()
    start = time.perf_counter_ns()
    try:
        said = await post(content)
    except Exception as failure:  # noqa: BLE001 - whatever a contender raises is a result, shown in its row
        said = failure
    end = time.perf_counter_ns()
    return Timed.of(end - start, time.process_time_ns() - cpu, said)


class AsyncCaller:
    """Posts by one contender, for as long as its worker lives."""

    def __init__(self, way: AsyncWay, target: Target, pace: Pace | None) -> None:
        self._way = way
        self._target = target
        self._pace = pace

    async def block(self, posts: Posts, most: int, limit_ns: int) -> Block:
        """Make at most so many posts, and begin no burst after the limit (but the first)."""
        end = time.perf_counter_ns() + limit_ns
        while len(posts) < most and not (len(posts) and time.perf_counter_ns() > end):
            contents = posts.next_bodies(min(self._target.burst, most - len(posts)))
            if self._pace:
                self._pace.rest()
            start = time.process_time_ns()
            burst = [await timed(self._way.post, content) for content in contents]
            await self._way.finish()
            posts.note(burst, time.process_time_ns() - start - sum(each.cpu_ns for each in burst))
            if self._pace:
                posts.made["unpaced"] += self._pace.unsettled(len(contents))
        return posts.made

    async def settle(self) -> dict[str, object] | None:
        """Let the contender finish what it began; returns its books, if it keeps any."""
        sender = self._way.sender
        if sender is not None:
            await sender.flush()
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
    caller = AsyncCaller(await prepared(assignment), assignment.target, pace_of(assignment))
    lines = await orders()
    print("ready", flush=True)
    while line := await lines.readline():
        order, *numbers = line.decode().split()
        answer: Block | dict[str, object] | None
        if order == "settle":
            answer = await caller.settle()
        elif order == "block":
            first, most, limit_ns = map(int, numbers)
            answer = await caller.block(Posts(assignment.kind, first), most, limit_ns)
        else:
            raise SystemExit(f"posts are not made at a fixed rate from an event loop: {order}")
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
