"""One request from call to close, as the peer saw it.

The tests hold for every driver (fixture `post`), but for those that ask for `post_alone`: post()'s own default, and
what only its Receipt, or an error behind the hand-over, can tell.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError  # the built-in one from Python 3.11 on
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, BinaryIO

import psutil
import pytest
import trustme

import rawfnf
from rawfnf import ConnectError, Request, RequestError, SendError
from tests.peers import (
    AF_UNIX,
    ENDLESS,
    NARROW,
    NO_CONTENT,
    OK,
    PATIENCE,
    TOO_LARGE,
    UNACKED,
    HttpServer,
    Recorder,
    Script,
    Talk,
    answers,
    black_hole,
    closes_without_answer,
    never_answers,
    recording,
    refusing_port,
    server_context,
    until,
)
from tests.wire import captured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.network import Network
    from tests.conftest import Outcome, Post, PostAlone

linux = pytest.mark.skipif(sys.platform != "linux", reason="what is tested is Linux's")
unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows' Python has no Unix sockets")

SMALL = b'{"temperature": 21.5}'
# Seconds: a linger that is to run out, and a timeout that is to do so in the middle of a body.
SHORT, DEADLINE = 0.15, 0.3
NETWORK_ROUNDS = 5
# How much later than agreed a call may come back on a machine that has other things to do, in seconds: less than any
# timeout that is to be told from it.
LATE = 4.0


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._start


def failure_of(post: Post, url: str, *arguments: Any, **options: Any) -> rawfnf.RawfnfError:
    with pytest.raises(rawfnf.RawfnfError) as caught:
        post(url, *arguments, **options)
    return caught.value


def assert_error(
    error: rawfnf.RawfnfError,
    kind: type[rawfnf.RawfnfError],
    phase: str,
    *says: str,
    where: tuple[str, int],
    cause: type[BaseException],
    number: int | None = None,
) -> None:
    """Check all that an error must carry, `says` being parts of its message."""
    assert type(error) is kind, repr(error)
    assert (error.phase, error.host, error.port, error.errno) == (phase, *where, number), repr(error)
    assert isinstance(error.__cause__, cause), repr(error.__cause__)
    for part in (where[0], str(where[1]), *says):
        assert part in str(error)
    assert "\n" not in str(error)
    if kind is ConnectError:
        assert error.bytes_sent == 0


def assert_receipt(told: Outcome, **details: object) -> None:
    """Check what a Receipt tells besides; a Sender only counts."""
    if isinstance(told, rawfnf.Receipt):
        assert {name: getattr(told, name) for name in details} == details


def assert_linger_was_over(told: Outcome, known: str) -> None:
    """Check that a Receipt says what was known by then, and a Sender that what `closing` awaits had not come."""
    assert told[:2] == (known if isinstance(told, rawfnf.Receipt) else "unanswered", None)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@contextmanager
def gate() -> Iterator[threading.Event]:
    """An event that scripts wait for: opened at the end whatever happens, so that no script waits for a failed test."""
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()


def reads_once(event: threading.Event) -> Script:
    """Read nothing before the event, then to the client's end."""

    def script(talk: Talk) -> None:
        talk.shake_hands()
        assert event.wait(PATIENCE)

    return script


# --- "now" ---------------------------------------------------------------------------------------------------------


def assert_two_segments(post: Post, peer: Recorder, interface: str, within: Callable[[], Any] = nullcontext) -> None:
    """Post until one was not held up: the kernel lets an ACK wait 200 ms for data, and no longer."""
    for _ in range(10):
        with within(), captured(interface, peer.address) as capture:
            clock = Clock()
            post(peer.url, SMALL, closing="now", **peer.options)
            took = clock()
            segments = capture.up_to_fin()
        talk = peer.next()
        assert talk.body == SMALL
        if took < 0.1:
            break
    assert [segment.flags for segment in segments] == [("SYN",), ("FIN",)]
    assert segments[1].payload == bytes(talk.data)


@linux
def test_now_carries_a_small_post_in_two_segments(post: Post, recorder: Recorder) -> None:
    assert_two_segments(post, recorder, "lo")


@linux
@needs_ipv6
def test_now_carries_a_small_post_in_two_segments_over_ipv6(post: Post) -> None:
    with recording(family=socket.AF_INET6, address=("::1", 0)) as peer:
        assert_two_segments(post, peer, "lo")


def test_now_carries_a_small_post_in_two_segments_over_20_ms(post: Post, far: Network) -> None:
    with recording(address=(far.server.address, 0), within=far.server.inside()) as peer:
        assert_two_segments(post, peer, "tun0", far.client.inside)


def test_now_ends_in_a_fin_behind_the_whole_request(post: Post, recorder: Recorder) -> None:
    receipt = post(recorder.url, SMALL)
    talk = recorder.next()
    assert talk.data == Request(recorder.url).encode(SMALL)
    assert talk.whole
    assert talk.end == "FIN"
    assert (receipt.delivery, receipt.status) == ("sent", None)
    assert_receipt(receipt, bytes_sent=len(talk.data), peer=recorder.address, tls_version=None)


def test_the_server_can_still_answer_after_a_fin(post: Post, recorder: Recorder) -> None:
    answered = []

    def script(talk: Talk) -> None:
        talk.receive_to_end()
        answered.append(talk.send(OK))

    recorder.script = script
    post(recorder.url, SMALL, closing="now")
    talk = recorder.next()
    assert answered == [True]
    assert talk.end == "FIN"
    if sys.platform == "linux":  # facts.md: the answer meets FIN_WAIT2, and no TIME_WAIT is left
        until(talk.reset_after_fin, "our kernel resets what comes after the close")


def test_now_does_not_wait_for_a_busy_server(post: Post, recorder: Recorder) -> None:
    with gate() as work_done:

        def script(talk: Talk) -> None:
            talk.receive_request()
            assert work_done.wait(PATIENCE)

        recorder.script = script
        assert post(recorder.url, SMALL, closing="now").delivery == "sent"  # returns: nobody has answered, nor read
        work_done.set()
        assert recorder.next().whole


@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_timings_are_the_calls_own_time(post_alone: PostAlone, peer: Recorder, closing: str) -> None:
    clock = Clock()
    receipt = post_alone(peer.url, SMALL, closing=closing, **peer.options)
    took = clock()
    timings = receipt.timings
    assert all(seconds >= 0 for seconds in timings)
    assert timings.connect > 0
    assert timings.send > 0
    assert timings.close > 0
    assert (timings.handshake > 0) == (receipt.tls_version is not None)
    assert sum(timings) <= took
    peer.next()


def test_time_spent_waiting_is_in_its_phase(post_alone: PostAlone, peer: Recorder) -> None:
    with gate() as work_done:

        def script(talk: Talk) -> None:
            talk.receive_request()
            work_done.wait(0.2)
            talk.send(NO_CONTENT)

        peer.script = script
        for _ in range(10):
            timings = post_alone(peer.url, SMALL, closing="answered", **peer.options).timings
            if timings.send < 0.05:  # otherwise send() returned long after the peer had the request
                break
    assert timings.close >= 0.15


def test_explicit_now_over_tls_says_close_notify_and_fin(post: Post, tls_recorder: Recorder) -> None:
    receipt = post(tls_recorder.url, SMALL, closing="now", **tls_recorder.options)
    talk = tls_recorder.next()
    assert talk.whole
    assert talk.close_notify
    assert talk.end == "FIN"
    assert talk.data == Request(tls_recorder.url).encode(SMALL)
    assert (receipt.delivery, receipt.status) == ("sent", None)
    assert_receipt(receipt, bytes_sent=len(talk.data), tls_version=talk.tls_version)


@linux
def test_now_over_tls_sends_finished_request_and_close_notify_in_one_segment(
    post: Post, tls_recorder: Recorder
) -> None:
    with captured("lo", tls_recorder.address) as capture:
        post(tls_recorder.url, SMALL, closing="now", **tls_recorder.options)
        segments = capture.up_to_fin()
    talk = tls_recorder.next()
    flights = [segment.payload for segment in segments if segment.payload]
    assert b"".join(flights) == talk.raw
    # TLS 1.3: ClientHello; the rest. TLS 1.2's Finished is followed by the server's before anything may be sent.
    assert len(flights) == (2 if talk.tls_version == "TLSv1.3" else 3)


