"""The engine, moved by hand: what no driver can be made to do."""

from __future__ import annotations

import errno
import random
import selectors
import socket
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from rawfnf import ConnectError, Request, SendError, _tcp
from rawfnf._connection import Connection, Wait
from rawfnf._route import route_to
from rawfnf._tcp import Address
from tests.peers import (
    AF_UNIX,
    ENDLESS,
    NARROW,
    NO_CONTENT,
    OK,
    PATIENCE,
    UNACKED,
    Recorder,
    Talk,
    answers,
    black_hole,
    never_answers,
    recording,
    refusing_port,
    until,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from rawfnf._route import Closing

linux = pytest.mark.skipif(sys.platform != "linux", reason="what is tested is Linux's")

CLOSINGS: tuple[Closing, ...] = ("now", "acked", "answered")
STATES = ["connecting", "handshaking", "ready", "sending", "closing", "closed"]
BODY = bytes(range(256)) * 1000
# Under "now" the session tickets of TLS 1.3 destroy what is still on its way; this is on loopback at once.
BODIES: dict[Closing, bytes] = {"now": BODY[:1000], "acked": BODY, "answered": BODY}


def opened(
    url: str, *addresses: tuple[str, int], timeout: float | None = PATIENCE, ssl_context: ssl.SSLContext | None = None
) -> Connection:
    """Return a connection that has not begun, to the URL's address or to several others."""
    route = route_to(Request(url).origin, ssl_context=ssl_context, connect_to=None, source_address=None)
    known = tuple(Address(socket.AF_INET, address) for address in addresses) or route.known
    started = monotonic()
    return Connection(route, known, started, None if timeout is None else started + timeout)


def give(connection: Connection, body: bytes, closing: Closing, linger: float = PATIENCE) -> None:
    connection.give(Request("http://rawfnf.test/").message(body), closing=closing, linger=linger)


def wait_for(connection: Connection, wait: Wait) -> None:
    """Do what a driver does between two calls of advance()."""
    events = selectors.EVENT_READ * wait.readable | selectors.EVENT_WRITE * wait.writable
    with selectors.DefaultSelector() as selector:
        if events:
            selector.register(connection.fileno(), events)
        selector.select(None if wait.until is None else max(0.0, wait.until - monotonic()))


def drive(connection: Connection, state: str = "closed", *, before: Callable[[], object] = lambda: None) -> list[str]:
    """Advance up to a state; return the states passed through, as they were seen between two calls."""
    seen: list[str] = [connection.state]
    wait = connection.advance()
    while connection.state != state:
        assert wait is not None, connection.state
        seen.append(connection.state)
        wait_for(connection, wait)
        before()
        wait = connection.advance()
    seen.append(connection.state)
    return seen


# --- several addresses ---------------------------------------------------------------------------------------------


def test_an_address_that_refuses_gives_way_to_the_next(recorder: Recorder) -> None:
    connection = opened("http://rawfnf.test/", ("127.0.0.1", refusing_port()), recorder.address)
    give(connection, BODY, "acked")
    drive(connection)
    assert recorder.next().body == BODY
    assert connection.receipt().peer == recorder.address


@linux
def test_addresses_that_drop_share_the_time_with_the_next(recorder: Recorder) -> None:
    with black_hole() as first, black_hole() as second:
        connection = opened("http://rawfnf.test/", first, second, recorder.address, timeout=1.2)
        give(connection, BODY, "acked")
        drive(connection)
    assert recorder.next().body == BODY
    receipt = connection.receipt()
    assert receipt.peer == recorder.address
    assert 0.8 <= receipt.timings.connect < 1.2, "a third of the time, then half of what is left"


@linux
def test_one_deadline_holds_for_all_addresses() -> None:
    with black_hole() as first, black_hole() as second:
        connection = opened("http://rawfnf.test:81/", first, second, timeout=0.4)
        give(connection, BODY, "now")
        started = monotonic()
        with pytest.raises(ConnectError) as caught:
            drive(connection)
        took = monotonic() - started
    assert 0.39 <= took < 1.9
    error = caught.value
    assert (error.phase, error.host, error.port, error.errno) == ("connect", "rawfnf.test", 81, errno.ETIMEDOUT)


def test_when_all_addresses_fail_the_last_error_is_told() -> None:
    addresses = [("127.0.0.1", refusing_port()) for _ in range(3)]
    connection = opened("http://rawfnf.test/", *addresses)
    give(connection, BODY, "now")
    with pytest.raises(ConnectError) as caught:
        drive(connection)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert connection.state == "closed"
    assert connection.fileno() == -1


@linux
def test_a_full_backlog_is_tried_again_soon(tmp_path: Path) -> None:
    """A Unix socket that refuses for that reason wakes nobody when there is room again."""
    path = str(tmp_path / "s")
    with socket.socket(AF_UNIX) as listener, socket.socket(AF_UNIX) as filler:
        listener.bind(path)
        listener.listen(0)
        filler.connect(path)
        origin = Request("http://localhost/").origin
        route = route_to(origin, ssl_context=None, connect_to=path, source_address=None)
        connection = Connection(route, route.known, monotonic(), None)
        give(connection, BODY, "now")
        for _ in range(3):
            wait = connection.advance()
            assert wait is not None
            assert wait.until is not None
            assert wait.until < monotonic() + 0.1
            assert not wait.readable
            assert not wait.writable
            wait_for(connection, wait)
        with listener.accept()[0]:
            drive(connection, "sending")
        connection.abort()


# --- opened ahead of its request -----------------------------------------------------------------------------------


def opened_ahead(peer: Recorder) -> Connection:
    connection = opened(peer.url, **peer.options)
    drive(connection, "ready")
    return connection


@pytest.mark.parametrize("closing", CLOSINGS)
def test_a_connection_without_request_waits_ready_for_it(peer: Recorder, closing: Closing) -> None:
    connection = opened_ahead(peer)
    until(lambda: peer.talks and peer.talks[0].handshaken, "over TLS: our Finished, without waiting for a request")
    for _ in range(3):
        assert connection.advance() == Wait(readable=True, writable=False, until=None)
    assert not peer.talks[0].data
    give(connection, BODIES[closing], closing)
    drive(connection)
    talk = peer.next()
    assert talk.body == BODIES[closing]
    assert talk.end == "FIN"
    assert talk.close_notify == (talk.tls_version is not None)
    receipt = connection.receipt()
    assert receipt.bytes_sent == len(talk.data)
    assert all(seconds >= 0 for seconds in receipt.timings)


def test_tickets_that_come_before_the_request_are_no_answer(peer: Recorder) -> None:
    peer.script = answers(OK)
    connection = opened_ahead(peer)
    until(lambda: peer.talks and peer.talks[0].handshaken, "handshake, behind which TLS 1.3 sends tickets")
    give(connection, BODY, "answered")
    drive(connection)
    assert connection.receipt().status == 200


# --- advance() at any time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("closing", CLOSINGS)
def test_advancing_too_often_does_no_harm(peer: Recorder, closing: Closing, seed: int) -> None:
    chance = random.Random(seed)

    def script(talk: Talk) -> None:
        talk.receive_request()
        for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + NO_CONTENT:
            talk.send(bytes((byte,)))

    def often() -> None:
        for _ in range(chance.choice((0, 0, 1, 3, 100))):
            if connection.state != "closed":
                connection.advance()

    peer.script = script
    connection = opened(peer.url, **peer.options)
    seen: list[str] = []
    if chance.random() < 0.5:
        drive(connection, "ready", before=often)
    give(connection, BODIES[closing], closing)
    while connection.state != "closed":
        seen.append(connection.state)
        often()
        wait = connection.advance()
        if wait is not None and chance.random() < 0.5:
            wait_for(connection, wait)
    assert seen == sorted(seen, key=STATES.index)
    talk = peer.next()
    assert talk.body == BODIES[closing]
    assert len(talk.data) == connection.receipt().bytes_sent
    assert talk.end == "FIN"
    if closing == "answered":
        assert connection.receipt().status == 204


def test_a_closed_connection_stays_closed(recorder: Recorder) -> None:
    connection = opened(recorder.url)
    give(connection, BODY, "answered")
    drive(connection)
    receipt = connection.receipt()
    assert connection.advance() is None
    connection.abort()
    assert connection.receipt() == receipt
    assert connection.fileno() == -1


class Counted:
    """How often advance() was called: a wait that is no wait makes a busy loop of every driver."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


@pytest.mark.parametrize("half_closed", [False, True])
def test_looking_for_an_acknowledgement_takes_few_calls(*, half_closed: bool) -> None:
    """The peer's EOF stays readable: behind it, too, the time alone may be waited for."""
    counted, reads = Counted(), threading.Event()

    def script(talk: Talk) -> None:
        if half_closed:
            talk.half_close()
        assert reads.wait(PATIENCE)

    with recording(receive_buffer=NARROW, script=script) as peer:
        connection = opened(peer.url)
        give(connection, UNACKED, "acked", linger=0.5)
        drive(connection, before=counted)
        reads.set()
        assert peer.next().body == UNACKED
    assert connection.receipt().delivery == "sent"
    assert counted.calls < 80


def test_waiting_for_an_answer_takes_few_calls(peer: Recorder) -> None:
    counted = Counted()
    peer.script = never_answers
    connection = opened(peer.url, **peer.options)
    give(connection, BODY, "answered", linger=0.3)
    drive(connection, before=counted)
    assert connection.receipt().delivery == "acked"
    assert counted.calls < 20


def test_a_peer_that_has_half_closed_makes_no_busy_loop() -> None:
    """Its EOF stays readable; a body that it does not read waits for writable alone."""
    counted, done = Counted(), threading.Event()

    def script(talk: Talk) -> None:
        talk.half_close()
        assert done.wait(PATIENCE)

    with recording(receive_buffer=NARROW, script=script) as peer:
        connection = opened(peer.url, timeout=0.5)
        give(connection, ENDLESS, "acked")
        with pytest.raises(SendError) as caught:
            drive(connection, before=counted)
        done.set()
        assert peer.next().end == "RST"
    assert caught.value.errno == errno.ETIMEDOUT
    # Each may be room in the send buffer that was used: some 64 KiB of a few MiB.
    assert counted.calls < 100


def test_the_deadline_is_for_sending_and_linger_for_the_rest(recorder: Recorder) -> None:
    def script(talk: Talk) -> None:
        talk.receive_request()
        assert not talk.ends_within(0.8)
        talk.send(NO_CONTENT)

    recorder.script = script
    connection = opened(recorder.url, timeout=0.6)
    give(connection, BODY, "answered")
    drive(connection)
    assert connection.receipt().status == 204


# --- what "acked" must not take for an acknowledgement --------------------------------------------------------------


def in_closing(peer: Recorder) -> Connection:
    """Return a connection that has handed over more than the peer can have acknowledged."""
    connection = opened(peer.url)
    give(connection, UNACKED, "acked")
    drive(connection, "closing")
    return connection


def resetting(when: threading.Event, *, after_fin: bool) -> Callable[[Talk], None]:
    def script(talk: Talk) -> None:
        if after_fin:
            talk.half_close()
        assert when.wait(PATIENCE)
        talk.reset()

    return script


@pytest.mark.parametrize("after_fin", [False, True])
def test_a_reset_is_no_acknowledgement(*, after_fin: bool) -> None:
    """It empties our send queue, which looks like one; behind a FIN recv() does not tell it either."""
    when = threading.Event()
    with recording(receive_buffer=NARROW, script=resetting(when, after_fin=after_fin)) as peer:
        connection = in_closing(peer)
        when.set()
        with pytest.raises(SendError) as caught:
            drive(connection)
        error = caught.value
        assert error.phase == "close"
        assert error.errno in {errno.ECONNRESET, errno.EPIPE}
        assert error.bytes_sent > len(UNACKED)
        assert (error.host, error.port) == peer.address
        assert f"{peer.host}:{peer.port}" in str(error)
        peer.next()


def test_a_peer_that_has_half_closed_can_still_acknowledge() -> None:
    when = threading.Event()

    def script(talk: Talk) -> None:
        talk.half_close()
        assert when.wait(PATIENCE)

    with recording(receive_buffer=NARROW, script=script) as peer:
        connection = in_closing(peer)
        when.set()
        drive(connection)
        assert connection.receipt().delivery == "acked"
        assert peer.next().body == UNACKED


def test_where_the_kernel_does_not_tell_acked_waits_for_an_answer(
    peer: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS and Windows, as far as Linux can show them: the two things that _tcp.py says there."""
    monkeypatch.setattr(_tcp, "TELLS_UNACKED", False)
    monkeypatch.setattr(_tcp, "unacked_bytes", lambda _: None)

    def script(talk: Talk) -> None:
        talk.receive_request()
        assert not talk.ends_within(0.2)
        talk.send(NO_CONTENT)

    peer.script = script
    connection = opened(peer.url, **peer.options)
    give(connection, BODY, "acked")
    drive(connection)
    assert connection.receipt()[:2] == ("answered", 204)
    peer.script = never_answers
    connection = opened(peer.url, **peer.options)
    give(connection, BODY, "acked", linger=0.1)
    drive(connection)
    assert connection.receipt()[:2] == ("sent", None)


# --- abort() -------------------------------------------------------------------------------------------------------


def assert_aborts(connection: Connection) -> None:
    connection.abort()
    assert connection.state == "closed"
    assert connection.fileno() == -1
    assert connection.advance() is None
    connection.abort()


def test_abort_before_anything_has_begun(recorder: Recorder) -> None:
    connection = opened(recorder.url)
    connection.abort()
    give(connection, BODY, "now")
    connection.abort()
    assert recorder.talks == []


@linux
def test_abort_while_connecting() -> None:
    with black_hole() as hole:
        connection = opened("http://rawfnf.test/", hole)
        give(connection, BODY, "now")
        assert connection.advance() is not None
        assert connection.state == "connecting"
        assert_aborts(connection)


def test_abort_in_the_handshake(recorder: Recorder, trusting: ssl.SSLContext) -> None:
    recorder.script = never_answers
    connection = opened(recorder.url.replace("http:", "https:"), ssl_context=trusting)
    give(connection, BODY, "now")
    drive(connection, "handshaking")
    connection.advance()
    assert_aborts(connection)
    assert recorder.next().end == "FIN"


def test_abort_when_ready_is_a_connection_without_request(peer: Recorder) -> None:
    connection = opened_ahead(peer)
    assert_aborts(connection)
    talk = peer.next()
    assert talk.request is None
    assert talk.data == b""


def test_abort_before_the_first_byte_of_the_request(peer: Recorder) -> None:
    connection = opened_ahead(peer)
    give(connection, BODY, "acked")
    assert_aborts(connection)
    talk = peer.next()
    assert talk.request is None
    assert talk.data == b""


@pytest.mark.parametrize("closing", CLOSINGS)
def test_abort_while_sending_is_a_reset(peer: Recorder, closing: Closing) -> None:
    aborted = threading.Event()

    def script(talk: Talk) -> None:
        talk.receive_head()
        assert aborted.wait(PATIENCE)

    peer.script = script
    connection = opened(peer.url, **peer.options)
    give(connection, ENDLESS, closing)
    drive(connection, "sending")
    assert 0 < connection.bytes_sent < len(ENDLESS)
    until(lambda: peer.talks and peer.talks[0].request, "the head has arrived")
    assert_aborts(connection)
    aborted.set()
    talk = peer.next()
    assert talk.end == "RST"
    assert not talk.whole
    assert not talk.close_notify


def test_abort_behind_the_whole_request_is_no_reset(peer: Recorder) -> None:
    peer.script = never_answers
    connection = opened(peer.url, **peer.options)
    give(connection, b"small", "answered")
    drive(connection, "closing")
    until(lambda: peer.talks and peer.talks[0].whole, "the whole request has arrived")
    assert_aborts(connection)
    talk = peer.next()
    assert talk.body == b"small"
    assert talk.end == "FIN"


def test_a_failure_of_advance_has_closed_the_connection(peer: Recorder) -> None:
    def script(talk: Talk) -> None:
        talk.receive_request()
        talk.reset()

    peer.script = script
    connection = opened(peer.url, **peer.options)
    give(connection, BODY, "answered")
    with pytest.raises(SendError):
        drive(connection)
    assert connection.state == "closed"
    assert connection.fileno() == -1
    assert connection.advance() is None


# --- what a message leaves in one write ----------------------------------------------------------------------------


def test_pieces_of_any_number_cross_in_order(peer: Recorder) -> None:
    parts: list[bytes] = [bytes((index,)) * (index * 97) for index in range(1, 200)]
    connection = opened(peer.url, **peer.options)
    connection.give(Request("http://rawfnf.test/").message(iter(parts)), closing="answered", linger=PATIENCE)
    drive(connection)
    talk = peer.next()
    assert talk.body == b"".join(parts)
    assert connection.receipt().bytes_sent == len(talk.data)
