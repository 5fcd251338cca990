"""Sender: post() cut in two, so that the network is never in the caller's way.

Theory of operation. What a Sender's connections do is told in _pool.py, and what a post does in _flow.py. Here is who
waits for them, and when: a _Pump waits in one selector for all of them, in whatever thread has the time. That is the
background thread, if there is one; otherwise a caller of pump(), flush(), warm(), close() or of a post() that has to
wait. Whoever waits in the selector leads; others who wait for the pool to change follow, on a condition.

Nobody holds a lock while waiting. The thread holds the pump, and the pump no Sender: a Sender that is forgotten can be
collected, and ends its thread.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from _thread import RLock  # as in _pool.py
from time import monotonic
from typing import TYPE_CHECKING

from . import _tcp
from ._errors import ConnectError, not_prepared
from ._flow import AnySender, earlier, flush_in_worker, help_those_held, unsuspended, until_help
from ._post import LONGEST_WAIT, Waiter, resolved, seconds_until
from ._route import checked_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

    from ._connection import Connection, Wait
    from ._flow import Started
    from ._pool import Pool
    from ._request import Data, Fields, Message, Params
    from ._route import Route

# Seconds that whoever pumps waits at most while spares are ready, with posts coming and without: so much later, at
# worst, a spare is replaced, or linger ends. An idle minute is 240 wake-ups, 60 ms of CPU time, 0.1 % of a core.
_NAP, _SLEEP = 0.005, 0.25
# Seconds that close() gives the thread beyond `linger`: it may be asking the resolver, which cannot be interrupted.
_THREAD_GRACE = 1.0


class Sender(AnySender):
    """Posts to one URL on connections opened ahead, which are left open until the server has answered.

    The constructor touches no network. Thread-safe. After fork the child starts empty. At interpreter exit an open
    Sender is flushed for at most `linger`; use it as a context manager, or close() it, all the same.

    Args:
        url, params, headers, auth, method: as for `Request`.
        timeout: seconds for resolve + connect + handshake + send of a post that has to connect, one deadline; before
            that a post may wait as long for its place among `max_held`. None: no limit.
        closing: "answered": a connection is left open until the server has answered; right for every server that was
            measured. "acked": until its TCP has acknowledged every byte. "now": closed at once, by post() itself.
        linger: seconds that a connection may be held after its last byte.
        ssl_context, connect_to, source_address: as for `post`.
        spares: connections to hold ready. Each is one more idle connection for the server, for 30 s at most.
        max_held: connections at most that are waiting for their closing; each has a descriptor.
        when_busy: if no spare is ready, or `max_held` are held. "wait": connect now, or wait until one is released,
            within `timeout`, then the oldest is closed. "drop": post() returns False at once; without spares always.
            Where there is no thread, it is pump() that makes spares and room.
        background: True: a daemon thread, started by the first post() or warm(), opens spares, and closes what is held.
            False: pump() does; without it a held connection is released by a later post(), flush() or close(). None:
            True if there are spares.

    Raises:
        RequestError: malformed arguments.
        ConnectError: the system's certificates cannot be read.

    """

    def post(
        self,
        data: Data | None = None,
        *,
        json: object = None,
        params: Params | None = None,
        headers: Fields | None = None,
        path: str | None = None,
    ) -> bool:
        """Hand over one request, and do not wait for what becomes of it: `stats` will tell.

        With a ready spare that is two system calls: a look at it, and the send. Arguments are as for `Request.encode`;
        a file or iterable is read to its end in here. What the kernel does not take at once is copied and left to the
        background thread, 64 MiB in all; beyond that, and without a thread, it is waited for.

        Returns:
            True: handed over: every byte is in our kernel, or the thread's to send. False: dropped, nothing was sent.

        Raises:
            RequestError: malformed arguments, or the Sender is closed. Nothing touched the network.
            ConnectError: no request byte left; sending again is safe, as for `rawfnf.post`.
            SendError: the server may have none, some or all of the request. It ended in RST if it is not whole.

        """
        message = None
        try:
            message, now = self._message(data, json, params, headers, path), monotonic()
            started = self._start(message, now)
            if started is None or started[1] is not None:
                handed = unsuspended(self._hand_over, message, started, now)
            else:
                handed = self._handed_over(started, now)
        except BaseException as error:
            self._failed(message, error)
            raise
        if not handed:
            message.put_back()
        return handed

    def warm(self) -> None:
        """Wait until all spares are ready.

        Raises:
            ConnectError: they were not within `timeout`; it tells why the last attempt failed.
            RequestError: the Sender is closed.

        """
        unsuspended(self._warm)

    def pump(self) -> float | None:
        """Do what can be done without waiting: open spares, read, close what has had its answer or its time.

        Returns:
            Seconds until it wants to be called again if nothing arrives before; None: when something arrives.

        Raises:
            ConnectError: out of descriptors.

        """
        if self._pool.closed:
            return None
        if self._threaded:
            self._pump.start()
        return self._pump.pump()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until nothing is held; False if that takes longer than `timeout` seconds (None: no limit)."""
        until = None if timeout is None else monotonic() + checked_seconds(timeout, "timeout")
        return self._pump.wait_until(lambda: not self._pool.held, until)

    def close(self) -> None:
        """Take no more posts, flush for at most `linger` seconds, count the rest unanswered. May be called again."""
        self._pump.close(self._linger)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    _pump: _Pump

    def _in_background(self, spares: int) -> bool:
        return spares > 0

    def _start_pump(self) -> _Pump:
        return _Pump(self._pool, self._route)

    def _close_at_exit(self) -> None:
        self.close()


