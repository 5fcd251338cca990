"""post() and Sender for asyncio, and loops like it (uvloop): what rawfnf's wait for in a selector is awaited here.

Theory of operation. The engine is the same: a Connection does what can be done without waiting, and says what it waits
for; the steps of a Sender's post stand in _flow.py. Here is how they wait: by the running loop's readers and writers,
and its timers. There is no thread, but for the loop's own resolver. What can be done at once is done at once: post() of
a small request on plain TCP, or on a spare, comes back without having suspended its task.

A task may be cancelled wherever it waits. Its connection is then closed (by RST, if the request is under way and not
whole), and the CancelledError's `__cause__` says whether bytes may have left: a ConnectError (none) or a SendError.

Descriptors are finite, and ten thousand tasks may post at once: at most half of those that this process may have
(RLIMIT_NOFILE) are taken by post() in one loop, and again half by each Sender. Further posts wait for their turn.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import math
import os
import sys
import weakref
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from . import _tcp
from ._errors import ConnectError, RequestError
from ._flow import AnySender, flush_in_worker, help_those_held, until_help
from ._post import ordered, resolver_late, seconds_until, unresolved
from ._route import checked_seconds
from ._sender import _Pump as BlockingPump

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator

    from typing_extensions import Self

    from ._connection import Connection, Receipt, Wait
    from ._pool import Pool
    from ._post import Order
    from ._request import Auth, ConnectTo, Data, Fields, Message, Params
    from ._route import Closing, Route

    Told = asyncio.Future[bool]

__all__ = ["Sender", "post"]

# Seconds between looks at the clock while spares are due, and the resolver has not said where to.
_PATIENCE = 0.05
# Descriptors that post() takes in one loop, where the system does not tell how many there are.
_MANY = 512


async def post(
    url: str,
    data: Data | None = None,
    *,
    json: object = None,
    params: Params | None = None,
    headers: Fields | None = None,
    auth: Auth | None = None,
    method: str = "POST",
    timeout: float | None = 5.0,
    closing: Closing | None = None,
    linger: float = 5.0,
    ssl_context: ssl.SSLContext | None = None,
    connect_to: ConnectTo | None = None,
    source_address: tuple[str, int] | str | None = None,
) -> Receipt:
    """Send one request on a connection of its own, as `rawfnf.post` does: the same arguments, receipt and errors.

    The task is suspended only where it has to wait. Files and iterables are read in the loop's thread. Beyond half of
    the descriptors that this process may have, further posts wait for their turn within `timeout`, and no byte of
    theirs leaves before.

    Raises:
        RequestError, ConnectError, SendError: as `rawfnf.post`.
        CancelledError: its `__cause__` is a ConnectError if no byte has left, a SendError if some may have.

    """
    order = ordered(
        url,
        data,
        json,
        params,
        headers,
        auth,
        method,
        timeout,
        closing,
        linger,
        ssl_context,
        connect_to,
        source_address,
    )
    try:
        return await _in_turn(order)
    except (ConnectError, asyncio.CancelledError) as error:
        if isinstance(error, ConnectError) or isinstance(error.__cause__, ConnectError):
            order.message.put_back()
        raise


async def _in_turn(order: Order) -> Receipt:
    """Post once there is a descriptor for it."""
    route, gate, deadline = order.route, _gate(), order.deadline(monotonic())
    if not await gate.enter(route, deadline):
        raise _no_turn(route, gate.size)
    try:
        started = monotonic()
        addresses = route.known or await _resolved(route, deadline)
        connection = order.connection(addresses, started, deadline)
        _under_way.add(connection)
        return await _closed(connection)
    finally:
        gate.leave()


async def _closed(connection: Connection) -> Receipt:
    """Let the connection go on until it is closed. Whatever ends that ends the connection."""
    try:
        wait = connection.advance()
        while True:  # the shape that stays within the `try` when interrupted, see Connection._step()
            if wait is None:
                break
            await _event(connection, wait)
            wait = connection.advance()
    except BaseException:
        connection.abort()
        raise
    return connection.receipt()


_under_way: weakref.WeakSet[Connection] = weakref.WeakSet()


def _drop_in_child() -> None:
    """In a forked child: close its copies of what the parent's post() calls have open, and say nothing on them."""
    for connection in list(_under_way):
        connection.drop()
    _under_way.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_drop_in_child)


