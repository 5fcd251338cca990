"""The contenders that post from a running event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .ways import LINGER, MOST_HELD, AsyncWay, Target

if TYPE_CHECKING:
    from .payload import Body


async def aio_post(target: Target) -> AsyncWay:
    """rawfnf.aio.post, awaited; closing now, as rawfnf.post does on plain TCP."""
    import rawfnf.aio

    context = target.context()
    return AsyncWay(lambda body: rawfnf.aio.post(target.url, **body, ssl_context=context))


async def aio_sender(target: Target) -> AsyncWay:
    """Hand over to an aio.Sender with as many spares as posts come at once."""
    import rawfnf.aio

    context = target.context()
    made = rawfnf.aio.Sender(target.url, spares=target.burst, linger=LINGER, max_held=MOST_HELD, ssl_context=context)

    async def finish() -> None:
        await made.flush()
        if made.stats.spares < target.burst:  # mostly they are there by then: nobody calls warm() for each post
            await made.warm()

    return AsyncWay(lambda body: made.post(**body), finish, made)


async def aiohttp_task(target: Target) -> AsyncWay:
    """Post by aiohttp in a task that nobody awaits: one session, which keeps its connections open."""
    import aiohttp

    context = target.context() or True
    session = aiohttp.ClientSession()
    tasks = set[asyncio.Task[None]]()  # the loop holds its tasks weakly

    async def exchange(body: Body) -> None:
        async with session.post(target.url, **body, ssl=context) as answer:
            await answer.read()

    async def post(body: Body) -> None:
        task = asyncio.create_task(exchange(body))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def finish() -> None:
        await asyncio.gather(*tasks)

    return AsyncWay(post, finish)
