"""Socket options, ioctls and addresses, against the kernel."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import termios
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from rawfnf import _tcp
from rawfnf._tcp import Address
from tests.peers import PATIENCE, black_hole, refusing_port, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("what is tested here is Linux's: options, ioctls, its way to fill a queue", allow_module_level=True)

LOCALHOST = "127.0.0.1"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((LOCALHOST, 0)) as made:
        made.settimeout(PATIENCE)
        yield made


def connect(sock: socket.SocketType, listener: socket.socket) -> socket.socket:
    """Connect, and return the other end."""
    address = Address(listener.family, listener.getsockname())
    until(lambda: _tcp.connect(sock, address), "connected")
    return listener.accept()[0]


@pytest.fixture
def ends(listener: socket.socket) -> Iterator[tuple[socket.SocketType, socket.socket]]:
    """Both ends of a connection: ours as rawfnf makes it, and the peer's."""
    with closing(_tcp.open_stream(socket.AF_INET, None)) as ours, connect(ours, listener) as theirs:
        theirs.settimeout(PATIENCE)
        yield ours, theirs


def fill(sock: socket.SocketType) -> int:
    """Send until the kernel takes nothing more; return how much it took."""
    sent = 0
    while taken := _tcp.send(sock, bytes(65536), more=False):
        sent += taken
    return sent


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", Address(socket.AF_INET, ("127.0.0.1", 80))),
        ("::1", Address(socket.AF_INET6, ("::1", 80, 0, 0))),
        ("::ffff:192.0.2.1", Address(socket.AF_INET6, ("::ffff:192.0.2.1", 80, 0, 0))),
        ("fe80::1%1", Address(socket.AF_INET6, ("fe80::1", 80, 0, 1))),
        ("localhost", None),
        ("127.1", None),  # inet_aton()'s shorthand is no literal of a URL: the resolver may think so
        ("1.2.3.4.5", None),
        ("", None),
    ],
)
def test_an_ip_literal_needs_no_resolver(host: str, address: Address | None) -> None:
    assert _tcp.literal_address(host, 80) == address


def test_a_zone_may_be_an_interfaces_name() -> None:
    address = _tcp.literal_address("fe80::1%lo", 80)
    assert address == Address(socket.AF_INET6, ("fe80::1", 80, 0, socket.if_nametoindex("lo")))


def test_a_zone_without_interface_is_an_error() -> None:
    with pytest.raises(OSError, match="interface"):
        _tcp.literal_address("fe80::1%no-such-interface", 80)


def test_localhost_is_resolved() -> None:
    found = _tcp.resolve("localhost", 80, None)
    assert Address(socket.AF_INET, (LOCALHOST, 80)) in found
    assert len(set(found)) == len(found)


def test_a_source_address_keeps_only_its_family() -> None:
    source = Address(socket.AF_INET, (LOCALHOST, 0))
    assert {address.family for address in _tcp.resolve("localhost", 80, source)} == {socket.AF_INET}


# --- opening -------------------------------------------------------------------------------------------------------


