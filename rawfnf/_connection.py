"""One connection, from connect to close. The order of what goes on the wire is written here, and nowhere else.

Theory of operation. A Connection is a state machine:

    connecting → handshaking → ready → sending → closing → closed

A connection that was opened ahead of its request, a spare, stays "ready" until it is given one.

`advance()` does everything that can be done without waiting, through as many states as that takes, and returns what it
waits for, or None once the connection is closed. It may be called at any time, and too often does no harm: drivers
only wait (selectors, an event loop), and know nothing of HTTP, TLS or closing.

What follows from section 2 of the design, and is easy to break:

- FIN and close_notify say "that was all". They are sent only behind a whole request; a failure in the middle of one
  ends in RST, because some servers hand their application a truncated body when they see a clean end.
- close() with unread bytes in the receive queue makes Linux send RST instead of FIN, and RST drops what is still on its
  way (tcp.c: __tcp_close()). Under "acked" and "answered" everything has been acknowledged, or answered, by then.
- close() sends FIN only with the last copy of the descriptor, and a forked child has one: shutdown() comes first.
- What has arrived is read before an error is believed: a server may answer 413 and then reset.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from . import _tcp
from ._answer import Answer, NotAnAnswerError
from ._errors import ConnectError, SendError, number, reason

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Literal, NoReturn, TypeAlias

    from ._request import Message
    from ._route import Closing, Route
    from ._tls import Agreed, Tls

    Delivery: TypeAlias = Literal["sent", "acked", "answered"]
    State: TypeAlias = Literal["connecting", "handshaking", "ready", "sending", "closing", "listening", "closed"]

# Plaintext encrypted before it is handed over, in bytes: four full records, so that memory stays bounded.
_SLICE = 64 * 1024
# Receives in one go, so that a server which never stops talking cannot hold advance() beyond its deadlines.
_RECEIVES = 4
# An acknowledgement wakes nobody: it is looked for, in pauses (seconds) that grow with the time already waited, so
# that looking costs at most a fourth of it. epoll rounds what is shorter than 1 ms up to that.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.05
# A Unix socket with a full backlog refuses at once, and wakes nobody either.
_BACKLOG_PAUSE = 0.001

_NOTHING = b""

# What a Listener keeps of the server's own bytes: h11 bounds an answer's head to as much.
_SEEN = 16 * 1024
# Ciphertext taken in at a time, in bytes, so that no two session tickets come at once: one is 79 bytes at least, 57 of
# message around a session id of 32 (RFC 8446 §4.6.1), and 22 of record.
_LESS_THAN_A_TICKET = 64

# The phase that a state belongs to, and what failed in it.
_WHILE: dict[str, tuple[str, str]] = {
    "connecting": ("connect", "cannot connect to {}"),
    "handshaking": ("handshake", "the TLS handshake with {} failed"),
    "ready": ("send", "sending to {} failed"),
    "sending": ("send", "sending to {} failed"),
    "closing": ("close", "waiting for {} to acknowledge or answer failed"),
    "listening": ("close", "listening to {} failed"),
    "closed": ("send", "sending to {} failed"),  # by a fork in the middle: the connection is the parent's
}


class Timings(NamedTuple):
    """Seconds spent in each phase. A phase that did not happen took 0.0."""

    resolve: float
    connect: float
    handshake: float
    send: float  # until the last byte was handed to our kernel
    close: float  # from there until the connection was closed


class Receipt(NamedTuple):
    """What is known about a request when its connection has been closed. Never more than that.

    Attributes:
        delivery: "sent": our kernel had every byte. "acked": the peer's kernel had (on a Unix socket: the peer had read
            it). "answered": the server sent the head of a final response.
        status: of that response; None unless answered.
        bytes_sent: bytes of the request, before encryption, that our kernel took. Fewer than the whole request only if
            the server answered early.
        peer: (address, port), or a Unix socket's path.
        tls_version: such as "TLSv1.3"; None without TLS.

    """

    delivery: Delivery
    status: int | None
    bytes_sent: int
    peer: tuple[str, int] | str
    tls_version: str | None
    timings: Timings


class Wait(NamedTuple):
    """What advance() waits for: an event on fileno(), or the time."""

    readable: bool
    writable: bool
    until: float | None  # on the monotonic clock; None: no limit


# A spare's, made once.
_SPEAKS = Wait(readable=True, writable=False, until=None)


def _own(buffer: bytes | memoryview) -> bytes | memoryview:
    """Return what nobody else can change; bytes never do, so a view of them is not copied."""
    return bytes(buffer) if isinstance(buffer, memoryview) and not isinstance(buffer.obj, bytes) else buffer


class Connection:
    """A connection to the first of `addresses` that accepts it, and at most one request on it.

    Args:
        route: where to, and by which TLS.
        addresses: tried in order, each but the last with remaining time ÷ addresses left.
        started: on the monotonic clock, when resolving the name began.
        deadline: on the monotonic clock, for everything up to the last byte handed over; None: no limit.

    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_addresses",
        "_answer",
        "_attempt_until",
        "_begun",
        "_closing",
        "_connected_at",
        "_ended_at",
        "_eof",
        "_failure",
        "_linger",
        "_look",
        "_message",
        "_method",
        "_more",
        "_notified",
        "_out",
        "_piece",
        "_pieces",
        "_plain_out",
        "_resolved_at",
        "_route",
        "_sent_at",
        "_socket",
        "_started",
        "_stream",
        "_tls",
        "_tls_version",
        "_two_segments",
        "_unloaded",
        "_whole",
        "bytes_sent",
        "deadline",
        "delivery",
        "on_close",
        "ready_at",
        "state",
    )

    def __init__(self, route: Route, addresses: Sequence[_tcp.Address], started: float, deadline: float | None) -> None:
        self.state: State = "connecting"
        self.bytes_sent = 0
        self._route = route
        self._addresses = addresses  # left to try
        self.deadline = deadline
        self._socket: socket.SocketType | None = None
        self._tls: Tls | None = None
        self._tls_version: str | None = None
        self._message: Message | None = None
        self._out: bytes | memoryview = _NOTHING  # what the kernel is to take next
        self._two_segments = False
        self._begun = False  # the kernel has taken something of the request
        self._whole = False  # ... and all of it
        self._answer: Answer | None = None
        self._eof = False  # nothing more will be read
        self._failure: Exception | None = None  # what reading met; believed only where there is no answer
        self._notified = False  # close_notify is in _out, or has left
        self.delivery: Delivery = "sent"  # as in Receipt
        self._look: Callable[[int], object] | None = None  # a spare's, see _tcp.looks()
        self.on_close: Callable[[Connection], None] | None = None  # told before the descriptor is closed
        self._started, self._resolved_at = started, monotonic()

    def give(self, message: Message, *, closing: Closing, linger: float) -> None:
        """Give the request that is to be sent once the connection is ready. To be called once.

        Given before the first advance(), it shapes the connection for it, see _open(). A connection that was opened
        without one, a spare, waits in "ready"; its `deadline` is to be set anew then.
        """
        self._message = message
        self._method = message.method
        # Where the kernel does not tell what has been acknowledged, only an answer can end the wait.
        self._closing: Closing = "answered" if closing == "acked" and not _tcp.TELLS_UNACKED else closing
        self._linger = linger
        self._two_segments = closing == "now" and self._route.ssl_context is None and self._socket is None
        self._pieces = message.pieces
        self._stream: Iterator[bytes] | None = message.stream
        self._piece: bytes | memoryview = _NOTHING  # what is left of the piece in hand
        self._plain_out = 0  # bytes of the request inside _out, over TLS
        self._more = False  # more follows _out at once
        self._unloaded = True  # there may be more than what is in _out
        if self.state == "ready":
            self.state = "sending"

    def fileno(self) -> int:
        """Return the descriptor to wait on. It changes when the next address is tried."""
        return self._socket.fileno() if self._socket is not None else -1

    @property
    def address(self) -> _tcp.Address:
        """The address that is, or was last, connected to."""
        return self._address

    @property
    def status(self) -> int | None:
        """Status of the final response; None until its head is there."""
        return None if self._answer is None else self._answer.status

    def heard(self) -> bool:
        """Tell whether something of an answer, or of the peer's end, has been read: no event will tell."""
        return self._answer is not None or self._eof

    def stirred(self) -> bool:
        """Tell by one system call whether something has come in, or the peer has ended: then advance() is due."""
        return self._look is None or bool(self._look(0))

    def unsent(self) -> int | None:
        """Bytes that the kernel is still to take; None while a stream has more to give."""
        if self._stream is not None:
            return None
        return len(self._out) + len(self._piece) + sum(map(len, self._pieces))

    def keep(self) -> None:
        """Copy what is left of the caller's own buffers, which may change, or shrink, once the caller has gone on."""
        self._message = None
        self._out, self._piece = _own(self._out), _own(self._piece)
        self._pieces = tuple(map(_own, self._pieces))

    def advance(self, *, hold: bool = False) -> Wait | None:
        """Do everything that can be done without waiting. Return what to wait for, or None once closed.

        With `hold` it stops, and returns None, when the last byte has been handed over: what `closing` waits for is
        left to a later advance().

        Raises:
            ConnectError: no request byte left.
            SendError: the server may have none, some or all of the request.
            BaseException: as it came, such as KeyboardInterrupt. The connection is closed whenever this raises.

        """
        try:
            return self._step(hold=hold)
        except BaseException:
            self.abort()
            raise

    def _step(self, *, hold: bool) -> Wait | None:
        """Go from state to state. In a function of its own, as loops are whose interrupts are to be caught.

        CPython 3.12 and 3.13 leave some jumps back to a loop's head out of the `try` or `with` around it (gh-148278).
        """
        while self.state != "closed":
            if hold and self.state == "closing":
                return None
            wait = self._steps[self.state](self)
            if wait is not None:
                return wait
        return None

    def abort(self) -> None:
        """Close now, whatever the state: by RST in the middle of a request, otherwise by FIN. Never raises OSError."""
        sock, self.state = self._socket, "closed"
        if sock is None:
            return
        with suppress(OSError):  # not connected yet, or the peer was faster: there is nothing to end
            if self._begun and not self._whole:
                _tcp.reset_on_close(sock)
            else:
                self._say_goodbye(sock)
        self._release(sock)

    def drop(self) -> None:
        """Close this process's copy of the descriptor, and say nothing to anybody: the connection is the parent's."""
        sock, self._socket, self.state = self._socket, None, "closed"
        if sock is not None:
            sock.close()

    def _release(self, sock: socket.SocketType) -> None:
        if self.on_close is not None:
            self.on_close(self)
        self._socket, self.state = None, "closed"
        self._ended_at = monotonic()
        sock.close()

    def fail(self, cause: Exception) -> NoReturn:
        """End the connection because its driver cannot wait for it, and raise what that means for the request."""
        error = self._error(cause)
        self.abort()
        raise error from cause

    def error_from(self, cause: BaseException) -> ConnectError | SendError:
        """Return what it means for the request if this ends the connection now."""
        return self._error(cause)

    def receipt(self) -> Receipt:
        """Say what is known, once closed."""
        sockaddr = self._address.sockaddr
        return Receipt(
            self.delivery,
            self.status,
            self.bytes_sent,
            sockaddr if isinstance(sockaddr, str) else sockaddr[:2],
            self._tls_version,
            Timings(
                self._resolved_at - self._started,
                self._connected_at - self._resolved_at,
                self.ready_at - self._connected_at,
                self._sent_at - self.ready_at,
                self._ended_at - self._sent_at,
            ),
        )

    # --- connecting ------------------------------------------------------------------------------------------------

    def _connect(self) -> Wait | None:
        while True:
            try:
                sock = self._socket or self._open()
                connected = _tcp.connect(sock, self._address)
                if connected:
                    break
                now = monotonic()
                if self._attempt_until is not None and now >= self._attempt_until:
                    raise TimeoutError(errno.ETIMEDOUT, "timed out")
            except OSError as error:
                self._give_up_address(error)
                continue
            if connected is None:
                pause = now + _BACKLOG_PAUSE
                until = pause if self._attempt_until is None else min(pause, self._attempt_until)
                return Wait(readable=False, writable=False, until=until)
            return Wait(readable=False, writable=True, until=self._attempt_until)
        self._connected_at = self.ready_at = monotonic()
        self.state = "ready" if self._route.ssl_context is None else "handshaking"
        return None

    def _open(self) -> socket.SocketType:
        self._address = address = self._addresses[0]
        self._attempt_until = self.deadline
        if len(self._addresses) > 1 and self.deadline is not None:
            now = monotonic()
            self._attempt_until = now + (self.deadline - now) / len(self._addresses)
        self._addresses = self._addresses[1:]
        self._socket = sock = _tcp.open_stream(address.family, self._route.source)
        if address.family != _tcp.AF_UNIX:
            if self._message is not None and self._two_segments:
                _tcp.delay_ack(sock)
            else:
                _tcp.no_delay(sock)
        return sock

    def _give_up_address(self, error: OSError) -> None:
        if self._socket is not None:
            if self.on_close is not None:
                self.on_close(self)
            self._socket.close()
            self._socket = None
        if not self._addresses:
            raise self._error(error) from error

    # --- handshaking -----------------------------------------------------------------------------------------------

    def _handshake(self) -> Wait | None:
        sock = self._socket
        assert sock is not None
        try:
            self._tls = tls = self._tls or self._route.start_tls()
            while True:
                self._raise_if_late()  # a peer may keep us reading without end: HelloRequests, say
                done = tls.handshake()
                if done and self._message is not None:
                    break  # Finished stays in the buffer, and leaves in one write with the first record
                if not self._out:
                    self._out = tls.flight()
                while self._out:
                    if not self._hand_over(sock):
                        return self._wait(readable=False, writable=True)
                if done:
                    break
                ciphertext = _tcp.receive(sock)
                if ciphertext is None:
                    return self._wait(readable=True, writable=False)
                tls.receive(ciphertext)
        except ConnectError:
            raise
        except OSError as error:  # of the socket, or ssl.SSLError, which is one
            self._send_alert(sock)
            raise self._error(error) from error
        self._tls_version = tls.version
        self.ready_at = monotonic()
        self.state = "ready"
        return None

    def _send_alert(self, sock: socket.SocketType) -> None:
        with suppress(OSError):  # a courtesy: it tells the server why; the caller is told anyway
            if self._tls is not None:
                _tcp.send(sock, self._tls.flight(), more=False)

    def _await_request(self) -> Wait | None:
        if self._message is not None:
            self.state = "sending"
            return None
        return self._stay_ready()

    def _stay_ready(self) -> Wait | None:
        """Keep a spare as long as nothing comes but TLS's own messages, tickets most of all.

        A server that speaks before it is asked says that it is about to close (408, 503); one that has closed is gone.
        """
        sock = self._socket
        assert sock is not None
        if self._look is None:
            self._look = _tcp.looks(sock)
            if self._tls is None:
                return _SPEAKS  # an event will tell if it has spoken already
        try:
            for _ in range(_RECEIVES):
                data = _tcp.receive(sock)
                if data is None:
                    break
                if self._tls is None:
                    self.abort()
                    return None
                self._tls.receive(data)
                if self._tls.decrypt() is not None:
                    self.abort()
                    return None
        except OSError:  # reset, or no TLS: nobody waits for this connection, so nobody is to be told
            self.abort()
            return None
        return _SPEAKS

    # --- sending ---------------------------------------------------------------------------------------------------

    def _send(self) -> Wait | None:
        sock = self._socket
        assert sock is not None
        watching = self._closing != "now"
        while self._out or (self._unloaded and self._load()):
            if self._begun:
                self._raise_if_late()
            if watching and self._begun:  # RFC 9112 §9.5: a server may answer before it has read everything
                self._receive(sock)
                if self.status is not None:
                    break
                if self._failure is not None:
                    raise self._error(self._failure) from self._failure
            try:
                taken = self._hand_over(sock)
            except OSError as error:
                if watching:
                    self._receive(sock)
                if self.status is None:
                    raise self._error(error) from error
                break
            if not taken:
                return self._wait(readable=watching and not self._eof, writable=True)
        else:
            self._whole = True
        self._sent_at = monotonic()
        self.state = "closing"
        # Not to be held as long as the connection is.
        self._message = self._stream = None
        self._pieces, self._piece, self._out = (), _NOTHING, _NOTHING
        return None

    def _hand_over(self, sock: socket.SocketType) -> bool:
        """Let the kernel take of `_out` what it will; False if that is nothing."""
        if self.state != "sending":
            taken = _tcp.send(sock, self._out, more=False)
        else:
            # Noted before, and taken back: an interrupt may come when the kernel has the bytes and we do not know yet.
            begun, self._begun = self._begun, True
            try:
                taken = _tcp.send(sock, self._out, more=self._more)
            except OSError:
                self._begun = begun
                raise
            if not taken:
                self._begun = begun
            elif self._tls is None:
                self.bytes_sent += taken
            elif taken == len(self._out):
                self.bytes_sent += self._plain_out
        self._out = _NOTHING if taken == len(self._out) else memoryview(self._out)[taken:]
        return taken > 0

    def _load(self) -> bool:
        """Put the next slice of the request into `_out`; False when there is none."""
        piece: bytes | memoryview
        if self._piece:
            piece = self._piece
        elif self._pieces:
            piece, self._pieces = self._pieces[0], self._pieces[1:]
        else:
            piece = self._next_of_stream()
        if self._tls is None:
            self._out = piece
            self._unloaded = bool(self._pieces) or self._stream is not None
            # Not before a stream, whose next() may take its time while the kernel holds a segment back.
            self._more = self._stream is None and (self._two_segments or self._unloaded)
            return bool(piece)
        view = memoryview(piece)
        plain, self._piece = view[:_SLICE], view[_SLICE:]
        self._plain_out = len(plain)
        if plain:
            try:
                self._tls.encrypt(plain)
            except OSError as error:  # ssl.SSLError: a TLS 1.2 server that asks to renegotiate, see _tls.py
                raise self._error(error) from error
        if self._closing == "now" and self._stream is None and not (self._piece or self._pieces or self._notified):
            self._tls.close_notify()  # in one write with the last record
            self._notified = True
        self._out = self._tls.flight()
        return bool(self._out)

    def _next_of_stream(self) -> bytes:
        """Return what the stream gives next, nothing at its end."""
        if self._stream is None:
            return _NOTHING
        try:
            chunk = next(self._stream, b"")
        except Exception as error:
            raise self._error(error, of_data=True) from error
        if not chunk:
            self._stream = None
        return chunk

    # --- reading ---------------------------------------------------------------------------------------------------

    def _receive(self, sock: socket.SocketType) -> None:
        """Take in what has arrived: an answer is noted, its content dropped. What goes wrong is kept in `_failure`."""
        for _ in range(_RECEIVES):
            if self._eof:
                return
            try:
                data = _tcp.receive(sock)
                if data is None:
                    return
                self._take_in(data)
                if self._answer is not None and self._answer.complete:
                    return  # what may come behind it is of no use, and to ask in vain takes longer than to receive
            except (OSError, NotAnAnswerError) as error:  # ssl.SSLError is an OSError
                self._failure, self._eof = error, True

    def _take_in(self, data: bytes) -> None:
        self._eof = not data
        if self._tls is None:
            self._heed(data)
            return
        self._tls.receive(data)
        while (plain := self._tls.decrypt()) is not None:  # only this is an answer: tickets are not
            self._heed(plain)
            if not plain:
                self._eof = True
                return

    def _heed(self, data: bytes) -> None:
        if self._answer is None:
            self._answer = Answer(self._method)
        try:
            self._answer.receive(data)
        except NotAnAnswerError:
            if self._closing == "answered":
                raise
            # Under "acked" nobody asked for an answer: what is none says nothing against the acknowledgement.

    # --- closing ---------------------------------------------------------------------------------------------------

    def _close(self) -> Wait | None:
        sock = self._socket
        assert sock is not None
        if self._closing == "now":
            self._end(sock)
            return None
        # In this order: linger is over only for a look that began behind its end, however long the look before took;
        # and a peer that is gone can make "nothing unacknowledged" true, and then leaves its error.
        now, end = monotonic(), self._sent_at + self._linger
        unacked = _tcp.unacked_bytes(sock)
        self._receive(sock)
        if self._eof and self._failure is None:
            self._failure = _tcp.pending_error(sock)
        if self.status is not None:
            self.delivery = "answered"
        elif self._failure is not None:
            raise self._error(self._failure) from self._failure
        elif unacked == 0:
            self.delivery = "acked"
        if self._settled(unacked) or now >= end:
            self._end(sock)
            return None
        if self._closing == "acked":
            end = min(end, now + min(max(_FIRST_PAUSE, (now - self._sent_at) / 4), _LONGEST_PAUSE))
        return Wait(readable=not self._eof, writable=False, until=end)

    def _settled(self, unacked: int | None) -> bool:
        """Tell whether what `closing` waits for has come."""
        if self._closing == "acked" and self._whole:
            return unacked == 0 or self._failure is not None
        return self._eof or (self._answer is not None and self._answer.complete)

    def _end(self, sock: socket.SocketType) -> None:
        """Say goodbye, as far as it is true, and close."""
        try:
            if not self._whole:
                _tcp.reset_on_close(sock)
            else:
                self._say_goodbye(sock)
        except OSError as error:
            if self._closing == "now":  # the peer has reset the connection: our kernel no longer has the bytes
                raise self._error(error, "sending") from error
            # Otherwise what is known is known already, and the connection has gone where it was to go.
        self._release(sock)

    def _say_goodbye(self, sock: socket.SocketType) -> None:
        # With something left in _out, a record is missing that close_notify would come behind.
        if self._tls is not None and self._tls_version is not None and not self._notified and not self._out:
            self._tls.close_notify()
            _tcp.send(sock, self._tls.flight(), more=True)  # in one segment with the FIN
        _tcp.half_close(sock)

    # --- common ----------------------------------------------------------------------------------------------------

    def _wait(self, *, readable: bool, writable: bool) -> Wait:
        self._raise_if_late()
        return Wait(readable, writable, self.deadline)

    def _raise_if_late(self) -> None:
        if self.deadline is not None and monotonic() >= self.deadline:
            late = TimeoutError(errno.ETIMEDOUT, "timed out")
            raise self._error(late) from late

    def _error(
        self, cause: BaseException, state: State | None = None, *, of_data: bool = False
    ) -> ConnectError | SendError:
        """Translate a failure. Whether a request byte has left decides what it is, not where it happened."""
        phase, what = _WHILE[state or self.state]
        if of_data:  # the caller's own file or iterable: its numbers and remedies are none of the network's
            what = "reading data failed while sending to {}"
        sent = f" after {self.bytes_sent} bytes of the request" if self._begun else ""
        return (SendError if self._begun else ConnectError)(
            f"{what.format(self._route.where)}{sent}: {reason(cause, remedies=not of_data)}",
            phase=phase,
            host=self._route.origin.host,
            port=self._route.origin.port,
            bytes_sent=self.bytes_sent,
            errno=None if of_data else number(cause),
        )

    # Any: a subclass's steps take what it is.
    _steps: ClassVar[dict[str, Callable[[Any], Wait | None]]] = {
        "connecting": _connect,
        "handshaking": _handshake,
        "ready": _await_request,
        "sending": _send,
        "closing": _close,
    }


