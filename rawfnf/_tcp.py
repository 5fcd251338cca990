"""Every socket option and ioctl, and name resolution. What a platform lacks says "unknown", never a guess.

Sockets are non-blocking: a Python socket with a timeout polls before each call, even with MSG_DONTWAIT. Nothing here
waits, but for `resolve`, which asks the system's resolver.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if sys.platform == "linux":
    import fcntl
    import termios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    SocketAddress = tuple[str, int] | tuple[str, int, int, int] | str

AF_UNIX: int | None = getattr(socket, "AF_UNIX", None)

_NONBLOCK: int = getattr(socket, "SOCK_NONBLOCK", 0)
_STREAM = socket.SOCK_STREAM | _NONBLOCK
# Python ignores SIGPIPE, but a program that embeds it, or restored the default for its children, may not. Plain ints,
# and joined here: socket's flags are enums, whose "|" takes longer than the system call.
_SEND = int(getattr(socket, "MSG_NOSIGNAL", 0))
_SEND_MORE = _SEND | int(getattr(socket, "MSG_MORE", 0))
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
# linux/in.h; the socket module has it from Python 3.12 on.
_BIND_ADDRESS_NO_PORT = 24 if sys.platform == "linux" else None
# struct linger {on, 0 seconds}: ints, but shorts on Windows. The struct module would be 1 ms of the import.
_INT = 2 if sys.platform == "win32" else 4
_RESET_ON_CLOSE = (1).to_bytes(_INT, sys.byteorder) + bytes(_INT)

# What connect() says the second time: EISCONN is BSD's and Windows' way of saying 0.
_CONNECTED = (0, errno.EISCONN)
_IN_PROGRESS = (errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK, getattr(errno, "WSAEINVAL", errno.EALREADY))

TELLS_UNACKED = sys.platform == "linux"

RECEIVE = 64 * 1024  # bytes asked of the kernel at a time


class Address(NamedTuple):
    """Something to connect to."""

    family: int
    sockaddr: SocketAddress


# --- names ---------------------------------------------------------------------------------------------------------


def literal_address(host: str, port: int) -> Address | None:
    """Return the address that an IP literal is, None for a name: literals never reach a resolver.

    Raises:
        OSError: a zone (fe80::1%eth0) that names no interface of this machine.

    """
    if _is_literal(socket.AF_INET, host):
        return Address(socket.AF_INET, (host, port))
    address, percent, zone = host.partition("%")
    if not _is_literal(socket.AF_INET6, address) or (percent and not zone):
        return None
    return Address(socket.AF_INET6, (address, port, 0, _interface(zone) if zone else 0))


def _is_literal(family: int, host: str) -> bool:
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):  # ValueError: NUL, or what UTF-8 cannot encode
        return False
    return True


def _interface(zone: str) -> int:
    try:
        if not zone.isdecimal():
            return socket.if_nametoindex(zone)
        socket.if_indextoname(int(zone))
    except (OverflowError, ValueError) as error:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from error
    return int(zone)


def resolve(host: str, port: int, source: Address | None) -> tuple[Address, ...]:
    """Ask the system's resolver; blocks for as long as that takes. The addresses come in its order (RFC 6724).

    Raises:
        OSError: socket.gaierror, if the name has no address, or none of `source`'s family.

    """
    try:
        return addresses_of(socket.getaddrinfo(*question(host, port, source)))
    except OSError as error:
        raise (out_of_descriptors() or error) from error.__cause__


def question(host: str, port: int, source: Address | None) -> tuple[bytes, int, int, int]:
    """Return getaddrinfo()'s arguments: host, port, family and type."""
    family = socket.AF_UNSPEC if source is None else source.family
    # A str would make getaddrinfo load encodings.idna (0.4 MB) and raise UnicodeError on bad labels.
    return host.encode("ascii"), port, family, socket.SOCK_STREAM


def out_of_descriptors() -> OSError | None:
    """Return the system's error if there is no descriptor left: glibc says then that the name is unknown."""
    try:
        open_stream(socket.AF_INET, None).close()
    except OSError as error:
        return error
    return None


def addresses_of(found: Iterable[tuple[int, int, int, str, tuple[Any, ...]]]) -> tuple[Address, ...]:
    """Keep of getaddrinfo's answer what a connection needs."""
    return tuple(Address(family, sockaddr) for family, _, _, _, sockaddr in found)


def descriptor_limit() -> int | None:
    """How many descriptors this process may have (its soft RLIMIT_NOFILE); None where that is not to be known."""
    if sys.platform == "win32":
        return None
    import resource  # for rawfnf.aio only

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


# --- opening -------------------------------------------------------------------------------------------------------


def open_stream(family: int, source: Address | None) -> socket.SocketType:
    """Return a non-blocking stream socket, bound to `source` if that is given.

    SocketType is the class in C beneath socket.socket: without makefile() and dup(), which nobody here needs, and
    without the two Python calls that creating and closing a socket.socket takes.
    """
    sock = socket.SocketType(family, _STREAM)
    try:
        if sock.gettimeout() != 0:  # no SOCK_NONBLOCK here; or gevent's socket, which would wait in our place
            sock.settimeout(0.0)
        if source is not None:
            if _BIND_ADDRESS_NO_PORT is not None:
                # The port is chosen at connect(), when the destination is known: otherwise one source address has
                # some 28,000 connections in all, instead of that many to each destination (linux: ip(7)).
                sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
            sock.bind(source.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def delay_ack(sock: socket.SocketType) -> None:
    """Let the handshake's ACK ride along with what is sent next. To be called before connect().

    Linux: with TCP_QUICKACK off a connection starts in "pingpong" mode, and tcp_rcv_synsent_state_process() then waits
    up to 200 ms for data to go with its ACK. Right only where data follows at once.
    """
    if _QUICKACK is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 0)


