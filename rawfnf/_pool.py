"""The connections of one Sender, and the account of its posts. It never waits, and knows no selector.

Theory of operation. A connection is in one of four places, and whoever has it there is the only one to touch it:

- `_opening`: on its way to be a spare, or being looked at. The pump's.
- `_ready`: a spare. The next post takes it, or the pump when something comes in on it.
- `_in_hand`: a post is sending on it.
- `_held`: sent on, waiting for its closing. The pump's, and its driver sees to it that there is one pump at a time.

Whole requests that are left to the pump, `_left`, have no connection yet, and count as held.

The places and the counters change under `lock`, a few lines at a time, and no connection is advanced while it is held:
a TLS handshake takes a millisecond, which no post is to wait. It is an RLock, because a finalizer or a signal handler
may post in the middle of anything; for the same reason loops go over copies.

The law of conservation holds whenever the lock is free:
posted == sum(answered.values()) + acked + closed_now + unanswered + reset + held.
"""

from __future__ import annotations

import errno
from _thread import RLock  # threading's own, whose import takes 1 ms
from collections import OrderedDict
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from ._connection import Connection
from ._errors import ConnectError, RawfnfError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    from . import _tcp
    from ._connection import Wait
    from ._request import Message
    from ._route import Closing, Route

    class Watch(Protocol):
        """Where a driver notes what connections wait for."""

        def set(self, connection: Connection, wait: Wait) -> None:
            """Have the driver told when that happens, and `on_close` set if so; the time is not its business."""

        def forget(self, connection: Connection) -> None:
            """Do not wait for it any more; it may not be there."""


# Seconds between looks at a connection of whose events the system does not tell.
_UNWATCHED = 0.05
# Seconds. An older spare is never used: servers' idle timeouts and the tables of NATs forget silently.
_OLDEST = 30.0
# From this age on a spare's successor is opened, so that there is one in time.
_AGEING = 25.0
# Seconds between attempts to open a spare, doubled with each failure.
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 5.0
# A spare that the server ends within so many seconds was unwelcome: as good as refused.
_WELCOME = 1.0
# Seconds after which a name is asked for again.
_RESOLVED_FOR = 60.0
# What posts may leave to the thread, in bytes, all of them together; and how many of them may leave it all.
_OWED_AT_MOST = 64 << 20
_LEFT_AT_MOST = 10_000

_NEVER = float("inf")


class Stats(NamedTuple):
    """How the posts of a Sender ended, a snapshot.

    At every moment posted == sum(answered.values()) + acked + closed_now + unanswered + reset + held.

    Attributes:
        posted: handed over: all bytes in our kernel, or with the background thread.
        answered: by status, of the head of the final response. Under "acked" as well, where an answer was seen.
        acked: the peer's kernel had every byte.
        closed_now: closed at once, as closing="now" asks for.
        unanswered: what `closing` awaits had not come when linger, max_held, timeout or close() ended the wait.
        reset: FIN, RST, a TLS failure or what is no HTTP came in its place.
        held: still waiting.
        dropped: post() returned False; nothing of it was sent.
        failed: post() raised.
        spares: connections that are ready for the next posts.

    """

    posted: int
    answered: dict[int, int]
    acked: int
    closed_now: int
    unanswered: int
    reset: int
    held: int
    dropped: int
    failed: int
    spares: int


def _next_look(connection: Connection, wait: Wait) -> float:
    """Return when to look again if the driver tells of nothing before; soon where it could not be made to tell."""
    until = _NEVER if wait.until is None else wait.until
    watched = connection.on_close is not None or not (wait.readable or wait.writable)
    return until if watched else min(until, monotonic() + _UNWATCHED)


# Loops with a condition that run under the lock are functions of their own, see Connection._step(): an interrupt at
# their jump back would leave the lock taken.


def _by_status(ended: dict[str | int, int]) -> dict[int, int]:
    return {how: posts for how, posts in list(ended.items()) if isinstance(how, int)}


def _of(message: Message, in_hand: dict[Connection, Message]) -> list[Connection]:
    return [connection for connection, whose in list(in_hand.items()) if whose is message]