class Sender(AnySender):
    """Posts to one URL on connections opened ahead, as `rawfnf.Sender` does: the same arguments, errors and stats.

    It belongs to the event loop in which it is first used, and to the next one when that is closed; not thread-safe.
    What the thread does there, the loop does here, between other callbacks. At interpreter exit an open Sender is
    flushed for at most `linger`; use it in `async with`, or close() it, all the same.

    Args:
        max_held: as for `rawfnf.Sender`, and at most half of the descriptors that this process may have.
        background: None, True: the loop opens spares, reads answers and closes. False: pump() does.

    """

    _NAME = "rawfnf.aio.Sender"
    _WITH = "an async with statement"
    _pump: _Pump

    async def post(
        self,
        data: Data | None = None,
        *,
        json: object = None,
        params: Params | None = None,
        headers: Fields | None = None,
        path: str | None = None,
    ) -> bool:
        """Hand over one request, as `rawfnf.Sender.post` does; with a ready spare it does not suspend the task.

        Raises:
            RequestError, ConnectError, SendError: as `rawfnf.Sender.post`.
            CancelledError: its `__cause__` is a ConnectError if no byte has left, a SendError if some may have.

        """
        message = None
        try:
            self._pump.attach()
            message, now = self._message(data, json, params, headers, path), monotonic()
            handed = await self._hand_over(message, self._start(message, now), now)
        except BaseException as error:
            # A cancellation is what its cause says.
            self._failed(message, (isinstance(error, asyncio.CancelledError) and error.__cause__) or error)
            raise
        if not handed:
            message.put_back()
        self._pump.start()  # a spare has gone, or a linger begun
        return handed

    async def warm(self) -> None:
        """Wait until all spares are ready.

        Raises:
            ConnectError: they were not within `timeout`; it tells why the last attempt failed.
            RequestError: the Sender is closed.

        """
        self._pump.attach()
        await self._warm()

    async def pump(self) -> float | None:
        """Do what can be done without waiting; needed only with background=False.

        Returns:
            Seconds until it wants to be called again if nothing arrives before; None: when something arrives.

        """
        if self._pool.closed:
            return None
        self._pump.attach()
        return self._pump.pump()

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until nothing is held; False if that takes longer than `timeout` seconds (None: no limit)."""
        until = None if timeout is None else monotonic() + checked_seconds(timeout, "timeout")
        self._pump.attach()
        return await self._pump.wait_for(lambda: not self._pool.held, until)

    async def close(self) -> None:
        """Take no more posts, flush for at most `linger` seconds, count the rest unanswered. May be called again."""
        if not self._pump.ended:
            self._pump.attach()
            await self._pump.close(self._linger)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _in_background(self, spares: int) -> bool:  # noqa: ARG002  # it costs no thread here
        return True

    def _start_empty(self, *, closed: bool = False) -> None:
        self._max_held = min(self._max_held, _descriptors())
        super()._start_empty(closed=closed)

    def _start_pump(self) -> _Pump:
        return _Pump(self._pool, self._route, background=self._threaded)

    def _close_at_exit(self) -> None:
        """Let the flush be another Pump's, which blocks: the loop runs no more; or only in another thread."""
        loop = self._pump.loop
        if loop is not None and loop.is_running():
            concurrent.futures.wait([asyncio.run_coroutine_threadsafe(self.close(), loop)], self._linger + 1)
        else:
            self._pump.end()
            self._pool.look_anew()
            BlockingPump(self._pool, self._route).close(self._linger)