def test_a_stream_is_non_blocking_and_not_inherited() -> None:
    with closing(_tcp.open_stream(socket.AF_INET, None)) as sock:
        assert sock.gettimeout() == 0.0
        assert fcntl.fcntl(sock.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert fcntl.fcntl(sock.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_source_that_is_taken_leaves_no_descriptor(listener: socket.socket) -> None:
    with pytest.raises(OSError, match="in use") as caught:
        _tcp.open_stream(socket.AF_INET, Address(socket.AF_INET, listener.getsockname()))
    assert caught.value.errno == errno.EADDRINUSE


def test_one_local_port_serves_several_destinations(listener: socket.socket) -> None:
    """IP_BIND_ADDRESS_NO_PORT: the port is chosen at connect(), so it may be in use towards another destination."""
    source = Address(socket.AF_INET, ("127.0.0.2", 0))
    with closing(_tcp.open_stream(socket.AF_INET, source)) as sock:
        assert sock.getsockname() == ("127.0.0.2", 0), "bound, but no port chosen yet"
        with connect(sock, listener) as theirs:
            assert theirs.getpeername()[0] == "127.0.0.2"


def test_no_delay_is_tcp_nodelay() -> None:
    with closing(_tcp.open_stream(socket.AF_INET, None)) as sock:
        _tcp.no_delay(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_delay_ack_is_quickack_off() -> None:
    with closing(_tcp.open_stream(socket.AF_INET, None)) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)
        _tcp.delay_ack(sock)
        assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)


# --- connecting ----------------------------------------------------------------------------------------------------


def test_connect_asked_again_tells_refused() -> None:
    address = Address(socket.AF_INET, (LOCALHOST, refusing_port()))
    with closing(_tcp.open_stream(socket.AF_INET, None)) as sock, pytest.raises(ConnectionRefusedError):
        until(lambda: _tcp.connect(sock, address), "refused")


def test_connect_is_in_progress_while_no_answer_comes() -> None:
    with black_hole() as hole, closing(_tcp.open_stream(socket.AF_INET, None)) as sock:
        address = Address(socket.AF_INET, hole)
        for _ in range(3):
            assert _tcp.connect(sock, address) is False


def test_a_unix_socket_with_a_full_backlog_says_later(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    address = Address(socket.AF_UNIX, path)
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(path)
        listener.listen(0)
        said = []
        while None not in said:
            said.append(_tcp.connect(stack.enter_context(closing(_tcp.open_stream(socket.AF_UNIX, None))), address))
            assert len(said) < 10
        last = stack.enter_context(closing(_tcp.open_stream(socket.AF_UNIX, None)))
        assert _tcp.connect(last, address) is None
        listener.accept()[0].close()
        assert _tcp.connect(last, address) is True


def test_connect_to_no_unix_socket_is_an_error(tmp_path: Path) -> None:
    with closing(_tcp.open_stream(socket.AF_UNIX, None)) as sock, pytest.raises(FileNotFoundError):
        _tcp.connect(sock, Address(socket.AF_UNIX, str(tmp_path / "none")))


# --- sending and receiving -----------------------------------------------------------------------------------------


def test_send_takes_nothing_when_the_buffer_is_full(ends: tuple[socket.SocketType, socket.socket]) -> None:
    ours, theirs = ends
    sent = fill(ours)
    assert _tcp.send(ours, b"x", more=False) == 0
    ours.shutdown(socket.SHUT_WR)
    got = 0
    while read := theirs.recv(1 << 20):
        got += len(read)
    assert got == sent


def test_receive_tells_nothing_from_the_end(ends: tuple[socket.SocketType, socket.socket]) -> None:
    ours, theirs = ends
    assert _tcp.receive(ours) is None
    theirs.sendall(b"answer")
    until(lambda: _readable(ours), "arrived")
    assert _tcp.receive(ours) == b"answer"
    assert _tcp.receive(ours) is None
    theirs.close()
    until(lambda: _readable(ours), "FIN")
    assert _tcp.receive(ours) == b""


def _readable(sock: socket.SocketType) -> bool:
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


def test_unacked_bytes_fall_to_nothing_as_the_peer_takes_them(listener: socket.socket) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with closing(_tcp.open_stream(socket.AF_INET, None)) as ours, connect(ours, listener) as theirs:
        assert _tcp.unacked_bytes(ours) == 0
        sent = fill(ours)
        # Its window is full and stays so: most of what was sent cannot be acknowledged, for as long as we look.
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            unacked = _tcp.unacked_bytes(ours)
            assert unacked is not None
            assert sent - 65536 < unacked <= sent
        theirs.settimeout(PATIENCE)
        got = 0
        while got < sent:
            got += len(theirs.recv(1 << 20))
        until(lambda: _tcp.unacked_bytes(ours) == 0, "all acknowledged")


def test_on_a_unix_socket_unacked_means_unread(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, closing(_tcp.open_stream(socket.AF_UNIX, None)) as ours:
        listener.bind(path)
        listener.listen()
        assert _tcp.connect(ours, Address(socket.AF_UNIX, path))
        with listener.accept()[0] as theirs:
            assert _tcp.unacked_bytes(ours) == 0
            assert _tcp.send(ours, b"request", more=False) == 7
            unacked = _tcp.unacked_bytes(ours)
            assert unacked is not None
            assert unacked > 0
            assert theirs.recv(100) == b"request"
            assert _tcp.unacked_bytes(ours) == 0


def test_our_fin_counts_as_an_unacked_byte_until_it_is_acknowledged(
    ends: tuple[socket.SocketType, socket.socket],
) -> None:
    ours, _ = ends
    _tcp.half_close(ours)
    until(lambda: _tcp.unacked_bytes(ours) == 0, "the FIN acknowledged")


def test_more_holds_back_until_the_half_close(ends: tuple[socket.SocketType, socket.socket]) -> None:
    ours, theirs = ends
    theirs.settimeout(0.02)
    sent = time.monotonic()
    assert _tcp.send(ours, b"request", more=True) == 7
    try:
        theirs.recv(100, socket.MSG_PEEK)
    except TimeoutError:
        pass
    else:  # the kernel holds back for 200 ms, and may have kept us from looking as long
        assert time.monotonic() - sent > 0.15
    theirs.settimeout(PATIENCE)
    _tcp.half_close(ours)
    assert theirs.recv(100) == b"request"
    assert theirs.recv(100) == b""


# --- errors and ends -----------------------------------------------------------------------------------------------


def test_pending_error_shows_a_reset_that_follows_a_fin(ends: tuple[socket.SocketType, socket.socket]) -> None:
    ours, theirs = ends
    assert _tcp.pending_error(ours) is None
    theirs.shutdown(socket.SHUT_WR)
    until(lambda: _readable(ours), "FIN")
    assert _tcp.receive(ours) == b""
    assert _tcp.pending_error(ours) is None
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    error = None
    while error is None:  # bounded by pytest's timeout
        assert _tcp.receive(ours) == b"", "recv() keeps silent about it"
        error = _tcp.pending_error(ours)
    assert error.errno in {errno.EPIPE, errno.ECONNRESET}
    assert _tcp.pending_error(ours) is None, "taken"


def test_half_close_lets_the_peer_read_to_our_end_and_answer(ends: tuple[socket.SocketType, socket.socket]) -> None:
    ours, theirs = ends
    _tcp.send(ours, b"request", more=False)
    _tcp.half_close(ours)
    assert theirs.recv(100) == b"request"
    assert theirs.recv(100) == b""
    theirs.sendall(b"answer")
    until(lambda: _readable(ours), "answered")
    assert _tcp.receive(ours) == b"answer"


def test_half_close_ends_the_connection_though_a_copy_of_the_descriptor_is_held(
    ends: tuple[socket.SocketType, socket.socket],
) -> None:
    ours, theirs = ends
    with socket.socket(fileno=socket.dup(ours.fileno())):
        _tcp.half_close(ours)
        assert theirs.recv(100) == b""


def test_reset_on_close_makes_the_peer_see_no_end(ends: tuple[socket.SocketType, socket.socket]) -> None:
    ours, theirs = ends
    _tcp.send(ours, b"half a requ", more=False)
    assert theirs.recv(100) == b"half a requ"
    _tcp.reset_on_close(ours)
    ours.close()
    with pytest.raises(ConnectionResetError):
        theirs.recv(100)


def test_send_to_a_reset_connection_raises_and_signals_nothing(ends: tuple[socket.SocketType, socket.socket]) -> None:
    """MSG_NOSIGNAL itself is shown in test_post.py, by a process that has SIGPIPE at its default."""
    ours, theirs = ends
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    until(lambda: _tcp.pending_error(ours), "reset")
    with pytest.raises(BrokenPipeError):
        _tcp.send(ours, b"x", more=False)


def test_the_ioctl_is_siocoutq() -> None:
    assert termios.TIOCOUTQ == 0x5411, "linux/sockios.h: SIOCOUTQ"