def no_delay(sock: socket.SocketType) -> None:
    """Send small segments at once. Without it a TLS record waits in our kernel behind the unacknowledged Finished."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def connect(sock: socket.SocketType, address: Address) -> bool | None:
    """Begin to connect, or look how it goes: True when connected, False while it is in progress, None for "try later".

    Asking connect() again, and not SO_ERROR, is what tells "in progress" from "connected" without waiting. None is a
    Unix socket whose peer has a full backlog: there is nothing to wait for, the caller tries again after a pause.

    Raises:
        OSError: it failed.

    """
    number = sock.connect_ex(address.sockaddr)
    if number == errno.EINPROGRESS:  # on loopback the handshake is over by the time that connect() says so
        number = sock.connect_ex(address.sockaddr)
    if number in _CONNECTED:
        if address.family != AF_UNIX and sock.getsockname()[1] == address.sockaddr[1]:
            _refuse_self(sock)
        return True
    if number == errno.EAGAIN and address.family == AF_UNIX:
        return None
    if number in _IN_PROGRESS:
        return False
    raise OSError(number, os.strerror(number))


def _refuse_self(sock: socket.SocketType) -> None:
    """Raise ECONNREFUSED if the connection is to itself.

    Nothing listens, the port is one that the kernel gives to clients, and it gave us just that: then TCP's simultaneous
    open (RFC 9293 §3.5) connects the socket with itself, and everything sent is acknowledged, by us.
    """
    if sock.getsockname() == sock.getpeername():
        raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


# --- sending and receiving -----------------------------------------------------------------------------------------


def send(sock: socket.SocketType, data: bytes | memoryview, *, more: bool) -> int:
    """Hand bytes to the kernel; return how many it took, 0 if its buffer is full.

    With `more` (MSG_MORE) it may hold back the last, partial segment until more comes, or the half-close: within
    0.01 ms then, after 200 ms without.
    """
    try:
        return sock.send(data, _SEND_MORE if more else _SEND)
    except BlockingIOError:
        return 0


def receive(sock: socket.SocketType) -> bytes | None:
    """Return what has arrived, b"" at EOF, None if nothing has."""
    try:
        return sock.recv(RECEIVE)
    except BlockingIOError:
        return None


def looks(sock: socket.SocketType) -> Callable[[int], object]:
    """Return a function that, called with 0, tells whether receive() has something to say: bytes, EOF or an error.

    It is poll(), made ahead: a recv() that finds nothing raises, which takes longer than the system call.
    """
    if sys.platform == "win32":  # which has no poll()
        return lambda _: True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return poll.poll


def unacked_bytes(sock: socket.SocketType) -> int | None:
    """Bytes that the peer's TCP has not acknowledged yet; on a Unix socket: that the peer has not read.

    None where the system does not tell. Linux: SIOCOUTQ, which is write_seq - snd_una (tcp_ioctl()); it is 0 in
    SYN_SENT, and on a Unix socket whose peer has closed, so it means something only on a connection that was
    established and has no error.
    """
    if sys.platform == "linux":
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return None


def pending_error(sock: socket.SocketType) -> OSError | None:
    """Take the error that the kernel holds for the socket. After the peer's FIN only this shows its RST."""
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return OSError(number, os.strerror(number)) if number else None


# --- waking ---------------------------------------------------------------------------------------------------------


# Not socket.socketpair() where it can be helped: an interrupt within it loses a descriptor.
if sys.platform == "win32":
    _socketpair = socket.socketpair
else:
    from _socket import socketpair as _socketpair


class Waker:
    """Wakes a selector that waits in another thread: readable once wake() has been called, until drain().

    A pair of sockets, as asyncio has it: Windows can select nothing else.
    """

    def __init__(self) -> None:
        self._waiting, self._waking = _socketpair()
        self._waiting.settimeout(0.0)
        self._waking.settimeout(0.0)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._waiting.fileno()

    def wake(self) -> None:
        """Make it readable; from any thread."""
        with suppress(OSError):  # full of wake-ups already, or closed: then nobody waits any more
            self._waking.send(b"\0", _SEND)

    def drain(self) -> None:
        """Forget the wake-ups so far."""
        receive(self._waiting)

    def close(self) -> None:
        """Close both ends; further wake-ups fail."""
        self._waiting.close()
        self._waking.close()


# --- ending --------------------------------------------------------------------------------------------------------


def half_close(sock: socket.SocketType) -> None:
    """Send FIN behind what is queued (RFC 9293 §3.6): the peer reads to our end, and can still answer.

    It also ends the connection when a forked child holds a copy of the descriptor, which close() alone does not.
    """
    sock.shutdown(socket.SHUT_WR)


def reset_on_close(sock: socket.SocketType) -> None:
    """Make close() send RST, and drop what is queued: the peer cannot take this end for a whole request.

    A Unix socket has no RST: its peer sees EOF, and has Content-Length or the missing last chunk to tell by.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