@linux
def test_acked_over_tls_sends_close_notify_in_one_segment_with_the_fin(post: Post, tls_recorder: Recorder) -> None:
    tls_recorder.script = never_answers
    with captured("lo", tls_recorder.address) as capture:
        post(tls_recorder.url, SMALL, closing="acked", **tls_recorder.options)
        segments = capture.up_to_fin()
    assert tls_recorder.next().close_notify
    assert segments[-1].flags == ("FIN",)
    assert len(segments[-1].payload) in {24, 31}, "an alert and nothing else: header 5, alert 2 (+ 1), AES-GCM's 16 + 8"


# --- the default over TLS ------------------------------------------------------------------------------------------


def client_state(peer: Recorder) -> str:
    """Return the TCP state of this process's connection to the peer."""
    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and connection.raddr[:2] == peer.address[:2]:
            return str(connection.status)
    return "none"


@pytest.mark.parametrize("closing", [None, "acked"])
def test_tls_by_default_sends_no_fin_before_all_is_acknowledged(
    post_alone: PostAlone,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    closing: str | None,
) -> None:
    context = server_context(authority, tls_version)
    with recording(context=context, receive_buffer=NARROW) as peer, gate() as reads, ThreadPoolExecutor() as pool:
        peer.script = reads_once(reads)
        call = pool.submit(post_alone, peer.url, UNACKED, closing=closing, ssl_context=trusting)
        until(lambda: peer.talks and peer.talks[0].handshaken, "handshake")
        with pytest.raises(FutureTimeoutError):
            call.result(0.3)
        if sys.platform == "linux":
            assert client_state(peer) == psutil.CONN_ESTABLISHED, "a FIN, even one that waits, makes this FIN_WAIT1"
        reads.set()
        assert call.result(PATIENCE).delivery == "acked"
        talk = peer.next()
    assert talk.body == UNACKED
    assert talk.close_notify
    assert talk.end == "FIN"


def post_over(network: Network, peer: Recorder, post: PostAlone, body: bytes, **options: Any) -> rawfnf.Receipt:
    with network.client.inside():
        return post(peer.url, body, **peer.options, **options)


def deliveries(
    network: Network, post: PostAlone, authority: trustme.CA, trusting: ssl.SSLContext, size: int, **options: Any
) -> list[bool]:
    """Post NETWORK_ROUNDS times over TLS 1.3; return which bodies arrived whole."""
    body = os.urandom(size)
    context = server_context(authority, ssl.TLSVersion.TLSv1_3, network.server.address)
    with (
        recording(
            address=(network.server.address, 0),
            within=network.server.inside(),
            context=context,
            options={"ssl_context": trusting},
        ) as peer,
        ThreadPoolExecutor(NETWORK_ROUNDS) as pool,
    ):
        calls = [pool.submit(post_over, network, peer, post, body, **options) for _ in range(NETWORK_ROUNDS)]
        for call in calls:
            call.result(PATIENCE)
        return [peer.next().body == body for _ in calls]


@pytest.mark.parametrize("size", [100, 20_000, 65_536, 1_000_000])
def test_tls_by_default_arrives_whole_over_20_ms(
    post_alone: PostAlone, far: Network, authority: trustme.CA, trusting: ssl.SSLContext, size: int
) -> None:
    assert all(deliveries(far, post_alone, authority, trusting, size))


@pytest.mark.parametrize("size", [100, 20_000, 65_536, 1_000_000])
def test_tls_by_default_arrives_whole_over_20_ms_with_packet_loss(
    post_alone: PostAlone, lossy: Network, authority: trustme.CA, trusting: ssl.SSLContext, size: int
) -> None:
    assert all(deliveries(lossy, post_alone, authority, trusting, size, timeout=PATIENCE, linger=PATIENCE))


