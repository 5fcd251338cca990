"""The engine, moved by hand: what no driver can be made to do."""

from __future__ import annotations

import errno
import os
import random
import selectors
import socket
import ssl
import sys
import threading
from contextlib import suppress
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
    Script,
    Talk,
    answers,
    black_hole,
    let_pass,
    never_answers,
    recording,
    refusing_port,
    server_context,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    import trustme

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


def hand_over(connection: Connection) -> None:
    """Advance until the kernel has all of the request, and not to its end."""
    wait = connection.advance(hold=True)
    while wait is not None:
        wait_for(connection, wait)
        wait = connection.advance(hold=True)


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


def test_tickets_are_read_from_a_connection_that_waits_for_its_request(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    sent = threading.Event()

    def script(talk: Talk) -> None:
        talk.shake_hands()
        sent.set()

    context = server_context(authority, ssl.TLSVersion.TLSv1_3)
    with recording(context=context, options={"ssl_context": trusting}, script=script) as peer:
        connection = opened_ahead(peer)
        assert sent.wait(PATIENCE)
        assert connection.advance() == Wait(readable=True, writable=False, until=None)
        assert not connection.stirred()
        connection.abort()
        talk = peer.next()
    assert talk.close_notify
    assert talk.end == "FIN", "not RST, which unread bytes make of it"


def half_closes(talk: Talk) -> None:
    talk.half_close()


def resets(talk: Talk) -> None:
    talk.reset()


def says_timeout(talk: Talk) -> None:
    talk.send(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")


def says_garbage(talk: Talk) -> None:
    talk.socket.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def says_goodbye(talk: Talk) -> None:
    talk.say_goodbye()


@pytest.mark.parametrize("end", [half_closes, resets, says_timeout, says_garbage, says_goodbye])
def test_a_connection_that_waits_for_its_request_notices_that_it_is_none_any_more(peer: Recorder, end: Script) -> None:
    go = threading.Event()
    if end is says_goodbye and "ssl_context" not in peer.options:
        pytest.skip("close_notify is TLS's")

    def script(talk: Talk) -> None:
        talk.shake_hands()
        assert go.wait(PATIENCE)
        end(talk)

    peer.script = script
    connection = opened_ahead(peer)
    until(lambda: peer.talks and peer.talks[0].handshaken, "handshake")
    go.set()
    until(lambda: connection.advance() is None, "it is closed")
    assert connection.state == "closed"
    assert connection.fileno() == -1
    assert peer.next().data == b""


def test_stirred_tells_whether_something_has_come_in(recorder: Recorder) -> None:
    """Before it is ready it is always worth a look: advance() knows best what it waits for."""
    go = threading.Event()

    def script(talk: Talk) -> None:
        assert go.wait(PATIENCE)
        says_timeout(talk)

    recorder.script = script
    connection = opened(recorder.url)
    assert connection.stirred()
    drive(connection, "ready")
    connection.advance()
    assert not connection.stirred()
    go.set()
    until(connection.stirred, "408")
    assert connection.stirred(), "looking takes nothing away"
    assert connection.advance() is None


# --- handed over, and held -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("closing", ["acked", "answered"])
def test_with_hold_it_stops_when_the_last_byte_is_handed_over(peer: Recorder, closing: Closing) -> None:
    connection = opened_ahead(peer)
    give(connection, b"small", closing)
    assert connection.advance(hold=True) is None
    assert connection.state == "closing"
    assert connection.advance(hold=True) is None, "too often does no harm"
    until(lambda: peer.talks and peer.talks[0].whole, "the whole request has arrived")
    assert not peer.talks[0].done.is_set()
    drive(connection)
    assert connection.delivery == ("acked" if connection.status is None else "answered")
    talk = peer.next()
    assert talk.body == b"small"
    assert talk.end == "FIN"
    assert talk.close_notify == (talk.tls_version is not None)


def test_with_hold_it_still_waits_until_all_is_handed_over(peer: Recorder) -> None:
    read = threading.Event()

    def script(talk: Talk) -> None:
        talk.receive_head()
        assert read.wait(PATIENCE)

    peer.script = script
    connection = opened(peer.url, **peer.options)
    give(connection, ENDLESS, "answered")
    drive(connection, "sending")
    wait = connection.advance(hold=True)
    assert wait is not None
    assert wait.writable
    assert connection.state == "sending"
    connection.abort()
    read.set()
    assert peer.next().end == "RST"


def test_heard_tells_of_an_answer_that_was_read_while_sending(peer: Recorder) -> None:
    done = threading.Event()

    def script(talk: Talk) -> None:
        talk.receive_head()
        talk.send(OK)
        assert done.wait(PATIENCE)

    peer.script = script
    connection = opened_ahead(peer)
    assert not connection.heard()
    give(connection, ENDLESS, "answered")
    hand_over(connection)
    assert connection.heard()
    assert (connection.state, connection.status) == ("closing", 200)
    assert connection.advance() is None
    done.set()
    assert peer.next().end == "RST", "it was not the whole request"


def test_unsent_counts_what_the_kernel_is_still_to_take(recorder: Recorder) -> None:
    read = threading.Event()

    def script(talk: Talk) -> None:
        assert read.wait(PATIENCE)

    recorder.script = script
    request = Request("http://rawfnf.test/").encode(BODY * 40)
    connection = opened(recorder.url)
    give(connection, BODY * 40, "acked")
    assert connection.unsent() == len(request)
    drive(connection, "sending")
    assert connection.unsent() == len(request) - connection.bytes_sent > 0
    read.set()
    hand_over(connection)  # by drive() it may be acknowledged, and closed, in the same call
    assert (connection.state, connection.unsent()) == ("closing", 0)
    drive(connection)


def test_unsent_is_unknown_while_a_stream_has_more() -> None:
    connection = opened("http://127.0.0.1:9/")
    connection.give(Request("http://rawfnf.test/").message(iter([b"1", b"2"])), closing="acked", linger=0)
    assert connection.unsent() is None


@pytest.mark.parametrize("begun", [False, True])
def test_what_is_kept_is_the_callers_own_again(peer: Recorder, *, begun: bool) -> None:
    read = threading.Event()

    def script(talk: Talk) -> None:
        talk.shake_hands()
        assert read.wait(PATIENCE)
        talk.receive_request()
        talk.send(OK)

    peer.script = script
    original = BODY * 40
    body = bytearray(original)
    connection = opened_ahead(peer)
    connection.give(Request("http://rawfnf.test/").message(body), closing="answered", linger=PATIENCE)
    if begun:
        connection.advance()
        assert connection.state == "sending"
    left = connection.unsent()
    connection.keep()
    assert connection.unsent() == left
    body[:] = bytes(len(body))
    body.clear()
    read.set()
    drive(connection)
    assert peer.next().body == original


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
    give(connection, b"small", "answered", linger=0.3)  # the peer's kernel can acknowledge it without the peer
    drive(connection, before=counted)
    assert connection.receipt().delivery == "acked"
    assert counted.calls < 20


@linux
def test_linger_is_over_only_for_a_look_that_began_behind_its_end() -> None:
    """However long the look before was held up: what has been acknowledged meanwhile is told."""
    linger, reads = 0.1, threading.Event()

    def hold_up(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is _tcp.receive.__code__ and connection.state == "closing":
            sys.setprofile(before)
            reads.set()
            until(lambda: _tcp.unacked_bytes(sock) == 0, "the acknowledgement")
            let_pass(linger)

    with recording(receive_buffer=NARROW, script=lambda _: reads.wait(PATIENCE)) as peer:
        connection = opened_ahead(peer)
        give(connection, UNACKED, "answered", linger)
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            before = sys.getprofile()
            sys.setprofile(hold_up)
            try:
                drive(connection)
            finally:
                sys.setprofile(before)
        assert peer.next().body == UNACKED
    assert reads.is_set()
    assert connection.receipt().delivery == "acked"


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
    assert talk.end == "FIN"
    assert talk.close_notify == (talk.tls_version is not None)


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


# --- drop(), and being told of the end -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["ready", "sending", "closing"])
def test_drop_says_nothing_to_anybody(peer: Recorder, state: str) -> None:
    """As a forked child does it, whose parent has the other copy of the descriptor."""
    go = threading.Event()

    def script(talk: Talk) -> None:
        talk.shake_hands()
        if state != "ready":
            talk.receive_head()
        assert go.wait(PATIENCE)
        if state != "sending":
            open_still.append(not talk.ends_within(0.1))

    open_still: list[bool] = []
    peer.script = script
    connection = opened_ahead(peer)
    if state != "ready":
        give(connection, ENDLESS if state == "sending" else b"small", "answered")
        drive(connection, state)
    with socket.socket(fileno=socket.dup(connection.fileno())) as parents:
        connection.drop()
        assert connection.state == "closed"
        assert connection.fileno() == -1
        assert connection.advance() is None
        connection.drop()
        connection.abort()
        go.set()
        if state != "sending":
            until(lambda: open_still, "a look")
            assert open_still == [True]
        assert parents.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        parents.shutdown(socket.SHUT_WR)
        talk = peer.next()
    assert talk.end == "FIN", "the parent's, and nothing before it"
    assert not talk.close_notify


class Told:
    """What on_close has told: whether the descriptor was still open."""

    def __init__(self, connection: Connection) -> None:
        self.open: list[bool] = []
        connection.on_close = self

    def __call__(self, connection: Connection) -> None:
        self.open.append(connection.fileno() >= 0 and os.fstat(connection.fileno()) is not None)


@pytest.mark.parametrize("state", ["handshaking", "ready", "sending", "closing"])
def test_on_close_is_told_of_an_abort_before_the_descriptor_is_closed(peer: Recorder, state: str) -> None:
    connection = opened(peer.url, **peer.options)
    if state in {"sending", "closing"}:
        give(connection, ENDLESS if state == "sending" else b"small", "answered")
    if state == "handshaking" and "ssl_context" not in peer.options:
        pytest.skip("there is no TLS")
    done = threading.Event()

    def script(talk: Talk) -> None:
        if state != "handshaking":
            talk.shake_hands()
        assert done.wait(PATIENCE)

    peer.script = script
    drive(connection, state)
    told = Told(connection)
    connection.abort()
    connection.abort()
    done.set()
    assert told.open == [True]


def test_on_close_is_told_of_every_end(peer: Recorder) -> None:
    def resets_behind_the_request(talk: Talk) -> None:
        talk.receive_request()
        talk.reset()

    for script in (answers(OK), resets_behind_the_request):
        peer.script = script
        connection = opened(peer.url, **peer.options)
        give(connection, BODY, "answered")
        told = Told(connection)
        with suppress(SendError):
            drive(connection)
        assert connection.state == "closed"
        assert told.open == [True]


def test_on_close_is_told_of_an_address_that_is_given_up(recorder: Recorder) -> None:
    connection = opened("http://rawfnf.test/", ("127.0.0.1", refusing_port()), recorder.address)
    told = Told(connection)
    drive(connection, "ready")
    assert told.open == [True]
    connection.abort()
    assert told.open == [True, True]


# --- what a message leaves in one write ----------------------------------------------------------------------------


def test_pieces_of_any_number_cross_in_order(peer: Recorder) -> None:
    parts: list[bytes] = [bytes((index,)) * (index * 97) for index in range(1, 200)]
    connection = opened(peer.url, **peer.options)
    connection.give(Request("http://rawfnf.test/").message(iter(parts)), closing="answered", linger=PATIENCE)
    drive(connection)
    talk = peer.next()
    assert talk.body == b"".join(parts)
    assert connection.receipt().bytes_sent == len(talk.data)