class Listener(Connection):
    """A connection that goes on listening behind its end: for probe(), which asks what the peer does then.

    On the wire it is what any other is, up to and with the half-close. Then, where others close, it reads until the
    peer's end or `linger`. Under "answered" there is no half-close: it waits for the peer's end, not only its answer.
    Whoever has heard enough calls abort().
    """

    __slots__ = ("_session", "acked", "agreed", "answered_at", "half_closed", "seen", "tickets")

    def __init__(self, route: Route, addresses: Sequence[_tcp.Address], started: float, deadline: float | None) -> None:
        super().__init__(route, addresses, started, deadline)
        self.acked = False  # the peer's kernel had every byte before the half-close; asked under "acked" only
        self.answered_at: float | None = None  # on the monotonic clock: when the final head was there
        self.half_closed = False  # FIN has left before the final head came
        self.seen = b""  # the first of what the server said, decrypted
        self.agreed: Agreed | None = None  # by TLS
        self.tickets = 0  # that came after the handshake
        self._session: bytes | None = None

    @property
    def complete(self) -> bool:
        """Tell whether the answer is there to its end."""
        return self._answer is not None and self._answer.complete

    @property
    def peer_ended(self) -> bool:
        """Tell whether the peer's end has come: FIN, RST or close_notify."""
        return self._eof

    @property
    def failure(self) -> Exception | None:
        """What reading met behind the half-close, a reset most of all."""
        return self._failure

    @property
    def connect_seconds(self) -> float:
        """How long connecting took: with one address on TCP, a round trip. Only once connected."""
        return self._connected_at - self._resolved_at

    @property
    def answer_seconds(self) -> float | None:
        """From the request's last byte to the answer's head; 0.0 if that came first, None without an answer."""
        return None if self.answered_at is None else max(0.0, self.answered_at - self._sent_at)

    def _shake_hands(self) -> Wait | None:
        wait = self._handshake()
        if wait is None and self._tls is not None:
            self.agreed = self._tls.agreed
        return wait

    def _take_in(self, data: bytes) -> None:
        tls = self._tls
        if tls is None or self.status is not None or not data:
            super()._take_in(data)
            return
        if self._session is None:
            self._session = tls.session_id
        for start in range(0, len(data), _LESS_THAN_A_TICKET):
            super()._take_in(data[start : start + _LESS_THAN_A_TICKET])
            if self._eof:
                return
            before, self._session = self._session, tls.session_id
            self.tickets += before != self._session

    def _heed(self, data: bytes) -> None:
        self.seen += data[: _SEEN - len(self.seen)]
        super()._heed(data)
        if self.answered_at is None and self.status is not None:
            self.answered_at = monotonic()

    def _settled(self, unacked: int | None) -> bool:
        self.acked = unacked == 0
        return self._eof if self._closing == "answered" else super()._settled(unacked)

    def _release(self, sock: socket.SocketType) -> None:
        if self.state != "closing" or self._closing == "answered" or self._eof or not self._whole:
            super()._release(sock)
            return
        self._notified = True  # with the FIN: abort() is not to say it again
        self.half_closed = self.status is None
        self.state = "listening"

    def _listen(self) -> Wait | None:
        sock = self._socket
        assert sock is not None
        now, end = monotonic(), self._sent_at + self._linger
        self._receive(sock)
        if self._eof or now >= end:
            self._release(sock)
            return None
        return Wait(readable=True, writable=False, until=end)

    _steps: ClassVar[dict[str, Callable[[Any], Wait | None]]] = {
        **Connection._steps,  # noqa: SLF001  # what a subclass inherits
        "handshaking": _shake_hands,
        "listening": _listen,
    }