# --- waiting for one connection --------------------------------------------------------------------------------------


async def _event(connection: Connection, wait: Wait) -> None:
    """Wait for one of the events, or the time; when cancelled, say what that means for the request."""
    loop, descriptor = asyncio.get_running_loop(), connection.fileno()
    told: Told = loop.create_future()
    try:
        if wait.readable:
            loop.add_reader(descriptor, _tell, told)
        if wait.writable:
            loop.add_writer(descriptor, _tell, told)
        await _told(told, wait.until)
    except OSError as error:  # epoll's ENOSPC
        connection.fail(error)
    except asyncio.CancelledError as cancelled:
        raise cancelled from connection.error_from(asyncio.CancelledError("the task was cancelled"))
    finally:
        if wait.readable:
            loop.remove_reader(descriptor)
        if wait.writable:
            loop.remove_writer(descriptor)


async def _told(told: Told, until: float | None) -> bool:
    """Wait for a future, or the time: then it is False."""
    if until is None:
        return await told
    timer = told.get_loop().call_later(_delay(until), _tell, told, False)  # noqa: FBT003  # call_later's way
    try:
        return await told
    finally:
        timer.cancel()


def _delay(until: float) -> float:
    """Return call_later()'s delay in whole milliseconds: uvloop rounds to the nearest, and would come too early."""
    return math.ceil(max(0.0, until - monotonic()) * 1000) / 1000


def _tell(told: Told, what: bool = True) -> None:  # noqa: FBT001, FBT002  # add_reader() and call_later() pass by position
    if not told.done():
        told.set_result(what)


@contextlib.contextmanager
def _none_left(route: Route, phase: str = "connect") -> Iterator[None]:
    """Give a CancelledError its cause where it is not a connection that is waited for."""
    try:
        yield
    except asyncio.CancelledError as cancelled:
        told = f"cancelled before anything was sent to {route.where}"
        raise cancelled from ConnectError(told, phase=phase, host=route.origin.host, port=route.origin.port)


# --- asking the resolver ---------------------------------------------------------------------------------------------


async def _resolved(route: Route, deadline: float | None) -> tuple[_tcp.Address, ...]:
    """Ask the loop's resolver; ConnectError if it does not know, or not before `deadline`."""
    host, port, family, kind = _tcp.question(route.host, route.port, route.source)
    loop = asyncio.get_running_loop()
    asking = asyncio.ensure_future(loop.getaddrinfo(host, port, family=family, type=kind))
    try:
        # Not wait_for(), which before Python 3.12 may swallow a cancellation that comes with the answer.
        with _none_left(route, "resolve"):
            await asyncio.wait([asking], timeout=None if deadline is None else seconds_until(deadline))
        if not asking.done():
            raise resolver_late()
        return _tcp.addresses_of(asking.result())
    except OSError as error:
        raise unresolved(route, _tcp.out_of_descriptors() or error) from error
    finally:
        asking.cancel()


def _heed(question: asyncio.Task[tuple[_tcp.Address, ...]]) -> None:
    """Look at an answer that nobody may wait for any more: otherwise asyncio would complain."""
    if not question.cancelled():
        question.exception()


# --- taking turns ----------------------------------------------------------------------------------------------------


def _descriptors() -> int:
    """How many descriptors may be taken at once: half of what there is, the rest is for others."""
    limit = _tcp.descriptor_limit()
    return _MANY if limit is None else max(1, limit // 2)


class _Gate:
    """Lets so many posts at a time have a descriptor, in the order they came."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._waiting: deque[Told] = deque()

    async def enter(self, route: Route, until: float | None) -> bool:
        """Wait for a place; False if that took too long."""
        if self._free:
            self._free -= 1
            return True
        turn: Told = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            with _none_left(route):
                return await _told(turn, until)
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.leave()  # it was ours already
            raise

    def leave(self) -> None:
        """Give the place to the next, if one still waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done() and not turn.get_loop().is_closed():
                turn.set_result(True)
                return
        self._free += 1


_gates: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Gate] = weakref.WeakKeyDictionary()