def _old(ready: list[Connection], now: float) -> list[Connection]:
    return [spare for spare in ready if now >= spare.ready_at + _OLDEST]


class Addresses:
    """What the host's name stands for, the address that worked last in front."""

    def __init__(self, route: Route) -> None:
        self._known = bool(route.known)
        self._found = route.known
        self._until = 0.0

    def stale(self, now: float) -> bool:
        """Tell whether the resolver is to be asked (again)."""
        return not self._known and now >= self._until

    def get(self) -> tuple[_tcp.Address, ...]:
        """Return the addresses; none if nobody has asked yet."""
        return self._found

    def renew(self, found: tuple[_tcp.Address, ...], now: float) -> None:
        """Take in what the resolver said."""
        front, self._found, self._until = self._found[:1], found, now + _RESOLVED_FOR
        if front:
            self.worked(front[0])

    def postpone(self, now: float) -> None:
        """Go on with what is known: the resolver is out of order."""
        self._until = now + _LONGEST_BACKOFF

    def failed(self) -> None:
        """None of them leads to the server: it may have moved."""
        self._until = 0.0

    def worked(self, address: _tcp.Address) -> None:
        """Try this one first from now on."""
        if self._found[0] is not address and address in self._found:
            self._found = (address, *(other for other in self._found if other != address))


