"""rawfnf.aio.Sender for tests that are about every Sender: what is awaited there, blocks here.

The event loop runs in a thread of its own, and does what it does between the calls as well, as it would in a service.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import rawfnf
from rawfnf import aio

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from typing_extensions import Self

T = TypeVar("T")


class Loop:
    """An event loop that runs. A context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._loop.run_forever, name="event loop", daemon=True)
        self.thread.start()

    def wait(self, steps: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns in the loop, or raise what it raises."""
        return asyncio.run_coroutine_threadsafe(steps, self._loop).result()

    def close(self) -> None:
        """Stop the loop, and end the threads of its resolver."""
        self.wait(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AwaitedSender:
    """Has the surface of rawfnf.Sender; each call, and each look at `stats`, is made in the loop."""

    def __init__(self, loop: Loop, url: str, **options: Any) -> None:
        self.loop = loop
        self._sender = aio.Sender(url, **options)
        self._pool = self._sender._pool

    def __repr__(self) -> str:
        return repr(self._sender)

    def post(self, data: Any = None, **options: Any) -> bool:
        return self.loop.wait(self._sender.post(data, **options))

    def warm(self) -> None:
        self.loop.wait(self._sender.warm())

    def pump(self) -> float | None:
        return self.loop.wait(self._sender.pump())

    def flush(self, timeout: float | None = None) -> bool:
        return self.loop.wait(self._sender.flush(timeout))

    @property
    def stats(self) -> rawfnf.Stats:
        return self.loop.wait(self._stats())

    async def _stats(self) -> rawfnf.Stats:
        return self._sender.stats

    def close(self) -> None:
        self.loop.wait(self._sender.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


AnySender: TypeAlias = rawfnf.Sender | AwaitedSender
NewSender: TypeAlias = Callable[..., AnySender]

SENDERS = ["Sender", "aio.Sender"]


@contextlib.contextmanager
def senders(way: str) -> Iterator[NewSender]:
    """Yield what makes Senders of this kind; those of aio share a loop, which ends here. Close them before."""
    if way == "Sender":
        yield rawfnf.Sender
    else:
        with Loop() as loop:
            yield partial(AwaitedSender, loop)