def _gate() -> _Gate:
    """Return the running loop's."""
    loop = asyncio.get_running_loop()
    gate = _gates.get(loop)
    if gate is None:
        _raise_if_unable(loop)
        gate = _gates[loop] = _Gate(_descriptors())
    return gate


def _no_turn(route: Route, others: int) -> ConnectError:
    late = ConnectError(
        f"cannot post to {route.where}: {others} other posts are under way; post fewer at once, or raise ulimit -n",
        phase="connect",
        host=route.origin.host,
        port=route.origin.port,
        errno=errno.ETIMEDOUT,
    )
    late.__cause__ = TimeoutError(errno.ETIMEDOUT, "timed out")
    return late


def _raise_if_unable(loop: asyncio.AbstractEventLoop) -> None:
    if sys.platform == "win32" and isinstance(loop, asyncio.ProactorEventLoop):
        raise RequestError("the running event loop has no add_reader(): run in an asyncio.SelectorEventLoop")


# --- waiting for all of a Sender's connections -----------------------------------------------------------------------


class _Watch:
    """A loop's readers and writers, and which connections have them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stir: Callable[[Connection], None]) -> None:
        self.live = True  # otherwise it only notes which connections there are
        self._loop = loop
        self._stir = stir
        self._events: dict[Connection, tuple[bool, bool]] = {}

    def set(self, connection: Connection, wait: Wait) -> None:
        """Wait for these events of the connection, and for no others."""
        events = wait.readable, wait.writable
        if self.live and events == self._events.get(connection):
            return
        self.mute(connection)
        if not self.live:
            return
        self._events[connection] = events
        try:
            if wait.readable:
                self._loop.add_reader(connection.fileno(), self._stir, connection)
            if wait.writable:
                self._loop.add_writer(connection.fileno(), self._stir, connection)
        except OSError:  # epoll's ENOSPC; the pool will look from time to time
            self.forget(connection)

    def mute(self, connection: Connection) -> None:
        """Note that there is this connection, and wait for nothing."""
        self.forget(connection)
        self._events[connection] = (False, False)
        connection.on_close = self.forget

    def forget(self, connection: Connection) -> None:
        """Wait no more for this connection."""
        readable, writable = self._events.pop(connection, (False, False))
        connection.on_close = None
        if not self._loop.is_closed():
            if readable:
                self._loop.remove_reader(connection.fileno())
            if writable:
                self._loop.remove_writer(connection.fileno())

    def known(self) -> list[Connection]:
        """Return the connections that wait for something, the one that was set last at the end."""
        return list(self._events)

    def forget_all(self) -> None:
        """Wait for nothing any more."""
        for connection in self.known():
            self.forget(connection)


class _Pump:
    """Lets a pool's connections go on, as callbacks of a loop: _flow.Pump, for those who await."""

    def __init__(self, pool: Pool, route: Route, *, background: bool) -> None:
        self.threaded = background
        self.loop: asyncio.AbstractEventLoop | None = None
        self._pool = pool
        self._route = route
        self._watch: _Watch
        self._stirred: dict[Connection, None] = {}
        self._soon: asyncio.Handle | None = None  # work that is about to be done
        self._timer: asyncio.TimerHandle | None = None  # ... and that is due later
        self._timer_at = 0.0  # on the monotonic clock; a loop's own time may be another
        self._asking: asyncio.Task[None] | None = None  # the resolver, for spares
        self._question: asyncio.Task[tuple[_tcp.Address, ...]] | None = None  # to the resolver, for all who wait
        self._waiting: set[Told] = set()  # for any change
        self._turns: dict[int, Told] = {}  # for room, by the message's id
        self.ended = False
        pool.wake = self._work_soon
        pool.notify = self._notify

    def attach(self) -> None:
        """See to it that the running loop is ours."""
        loop = asyncio.get_running_loop()
        if loop is self.loop:
            return
        if self.loop is not None and not self.loop.is_closed():
            raise RequestError("this Sender belongs to another event loop, which is not closed: make one for each loop")
        _raise_if_unable(loop)
        flush_in_worker(os.getpid())
        if self.loop is not None:
            self._cancel()  # what is left of the closed loop
            self._asking = self._question = None
            self._stirred.clear()
            self._waiting.clear()
            self._turns.clear()
            self._pool.followers = 0
            self._pool.disown()
            self._pool.look_anew()
        self.loop = loop
        self._watch = _Watch(loop, self._stir)
        self._watch.live = self.threaded
        self._pool.asleep = self.threaded

    # --- working

    def _stir(self, connection: Connection) -> None:
        """Note that something has happened to a connection. One round of work is for all that the loop has news of."""
        if self._watch.live:
            self._stirred[connection] = None
            self._work_soon()
        else:
            self._watch.mute(connection)

    def _work_soon(self) -> None:
        if self._soon is None and not self.ended and self.loop is not None and self._watch.live:
            if self.loop.is_closed():  # a task of its has been forgotten; attach() will look anew
                return
            self._soon = self.loop.call_soon(self._work_now)

    def _work_now(self) -> None:
        self._soon = None
        stirred = list(self._stirred)
        self._stirred.clear()
        self._work(stirred)

    def _work(self, stirred: Iterable[Connection], most: int | None = None) -> None:
        pool, now = self._pool, monotonic()
        if self.ended:
            return
        live = self._watch.live
        if live and self._asking is None and pool.wants_addresses(now):
            assert self.loop is not None
            self._asking = self.loop.create_task(self._ask())
        # As with the thread: the resolver is asked before anything is opened, if there is somebody to ask it.
        opening = most is None and not (live and pool.addresses.stale(now))
        pool.work(self._watch, stirred, now, most=most, opening=opening)
        pool.asleep = live
        self._notify()
        self._set_timer()

    def _set_timer(self) -> None:
        """Come back when there is something due; a timer that is too early does no harm."""
        due = self._pool.next_time(monotonic()) if self._watch.live else None
        if due is not None and self._asking is not None:
            due = max(due, monotonic() + _PATIENCE)
        if self._timer is not None:
            if due is not None and self._timer_at <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None and self.loop is not None:
            self._timer_at = due
            self._timer = self.loop.call_later(_delay(due), self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._work_now()

    async def _ask(self) -> None:
        try:
            await self.renew(None)
        except ConnectError as error:
            self._pool.could_not_open(error, monotonic())
        finally:
            self._asking = None
            self._work_soon()

    # --- what a Sender asks for: see _flow.Pump

    def start(self) -> None:
        self._work_soon()

    def pump(self) -> float | None:
        self._stirred.clear()
        self._work(self._watch.known())
        return self._pool.seconds_until_due()

    def reap(self, most: int) -> None:
        self._work(self._watch.known()[:most], most)

    def close_oldest(self) -> bool:
        return self._pool.close_oldest()

    async def renew(self, until: float | None) -> bool:
        pool = self._pool
        try:
            pool.addresses.renew(await self._answered(until), monotonic())
        except ConnectError:
            if not pool.addresses.get():
                raise
            pool.addresses.postpone(monotonic())
            return False
        return True

    async def _answered(self, until: float | None) -> tuple[_tcp.Address, ...]:
        """Wait for the resolver. Whoever asks while it is being asked waits for the same answer."""
        question = self._question
        if question is None or question.done():
            question = self._question = asyncio.ensure_future(_resolved(self._route, None))
            question.add_done_callback(_heed)
        with _none_left(self._route, "resolve"):
            await asyncio.wait([question], timeout=None if until is None else seconds_until(until))
        if not question.done():
            late = resolver_late()
            raise unresolved(self._route, late) from late
        if question.cancelled():  # by close(): whoever waits here has not been cancelled
            self._pool.raise_if_closed()
        return question.result()

    async def wait_for(self, fact: Callable[[], bool], until: float | None) -> bool:
        with self._attending():
            if not fact():
                self._work(self._watch.known())  # what has come already counts, even where there is no time to wait
            while not fact():
                if until is not None and monotonic() >= until:
                    return False
                assert self.loop is not None
                told: Told = self.loop.create_future()
                self._waiting.add(told)
                try:
                    await _told(told, until)
                finally:
                    self._waiting.discard(told)
        return True

    async def wait_for_room(self, message: Message, until: float | None) -> bool:
        with self._attending():
            while not (self._pool.closed or self._pool.has_room(message)):
                if until is not None and monotonic() >= until:
                    return False
                assert self.loop is not None
                told = self._turns[id(message)] = self.loop.create_future()
                try:
                    with _none_left(self._route):
                        await _told(told, until)
                finally:
                    self._turns.pop(id(message), None)  # gone already if attach() has been faster
        return True

    async def send_on(
        self, connection: Connection, wait: Wait | None, leaves: Callable[[Connection], bool], *, hold: bool
    ) -> None:
        self._watch.forget(connection)  # a spare: from here on it is one task that waits
        while wait is not None and not leaves(connection):
            await _event(connection, until_help(self, self._pool, wait))
            help_those_held(self, self._pool)
            wait = connection.advance(hold=hold)

    @contextlib.contextmanager
    def _attending(self) -> Iterator[None]:
        """Work in the background for as long as somebody waits for the pool to change."""
        pool, watch, loop = self._pool, self._watch, self.loop
        pool.followers += 1
        try:
            if not watch.live:
                watch.live = pool.asleep = True
                self._work(watch.known())
            yield
        finally:
            # Otherwise attach() has forgotten us: a closed loop's task ends when nobody has it any more.
            if loop is self.loop:
                pool.followers -= 1
                if not pool.followers and not self.threaded:
                    watch.live = pool.asleep = False
                    self._set_timer()

    def _notify(self) -> None:
        """Let those who wait look again; for room only the one whose turn it is, ten thousand may wait."""
        if self.loop is None or self.loop.is_closed():  # they do not wait any more
            return
        for told in list(self._waiting):
            _tell(told)
        turns = list(self._turns.values()) if self._pool.closed else []
        first = self._pool.first_in_queue()
        if first is not None and id(first) in self._turns and self._pool.has_room(first):
            turns.append(self._turns[id(first)])
        for told in turns:
            _tell(told)

    # --- ending

    async def close(self, linger: float) -> None:
        """Flush for at most `linger` seconds, then close whatever is open."""
        self._pool.close()
        asked = [task for task in (self._asking, self._question) if task is not None and not task.done()]
        try:
            for task in asked:
                task.cancel()
            if asked:
                await asyncio.wait(asked)
            await self.wait_for(lambda: not self._pool.held, monotonic() + linger)
        finally:
            self._release()

    def forsake(self) -> bool:
        """Close what a forgotten Sender has left open, as soon as its loop can; False if there was nothing."""
        loop = self.loop
        if self.ended or loop is None:
            return False
        if loop.is_running():
            loop.call_soon_threadsafe(self._release)  # a finalizer may run in any thread, and in the middle of our work
        else:
            self._release()
        return True

    def _release(self) -> None:
        self._pool.close()
        self._pool.abandon()
        self.end()

    def end(self) -> None:
        """Have no more to do with the loop."""
        self.ended = True
        self._cancel()
        if self.loop is not None:
            self._watch.forget_all()
        self._notify()

    def _cancel(self) -> None:
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        self._soon = self._timer = None
        for asked in (self._asking, self._question):
            if asked is not None and not asked.get_loop().is_closed():
                asked.cancel()

    def desert(self) -> None:
        self.ended = True
        self._pool.desert()