def test_tickets_destroy_what_now_leaves_on_its_way(
    post_alone: PostAlone, far: Network, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """Why the default is "acked", and that these tests can fail: facts.md, 64 KiB arrive 0 times of 10."""
    assert not all(deliveries(far, post_alone, authority, trusting, 65_536, closing="now"))


# --- "acked" -------------------------------------------------------------------------------------------------------


def test_acked_does_not_wait_for_an_answer(post: Post, peer: Recorder) -> None:
    peer.script = never_answers
    clock = Clock()
    receipt = post(peer.url, SMALL, closing="acked", linger=PATIENCE, **peer.options)
    took = clock()
    talk = peer.next()
    assert (receipt.delivery, receipt.status) == ("acked", None)
    assert took < PATIENCE / 2
    assert talk.whole
    assert talk.end == "FIN"
    assert talk.close_notify == (talk.tls_version is not None)


def test_acked_waits_until_all_is_acknowledged(post: Post) -> None:
    with recording(receive_buffer=NARROW) as peer, gate() as reads, ThreadPoolExecutor() as pool:
        peer.script = reads_once(reads)
        call = pool.submit(post, peer.url, UNACKED, closing="acked")
        with pytest.raises(FutureTimeoutError):
            call.result(0.3)
        reads.set()
        assert call.result(PATIENCE).delivery == "acked"
        assert peer.next().body == UNACKED


@pytest.mark.parametrize("linger", [SHORT, 0])
@pytest.mark.parametrize("closing", ["acked", "answered"])
def test_linger_over_with_bytes_unacknowledged_is_sent(post: Post, closing: str, linger: float) -> None:
    with recording(receive_buffer=NARROW) as peer, gate() as reads:
        peer.script = reads_once(reads)
        clock = Clock()
        receipt = post(peer.url, UNACKED, closing=closing, linger=linger)
        took = clock()
        assert_linger_was_over(receipt, "sent")
        assert linger <= took < linger + LATE
        reads.set()
        talk = peer.next()
    assert talk.body == UNACKED, "nothing is lost by giving up: the kernel goes on"
    assert talk.end == "FIN"


@pytest.mark.parametrize("closing", ["acked", "answered"])
def test_a_reset_before_all_is_acknowledged_is_a_send_error(post_alone: PostAlone, closing: str) -> None:
    with recording(receive_buffer=NARROW) as peer, gate() as handed_over:

        def script(talk: Talk) -> None:
            assert handed_over.wait(PATIENCE)
            talk.reset()

        def body() -> Iterator[bytes]:
            yield UNACKED
            handed_over.set()

        peer.script = script
        error = failure_of(post_alone, peer.url, body(), closing=closing, linger=PATIENCE)
    assert type(error) is SendError
    assert error.phase in {"send", "close"}, "the last chunk may not be out yet"
    assert error.errno in {errno.ECONNRESET, errno.EPIPE}
    assert error.bytes_sent > len(UNACKED)
    assert isinstance(error.__cause__, OSError)
    assert (error.host, error.port) == peer.address


@unix
def test_acked_on_a_unix_socket_means_read_by_the_peer(post: Post, unix_recorder: Recorder) -> None:
    with gate() as reads, ThreadPoolExecutor() as pool:
        unix_recorder.script = reads_once(reads)
        call = pool.submit(post, "http://localhost/", SMALL, closing="acked", **unix_recorder.options)
        with pytest.raises(FutureTimeoutError):
            call.result(0.3)
        reads.set()
        receipt = call.result(PATIENCE)
    assert receipt.delivery == "acked"
    assert_receipt(receipt, peer=unix_recorder.address)
    assert unix_recorder.next().end == "FIN"


@unix
def test_linger_over_on_a_unix_socket_is_sent(post: Post, unix_recorder: Recorder) -> None:
    with gate() as reads:
        unix_recorder.script = reads_once(reads)
        receipt = post("http://localhost/", SMALL, closing="acked", linger=SHORT, **unix_recorder.options)
        assert_linger_was_over(receipt, "sent")
        reads.set()
        assert unix_recorder.next().body == SMALL


def test_an_answer_that_is_there_anyway_is_told_under_acked(post: Post) -> None:
    with recording(receive_buffer=NARROW) as peer, gate() as reads:

        def script(talk: Talk) -> None:
            talk.receive_head()
            talk.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
            talk.receive_to_end()

        peer.script = script
        reads.set()
        receipt = post(peer.url, UNACKED, closing="acked")
    assert (receipt.delivery, receipt.status) == ("answered", 202)


def test_a_server_that_closes_without_answer_says_nothing_against_an_acknowledgement(
    post: Post, peer: Recorder
) -> None:
    peer.script = closes_without_answer
    receipt = post(peer.url, SMALL, closing="acked", **peer.options)
    assert (receipt.delivery, receipt.status) == ("acked", None)
    assert peer.next().end == "FIN"


def test_garbage_says_nothing_against_an_acknowledgement(post: Post, recorder: Recorder) -> None:
    def script(talk: Talk) -> None:
        talk.send(b"SSH-2.0-OpenSSH_9.2\r\n")
        talk.receive_to_end()

    recorder.script = script
    assert post(recorder.url, SMALL, closing="acked").delivery == "acked"
    assert recorder.next().whole


# --- "answered" ----------------------------------------------------------------------------------------------------

ANSWERS = [
    (OK, 200),
    (NO_CONTENT, 204),
    (b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found", 404),
    (b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 503),
    (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", 302),
    (b"HTTP/1.0 201 Created\r\nContent-Length: 0\r\n\r\n", 201),
    (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200),
    (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + NO_CONTENT, 204),
    (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200),
]


@pytest.mark.parametrize(("answer", "status"), ANSWERS)
def test_answered_tells_the_status_of_the_final_response(
    post: Post, peer: Recorder, answer: bytes, status: int
) -> None:
    peer.script = answers(answer)
    clock = Clock()
    receipt = post(peer.url, SMALL, closing="answered", linger=PATIENCE, **peer.options)
    assert (receipt.delivery, receipt.status) == ("answered", status)
    assert clock() < PATIENCE / 2
    talk = peer.next()
    assert talk.body == SMALL
    assert talk.end == "FIN"


def test_answered_sends_no_fin_before_the_answer(post: Post, peer: Recorder) -> None:
    """Over TLS 1.3 this shows as well that session tickets are no answer."""

    def script(talk: Talk) -> None:
        talk.receive_request()
        assert not talk.ends_within(0.3)
        assert not talk.close_notify
        talk.send(OK)

    peer.script = script
    receipt = post(peer.url, SMALL, closing="answered", **peer.options)
    assert receipt.status == 200
    talk = peer.next()
    assert talk.end == "FIN"
    assert talk.close_notify == (talk.tls_version is not None)


def test_an_answer_may_come_byte_by_byte(post: Post, peer: Recorder) -> None:
    def script(talk: Talk) -> None:
        talk.receive_request()
        for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + OK:
            talk.send(bytes((byte,)))

    peer.script = script
    assert post(peer.url, SMALL, closing="answered", **peer.options).status == 200


def test_an_answer_without_length_ends_with_the_connection(post: Post, peer: Recorder) -> None:
    def script(talk: Talk) -> None:
        talk.receive_request()
        talk.send(b"HTTP/1.0 200 OK\r\n\r\nas long as it takes")
        talk.half_close()

    peer.script = script
    clock = Clock()
    receipt = post(peer.url, SMALL, closing="answered", linger=PATIENCE, **peer.options)
    assert receipt.status == 200
    assert clock() < PATIENCE / 2


def test_an_answer_that_never_ends_is_left_when_linger_is_over(post: Post, peer: Recorder) -> None:
    def script(talk: Talk) -> None:
        talk.receive_request()
        talk.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        said.append(clock())

    said: list[float] = []
    peer.script = script
    for _ in range(10):
        clock = Clock()
        receipt = post(peer.url, SMALL, closing="answered", linger=SHORT, **peer.options)
        assert SHORT <= clock() < SHORT + LATE
        peer.next()
        if said[-1] < SHORT:  # otherwise a busy machine's answer came when linger was over
            break
    assert (receipt.delivery, receipt.status) == ("answered", 200)


def test_the_answer_to_head_has_no_content(post: Post, peer: Recorder) -> None:
    peer.script = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    clock = Clock()
    receipt = post(peer.url, method="HEAD", closing="answered", linger=PATIENCE, **peer.options)
    assert receipt.status == 200
    assert clock() < PATIENCE / 2
    assert peer.next().data.startswith(b"HEAD / HTTP/1.1\r\n")


def resets(talk: Talk) -> None:
    talk.receive_request()
    talk.reset()


def hangs_up_in_the_head(talk: Talk) -> None:
    talk.receive_request()
    talk.send(b"HTTP/1.1 200 OK\r\nContent-")
    talk.half_close()


def hangs_up_after_continue(talk: Talk) -> None:
    talk.receive_request()
    talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    talk.half_close()


NO_ANSWERS = [
    (closes_without_answer, "closed without an answer"),
    (hangs_up_in_the_head, "closed without an answer"),
    (hangs_up_after_continue, "closed without an answer"),
    (resets, "reset"),
    (answers(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "no HTTP/1 response"),
    (answers(b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n"), "no HTTP/1 response"),
    (answers(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), "no HTTP/1 response"),
    (answers(b"HTTP/1.1 200 OK\r\nX: " + bytes(b"x" * 200_000)), "no HTTP/1 response"),
]


@pytest.mark.parametrize(("script", "says"), NO_ANSWERS)
def test_no_answer_is_a_send_error(post_alone: PostAlone, peer: Recorder, script: Script, says: str) -> None:
    peer.script = script
    error = failure_of(post_alone, peer.url, SMALL, closing="answered", linger=PATIENCE, **peer.options)
    assert type(error) is SendError
    assert error.phase == "close"
    assert error.bytes_sent == len(Request(peer.url).encode(SMALL))
    assert (error.host, error.port) == peer.address
    assert error.errno == (errno.ECONNRESET if script is resets else None)
    assert error.__cause__ is not None
    for part in (f"{peer.host}:{peer.port}", says):
        assert part in str(error)
    assert peer.next().whole


def test_a_goodbye_without_answer_is_a_send_error(post_alone: PostAlone, tls_recorder: Recorder) -> None:
    def script(talk: Talk) -> None:
        talk.receive_request()
        talk.say_goodbye()

    tls_recorder.script = script
    error = failure_of(post_alone, tls_recorder.url, SMALL, closing="answered", linger=PATIENCE, **tls_recorder.options)
    assert type(error) is SendError
    assert error.phase == "close"
    assert "closed without an answer" in str(error)


def test_linger_over_without_answer_tells_acked(post: Post, peer: Recorder) -> None:
    peer.script = never_answers
    clock = Clock()
    receipt = post(peer.url, SMALL, closing="answered", linger=SHORT, **peer.options)
    took = clock()
    assert_linger_was_over(receipt, "acked")
    assert SHORT <= took < SHORT + LATE
    talk = peer.next()
    assert talk.whole
    assert talk.end == "FIN"


def endlessly(piece: bytes, first: bytes = b"") -> Script:
    def script(talk: Talk) -> None:
        talk.receive_request()
        talk.send(first)
        while talk.send(piece):
            pass
        talk.receive_to_end()

    return script


def drips(talk: Talk) -> None:
    talk.receive_request()
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000:
        talk.dawdle(0.05)
        if not talk.send(bytes((byte,))):
            break


# (what the server does after the request, delivery, status, whether 64 KiB or an error end it before linger does)
ENDLESS_ANSWERS = [
    (endlessly(b"x" * 65536, b"HTTP/1.1 200 OK\r\n\r\n"), "answered", 200, True),
    (endlessly(b"x" * 65536, b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n"), "answered", 200, True),
    (
        endlessly(b"1\r\nx\r\n" * 10_000, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        "answered",
        200,
        True,
    ),
    (endlessly(b"1;" + b"x" * 65530, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), "answered", 200, True),
    (drips, "acked", None, False),
    (endlessly(b"HTTP/1.1 100 Continue\r\n\r\n" * 3000), "acked", None, False),
]
IDS = ["content", "100 MiB", "small chunks", "chunk head", "a byte each 50 ms", "1xx"]


def resident_memory() -> int:
    size: int = psutil.Process().memory_info().rss
    return size


@pytest.mark.parametrize(("script", "delivery", "status", "early"), ENDLESS_ANSWERS, ids=IDS)
def test_an_endless_answer_holds_no_longer_than_linger_and_takes_no_memory(
    post: Post, *, peer: Recorder, script: Script, delivery: str, status: int | None, early: bool
) -> None:
    peer.script = script
    linger = PATIENCE if early else SHORT
    memory, clock = resident_memory(), Clock()
    receipt = post(peer.url, SMALL, closing="answered", linger=linger, **peer.options)
    took = clock()
    if early:
        assert (receipt.delivery, receipt.status) == (delivery, status)
    else:
        assert_linger_was_over(receipt, delivery)
        assert took >= linger
    assert took < SHORT + LATE
    assert resident_memory() - memory < 20 << 20


# --- reading while sending -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("closing", ["acked", "answered"])
def test_an_early_answer_stops_the_body(post: Post, peer: Recorder, closing: str) -> None:
    with gate() as returned:

        def script(talk: Talk) -> None:
            talk.receive_head()
            talk.send(TOO_LARGE)
            assert returned.wait(PATIENCE)

        peer.script = script
        clock = Clock()
        receipt = post(peer.url, ENDLESS, closing=closing, timeout=PATIENCE, **peer.options)
        took = clock()
        returned.set()
        talk = peer.next()
    assert (receipt.delivery, receipt.status) == ("answered", 413)
    assert took < PATIENCE / 2
    if isinstance(receipt, rawfnf.Receipt):
        assert 0 < receipt.bytes_sent < len(ENDLESS)
    assert not talk.whole
    assert talk.end == "RST"
    assert not talk.close_notify


@pytest.mark.parametrize("closing", ["acked", "answered"])
def test_an_answer_that_is_followed_by_a_reset_counts(post: Post, peer: Recorder, closing: str) -> None:
    def script(talk: Talk) -> None:
        talk.receive_head()
        talk.send(TOO_LARGE)
        talk.close()  # with the body unread: RST

    peer.script = script
    receipt = post(peer.url, ENDLESS, closing=closing, **peer.options)
    assert (receipt.delivery, receipt.status) == ("answered", 413)
    if isinstance(receipt, rawfnf.Receipt):
        assert 0 < receipt.bytes_sent < len(ENDLESS)


@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_a_reset_in_the_middle_of_the_body_is_a_send_error(post: Post, peer: Recorder, closing: str) -> None:
    def script(talk: Talk) -> None:
        talk.receive_head()
        talk.reset()

    peer.script = script
    error = failure_of(post, peer.url, ENDLESS, closing=closing, timeout=PATIENCE, **peer.options)
    assert error.errno in {errno.ECONNRESET, errno.EPIPE}, "EPIPE if the error was told once already"
    assert_error(error, SendError, "send", where=peer.address, cause=ConnectionError, number=error.errno)
    assert 0 < error.bytes_sent < len(ENDLESS)


def test_a_server_that_writes_as_much_as_it_reads_does_not_deadlock(post: Post, peer: Recorder) -> None:
    """10 MB of interim responses, and only then the final one, from a server that writes before it reads on."""
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: <" + b"x" * 4000 + b">\r\n\r\n"

    def script(talk: Talk) -> None:
        while not talk.whole and talk.receive(len(hint)):
            talk.send(hint)
        talk.send(OK)

    peer.script = script
    body = os.urandom(10_000_000)
    for closing in ("answered", "acked"):
        receipt = post(peer.url, body, closing=closing, timeout=PATIENCE, linger=PATIENCE, **peer.options)
        talk = peer.next()
        assert talk.body_hash.digest() == hashlib.sha256(body).digest()
        assert_receipt(receipt, bytes_sent=len(Request(peer.url).encode(body)))
        if closing == "answered":
            assert (receipt.delivery, receipt.status) == ("answered", 200)


def test_an_echo_does_not_deadlock(post: Post, peer: Recorder) -> None:
    """Its head comes early, and stops the body (RFC 9112 §9.5); its content may never be complete."""

    def script(talk: Talk) -> None:
        talk.receive_head()
        talk.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while talk.receive() and talk.send(bytes(65536)):
            pass

    peer.script = script
    clock = Clock()
    receipt = post(peer.url, bytes(10_000_000), closing="answered", timeout=PATIENCE, linger=SHORT, **peer.options)
    assert (receipt.delivery, receipt.status) == ("answered", 200)
    assert clock() < SHORT + LATE


def test_a_flood_while_sending_does_not_outlast_the_deadline(post: Post, peer: Recorder) -> None:
    def script(talk: Talk) -> None:
        talk.receive_head()
        had_head.append(clock())
        while talk.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 3000):
            pass

    had_head: list[float] = []
    peer.script = script
    for _ in range(10):
        clock = Clock()
        error = failure_of(post, peer.url, ENDLESS, closing="answered", timeout=DEADLINE, **peer.options)
        assert clock() < DEADLINE + LATE
        peer.next()
        if had_head[-1] < DEADLINE:  # otherwise a busy machine's handshake may have taken all of it
            break
    assert type(error) is SendError
    assert (error.phase, error.errno) == ("send", errno.ETIMEDOUT)


# --- bodies --------------------------------------------------------------------------------------------------------

BODY = os.urandom(8 << 20)


def pieces_of(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 100_003):
        yield body[start : start + 100_003]


@contextmanager
def as_bytes(body: bytes, path: Path) -> Iterator[bytes]:
    yield body


@contextmanager
def as_file(body: bytes, path: Path) -> Iterator[BinaryIO]:
    path.write_bytes(body)
    with path.open("rb") as file:
        yield file


@contextmanager
def as_generator(body: bytes, path: Path) -> Iterator[Iterator[bytes]]:
    yield pieces_of(body)


@pytest.mark.parametrize("form", [as_bytes, as_file, as_generator])
@pytest.mark.parametrize("closing", [None, "acked", "answered"])
def test_large_bodies_arrive_whole(
    post: Post, peer: Recorder, closing: str | None, form: Callable[[bytes, Path], Any], tmp_path: Path
) -> None:
    with form(BODY, tmp_path / "body") as data:
        receipt = post(peer.url, data, closing=closing, timeout=PATIENCE, linger=PATIENCE, **peer.options)
    talk = peer.next()
    assert talk.whole
    assert talk.body_hash.digest() == hashlib.sha256(BODY).digest()
    assert talk.end == "FIN"
    assert_receipt(receipt, bytes_sent=len(talk.data))
    assert (talk.header("Transfer-Encoding") == "chunked") == (form is as_generator)


class Watched(io.FileIO):
    """A file that notes how much memory this process has while it is read."""

    peak = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.peak = max(self.peak, resident_memory())
        return super().read(size) or b""


@pytest.mark.parametrize("version", [None, ssl.TLSVersion.TLSv1_3], ids=["plain", "TLS1.3"])
def test_a_file_of_200_mb_takes_little_memory(
    post_alone: PostAlone,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
    version: ssl.TLSVersion | None,
    tmp_path: Path,
) -> None:
    size = 200_000_000
    path = tmp_path / "sparse"
    with path.open("wb") as sparse:
        sparse.truncate(size)
    context = None if version is None else server_context(authority, version)
    with recording(keep=False, context=context) as peer, Watched(path) as file:
        memory = resident_memory()
        receipt = post_alone(
            peer.url, file, closing="answered", timeout=PATIENCE, ssl_context=trusting if context else None
        )
        talk = peer.next()
    assert receipt.delivery == "answered"
    assert (talk.body_length, talk.whole) == (size, True)
    assert file.peak - memory < 20 << 20


def test_a_generator_of_200_mb_takes_little_memory(post: Post) -> None:
    memory = resident_memory()
    peak = 0

    def generate() -> Iterator[bytes]:
        nonlocal peak
        for _ in range(200):
            peak = max(peak, resident_memory())
            yield bytes(1_000_000)

    with recording(keep=False) as peer:
        receipt = post(peer.url, generate(), closing="answered", timeout=PATIENCE)
        talk = peer.next()
    assert receipt.delivery == "answered"
    assert (talk.body_length, talk.whole) == (200_000_000, True)
    assert peak - memory < 20 << 20


@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_a_slow_reader_gets_everything(post: Post, closing: str) -> None:
    def script(talk: Talk) -> None:
        while not talk.whole and talk.receive(4096):
            talk.dawdle(0.001)
        talk.send(NO_CONTENT)

    with recording(script=script, receive_buffer=NARROW) as peer:
        post(peer.url, UNACKED, closing=closing, timeout=PATIENCE, linger=PATIENCE)
        talk = peer.next()
    assert talk.body == UNACKED
    assert talk.end == "FIN"


# --- local failures after the first byte ---------------------------------------------------------------------------


def assert_cut_off(talk: Talk) -> None:
    """Nothing that the peer saw looks like the end of a request."""
    assert talk.request is not None
    assert not talk.whole
    assert not talk.close_notify
    assert talk.end == "RST"


@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_a_file_that_shrinks_ends_in_a_reset(post: Post, peer: Recorder, closing: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    os.truncate(path, len(ENDLESS))

    def script(talk: Talk) -> None:
        talk.receive_head()
        os.truncate(path, 1_000_000)

    peer.script = script
    with path.open("rb", buffering=0) as file:
        error = failure_of(post, peer.url, file, closing=closing, timeout=PATIENCE, **peer.options)
    assert_error(error, SendError, "send", "shrank", where=peer.address, cause=EOFError)
    assert 0 < error.bytes_sent < len(ENDLESS)
    assert_cut_off(peer.next())


def failing_after(piece: bytes, failure: Any) -> Iterator[bytes]:
    yield piece
    if isinstance(failure, BaseException):
        raise failure
    yield failure


@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_an_iterable_that_raises_ends_in_a_reset(post: Post, peer: Recorder, closing: str) -> None:
    failure = ValueError("the disk is on fire")
    error = failure_of(post, peer.url, failing_after(SMALL, failure), closing=closing, **peer.options)
    assert_error(error, SendError, "send", "the disk is on fire", where=peer.address, cause=ValueError)
    assert error.__cause__ is failure
    assert error.bytes_sent > len(SMALL)
    assert_cut_off(peer.next())


def test_an_iterable_that_yields_str_ends_in_a_reset(post: Post, peer: Recorder) -> None:
    error = failure_of(post, peer.url, failing_after(SMALL, "text"), **peer.options)
    assert type(error) is SendError
    assert error.phase == "send"
    assert "str" in str(error)
    assert_cut_off(peer.next())


@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_what_is_no_exception_passes_as_itself_and_resets(post: Post, peer: Recorder, closing: str) -> None:
    failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        post(peer.url, failing_after(SMALL, failure), closing=closing, **peer.options)
    assert caught.value is failure
    assert_cut_off(peer.next())


@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_a_deadline_in_the_middle_of_the_body_ends_in_a_reset(post: Post, peer: Recorder, closing: str) -> None:
    def script(talk: Talk) -> None:
        talk.receive_head()
        had_head.append(clock())
        assert returned.wait(PATIENCE)

    had_head: list[float] = []
    peer.script = script
    for _ in range(10):
        with gate() as returned:
            clock = Clock()
            error = failure_of(post, peer.url, ENDLESS, closing=closing, timeout=DEADLINE, **peer.options)
            took = clock()
        talk = peer.next()
        assert DEADLINE <= took < DEADLINE + LATE
        if had_head[-1] < DEADLINE:  # otherwise a busy machine's handshake may have taken all of it
            break
    assert_error(error, SendError, "send", "timed out", where=peer.address, cause=TimeoutError, number=errno.ETIMEDOUT)
    assert 0 < error.bytes_sent < len(ENDLESS)
    assert_cut_off(talk)


def test_http_servers_application_gets_no_truncated_body(post: Post, http_server: HttpServer, tmp_path: Path) -> None:
    path = tmp_path / "log"

    class Shrinks(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size) or b""
            self.truncate(0)
            return piece

    path.write_bytes(bytes(1_000_000))
    with Shrinks(path, "r+b") as file:
        error = failure_of(post, http_server.url, file, closing="now")
    assert type(error) is SendError
    assert isinstance(http_server.failed.get(timeout=PATIENCE), ConnectionResetError)
    assert http_server.served.empty()


# --- KeyboardInterrupt, by a real signal ---------------------------------------------------------------------------


@contextmanager
def interrupted(once: Callable[[], object]) -> Iterator[None]:
    """Send SIGINT to the main thread once something is a fact; the block must end in KeyboardInterrupt.

    A signal that comes when Python has looked for signals, and is about to wait in the kernel, does not end that wait:
    another one does. However many it takes, they are one interrupt.
    """

    def interrupt() -> None:
        if sys.platform == "win32":
            raise NotImplementedError
        once()
        while not heeded.is_set():
            signal.pthread_kill(main, signal.SIGINT)
            heeded.wait(0.1)

    def heed(*_: object) -> None:
        if not heeded.is_set():
            heeded.set()
            raise KeyboardInterrupt

    main, heeded = threading.main_thread().ident or 0, threading.Event()
    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, heed)
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the signal may come after the call that should have waited
            thread.start()
            try:
                yield
            finally:
                thread.join()
    finally:
        signal.signal(signal.SIGINT, before)


@unix
def test_an_interrupt_while_sending_resets(post: Post, peer: Recorder) -> None:
    with gate() as returned, gate() as stuck:

        def script(talk: Talk) -> None:
            talk.receive_head()
            stuck.set()
            assert returned.wait(PATIENCE)

        peer.script = script
        with interrupted(lambda: stuck.wait(PATIENCE)):
            post(peer.url, ENDLESS, timeout=PATIENCE, **peer.options)
        returned.set()
        assert_cut_off(peer.next())


@unix
@pytest.mark.parametrize("closing", ["acked", "answered"])
def test_an_interrupt_while_waiting_for_the_closing_closes(post_alone: PostAlone, closing: str) -> None:
    with recording(receive_buffer=NARROW) as peer, gate() as reads:
        peer.script = reads_once(reads)
        with interrupted(lambda: until(lambda: unread_by(peer), "bytes that wait to be read")):
            post_alone(peer.url, UNACKED, closing=closing, linger=PATIENCE)
        reads.set()
        talk = peer.next()
    assert talk.end is not None
    assert talk.whole or talk.end == "RST"


def unread_by(peer: Recorder) -> bool:
    return bool(peer.talks and select.select([peer.talks[0].socket], [], [], 0)[0])


@unix
def test_an_interrupt_in_the_handshake_closes(post: Post, recorder: Recorder, trusting: ssl.SSLContext) -> None:
    recorder.script = never_answers
    with interrupted(lambda: until(lambda: recorder.talks and recorder.talks[0].raw, "ClientHello")):
        post(recorder.url.replace("http", "https"), SMALL, ssl_context=trusting, timeout=PATIENCE)
    talk = recorder.next()
    assert b"POST" not in talk.raw


@linux
def test_an_interrupt_while_connecting_closes(post: Post) -> None:
    with black_hole() as hole:

        def on_the_way() -> bool:
            connections = psutil.Process().net_connections("tcp")
            return (
                sum(bool(c.raddr) and c.raddr[:2] == hole and c.status == psutil.CONN_SYN_SENT for c in connections)
                == 2
            )

        with interrupted(lambda: until(on_the_way, "a second SYN, beside black_hole()'s own")):
            post(f"http://{hole[0]}:{hole[1]}/", SMALL, timeout=PATIENCE)


# --- errors before the first byte ----------------------------------------------------------------------------------


def test_refused(post: Post) -> None:
    port = refusing_port()
    error = failure_of(post, f"http://127.0.0.1:{port}/", SMALL)
    assert_error(
        error,
        ConnectError,
        "connect",
        "refused",
        "nothing listens there",
        where=("127.0.0.1", port),
        cause=ConnectionRefusedError,
        number=errno.ECONNREFUSED,
    )


@unix
def test_a_unix_socket_that_is_not_there(post: Post, tmp_path: Path) -> None:
    path = tmp_path / "none"
    error = failure_of(post, "http://localhost/", SMALL, connect_to=path)
    assert_error(
        error,
        ConnectError,
        "connect",
        str(path),
        "check the path",
        where=("localhost", 80),
        cause=FileNotFoundError,
        number=errno.ENOENT,
    )


@unix
def test_a_unix_socket_with_a_full_backlog_times_out_or_is_served(post: Post, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(path)
        listener.listen(0)
        filler = stack.enter_context(socket.socket(AF_UNIX))
        filler.connect(path)
        clock = Clock()
        error = failure_of(post, "http://localhost/", SMALL, connect_to=path, timeout=0.3)
        assert 0.3 <= clock() < 0.3 + LATE
        assert_error(
            error,
            ConnectError,
            "connect",
            where=("localhost", 80),
            cause=TimeoutError,
            number=errno.ETIMEDOUT,
        )
        with ThreadPoolExecutor() as pool:
            call = pool.submit(post, "http://localhost/", SMALL, connect_to=path, timeout=PATIENCE)
            stack.enter_context(listener.accept()[0])
            assert call.result(PATIENCE).delivery == "sent"


@linux
def test_connect_timeout(post: Post) -> None:
    with black_hole() as hole:
        clock = Clock()
        error = failure_of(post, f"http://{hole[0]}:{hole[1]}/", SMALL, timeout=0.3)
        took = clock()
    assert 0.3 <= took < 0.3 + LATE
    assert_error(
        error,
        ConnectError,
        "connect",
        "timed out",
        "raise timeout",
        where=hole,
        cause=TimeoutError,
        number=errno.ETIMEDOUT,
    )


def over_tls(peer: Recorder) -> str:
    """Return the https URL of a peer that speaks plain TCP."""
    return peer.url.replace("http:", "https:")


def test_handshake_timeout(post: Post, recorder: Recorder, trusting: ssl.SSLContext) -> None:
    recorder.script = never_answers
    clock = Clock()
    error = failure_of(post, over_tls(recorder), SMALL, ssl_context=trusting, timeout=0.3)
    took = clock()
    assert 0.3 <= took < 0.3 + LATE
    assert_error(
        error,
        ConnectError,
        "handshake",
        "timed out",
        where=recorder.address,
        cause=TimeoutError,
        number=errno.ETIMEDOUT,
    )
    assert recorder.next().raw[0] == 22, "a ClientHello and nothing else"


def test_handshake_that_drips_does_not_outlast_the_deadline(
    post: Post, recorder: Recorder, trusting: ssl.SSLContext
) -> None:
    def script(talk: Talk) -> None:
        talk.receive()
        while talk.send(b"\x16\x03\x03\x00\x01\x00"):  # handshake records of one byte each
            talk.dawdle(0.01)

    recorder.script = script
    clock = Clock()
    error = failure_of(post, over_tls(recorder), SMALL, ssl_context=trusting, timeout=0.3)
    assert clock() < 0.3 + LATE
    assert (type(error), error.phase) == (ConnectError, "handshake")


def test_handshake_reset(post: Post, recorder: Recorder, trusting: ssl.SSLContext) -> None:
    def script(talk: Talk) -> None:
        talk.receive()
        talk.reset()

    recorder.script = script
    error = failure_of(post, over_tls(recorder), SMALL, ssl_context=trusting)
    assert_error(
        error,
        ConnectError,
        "handshake",
        "reset",
        where=recorder.address,
        cause=ConnectionResetError,
        number=errno.ECONNRESET,
    )


def test_handshake_ended_by_the_peer(post: Post, recorder: Recorder, trusting: ssl.SSLContext) -> None:
    def script(talk: Talk) -> None:
        talk.receive()
        talk.half_close()

    recorder.script = script
    error = failure_of(post, over_tls(recorder), SMALL, ssl_context=trusting)
    assert_error(error, ConnectError, "handshake", where=recorder.address, cause=ssl.SSLError)


def test_plain_http_on_the_port(post: Post, recorder: Recorder, trusting: ssl.SSLContext) -> None:
    def script(talk: Talk) -> None:
        talk.receive()
        talk.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    recorder.script = script
    error = failure_of(post, over_tls(recorder), SMALL, ssl_context=trusting)
    assert_error(error, ConnectError, "handshake", "is it http://?", where=recorder.address, cause=ssl.SSLError)
    assert SMALL not in recorder.next().raw


# --- certificates --------------------------------------------------------------------------------------------------


def expired(authority: trustme.CA, context: ssl.SSLContext) -> None:
    now = datetime.now(timezone.utc)
    authority.issue_cert(
        "127.0.0.1", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1)
    ).configure_cert(context)


def of_another_name(authority: trustme.CA, context: ssl.SSLContext) -> None:
    authority.issue_cert("rawfnf.test", "127.0.0.9").configure_cert(context)


def of_another_authority(authority: trustme.CA, context: ssl.SSLContext) -> None:
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)


def self_signed(authority: trustme.CA, context: ssl.SSLContext) -> None:
    import ipaddress
    import tempfile

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "self")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    with tempfile.NamedTemporaryFile() as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)


CERTIFICATES = [
    (expired, "expired", "renew"),
    (of_another_name, "IP address mismatch", "that the certificate holds"),
    (of_another_authority, "certificate", "pass an ssl_context that trusts"),
    (self_signed, "self", "pass an ssl_context that trusts it"),
]


@pytest.mark.parametrize(("certify", "says", "remedy"), CERTIFICATES)
def test_no_request_byte_leaves_before_the_certificate_is_verified(
    post: Post,
    *,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    certify: Callable[[trustme.CA, ssl.SSLContext], None],
    says: str,
    remedy: str,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = tls_version
    certify(authority, context)
    with recording(context=context, script=never_answers) as peer:
        error = failure_of(post, peer.url, SMALL, ssl_context=trusting)
        talk = peer.next()
    assert_error(
        error,
        ConnectError,
        "handshake",
        "certificate not trusted",
        says,
        remedy,
        where=peer.address,
        cause=ssl.SSLCertVerificationError,
    )
    assert talk.data == b""
    assert talk.tls_error is not None, "the alert tells the server why"
    assert "ALERT" in str(talk.tls_error)
    # ClientHello, and an alert of at most 40 bytes (perhaps behind TLS 1.3's change_cipher_spec of 6).
    assert len(talk.raw) - (5 + int.from_bytes(talk.raw[3:5], "big")) <= 46


def test_the_name_is_the_urls_wherever_the_connection_goes(
    post: Post, authority: trustme.CA, trusting: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    context = server_context(authority, tls_version, "rawfnf.test")
    with recording(context=context) as peer:
        options: dict[str, Any] = {"connect_to": peer.address, "ssl_context": trusting}
        error = failure_of(post, "https://other.test/", SMALL, **options)
        assert_error(
            error,
            ConnectError,
            "handshake",
            "Hostname mismatch",
            "use a name that the certificate holds",
            where=("other.test", 443),
            cause=ssl.SSLCertVerificationError,
        )
        assert peer.next().data == b""
        assert post("https://rawfnf.test/", SMALL, closing="answered", **options).status == 204


def test_the_default_context_does_not_trust_a_private_authority(post: Post, tls_recorder: Recorder) -> None:
    error = failure_of(post, tls_recorder.url, SMALL)
    assert type(error) is ConnectError
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    assert "pass an ssl_context that trusts" in str(error)
    assert tls_recorder.next().data == b""


def test_the_default_context_speaks_no_tls_1_1(post: Post, authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            context.set_ciphers("ALL:@SECLEVEL=0")
        except (ssl.SSLError, ValueError) as error:
            pytest.skip(f"this OpenSSL has no TLS 1.1: {error}")
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with recording(context=context, script=never_answers) as peer:
        failure = failure_of(post, peer.url, SMALL)
        assert peer.next().data == b""
    assert_error(failure, ConnectError, "handshake", "version", where=peer.address, cause=ssl.SSLError)


def test_http_to_a_tls_port_gets_no_answer(post_alone: PostAlone, tls_recorder: Recorder) -> None:
    def script(talk: Talk) -> None:
        talk.shake_hands()
        talk.half_close()

    tls_recorder.script = script
    error = failure_of(
        post_alone, tls_recorder.url.replace("https", "http"), SMALL, closing="answered", linger=PATIENCE
    )
    assert_error(error, SendError, "close", where=tls_recorder.address, cause=Exception)
    assert tls_recorder.next().tls_error is not None


def demanding(authority: trustme.CA, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Make a server's context that asks for a client certificate, which no client here has."""
    context = server_context(authority, version)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("closing", [None, "acked", "answered"])
def test_a_missing_client_certificate_is_never_told_as_an_answer(
    post: Post, authority: trustme.CA, trusting: ssl.SSLContext, closing: str | None
) -> None:
    """In TLS 1.3 the client is done, and has sent, before the server looks at its certificate."""
    with recording(context=demanding(authority, ssl.TLSVersion.TLSv1_3), script=never_answers) as peer:
        try:
            receipt = post(peer.url, SMALL, closing=closing, linger=PATIENCE, ssl_context=trusting)
        except SendError as error:
            outcome: tuple[str, object] = (error.phase, "certificate" in str(error))
        else:
            outcome = (receipt.delivery, receipt.status)
        # The alert may come after "acked", or has reset the connection before it could be read.
        refused = {("close", True), ("reset", None)}  # as post() raises it, and as a Sender counts it
        assert outcome in (refused if closing == "answered" else refused | {("send", True), ("acked", None)})
        assert peer.next().data == b""


def test_a_missing_client_certificate_fails_the_handshake_of_tls_1_2(
    post: Post, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    with recording(context=demanding(authority, ssl.TLSVersion.TLSv1_2), script=never_answers) as peer:
        error = failure_of(post, peer.url, SMALL, ssl_context=trusting)
        assert peer.next().data == b""
    assert_error(error, ConnectError, "handshake", where=peer.address, cause=ssl.SSLError)


def test_a_client_certificate_is_presented(post: Post, authority: trustme.CA, tls_version: ssl.TLSVersion) -> None:
    mine = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(mine)
    authority.issue_cert("client@rawfnf.test").configure_cert(mine)
    with recording(context=demanding(authority, tls_version)) as peer:
        assert post(peer.url, SMALL, closing="answered", ssl_context=mine).status == 204


# --- what a process runs out of ------------------------------------------------------------------------------------


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process open `count` more descriptors."""
    if sys.platform == "win32":
        raise NotImplementedError
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(count + 1)]
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@unix
def test_out_of_descriptors(post_waiting: Post) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, descriptors_left(0):
        where = listener.getsockname()
        error = failure_of(post_waiting, f"http://127.0.0.1:{where[1]}/", SMALL)
        assert_error(
            error,
            ConnectError,
            "connect",
            "out of descriptors",
            "ulimit -n",
            where=where,
            cause=OSError,
            number=errno.EMFILE,
        )


@unix
@pytest.mark.parametrize("closing", ["now", "answered"])
def test_out_of_descriptors_when_it_comes_to_waiting(post_waiting: Post, closing: str) -> None:
    """The socket is the last descriptor: none is left for a selector."""
    with socket.create_server(("127.0.0.1", 0)) as listener, descriptors_left(1):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        error = failure_of(post_waiting, url, ENDLESS, closing=closing, timeout=1)
        assert type(error) is SendError, repr(error)
        assert (error.host, error.port) == listener.getsockname()
        assert (error.phase, error.errno) == ("send", errno.EMFILE)
        assert error.bytes_sent > 0


@unix
def test_out_of_descriptors_when_it_comes_to_waiting_for_the_handshake(
    post_waiting: Post, trusting: ssl.SSLContext
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = listener.getsockname()
        url = f"https://127.0.0.1:{where[1]}/"
        failure_of(post_waiting, url, SMALL, ssl_context=trusting, timeout=0.1)  # loads modules: they are files
        with descriptors_left(1):
            error = failure_of(post_waiting, url, SMALL, ssl_context=trusting, timeout=1)
    assert_error(
        error, ConnectError, "handshake", "out of descriptors", where=where, cause=OSError, number=errno.EMFILE
    )


def test_a_source_port_that_is_taken(post: Post, recorder: Recorder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error = failure_of(post, recorder.url, SMALL, source_address=taken.getsockname())
    assert_error(
        error,
        ConnectError,
        "connect",
        "source_address is taken",
        where=recorder.address,
        cause=OSError,
        number=errno.EADDRINUSE,
    )


def test_a_source_address_of_another_machine(post: Post, recorder: Recorder) -> None:
    error = failure_of(post, recorder.url, SMALL, source_address="192.0.2.1")
    assert_error(
        error,
        ConnectError,
        "connect",
        "not this machine's",
        where=recorder.address,
        cause=OSError,
        number=errno.EADDRNOTAVAIL,
    )


def test_an_unreadable_file_touches_no_network(post: Post, recorder: Recorder, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        error = failure_of(post, recorder.url, file)
    assert type(error) is RequestError
    assert error.phase == "request"
    assert "cannot be read" in str(error)
    assert recorder.talks == []


# --- what needs a process of its own -------------------------------------------------------------------------------

ALONE = """
import json, sys
import rawfnf

def told(call):
    try:
        return list(call())
    except rawfnf.RawfnfError as error:
        cause = type(error.__cause__).__name__
        return {"kind": type(error).__name__, "phase": error.phase, "host": error.host, "port": error.port,
                "errno": error.errno, "cause": cause, "message": str(error)}

"""


def python(code: str, *arguments: object, before: tuple[str, ...] = ()) -> Any:
    """Run code in a Python of its own, and return what it printed last, as JSON."""
    done = subprocess.run(
        [*before, sys.executable, "-W", "error", "-c", ALONE + code, *map(str, arguments)],
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        capture_output=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr.decode())
    assert done.stderr == b""
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def alone() -> tuple[str, ...]:
    """What to put before a command to run it in a network namespace without any network."""
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    command = ("unshare", "--net")
    try:
        done = subprocess.run([*command, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the command unshare (util-linux)")
    if done.returncode != 0:
        pytest.skip(f"needs root (CAP_SYS_ADMIN): {done.stderr.decode()}")
    return command


def test_unreachable(alone: tuple[str, ...]) -> None:
    error = python('print(json.dumps(told(lambda: rawfnf.post("http://192.0.2.1:81/", b""))))', before=alone)
    assert "192.0.2.1:81" in error["message"]
    assert "no route leads there" in error.pop("message")
    assert error == {
        "kind": "ConnectError",
        "phase": "connect",
        "host": "192.0.2.1",
        "port": 81,
        "errno": errno.ENETUNREACH,
        "cause": "OSError",
    }


def test_unresolvable(alone: tuple[str, ...]) -> None:
    error = python('print(json.dumps(told(lambda: rawfnf.post("http://rawfnf.invalid/", b""))))', before=alone)
    assert "cannot resolve rawfnf.invalid:80" in error.pop("message")
    assert error.pop("errno") in {socket.EAI_AGAIN, socket.EAI_NONAME, socket.EAI_FAIL}
    assert error == {
        "kind": "ConnectError",
        "phase": "resolve",
        "host": "rawfnf.invalid",
        "port": 80,
        "cause": "gaierror",
    }


def test_out_of_local_ports(alone: tuple[str, ...]) -> None:
    code = """
import socket, subprocess
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
    file.write("40000 40001")
listener = socket.create_server(("127.0.0.1", 80))
held = []
try:
    while len(held) < 100:
        held.append(socket.create_connection(listener.getsockname()))
except OSError:
    pass
error = told(lambda: rawfnf.post("http://127.0.0.1/", b""))
for sock in (listener, *held):
    sock.close()
print(json.dumps([len(held), error]))
"""
    held, error = python(code, before=alone)
    assert held in {1, 2}
    assert "127.0.0.1:80" in error["message"]
    assert "no free local port" in error.pop("message")
    assert error == {
        "kind": "ConnectError",
        "phase": "connect",
        "host": "127.0.0.1",
        "port": 80,
        "errno": errno.EADDRNOTAVAIL,
        "cause": "OSError",
    }


@unix
@pytest.mark.parametrize("body", ["bytes(64 << 20)", "(bytes(1 << 20) for _ in range(64))"])
def test_a_reset_peer_kills_no_process_that_has_sigpipe_at_its_default(recorder: Recorder, body: str) -> None:
    def script(talk: Talk) -> None:
        talk.receive_head()
        talk.half_close()  # a reset behind a FIN is EPIPE, and that is what comes with SIGPIPE
        talk.reset()

    recorder.script = script
    code = f"""
import signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
print(json.dumps([told(lambda: rawfnf.post(sys.argv[1], {body}, closing=c)) for c in ("now", "acked")]))
"""
    for error in python(code, recorder.url):
        assert (error["kind"], error["phase"], error["errno"]) == ("SendError", "send", errno.EPIPE)


@unix
def test_post_works_after_a_fork(peer: Recorder, authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    code = """
import os, ssl
context = ssl.create_default_context(cafile=sys.argv[2]) if sys.argv[1].startswith("https") else None
def post(body):
    return rawfnf.post(sys.argv[1], body, closing="answered", ssl_context=context).status
statuses = [post(b"before")]
child = os.fork()
if child == 0:
    os._exit(post(b"child") % 100)
statuses += [os.waitpid(child, 0)[1] >> 8, post(b"parent")]
print(json.dumps(statuses))
"""
    assert python(code, peer.url, tmp_path / "authority.pem") == [204, 4, 204]
    # The order in which connections have ended is nobody's promise.
    assert sorted(bytes(peer.next().body) for _ in range(3)) == [b"before", b"child", b"parent"]


# --- where to ------------------------------------------------------------------------------------------------------


def test_connect_to_keeps_the_urls_host(post: Post, recorder: Recorder) -> None:
    receipt = post("http://rawfnf.test:81/path", SMALL, connect_to=recorder.address)
    talk = recorder.next()
    assert talk.header("Host") == "rawfnf.test:81"
    assert talk.data.startswith(b"POST /path HTTP/1.1\r\n")
    assert_receipt(receipt, peer=recorder.address)


def test_connect_to_keeps_the_urls_server_name(post: Post, tls_recorder: Recorder) -> None:
    post("https://rawfnf.test/", SMALL, connect_to=tls_recorder.address, **tls_recorder.options)
    talk = tls_recorder.next()
    assert talk.body == SMALL
    assert talk.header("Host") == "rawfnf.test"
    assert tls_recorder.sni == ["rawfnf.test"]


def test_connect_to_may_be_a_name(post: Post, recorder: Recorder) -> None:
    receipt = post("http://rawfnf.test/", SMALL, connect_to=("localhost", recorder.port))
    assert_receipt(receipt, peer=recorder.address)
    assert recorder.next().header("Host") == "rawfnf.test"


def test_an_address_is_no_server_name(post: Post, tls_recorder: Recorder) -> None:
    post(tls_recorder.url, SMALL, **tls_recorder.options)
    assert tls_recorder.next().body == SMALL
    assert tls_recorder.sni == [None], "RFC 6066 §3"


@unix
def test_a_unix_socket_keeps_the_urls_host(post: Post, unix_recorder: Recorder) -> None:
    unix_recorder.script = never_answers  # an answer that is not read makes a Unix socket's close() a reset
    receipt = post("http://rawfnf.test:81/", SMALL, **unix_recorder.options)
    talk = unix_recorder.next()
    assert talk.body == SMALL
    assert talk.end == "FIN"
    assert talk.header("Host") == "rawfnf.test:81"
    assert receipt.delivery == "sent"
    assert_receipt(receipt, peer=unix_recorder.address)


@unix
@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_tls_goes_over_a_unix_socket_as_well(
    post: Post,
    *,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    tmp_path: Path,
    closing: str,
) -> None:
    path, context = str(tmp_path / "s"), server_context(authority, tls_version)
    with recording(family=AF_UNIX, address=path, context=context) as peer:
        receipt = post("https://rawfnf.test/", BODY, connect_to=path, closing=closing, ssl_context=trusting)
        talk = peer.next()
    assert talk.body == BODY
    assert talk.close_notify
    assert peer.sni == ["rawfnf.test"]
    assert_receipt(receipt, peer=path, tls_version=talk.tls_version)


@linux
def test_source_address_is_what_the_peer_sees(post: Post, recorder: Recorder) -> None:
    post(recorder.url, SMALL, source_address="127.0.0.2")
    assert recorder.next().client[0] == "127.0.0.2"
    post(recorder.url, SMALL, source_address=("127.0.0.3", 0))
    assert recorder.next().client[0] == "127.0.0.3"


@needs_ipv6
@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_ipv6(post: Post, closing: str) -> None:
    with recording(family=socket.AF_INET6, address=("::1", 0)) as peer:
        receipt = post(peer.url, SMALL, closing=closing, source_address="::1")
        talk = peer.next()
    assert talk.body == SMALL
    assert talk.header("Host") == f"[::1]:{peer.port}"
    assert_receipt(receipt, peer=("::1", peer.port))


@needs_ipv6
def test_tls_over_ipv6(
    post: Post, authority: trustme.CA, trusting: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    with recording(family=socket.AF_INET6, address=("::1", 0), context=server_context(authority, tls_version)) as peer:
        post(peer.url, SMALL, ssl_context=trusting)
        assert peer.next().body == SMALL


def test_a_name_may_have_an_address_where_nobody_listens(post: Post, recorder: Recorder) -> None:
    """Here localhost is 127.0.0.1, and on most machines ::1 before that."""
    assert_receipt(post(f"http://localhost:{recorder.port}/", SMALL), peer=recorder.address)
    assert recorder.next().body == SMALL


# --- many ----------------------------------------------------------------------------------------------------------


def test_http_server_gets_what_was_posted(post: Post, http_server: HttpServer) -> None:
    receipt = post(http_server.url + "path?q=1", json={"a": [1, 2]}, headers={"X-Field": "value"}, closing="answered")
    served = http_server.next()
    assert receipt.status == 200
    assert (served.path, served.body) == ("/path?q=1", b'{"a":[1,2]}')
    assert (served.headers["X-Field"], served.headers["Content-Type"]) == ("value", "application/json")


def test_eight_threads_post_at_once(post_waiting: Post, peer: Recorder) -> None:
    bodies = [str(number).encode() * 1000 for number in range(160)]
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda body: post_waiting(peer.url, body, closing="answered", **peer.options), bodies))
    assert {receipt.status for receipt in receipts} == {204}
    assert sorted(bytes(peer.next().body) for _ in bodies) == sorted(bodies)


@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_two_thousand_posts_leave_nothing_behind(post_alone: PostAlone, closing: str) -> None:
    """Descriptors and threads are counted behind every test (conftest.py)."""
    arrived = 0

    def serve() -> None:
        nonlocal arrived
        while True:
            sock, _ = listener.accept()
            with sock:
                request = sock.recv(65536)
                arrived += request.endswith(SMALL)
                sock.sendall(NO_CONTENT)
            if request.startswith(b"PUT"):
                return

    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        server = threading.Thread(target=serve)
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        for _ in range(2000):
            post_alone(url, SMALL, closing=closing)
        post_alone(url, b"", method="PUT", closing="answered")
        server.join()
    assert arrived == 2000
