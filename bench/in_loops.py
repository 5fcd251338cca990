"""The contenders that post from a running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import weakref
from typing import TYPE_CHECKING

from .ways import LINGER, MOST_HELD, READ_TIMEOUT, AsyncWay, Target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import SimpleNamespace

    import aiohttp
    from aiohappyeyeballs import AddrInfoType

    from .payload import Body

# Seconds between looks at whether sockets are closed.
POLL = 0.002


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

    return AsyncWay(lambda body: made.post(**body), finish, made, made.close)


class Sockets:
    """The sockets of an aiohttp session, by its connector's `socket_factory`.

    What is closed over asyncio is closed later: when what is left to send has gone, and TLS has said goodbye. The loop
    has to run until then, and nobody tells when that is. (aiohttp's documentation sleeps for 0.25 s.)
    """

    def __init__(self) -> None:
        self._made = weakref.WeakSet[socket.socket]()

    def new(self, address: AddrInfoType) -> socket.socket:
        """Return a new socket."""
        made = socket.socket(*address[:3])
        self._made.add(made)
        return made

    def open(self) -> list[socket.socket]:
        """Return those that are not closed yet."""
        return [each for each in self._made if each.fileno() >= 0]

    async def closed(self) -> None:
        """Wait until all are; for a bounded time, as a peer may never say goodbye."""
        await self._look(LINGER)
        for each in self.open():
            with contextlib.suppress(OSError):  # it has just been closed
                each.shutdown(socket.SHUT_RDWR)
        await self._look(LINGER)

    async def _look(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.open() and time.monotonic() < until:  # noqa: ASYNC110 - as said above, there is no event
            await asyncio.sleep(POLL)


def closing(session: aiohttp.ClientSession, sockets: Sockets) -> Callable[[], Awaitable[None]]:
    """Return what closes the session, and waits until that is done."""

    async def close() -> None:
        await session.close()
        await sockets.closed()

    return close


async def aiohttp_task(target: Target) -> AsyncWay:
    """Post by aiohttp in a task that nobody awaits: one session, which keeps its connections open, 100 at most."""
    import aiohttp

    context, sockets = target.context() or True, Sockets()
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=sockets.new))
    tasks = set[asyncio.Task[None]]()  # the loop holds its tasks weakly

    async def exchange(body: Body) -> None:
        async with session.post(target.url, **body, ssl=context) as answer:
            await answer.read()

    async def post(body: Body) -> None:
        task = asyncio.create_task(exchange(body))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def finish() -> None:
        """Give the tasks the time to be done; what they raise, nobody sees."""
        if tasks:
            await asyncio.wait(tasks, timeout=LINGER)

    async def close() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await closing(session, sockets)()

    return AsyncWay(post, finish, close=close)


async def aiohttp_trick(target: Target) -> AsyncWay:
    """Do the trick by aiohttp: its sock_read begins when the body is written. A tiny `total` is over before that."""
    import aiohttp

    context, sockets = target.context() or True, Sockets()
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=sockets.new),
        timeout=aiohttp.ClientTimeout(sock_read=READ_TIMEOUT),
    )

    async def post(body: Body) -> None:
        with contextlib.suppress(aiohttp.ServerTimeoutError):
            async with session.post(target.url, **body, ssl=context) as answer:
                await answer.read()

    return AsyncWay(post, close=closing(session, sockets))


async def aiohttp_cancelled(target: Target) -> AsyncWay:
    """Cancel aiohttp's request once its body is written, as a trace tells."""
    import aiohttp

    async def cancel(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.cancel()

    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(cancel)
    context, sockets = target.context() or True, Sockets()
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=sockets.new), trace_configs=[trace])

    async def exchange(body: Body) -> None:
        await session.post(target.url, **body, ssl=context, trace_request_ctx=asyncio.current_task())

    async def post(body: Body) -> None:
        task = asyncio.create_task(exchange(body))
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    return AsyncWay(post, close=closing(session, sockets))