class Pool:
    """Spares, held connections, and the account. Its driver calls `work` when something has happened, or is due."""

    def __init__(
        self,
        route: Route,
        *,
        closing: Closing,
        linger: float,
        timeout: float | None,
        spares: int,
        max_held: int,
    ) -> None:
        self.lock = RLock()
        self.route = route
        self.addresses = Addresses(route)
        self.closed = False
        self.asleep = False  # the driver waits, and sees by itself only what comes in
        self.wake: Callable[[], None]  # ... and is told of the rest; set by the driver before it is ever asleep
        self.followers = 0  # threads that wait for a change, but not in the driver's selector
        self.notify: Callable[[], None]  # ... and how they are told; set by the driver
        self.last_failure: ConnectError | None = None  # of an attempt to connect
        self._closing = closing
        self._linger = linger
        self._timeout = timeout
        self._spares = spares
        self._max_held = max_held
        self._ready: list[Connection] = []  # the youngest last
        self._opening: dict[Connection, float] = {}  # and when to look at it next
        self._in_hand: dict[Connection, Message] = {}  # and which post has it
        self._held: dict[Connection, float] = {}  # and when to look at it next; the oldest first
        self._look_at = _NEVER  # not later than the first of these times
        self._queue: OrderedDict[int, Message] = OrderedDict()  # posts that wait for room, by id, the first first
        self._owed: dict[Connection, int] = {}  # bytes that are left to the thread
        self._left: OrderedDict[int, Message] = OrderedDict()  # whole requests that are left to it, by id
        self._left_bytes = 0
        self._again: dict[Connection, Message] = {}  # the one that a spare has just been given, if any
        self._try_at = 0.0  # when the next spare may be opened
        self._backoff = _FIRST_BACKOFF
        self.posted = 0  # handed over, see Stats
        self._ended: dict[str | int, int] = {"acked": 0, "closed_now": 0, "unanswered": 0, "reset": 0}  # and by status
        self._dropped = self._failed = 0
        self._abandoned = False  # nobody will wait for anything any more

    def stats(self) -> Stats:
        """Return a snapshot."""
        with self.lock:
            ended = self._ended
            return Stats(
                self.posted,
                _by_status(ended),
                ended["acked"],
                ended["closed_now"],
                ended["unanswered"],
                ended["reset"],
                self.held,
                self._dropped,
                self._failed,
                len(self._ready),
            )

    # --- for a post ------------------------------------------------------------------------------------------------

    def take(self, message: Message, now: float) -> Connection | None:
        """Return a spare for this post, in whose hands it then is; None if none is ready, or there is no room for it.

        The youngest is taken: it is the furthest from any idle timeout. We look at it ourselves: the driver is told by
        the kernel as well, but may be waiting for the GIL.
        """
        while self._ready:  # looked at again under the lock: most Senders have spares, or never any
            with self.lock:
                room, ready = self.has_room(message), self._ready
                if not room or not ready or now - ready[-1].ready_at >= _OLDEST:
                    break
                connection = ready[-1]
                self._in_hand[connection] = message
                del ready[-1]
            if not connection.stirred() or connection.advance() is not None:
                return connection
            self.let_go(message)  # the server has closed it, or spoken on it
        return None

    def connect(self, message: Message, now: float) -> Connection | None:
        """Return a new connection for this post, None if there is no room for it."""
        with self.lock:
            self.raise_if_closed()
            if not self.has_room(message):
                return None
            connection = Connection(self.route, self.addresses.get(), now, self.deadline(now))
            self._in_hand[connection] = message
            return connection

    def deadline(self, now: float) -> float | None:
        """Return when connecting and sending are to be done."""
        return None if self._timeout is None else now + self._timeout

    def owe(self, connection: Connection, *, allowed: bool = False) -> bool:
        """Leave the rest of a request to the driver; False if it is too much, or not all there yet.

        `allowed`: it has been asked before whether that would be too much.
        """
        unsent = connection.unsent()
        with self.lock:
            if unsent is None or not (allowed or self._may_owe(unsent)):
                return False
            self._owed[connection] = unsent
        connection.keep()
        return True

    def may_owe(self, message: Message) -> bool:
        """Tell whether no other is left whole, and there is room for all of this one with the driver."""
        with self.lock:
            return not self._left and self._may_owe(sum(map(len, message.pieces)))

    def _may_owe(self, size: int) -> bool:
        return sum(self._owed.values()) + self._left_bytes + size <= _OWED_AT_MOST

    def leave(self, message: Message) -> bool:
        """Leave a whole request to the driver, which handed over counts as; False if that would be too much.

        The message is of bytes that nobody changes, and no stream.
        """
        size, key = sum(map(len, message.pieces)), id(message)
        with self.lock:
            self.raise_if_closed()
            if len(self._left) >= _LEFT_AT_MOST or not self._may_owe(size):
                return False
            self._left_bytes += size
            self._left[key] = message  # as in hold(): nothing comes between
            self.posted += 1
            self.rouse()
        return True

    def hold(self, connection: Connection, now: float) -> None:
        """Account for a post that has been handed over, and see to it that its closing is waited for."""
        with self.lock:
            if connection.state == "closed":
                self._post_ended("closed_now")
            elif self._abandoned:
                connection.abort()
                self._post_ended("unanswered")
            else:
                # What it waits for is not watched yet, or has come. Or an acknowledgement, which wakes nobody.
                unwatched = connection.on_close is None or connection.heard() or connection in self._owed
                until = now if unwatched or self._closing == "acked" else now + self._linger
                self._look_at = min(self._look_at, until)
                # Between these two an interrupt would break the law, and cannot come: there is no call and no jump.
                self._held[connection] = until
                self.posted += 1
                if until == now:
                    self.rouse()
            del self._in_hand[connection]
            if self._queue and connection not in self._held:
                self.rouse()  # there is room again

    def _post_ended(self, how: str) -> None:
        count = self._ended[how] + 1
        self._ended[how] = count  # as in hold(): nothing comes between
        self.posted += 1

    def let_go(self, message: Message) -> None:
        """Close what this post has in hand. What it has handed over stays so, even if an interrupt followed at once."""
        with self.lock:
            self.leave_queue(message)
            for connection in _of(message, self._in_hand):
                if connection not in self._held:
                    connection.abort()
                    self._owed.pop(connection, None)
                del self._in_hand[connection]
                self.rouse()

    def drop(self) -> None:
        """Account for a post that nothing was sent of."""
        with self.lock:
            self.raise_if_closed()
            self._dropped += 1

    def fail(self) -> None:
        """Account for a post that raised."""
        with self.lock:
            self._failed += 1

    def raise_if_closed(self) -> None:
        """Raise RequestError if there are to be no more posts."""
        if self.closed:
            raise RequestError("this Sender is closed: make another one")

    def has_room(self, message: Message) -> bool:
        """Tell whether this post may have a connection: so many at most are held, or are about to be."""
        first = self.first_in_queue() if self._queue else None
        if first is not None and first is not message:
            return False
        return len(self._held) + len(self._in_hand) < self._max_held

    def queue(self, message: Message) -> None:
        """Let this post wait for room; whoever comes later will not overtake it."""
        with self.lock:
            self._queue.setdefault(id(message), message)

    def leave_queue(self, message: Message) -> None:
        """Let the next one have the room, if there is any."""
        if self._queue:
            with self.lock:
                self._queue.pop(id(message), None)
                self.rouse()

    def quick(self) -> bool:
        """Tell whether a post may find a spare, and so not wake the driver."""
        return bool(self._ready)

    def crowded(self) -> bool:
        """Tell whether posts are to lend a hand with what is held."""
        return len(self._held) > self._max_held // 2

    def rouse(self) -> None:
        """Let those who wait look again."""
        with self.lock:
            if self.asleep:
                self.wake()  # first: should an interrupt come in between, one wake-up too many does no harm
                self.asleep = False
            if self.followers:
                self.notify()

    # --- for the driver --------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """How many posts wait for their closing."""
        return len(self._held) + len(self._left)

    @property
    def left(self) -> bool:
        """Tell whether whole requests wait for the driver."""
        return bool(self._left)

    def warm(self, now: float) -> bool:
        """Tell whether all spares are ready."""
        return sum(now < spare.ready_at + _OLDEST for spare in self._ready) >= self._spares

    def wants_addresses(self, now: float) -> bool:
        """Tell whether the resolver is to be asked before another spare is opened."""
        return self.addresses.stale(now) and now >= self._try_at and (self._missing(now) > 0 or bool(self._left))

    def work(
        self, watch: Watch, stirred: Iterable[Connection], now: float, *, most: int | None = None, opening: bool = True
    ) -> None:
        """Do what can be done without waiting: for these connections, those that are due, and spares that are missing.

        There is one call at a time. With `most` it looks at so many connections at most, and leaves the spares alone;
        without `opening` it opens none.
        """
        for connection in [*stirred, *self._due(now)][:most]:
            self._go_on(connection, watch, now)
        if self._look_at <= now:
            with self.lock:
                self._look_at = min(list(self._held.values()), default=_NEVER)
        if most is None:
            self._send_left(watch, now)
        if opening:
            self._open_missing(watch, now)
        if most is None:
            self._retire(now)

    def next_time(self, now: float) -> float | None:
        """Return when `work` is due if nothing happens before; None: never. In the past: now."""
        with self.lock:
            times = [self._look_at, *self._opening.values()]
            known = bool(self.addresses.get())
            if self._left and known and len(self._held) + len(self._in_hand) < self._max_held:
                times.append(now)  # left when `work` was beyond it
            if (self._missing(now) > 0 and (self._try_at > now or known)) or (self._left and not known):
                times.append(self._try_at)
            if self._ready and not self.closed:
                oldest = self._ready[0].ready_at
                times.append(oldest + (_AGEING if now < oldest + _AGEING else _OLDEST))
        first = min(times)
        return None if first == _NEVER else first

    def look_anew(self) -> None:
        """Forget what the driver watches, and let everything be due: another driver takes over. Not while one works."""
        now = monotonic()
        with self.lock:
            for connection in self._ready:
                self._opening[connection] = now
            self._ready.clear()
            for times in (self._opening, self._held):
                for connection in times:
                    connection.on_close = None
                    times[connection] = now
            self._look_at = now

    def disown(self) -> None:
        """Close what posts have in hand, and forget those that wait: they will never go on, their loop is closed."""
        with self.lock:
            self._queue.clear()
            stranded = list(self._in_hand.values())
        for message in stranded:
            self.let_go(message)

    def first_in_queue(self) -> Message | None:
        """Return the one that is to have room next."""
        with self.lock:  # an iterator endures no change
            return next(iter(self._queue.values()), None)

    def seconds_until_due(self) -> float | None:
        """Return in how many seconds `work` is due if nothing happens before; None: never."""
        now = monotonic()
        due = self.next_time(now)
        return None if due is None else max(0.0, due - now)

    def close_oldest(self) -> bool:
        """End the wait of the connection that is held the longest; False if none is. Not while `work` is at it."""
        with self.lock:
            connection = next(iter(self._held), None)
        if connection is None:
            return False
        connection.abort()
        self._settle(connection, cut=True)
        return True

    def close(self) -> None:
        """Take no more posts, and close the spares. Not while `work` is at it. What is held goes on."""
        with self.lock:
            self.closed = True
            unused = [*self._ready, *self._opening]
            self._ready.clear()
            self._opening.clear()
        for connection in unused:
            connection.abort()

    def abandon(self) -> None:
        """Close what is held: nobody will wait for it. Not while `work` is at it."""
        self._abandoned = True
        while self._left:
            self._end_left()
        while self.close_oldest():
            pass

    def desert(self) -> None:
        """Close this process's copies of all descriptors, as a forked child does: the connections are the parent's."""
        for connection in [*self._ready, *self._opening, *self._in_hand, *self._held]:
            connection.drop()

    def could_not_open(self, error: ConnectError, now: float) -> None:
        """Note why there is no new spare; the next attempt comes later, and later with each failure."""
        self.last_failure = error
        self.addresses.failed()
        self._try_at = now + self._backoff
        self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _due(self, now: float) -> list[Connection]:
        """Return those whose time has come."""
        due = [connection for connection, at in list(self._opening.items()) if at <= now]
        if self._look_at <= now:
            due += [connection for connection, at in list(self._held.items()) if at <= now]
        return due

    def _go_on(self, connection: Connection, watch: Watch, now: float) -> None:
        with self.lock:
            held = connection in self._held
            if held:
                self._held[connection] = self._look_at = now  # due until it has been dealt with
            elif connection in self._ready:
                self._ready.remove(connection)
                self._opening[connection] = _NEVER
            elif connection not in self._opening:
                watch.forget(connection)  # a post has it, and hold() will say so
                return
        if held:
            self._close(connection, watch)
        else:
            self._open(connection, watch, now)

    # --- spares

    def _missing(self, now: float) -> int:
        """Return how many spares may be opened now; one at a time while the server does not take them."""
        if self.closed:
            return 0
        young = sum(now < connection.ready_at + _AGEING for connection in self._ready)
        missing = self._spares - young - len(self._opening)
        return missing if self._backoff == _FIRST_BACKOFF else min(missing, 1 - len(self._opening))

    def _open_missing(self, watch: Watch, now: float) -> None:
        addresses = self.addresses.get()
        while addresses and now >= self._try_at and self._missing(now) > 0:
            connection = Connection(self.route, addresses, now, self.deadline(now))
            with self.lock:
                self._opening[connection] = now
            self._open(connection, watch, now)

    def _open(self, connection: Connection, watch: Watch, now: float) -> None:
        """Let a spare go on: towards being one, or with what has come in on it."""
        error: ConnectError | None = None
        wait: Wait | None = None
        try:
            wait = connection.advance()
        except ConnectError as failure:
            error = failure
        finally:
            with self.lock:
                self._opening.pop(connection, None)
                if wait is not None:
                    watch.set(connection, wait)
                    self._place(connection, wait)
        if wait is None:
            self._note_end(connection, error, now)

    def _place(self, connection: Connection, wait: Wait) -> None:
        if connection.state != "ready":
            self._opening[connection] = _next_look(connection, wait)
            return
        self.addresses.worked(connection.address)
        older = not self._ready or self._ready[-1].ready_at <= connection.ready_at
        self._ready.append(connection)
        if not older:
            self._ready.sort(key=lambda spare: spare.ready_at)

    def _note_end(self, connection: Connection, error: ConnectError | None, now: float) -> None:
        if error is None and now - connection.ready_at >= _WELCOME:
            self._backoff = _FIRST_BACKOFF  # an idle timeout, or a restart
            return
        self.could_not_open(error or self._unwelcome(), now)

    def _unwelcome(self) -> ConnectError:
        origin = self.route.origin
        return ConnectError(
            f"{self.route.where} closes connections that do not send at once: use no spares with it",
            phase="connect",
            host=origin.host,
            port=origin.port,
        )

    def _retire(self, now: float) -> None:
        """Close spares that are too old, or whose successors are ready."""
        with self.lock:
            ready = self._ready
            old = _old(ready, now) or ready[: max(0, len(ready) - self._spares)]
            for spare in old:
                ready.remove(spare)
        for connection in old:
            self._backoff = _FIRST_BACKOFF
            connection.abort()

    # --- held

    def _send_left(self, watch: Watch, now: float) -> None:
        """Begin to send what is left whole to us, on spares or new connections, as far as there is room."""
        while self._left and self.addresses.get() and len(self._held) + len(self._in_hand) < self._max_held:
            with self.lock:  # as in first_in_queue()
                message = next(iter(self._left.values()))
            connection = self.take(message, now)
            if connection is None:
                connection = Connection(self.route, self.addresses.get(), now, None)
            else:
                self._again[connection] = message
            connection.deadline = self.deadline(now)
            connection.give(message, closing=self._closing, linger=self._linger)
            with self.lock:
                size = sum(map(len, message.pieces))
                self._left_bytes -= size
                self._owed[connection] = size  # of which the kernel may not take all at once
                self._held[connection] = self._look_at = now  # as in hold(): nothing comes between
                del self._left[id(message)]
                self._in_hand.pop(connection, None)
            try:
                self._close(connection, watch)
            finally:
                self._again.pop(connection, None)

    def _end_left(self) -> None:
        """Give up the first of those."""
        with self.lock:
            key, count = next(iter(self._left)), self._ended["unanswered"] + 1
            del self._left[key]  # as in hold(): nothing comes between
            self._ended["unanswered"] = count

    def _left_again(self, connection: Connection, error: RawfnfError) -> bool:
        """Put back what was left whole to us, if it is a spare's that took no byte."""
        message = self._again.pop(connection, None)
        if message is None or not isinstance(error, ConnectError):
            return False
        key = id(message)
        with self.lock:
            self._owed.pop(connection, None)
            self._left[key] = message  # as in hold(): nothing comes between
            del self._held[connection]
            self._left.move_to_end(key, last=False)
            self._left_bytes += sum(map(len, message.pieces))
        return True

    def _close(self, connection: Connection, watch: Watch) -> None:
        """Let a held connection go on towards its closing."""
        try:
            wait = connection.advance()
        except RawfnfError as error:
            if self._left_again(connection, error):
                return
            if isinstance(error, ConnectError):  # of what was left whole to us
                self.last_failure = error
                self.addresses.failed()
            self._settle(connection, error)
        except BaseException:  # an interrupt: the connection has been closed for it
            self._settle(connection, cut=True)
            raise
        else:
            if wait is None:
                self._settle(connection)
            else:
                watch.set(connection, wait)
                self._hold_on(connection, wait)

    def _hold_on(self, connection: Connection, wait: Wait) -> None:
        until = _next_look(connection, wait)
        with self.lock:
            self._held[connection] = until
            self._look_at = min(self._look_at, until)
            if connection in self._owed:
                self._owed[connection] = connection.unsent() or 0

    def _settle(self, connection: Connection, error: RawfnfError | None = None, *, cut: bool = False) -> None:
        """Account for a held connection that has been closed; `cut`: by us, before its time."""
        how = self._how_it_ended(connection, error, cut=cut)
        with self.lock:
            if connection not in self._held:
                return
            self._owed.pop(connection, None)
            count = self._ended.get(how, 0) + 1
            del self._held[connection]  # as in hold(): nothing comes between
            self._ended[how] = count
            if not self._held:
                self._look_at = _NEVER
        if how not in {"unanswered", "reset"}:
            self._backoff = _FIRST_BACKOFF

    def _how_it_ended(self, connection: Connection, error: RawfnfError | None, *, cut: bool) -> str | int:
        late = error is not None and error.phase == "send" and error.errno == errno.ETIMEDOUT
        if connection.status is not None:
            return connection.status
        if error is not None and not late:
            return "reset"
        if self._closing == "acked" and connection.delivery == "acked":
            return "acked"
        return "closed_now" if self._closing == "now" and not (cut or late) else "unanswered"
