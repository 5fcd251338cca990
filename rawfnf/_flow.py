"""What every Sender does, in order, whoever waits for it: its arguments, the steps of a post, what its account says.

Theory of operation. A post has to wait now and then: for the resolver, for room among `max_held`, for its connection.
How, is the business of a Pump; everything else is written here, once, as coroutines. rawfnf.aio.Sender awaits them, and
its Pump suspends them until the event loop has news. rawfnf.Sender has a Pump whose waits block instead, so that its
coroutines run to their end when they are first sent to: see `unsuspended`.
"""

from __future__ import annotations

import atexit
import errno
import functools
import os
import sys
import warnings
import weakref
from time import monotonic
from typing import TYPE_CHECKING, ClassVar, ParamSpec, TypeVar, cast

from ._errors import ConnectError, RequestError, not_prepared
from ._pool import Pool
from ._request import Request
from ._route import checked_closing, checked_seconds, checked_timeout, route_to

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine
    from typing import Any, Literal, NoReturn, Protocol

    from ._connection import Connection, Wait
    from ._pool import Stats
    from ._request import Auth, ConnectTo, Data, Fields, Message, Params
    from ._route import Closing

    WhenBusy = Literal["wait", "drop"]
    # A connection that a post has begun on, what it waits for (None: for nothing more), and whether it was a spare.
    Started = tuple[Connection, Wait | None, bool]

    class Pump(Protocol):
        """Waits for a pool's connections, and lets them go on."""

        threaded: bool  # it does so by itself, while posts go on

        def start(self) -> None:
            """See to it that it does, if it can."""

        def pump(self) -> float | None:
            """Do what there is to do now; return the seconds until there is more."""

        def reap(self, most: int) -> None:
            """Look at so many of those that are held, and do not raise."""

        def close_oldest(self) -> bool:
            """End the wait of what is held the longest; False if nothing is."""

        def forsake(self) -> bool:
            """Close what a forgotten Sender has left open; False if there was nothing."""

        def desert(self) -> None:
            """Close a forked child's copies of all descriptors."""

        async def renew(self, until: float | None) -> bool:
            """Ask the resolver; False if what it said before has to do, ConnectError if it has never said anything."""

        async def wait_for(self, fact: Callable[[], bool], until: float | None) -> bool:
            """Wait for a fact about the pool; False if that took too long."""

        async def wait_for_room(self, message: Message, until: float | None) -> bool:
            """Wait until this post's connection may be held, or the pool is closed; False if that took too long."""

        async def send_on(
            self, connection: Connection, wait: Wait | None, leaves: Callable[[Connection], bool], *, hold: bool
        ) -> None:
            """Let a connection go on until its request is handed over, or the rest of it left to the pump."""


P = ParamSpec("P")
T = TypeVar("T")

# Connections that a post() looks at, after its bytes have left, where nobody does it in the background.
_REAPED = 4
# Seconds after which a post that waits looks at all of them.
_HELP = 0.02