class QueueingSender(Sender):
    """With when_busy="drop" a post() that neither connects nor waits: without a spare all is left to the thread.

    It goes out on the next spare or a new connection, in its turn, while at most `max_held` are held; until then it
    counts as held. Beyond 10,000 requests or 64 MiB that are left so, post() returns False. What finds nobody to
    connect to is counted reset; while the name does not resolve it stays held. For bytes that do not change, no files
    or iterables.
    """

    def _in_background(self, spares: int) -> bool:  # noqa: ARG002  # spares or not
        return True

    def _start(self, message: Message, now: float) -> Started | None:
        """Begin on a spare, if nobody waits for one, and what the kernel does not take at once may be left as well."""
        if not self._pool.may_owe(message):
            self._pump.start()
            return None
        return super()._start(message, now)

    def _leave_to_pump(self, connection: Connection) -> bool:
        return self._pump.threaded and connection.state == "sending" and self._pool.owe(connection, allowed=True)

    def _drop(self, message: Message) -> bool:
        return self._pool.leave(message) or super()._drop(message)


def _renew(pool: Pool, route: Route, until: float | None) -> bool:
    """Ask the resolver; blocks for as long as that takes. False: it failed, and what it said before is to be tried."""
    try:
        pool.addresses.renew(resolved(route, until), monotonic())
    except ConnectError:
        if not pool.addresses.get():
            raise
        pool.addresses.postpone(monotonic())
        return False
    return True


def _is_mine(lock: RLock) -> bool:
    """Tell whether this thread holds the lock."""
    return lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001  # Condition asks so too


# No thread's ident: the background thread is about to lead.
_STARTING = -1


