"""What a contender is made of: where it posts to, and what a worker is given to call."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from .payload import Body

if TYPE_CHECKING:
    import rawfnf


class Span(NamedTuple):
    """Nanoseconds, and CPU nanoseconds, of the part of a call that is asked about."""

    ns: int
    cpu_ns: int


# What a post returns. False: it was dropped.
Said: TypeAlias = "rawfnf.Receipt | Span | bool | None"
Post: TypeAlias = Callable[[Body], Said]
AsyncPost: TypeAlias = Callable[[Body], Awaitable[Said]]

# Longer than the slowest scenario's answer (5 s): "answered" is to be given the chance to be it.
LINGER = 10.0
# More than a Sender ever has to hold here (1,200 in works-5s): none is to wait until one is released.
MOST_HELD = 4096
# Read timeout of the tricks, in seconds; urllib3, and Python's own socket, hand it to poll(), which rounds it up to one
# millisecond.
READ_TIMEOUT = 0.00001


class Target(NamedTuple):
    """Where a worker posts to, and how often."""

    url: str
    host: str
    port: int
    path: str  # the request target
    tls: bool
    cafile: str | None  # None: the system's trust store
    burst: int = 1  # posts that are made back to back: what can be opened ahead, is to be there for all of them
    apart: float = 0.0  # seconds from the beginning of a burst to that of the next, at least
    spares: int = 16  # for a thread to keep open: at 1,000 posts a second 16 cover it while it cannot run for 16 ms

    def context(self) -> ssl.SSLContext | None:
        """Return a TLS client context that trusts the embedded receiver; None on plain TCP."""
        return ssl.create_default_context(cafile=self.cafile) if self.tls else None


class Books(Protocol):
    """What keeps an account of its posts, to be compared with what arrived."""

    @property
    def stats(self) -> rawfnf.Stats:
        """The account."""

    def flush(self) -> object:
        """Wait until nothing is held."""


class AsyncBooks(Protocol):
    """The same within a running event loop."""

    @property
    def stats(self) -> rawfnf.Stats:
        """The account."""

    async def flush(self) -> object:
        """Wait until nothing is held."""


def nothing() -> None:
    """Do nothing."""


async def nothing_either() -> None:
    """Do nothing, within a running event loop."""


class Way(NamedTuple):
    """A prepared contender, with what it does around the calls that are timed."""

    post: Post
    between: Callable[[], None] = nothing  # before each burst, not timed
    sender: Books | None = None
    close: Callable[[], object] = nothing  # when nothing more is posted there: ends what it began, and lets go of all


class AsyncWay(NamedTuple):
    """A contender that was prepared within a running event loop, and whose posts are awaited there."""

    post: AsyncPost
    # After each burst, not timed: returns when all that the posts began is done, and the next ones can be made.
    finish: Callable[[], Awaitable[object]] = nothing_either
    sender: AsyncBooks | None = None
    close: Callable[[], Awaitable[object]] = nothing_either  # as above