def earlier(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two times, of which either may be never."""
    return other if one is None else one if other is None else min(one, other)


def until_help(pump: Pump, pool: Pool, wait: Wait) -> Wait:
    """Shorten a post's wait, if it has to look after those that are held meanwhile."""
    if pump.threaded or not pool.held:
        return wait
    return wait._replace(until=earlier(wait.until, monotonic() + _HELP))


def help_those_held(pump: Pump, pool: Pool) -> None:
    """Close what has been answered, while a post waits and nobody does so in the background: the server may wait too.

    gunicorn's gthread worker reads nothing more for up to 2 s after each answer, unless its client closes.
    """
    if not pump.threaded and (held := pool.held):
        pump.reap(held)


def unsuspended(steps: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a coroutine whose waits block, and so never suspend it."""
    try:
        steps(*args, **kwargs).send(None)  # on one line: after an interrupt in between Python would warn of it
    except StopIteration as done:
        return cast("T", done.value)
    raise AssertionError("a wait of rawfnf.Sender has suspended it")


class AnySender:
    """What `rawfnf.Sender` and `rawfnf.aio.Sender` share; their arguments are told of there."""

    _pump: Pump

    # Kept alive until their Senders, which they do not know, are forgotten: in one cycle of garbage Python 3.12 and
    # later may finalize sockets before the Sender that is to end their connections.
    _pumps: ClassVar[set[Pump]] = set()

    def __init__(
        self,
        url: str,
        *,
        params: Params | None = None,
        headers: Fields | None = None,
        auth: Auth | None = None,
        method: str = "POST",
        timeout: float | None = 5.0,
        closing: Closing = "answered",
        linger: float = 5.0,
        ssl_context: ssl.SSLContext | None = None,
        connect_to: ConnectTo | None = None,
        source_address: tuple[str, int] | str | None = None,
        spares: int = 0,
        max_held: int = 256,
        when_busy: WhenBusy = "wait",
        background: bool | None = None,
    ) -> None:
        self._closing: Closing = checked_closing(closing)
        self._linger = checked_seconds(linger, "linger")
        self._timeout = checked_timeout(timeout)
        self._spares = _checked_count(spares, "spares", 0)
        self._max_held = _checked_count(max_held, "max_held", 1)
        if not isinstance(when_busy, str) or when_busy not in {"wait", "drop"}:
            raise RequestError(f"when_busy must be 'wait' or 'drop', not {when_busy!r}")
        if background is not None and not isinstance(background, bool):
            raise RequestError(f"background must be True, False or None, not {background!r}")
        self._drops = when_busy == "drop"
        self._threaded = self._in_background(spares) if background is None else background
        try:
            self._request = Request(url, params=params, headers=headers, auth=auth, method=method)
            self._route = route_to(
                self._request.origin, ssl_context=ssl_context, connect_to=connect_to, source_address=source_address
            )
        except (OSError, ImportError) as error:
            raise not_prepared(error) from error
        self._named = not self._route.known  # a name, whose addresses may change
        self._start_empty()
        _senders.add(self)

    def __del__(self) -> None:
        pump = getattr(self, "_pump", None)  # None: the constructor raised
        self._pumps.discard(pump)
        if pump is not None and pump.forsake():
            name = self._NAME.removeprefix("rawfnf.")
            told = f"unclosed {name} for {self._route.where}: close() it, or use it in {self._WITH}"
            warnings.warn(told, ResourceWarning, source=self)  # noqa: B028  # no frame below is to blame: `source` is

    def __repr__(self) -> str:
        return f"<{self._NAME} {self._request!r} {'closed' if self._pool.closed else 'open'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {self._NAME} cannot be pickled or copied: make one in each process")

    @property
    def stats(self) -> Stats:
        """How the posts so far ended: a snapshot, in which the law of conservation holds (see `Stats`)."""
        return self._pool.stats()

    # --- what differs

    _NAME = "rawfnf.Sender"
    _WITH = "a with statement"

    def _in_background(self, spares: int) -> bool:
        """Tell what `background=None` means."""
        raise NotImplementedError

    def _start_pump(self) -> Pump:
        """Return what waits for the connections of `_pool`, just made."""
        raise NotImplementedError

    def _close_at_exit(self) -> None:
        """Flush for at most `linger`: the interpreter is about to exit."""
        raise NotImplementedError

    # --- one post --------------------------------------------------------------------------------------------------

    def _message(
        self, data: Data | None, json: object, params: Params | None, headers: Fields | None, path: str | None
    ) -> Message:
        try:
            return self._request.message(data, json=json, params=params, headers=headers, path=path)
        except (OSError, ImportError) as error:
            raise not_prepared(error) from error

    def _failed(self, message: Message | None, error: BaseException) -> None:
        """Account for a post that raises, and close what it had in hand."""
        self._pool.fail()
        if message is not None:
            self._pool.let_go(message)
            if isinstance(error, (ConnectError, RequestError)):
                message.put_back()

    def _start(self, message: Message, now: float) -> Started | None:
        """Begin to send on a spare, or else on a new connection; None if neither is to be had without waiting."""
        pool = self._pool
        while self._spares and (spare := pool.take(message, now)) is not None:
            started = self._begin(spare, message, now)
            if started is not None:
                return started
            now = monotonic()
        if self._threaded:
            self._pump.start()
            pool.rouse()  # there are too few spares
        if self._drops or (self._named and pool.addresses.stale(now)):
            return None
        connection = pool.connect(message, now)
        return None if connection is None else self._begin(connection, message, now)

    def _begin(self, connection: Connection, message: Message, now: float) -> Started | None:
        """Send what can be sent without waiting; None if it is a spare that took no byte: the server was faster."""
        spare = connection.state == "ready"
        connection.deadline = None if self._timeout is None else now + self._timeout  # a spare had one of its own
        connection.give(message, closing=self._closing, linger=self._linger)
        try:
            return connection, connection.advance(hold=self._closing != "now"), spare
        except ConnectError:
            self._no_byte_left(message, spare=spare)
            if not spare:
                raise
            return None

    def _no_byte_left(self, message: Message, *, spare: bool) -> None:
        """Let go of a connection that failed before it took a byte. After a spare another connection may do."""
        self._pool.let_go(message)
        if not spare:
            self._pool.addresses.failed()

    async def _hand_over(self, message: Message, started: Started | None, now: float) -> bool:
        """Wait for what a post has to wait for; False if it is dropped instead."""
        while started is None or started[1] is not None:
            if started is None:
                if self._drops:
                    return self._drop(message)
                started = await self._start_in_turn(message, now)
            else:
                connection, wait, spare = started
                try:
                    await self._pump.send_on(connection, wait, self._leave_to_pump, hold=self._closing != "now")
                    started = connection, None, spare
                except ConnectError:
                    self._no_byte_left(message, spare=spare)
                    if not spare:
                        raise
                    now = monotonic()
                    started = self._start(message, now)
        return self._handed_over(started, now)

    def _handed_over(self, started: Started, now: float) -> bool:
        """Account for a post, and lend a hand with those before it where nobody does so in the background."""
        (connection, _, spare), pool = started, self._pool
        pool.hold(connection, now)
        if self._named and not spare:
            pool.addresses.worked(connection.address)
        if (pool.crowded() if spare else pool.held) and not self._pump.threaded:
            self._pump.reap(_REAPED)
        return True

    def _drop(self, message: Message) -> bool:  # noqa: ARG002  # a subclass knows what to do with it
        self._pool.drop()
        return False

    async def _start_in_turn(self, message: Message, now: float) -> Started | None:
        """Begin once there are addresses and room; None if the spare that there was took no byte."""
        pool = self._pool
        if self._named and pool.addresses.stale(now):
            pool.raise_if_closed()
            if not await self._pump.renew(pool.deadline(now)):
                now = monotonic()  # the time was the resolver's
        connection = pool.connect(message, now)
        if connection is None:
            connection = await self._connection_in_turn(message, now)
            now = monotonic()
        return self._begin(connection, message, now)

    async def _connection_in_turn(self, message: Message, now: float) -> Connection:
        """Return a connection, if possible a spare, once there is room for it and those before us have theirs."""
        self._pool.queue(message)
        try:
            return await self._connection_when_first(message, now)
        finally:
            self._pool.leave_queue(message)

    async def _connection_when_first(self, message: Message, now: float) -> Connection:
        pool, connection = self._pool, None
        while connection is None:
            await self._wait_for_room(message, pool.deadline(now))
            now = monotonic()
            connection = pool.take(message, now) or pool.connect(message, now)
        return connection

    async def _wait_for_room(self, message: Message, until: float | None) -> None:
        """Wait until a held connection is released; in the end close the oldest."""
        if await self._pump.wait_for_room(message, until) or self._pump.close_oldest():
            return
        late = TimeoutError(errno.ETIMEDOUT, "timed out")
        raise self._no_connection(
            f"cannot post to {self._route.where}: {self._max_held} other posts are under way; raise max_held",
            errno.ETIMEDOUT,
        ) from late

    def _leave_to_pump(self, connection: Connection) -> bool:
        return self._pump.threaded and connection.state == "sending" and self._pool.owe(connection)

    # --- spares ----------------------------------------------------------------------------------------------------

    async def _warm(self) -> None:
        pool, now = self._pool, monotonic()
        until = pool.deadline(now)
        if self._spares and not pool.closed:
            if self._threaded:
                self._pump.start()
            if pool.addresses.stale(now):
                await self._pump.renew(until)
            self._pump.pump()  # so that a spare which the server has closed is not taken for one
            if not await self._pump.wait_for(lambda: pool.closed or pool.warm(monotonic()), until):
                raise self._not_warm()
        pool.raise_if_closed()

    def _not_warm(self) -> ConnectError:
        failure = self._pool.last_failure
        ready = self._pool.stats().spares
        return self._no_connection(
            f"{ready} of {self._spares} spares are ready after {self._timeout:g} seconds"
            + (f"; the last attempt: {failure}" if failure else f"; {self._route.where} does not answer"),
            failure.errno if failure else errno.ETIMEDOUT,
            failure.phase if failure else "connect",
        )

    def _no_connection(self, message: str, number: int | None, phase: str = "connect") -> ConnectError:
        origin = self._route.origin
        return ConnectError(message, phase=phase, host=origin.host, port=origin.port, errno=number)

    # --- life ------------------------------------------------------------------------------------------------------

    def _start_empty(self, *, closed: bool = False) -> None:
        self._pool = Pool(
            self._route,
            closing=self._closing,
            linger=self._linger,
            timeout=self._timeout,
            spares=self._spares,
            max_held=self._max_held,
        )
        self._pool.closed = closed
        self._pump = self._start_pump()
        self._pumps.add(self._pump)


def _checked_count(value: int, name: str, least: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise RequestError(f"{name} must be a whole number, {least} or more, not {value!r:.40}")


# --- where a process begins and ends -------------------------------------------------------------------------------

_senders: weakref.WeakSet[AnySender] = weakref.WeakSet()


def _close_all() -> None:
    for sender in list(_senders):
        try:
            sender._close_at_exit()  # noqa: SLF001  # this is its own file
        except Exception:  # noqa: BLE001, PERF203  # the others are to be closed all the same
            sys.excepthook(*sys.exc_info())


@functools.cache  # once in a process
def flush_in_worker(_pid: int) -> None:
    """See to it that a worker of multiprocessing flushes when it ends: before Python 3.13 it skips atexit."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize  # loaded there already

        Finalize(None, _close_all, exitpriority=0)


def _start_empty_in_child() -> None:
    for sender in list(_senders):
        inherited = sender._pump  # noqa: SLF001
        sender._start_empty(closed=sender._pool.closed)  # noqa: SLF001
        sender._pumps.discard(inherited)  # noqa: SLF001
        inherited.desert()


# Registered when this file is loaded, and so run after what the user registers later, which may still post.
atexit.register(_close_all)
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_start_empty_in_child)