class _Watch:
    """A selector that another thread can wake, and what is registered with it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()  # looked up now, so that gevent's patch is seen
        try:
            self._waker = _tcp.Waker()
        except OSError:
            self._selector.close()
            raise
        self._selector.register(self._waker.fileno(), selectors.EVENT_READ)
        self._events: dict[Connection, int] = {}

    def set(self, connection: Connection, wait: Wait) -> None:
        """Wait for these events of the connection, and for no others."""
        events = selectors.EVENT_READ * wait.readable | selectors.EVENT_WRITE * wait.writable
        if events == self._events.get(connection, 0):
            return
        self.forget(connection)
        if events:
            connection.on_close = self.forget
            descriptor = connection.fileno()
            if descriptor in self._selector.get_map():  # of one that a post was closing while we forgot it
                self._selector.unregister(descriptor)
            try:
                self._selector.register(descriptor, events, connection)
            except (
                OSError
            ):  # epoll's ENOSPC; or EEXIST, left by an interrupt in here. The pool will look from time to time
                connection.on_close = None
            else:
                self._events[connection] = events

    def forget(self, connection: Connection) -> None:
        """Wait no more for this connection. Before its descriptor is closed: a forked copy would keep it registered."""
        if connection.on_close is not None:
            with contextlib.suppress(KeyError, ValueError):  # closed meanwhile, by close() in another thread
                self._selector.unregister(connection.fileno())
            self._events.pop(connection, None)
            connection.on_close = None

    def select(self, seconds: float, *, leads: bool = False) -> list[Connection]:
        """Wait for an event; return the connections that have one. A wake-up is for the one who leads."""
        try:
            keys = [key for key, _ in self._selector.select(seconds)]
        except (OSError, ValueError, TypeError):  # closed meanwhile, by close() in another thread; TypeError: gevent's
            return []
        if leads and any(key.data is None for key in keys):
            self._waker.drain()
        return [key.data for key in keys if key.data is not None]

    def wake(self) -> None:
        """Let select() return, from any thread."""
        self._waker.wake()

    def close(self) -> None:
        """Close the descriptors; in a forked child, its copies of them."""
        self._events.clear()
        self._selector.close()
        self._waker.close()


class _Pump:
    """Waits for a pool's connections, and lets them go on."""

    def __init__(self, pool: Pool, route: Route) -> None:
        self.threaded = False
        self._pool = pool
        self._route = route
        self._thread: threading.Thread | None = None
        self._watch: _Watch | None = None
        self._working = RLock()  # one at a time; never held while waiting
        self._busy = False  # somebody is at it
        self._close_later = False  # it is to close when its work is done
        self._changed = threading.Condition(pool.lock)
        pool.notify = self._changed.notify_all
        self._leader: int | None = None  # the thread that waits in the selector
        self._seen = 0  # posts
        self._ended = False
        self._deserted = False  # by a fork

    # --- waiting

    def wait_until(self, fact: Callable[[], bool], until: float | None) -> bool:
        """Wait for a fact about the pool, and pump meanwhile if nobody else does; False if it took too long."""
        if not fact() and not self._in_the_middle():
            self.pump()  # what has come already counts, even where there is no time to wait
            self._pool.rouse()  # whoever leads may not know yet of what we wait for
        while not fact():
            if self._in_the_middle() or (until is not None and monotonic() >= until):
                return False
            self._wait(fact, until)
        return True

    def _in_the_middle(self) -> bool:
        """Tell whether we are a finalizer or signal handler, and only the frames below can do what there is to do."""
        return _is_mine(self._working) or _is_mine(self._pool.lock)

    def _wait(self, fact: Callable[[], bool], until: float | None) -> None:
        """Lead, or follow, for one turn."""
        me, before = threading.get_ident(), self._leader
        told = True
        try:
            with self._pool.lock:
                before = self._leader
                follows = before not in {None, me}  # it is ourselves where a finalizer or signal handler waits
                if not follows:
                    self._leader = me
                elif not fact():
                    told = self._follow(until)
            if not follows:
                if self._pool.left and not self.threaded:  # no thread could be started: the interpreter is to exit
                    self._resolve()
                self._turn(until)
            elif not told:
                self.pump()  # the thread may be asking the resolver, and do nothing else meanwhile
        finally:
            if self._leader == me and before is None:
                self._leader = None  # first, and without a call: no interrupt can come between
                self._tell_followers()
            elif self._leader == me and self._watch is not None:
                self._watch.wake()  # we have taken wake-ups of our own interrupted wait

    def _follow(self, until: float | None) -> bool:
        """Wait to be told of a change; not for long, as an interrupt may keep whoever led from telling us."""
        self._pool.followers += 1
        try:
            return self._changed.wait(min(seconds_until(until), _SLEEP))
        finally:
            if not _is_mine(self._pool.lock):  # interrupted when it had let the lock go
                self._pool.lock.acquire()
            self._pool.followers -= 1

    def _tell_followers(self) -> None:
        """Let others lead; or close the selector, if it was for that that we were to end."""
        with self._pool.lock:
            if self._ended and self._watch is not None:
                self._watch.close()
            self._changed.notify_all()

    def _turn(self, until: float | None) -> None:
        """Wait until something happens or is due, at most until then, and do what there is to do."""
        watch, pool = self._watched(), self._pool
        with pool.lock:
            if self._ended:
                return
            seen, now = pool.posted, monotonic()
            due = earlier(pool.next_time(now), until)
            seconds = min(seconds_until(due), self._nap())
            pool.asleep = seconds > 0  # what happened before this line has been seen; what happens now, wakes us
        try:
            stirred = watch.select(seconds, leads=True)
            woken = not pool.asleep
        finally:
            pool.asleep = False
        if stirred or woken or self._close_later or pool.posted != seen or (due is not None and monotonic() >= due):
            self._work(watch, stirred)

    def _nap(self) -> float:
        """Return how long to wait at most: a post on a spare does not wake us, which would take longer than its send().

        Called once a turn.
        """
        before, self._seen = self._seen, self._pool.posted
        if before != self._seen:
            return _NAP
        return _SLEEP if self._pool.quick() else LONGEST_WAIT

    def _watched(self) -> _Watch:
        with self._pool.lock:
            if self._watch is None:
                try:
                    made = _Watch()
                except OSError as error:  # out of descriptors
                    raise not_prepared(error) from error
                if self._watch is None:
                    self._watch = made
                else:  # a signal handler has posted in the middle of that
                    made.close()
                self._pool.wake = self._watch.wake
                flush_in_worker(os.getpid())
            return self._watch

    # --- working

    def _work(self, watch: _Watch, stirred: Iterable[Connection], *, most: int | None = None) -> None:
        if self._in_the_middle():
            return
        with self._working:
            now = monotonic()
            # With the thread, the resolver is asked before anything is opened; without, what is known has to do.
            opening = most is None and not (self.threaded and self._pool.addresses.stale(now))
            try:
                self._busy = True
                self._pool.work(watch, stirred, now, most=most, opening=opening)
            finally:
                self._busy = False
        if self._close_later and not self._pool.held:
            self._close_later = False
            with self._working:
                self._pool.close()
            self._end()
        if self._pool.followers:
            with self._pool.lock:
                self._changed.notify_all()

    def pump(self) -> float | None:
        """Do what there is to do now."""
        watch = self._watched()
        self._work(watch, watch.select(0))
        return self._pool.seconds_until_due()

    def reap(self, most: int) -> None:
        """Look at a few of those that are held, unless somebody is at it already."""
        if not self._busy:
            with contextlib.suppress(OSError):  # out of descriptors: this post has been handed over all the same
                watch = self._watched()
                self._work(watch, watch.select(0), most=most)

    def close_oldest(self) -> bool:
        """Make room: end the wait of what is held the longest; False if nothing is."""
        if self._in_the_middle():
            return False
        with self._working:
            return self._pool.close_oldest()

    # --- a post's waits, which block

    async def renew(self, until: float | None) -> bool:
        return _renew(self._pool, self._route, until)

    async def wait_for(self, fact: Callable[[], bool], until: float | None) -> bool:
        return self.wait_until(fact, until)

    async def wait_for_room(self, message: Message, until: float | None) -> bool:
        return self.wait_until(lambda: self._pool.closed or self._pool.has_room(message), until)

    async def send_on(
        self, connection: Connection, wait: Wait | None, leaves: Callable[[Connection], bool], *, hold: bool
    ) -> None:
        if wait is None or leaves(connection):
            return
        with Waiter(connection) as waiter:
            while True:  # the shape that stays within the `with` when interrupted, see Connection._step()
                waiter.wait(until_help(self, self._pool, wait))
                help_those_held(self, self._pool)
                wait = connection.advance(hold=hold)
                if wait is None or leaves(connection):
                    break

    # --- the thread

    def start(self) -> None:
        """Start the thread, if this is possible now: otherwise the posts do its work, and the next one tries again."""
        if self.threaded:
            return
        thread = threading.Thread(target=self._run, name="rawfnf", daemon=True)
        try:
            with self._pool.lock:
                if self._leader is not None or self._ended:
                    return
                self._leader, self._thread, self.threaded = _STARTING, thread, True
            self._watched()
            thread.start()
        except (OSError, RuntimeError):  # out of descriptors, or of threads; or the interpreter is about to exit
            pass
        finally:
            with self._pool.lock:
                if self._thread is thread and not thread.is_alive():  # an interrupt, perhaps; see _run()
                    self._leader, self._thread, self.threaded = None, None, False
                    self._tell_followers()

    def _run(self) -> None:
        with self._pool.lock:
            if self._thread is not threading.current_thread():
                return  # start() was interrupted when it had started us, and could not know
            self._leader = threading.get_ident()
        try:
            while True:  # as in Sender._send_on()
                if self._ended:
                    break
                self._resolve()
                self._turn(None)
        finally:
            if self._ended:
                with self._working:
                    self._pool.close()
                    self._pool.abandon()
            # Should it be a defect that ends us, the next post starts another thread.
            self._leader, self.threaded = None, False
            self._tell_followers()
        if self._deserted:
            # We are a greenlet, which goes on in a forked child, where threading has forgotten us, and complains when
            # we end (KeyError in Thread._delete()).
            threading.Event().wait()

    def _resolve(self) -> None:
        if self._pool.wants_addresses(monotonic()):
            try:
                _renew(self._pool, self._route, None)
            except ConnectError as error:
                self._pool.could_not_open(error, monotonic())

    # --- ending

    def close(self, linger: float) -> None:
        """Flush for at most `linger` seconds, then close whatever is open, and end the thread."""
        if self._in_the_middle():  # a signal handler: whoever works when nothing is held any more ends the rest
            self._close_later = self._pool.closed = True
            self._pool.rouse()
            return
        with self._working:
            self._pool.close()
        try:
            with contextlib.suppress(ConnectError):  # out of descriptors to wait with
                self.wait_until(lambda: not self._pool.held, monotonic() + linger)
        finally:
            with self._working:
                self._pool.abandon()
            self._end()
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join(linger + _THREAD_GRACE)

    def forsake(self) -> bool:
        """Close at once what a forgotten Sender has left open; False if there was nothing."""
        if self._ended or self._watch is None:
            return False
        if not self.threaded:  # nobody else can be here: it has no caller left
            self._pool.close()
            self._pool.abandon()
        self._end()
        return True

    def _end(self) -> None:
        with self._pool.lock:
            self._ended = True
            if self._leader is not None:
                self._pool.rouse()  # whoever leads closes the selector
            elif self._watch is not None:
                self._watch.close()

    def desert(self) -> None:
        """In a forked child: close its copies of all descriptors."""
        self._ended = self._deserted = self._pool.closed = True
        self._pool.desert()
        if self._watch is not None:
            self._watch.close()
