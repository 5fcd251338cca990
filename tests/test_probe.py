"""probe(): what it sends, as the peer saw it, and what it makes of what the peer does."""

from __future__ import annotations

import io
import os
import signal
import socket
import ssl
import sys
import threading
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest

import rawfnf
from rawfnf import _advice, _pool, _probe
from tests.peers import (
    NARROW,
    NO_CONTENT,
    OK,
    PATIENCE,
    TOO_LARGE,
    UNACKED,
    answer_at_once,
    black_hole,
    closes_without_answer,
    never_answers,
    recording,
    refusing_port,
    server_context,
)

if TYPE_CHECKING:
    import trustme

    from tests.peers import Recorder, Script, Talk

LENGTH = b"Content-Length: 0\r\nConnection: close\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\n" + LENGTH


def says(answer: bytes, *, after: float = 0.0) -> Script:
    """Read a whole request, send these bytes `after` so many seconds, and close as `Connection: close` asks."""

    def script(talk: Talk) -> None:
        talk.receive_request()
        talk.dawdle(after)
        if talk.whole:
            talk.send(answer)
            talk.half_close()

    return script


def probed(peer: Recorder, data: Any = b"a body", **options: Any) -> rawfnf.Probe:
    if peer.script is answer_at_once:
        peer.script = says(NO_CONTENT)
    return rawfnf.probe(peer.url, data, **{"attempts": 3, "idle": 0.02, "linger": PATIENCE} | peer.options | options)


@pytest.fixture
def timeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no answer count as much sooner than usual: a busy machine may have held up the usual ones."""
    monkeypatch.setattr(_advice, "_SOONER", PATIENCE)


def in_turn(*scripts: Script) -> Script:
    """Follow the first script on the first connection, and so on; the last on all that follow."""

    def script(talk: Talk) -> None:
        scripts[min(talk.turn, len(scripts) - 1)](talk)

    return script


def answers_the_patient(talk: Talk) -> None:
    """Answer who has not ended within a while, as nginx does."""
    talk.receive_request()
    if talk.whole and not talk.ends_within(0.15):
        talk.send(OK)
    talk.half_close()


def gives_up_at_the_end(talk: Talk) -> None:
    """Wait for the client's end, and close without an answer, as nginx does to who has ended."""
    talk.receive_to_end()
    talk.half_close()


def posts(peer: Recorder, number: int) -> list[Talk]:
    """Return so many connections that carried a request."""
    return [talk for talk in (peer.next() for _ in range(number)) if talk.raw_length]


# --- what goes on the wire ------------------------------------------------------------------------------------------


def test_it_sends_the_same_request_each_way_and_once_beside_idle_connections(peer: Recorder) -> None:
    probe = probed(peer, json={"a": 1}, data=None, headers={"X-One": "1"}, params={"q": "2"}, method="PUT")
    talks = [talk for talk in (peer.next() for _ in range(12)) if talk.data]
    assert len(talks) == 10
    assert len({bytes(talk.data) for talk in talks}) == 1
    (line, *_, body) = bytes(talks[0].data).split(b"\r\n")
    assert (line, body) == (b"PUT /?q=2 HTTP/1.1", b'{"a":1}')
    assert probe.status == 204
    assert [way and (way.closing, way.posts, way.answered) for way in (probe.answered, probe.now, probe.acked)] == [
        ("answered", 3, 3),
        ("now", 3, 3),
        ("acked", 3, 3),
    ]


@pytest.mark.parametrize("closing", ["now", "acked"])
def test_a_half_close_is_what_the_closing_itself_puts_on_the_wire(peer: Recorder, closing: str) -> None:
    def answers_behind_the_end(talk: Talk) -> None:
        if talk.turn == turn:
            talk.receive_to_end()
            talk.send(OK)
            talk.half_close()
        else:
            says(OK)(talk)

    turn = {"now": 1, "acked": 2}[closing]
    peer.script = answers_behind_the_end
    probe = probed(peer, attempts=1, idle=0)
    talks = [peer.next() for _ in range(3)]
    (behind,) = [talk for talk in talks if talk is peer.talks[turn]]
    assert (behind.end, behind.whole, behind.reset_after_fin()) == ("FIN", True, False)
    assert behind.close_notify == (probe.tls is not None)
    way = probe.now if closing == "now" else probe.acked
    assert way is not None
    assert (way.answered, way.early, way.statuses) == (1, 0, {200: 1})


def test_a_file_and_an_iterable_are_sent_each_time(recorder: Recorder) -> None:
    probed(recorder, io.BytesIO(b"of a file"), attempts=1, idle=0)
    assert [bytes(talk.body) for talk in posts(recorder, 3)] == [b"of a file"] * 3
    probed(recorder, iter([b"in ", b"chunks"]), attempts=1, idle=0)
    talks = posts(recorder, 3)
    assert [(bytes(talk.body), talk.header("Transfer-Encoding")) for talk in talks] == [(b"in chunks", "chunked")] * 3


def test_no_idle_connection_is_opened_unasked(recorder: Recorder) -> None:
    probe = probed(recorder, idle=0)
    assert probe.idle is None
    assert "spares" not in (probe.code or "")
    assert len(recorder.talks) == 9


# --- what is made of it ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("timeless")
def test_who_keeps_everything_is_called_so(recorder: Recorder) -> None:
    probe = probed(recorder)
    assert probe.addresses == (probe.address,) == (recorder.address,)
    assert probe.round_trip is not None
    assert 0 < probe.round_trip < PATIENCE
    assert (probe.tls, probe.status, probe.location, probe.http2) == (None, 204, None, False)
    assert probe.meaning == "accepted"
    assert probe.idle is not None
    assert (probe.idle.held, probe.idle.closed, probe.idle.beside) == (2, False, True)
    assert probe.idle.seconds >= 0.02
    assert probe.code == f'sender = rawfnf.Sender("{recorder.url}", closing="answered", linger=20.0, spares=2)'
    assert probe.faster == tuple(
        f'rawfnf.post("{recorder.url}", data, linger=20.0, closing="{closing}")' for closing in ("now", "acked")
    )


def test_who_gives_up_at_our_end_is_found_out(peer: Recorder) -> None:
    peer.script = in_turn(*[answers_the_patient] * 2, gives_up_at_the_end)
    probe = probed(peer, attempts=2, idle=0)
    assert all(talk.whole for talk in peer.talks)
    assert probe.now is not None
    assert probe.acked is not None
    assert [way.answered for way in (probe.answered, probe.now, probe.acked)] == [2, 0, 0]
    assert probe.now.failures == probe.acked.failures == {"it closed without an answer": 2}
    assert [way.possible for way in (probe.answered, probe.now, probe.acked)] == [True, False, False]
    assert probe.acked.acked == 2
    assert probe.faster == ()


def test_who_answers_only_sometimes_is_told_by_numbers(recorder: Recorder) -> None:
    def resets(talk: Talk) -> None:
        talk.receive_request()
        talk.reset()

    recorder.script = in_turn(*[says(OK)] * 6, resets, says(OK), closes_without_answer, says(OK))
    probe = probed(recorder, attempts=5, idle=0)
    assert probe.now is not None
    assert (probe.now.posts, probe.now.answered, probe.now.possible) == (5, 3, False)
    assert probe.now.failures == {"Connection reset by peer": 1, "it closed without an answer": 1}
    assert "accepted 3 of 5" in _advice.report(probe)


def test_a_limit_that_is_met_ends_each_way_and_is_not_blamed_on_our_end(recorder: Recorder) -> None:
    recorder.script = in_turn(*[says(OK)] * 5, says(b"HTTP/1.1 429 Too Many Requests\r\n" + LENGTH))
    probe = probed(recorder, attempts=5, idle=0.02)
    assert len(recorder.talks) == 7  # nothing beside idle connections either
    assert probe.idle is None
    assert probe.answered.possible
    for way in (probe.now, probe.acked):
        assert way is not None
        assert (way.posts, way.answered, way.statuses, way.possible) == (1, 0, {429: 1}, None)
        assert "the 429 may be for a limit" in way.why
    report = _advice.report(probe)
    assert "change of mind" not in report
    assert "Not safe" not in report


def test_a_loss_behind_our_end_is_one_though_a_refusal_follows(recorder: Recorder) -> None:
    refuses = says(b"HTTP/1.1 429 Too Many Requests\r\n" + LENGTH)
    recorder.script = in_turn(*[says(OK)] * 3, closes_without_answer, refuses)
    probe = probed(recorder, attempts=3, idle=0)
    assert probe.now is not None
    assert (probe.now.posts, probe.now.statuses, probe.now.possible) == (2, {429: 1}, False)


def test_a_request_that_is_taken_only_once_is_sent_only_twice(recorder: Recorder) -> None:
    created, conflict = (says(b"HTTP/1.1 %b\r\n" % line + LENGTH) for line in (b"201 Created", b"409 Conflict"))
    recorder.script = in_turn(created, conflict)
    probe = probed(recorder, attempts=5, idle=0.02)
    assert len(recorder.talks) == 2
    assert (probe.answered[1:3], probe.answered.statuses) == ((2, 1), {201: 1, 409: 1})
    assert (probe.now, probe.acked, probe.idle, probe.faster) == (None, None, None, ())
    report = _advice.report(probe).splitlines()
    assert "Safe:" not in report
    assert "Safe, as far as it answers 2xx (here to 1 of 2 only):" in report
    assert "the 409 may be for a limit, or for a request that is taken once" in probe.answered.why


def test_an_answer_before_our_end_says_nothing_of_it() -> None:
    def answers_before_it_reads(talk: Talk) -> None:
        talk.receive_head()
        talk.send(OK)
        talk.dawdle(0.1)  # all is in the client's kernel, and cannot be acknowledged yet
        talk.receive_to_end()
        talk.half_close()

    with recording(receive_buffer=NARROW) as peer:
        peer.script = in_turn(says(OK), closes_without_answer, answers_before_it_reads)
        probe = probed(peer, UNACKED, attempts=1, idle=0)
        talks = [peer.next() for _ in range(3)]
    assert all(talk.whole for talk in talks)
    assert probe.now is not None
    assert probe.acked is not None
    assert (probe.now.possible, probe.acked.early, probe.acked.acked, probe.acked.possible) == (False, 1, 1, None)


def way(seconds: float | None, *, early: int = 0) -> _probe.Way:
    """Return what five answered requests would be, whose median took so many seconds."""
    return _probe.Way("now", 5, 5, early, None, seconds, {200: 5}, {}, None, "")


@pytest.mark.parametrize(
    ("usual", "sooner", "early", "distrusted"),
    [
        (0.3, 0.1, 0, True),
        (0.3, 0.2, 0, False),
        (0.006, 0.002, 0, False),  # what a busy machine does to anybody
        (0.3, 0.1, 1, False),  # an answer before our end says nothing of it
        (0.1, 0.3, 0, False),
    ],
)
def test_how_much_sooner_is_distrusted(usual: float, sooner: float, early: int, *, distrusted: bool) -> None:
    assert ("sooner" in _advice._lost(way(sooner, early=early), way(usual))) is distrusted


def test_an_answer_much_sooner_than_usual_is_distrusted(recorder: Recorder) -> None:
    recorder.script = in_turn(*[says(NO_CONTENT, after=0.3), says(OK), says(OK)] * 10)
    for _ in range(10):
        now = probed(recorder, attempts=1, idle=0).now
        if now is not None and (now.seconds or 0.0) < 0.1:  # otherwise the machine was busy, and it was not much sooner
            break
    assert now is not None
    assert (now.answered, now.possible) == (1, False)
    assert "sooner" in now.why


@pytest.mark.parametrize(("after", "closes"), [(0.0, True), (0.05, True), (None, False)])
def test_whether_it_closes_behind_its_answer_is_told(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, after: float | None, *, closes: bool
) -> None:
    def answers_and_closes(talk: Talk) -> None:
        talk.receive_request()
        talk.send(OK)
        if after is not None:
            talk.dawdle(after)
            talk.half_close()

    assert _probe._UNTIL_END >= 0.2, "servers that close take their time"
    if closes:  # its end comes, when a busy machine lets it
        monkeypatch.setattr(_probe, "_UNTIL_END", PATIENCE)
    recorder.script = answers_and_closes
    assert probed(recorder, attempts=1, idle=0).closes is closes


def test_an_idle_connection_that_the_server_closes_is_no_spare(recorder: Recorder) -> None:
    beside = threading.Event()

    def closes_idle(talk: Talk) -> None:
        assert beside.wait(PATIENCE)
        talk.dawdle(0.05)
        talk.half_close()

    def answers_beside(talk: Talk) -> None:
        talk.receive_request()
        beside.set()
        says(OK)(talk)

    recorder.script = in_turn(*[says(OK)] * 3, closes_idle, closes_idle, answers_beside)
    probe = probed(recorder, attempts=1, idle=PATIENCE)
    assert probe.idle is not None
    assert probe.idle.closed
    assert 0.04 < probe.idle.seconds < PATIENCE / 2
    assert "spares" not in (probe.code or "")


def test_an_idle_connection_that_holds_the_server_is_let_go(recorder: Recorder) -> None:
    recorder.script = in_turn(*[says(OK)] * 5, never_answers)
    probe = probed(recorder, attempts=1, idle=PATIENCE)
    assert probe.idle is not None
    assert not probe.idle.beside
    assert probe.idle.seconds < PATIENCE / 2
    assert "spares" not in (probe.code or "")


def test_a_request_beside_idle_connections_may_lose_its_syn(recorder: Recorder) -> None:
    def answers_after_the_kernels_second(talk: Talk) -> None:
        talk.receive_request()
        talk.dawdle(1.2)  # 1 s until the kernel sends a SYN again
        says(OK)(talk)

    recorder.script = in_turn(*[says(OK)] * 5, answers_after_the_kernels_second)
    probe = probed(recorder, attempts=1)
    assert probe.idle is not None
    assert probe.idle.beside
    assert "spares=2" in (probe.code or "")


def test_a_refusal_beside_idle_connections_is_not_said_to_be_their_doing(recorder: Recorder) -> None:
    recorder.script = in_turn(*[says(OK)] * 5, says(b"HTTP/1.1 429 Too Many Requests\r\n" + LENGTH))
    probe = probed(recorder, attempts=1)
    assert probe.idle is not None
    assert not probe.idle.beside
    assert "a limit was met" in " ".join(_advice.report(probe).split())
    assert "spares" not in (probe.code or "")


@pytest.mark.usefixtures("timeless")
def test_a_unix_socket_has_no_round_trip(unix_recorder: Recorder) -> None:
    probe = probed(unix_recorder)
    assert (probe.address, probe.round_trip, probe.status) == (unix_recorder.address, None, 204)
    assert f'connect_to="{unix_recorder.address}"' in (probe.code or "")
    assert probe.now is not None
    assert probe.now.possible


# --- statuses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (303, "names no other URL"),
        (400, "body"),
        (401, "credentials"),
        (403, "may not"),
        (404, "path"),
        (405, "method"),
        (411, "Content-Length"),
        (413, "too large"),
        (415, "Content-Type"),
        (418, "refused"),
        (426, "HTTP/2"),
        (429, "too many"),
        (500, "application"),
        (503, "nobody"),
        (599, "failed"),
    ],
)
def test_a_refusal_is_explained_and_not_asked_for_twice(recorder: Recorder, status: int, said: str) -> None:
    recorder.script = says(b"HTTP/1.1 %d Whatever\r\n" % status + LENGTH)
    probe = probed(recorder)
    assert recorder.next().whole
    assert len(recorder.talks) == 1
    assert (probe.status, probe.now, probe.acked, probe.idle, probe.faster) == (status, None, None, None, ())
    assert said in probe.meaning
    assert "lose every post" in probe.meaning
    assert 'closing="answered"' in (probe.code or "")
    assert "once it answers 2xx" in _advice.report(probe)


def test_a_body_that_is_refused_early_is_told(peer: Recorder) -> None:
    def refuses(talk: Talk) -> None:
        talk.receive_head()
        talk.send(TOO_LARGE)

    peer.script = refuses
    probe = probed(peer, bytes(32 << 20))
    assert (probe.status, probe.answered.posts) == (413, 1)


@pytest.mark.parametrize(
    ("target", "leads", "code"),
    [
        (b"https://elsewhere.test/x", "https://elsewhere.test/x", '"https://elsewhere.test/x"'),
        (b"/other", "{url}other", '"{url}other"'),
        (b"https://me:sesame@h.test/x?key=sesame", "https://***@h.test/x?***", "url"),
        (b"http://h.test/\xc2\x9b31m", "http://h.test/.31m", '"http://h.test/.31m"'),
        (b"http://[nonsense/", "http://[nonsense/", '"http://[nonsense/"'),
    ],
)
def test_a_redirect_says_where_to(recorder: Recorder, target: bytes, leads: str, code: str) -> None:
    recorder.script = says(b"HTTP/1.1 308 Permanent Redirect\r\nX: 1\r\nLocation: " + target + b"\r\n" + LENGTH)
    probe = probed(recorder)
    assert probe.location == leads.format(url=recorder.url)
    assert f"use {probe.location}, unless that is a page to log in" in probe.meaning
    assert (probe.code or "").startswith(f"sender = rawfnf.Sender({code.format(url=recorder.url)}, ")


@pytest.mark.parametrize(
    ("target", "with_what"), [(b"/x?key=sesame", "query"), (b"https://me:sesame@h.test/x", "credentials")]
)
def test_a_redirect_that_holds_what_is_not_shown_is_named_in_the_report(
    recorder: Recorder, target: bytes, with_what: str
) -> None:
    recorder.script = says(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: " + target + b"\r\n" + LENGTH)
    probe = probed(recorder, headers={"X-Key": "1"})
    report = _advice.report(probe)
    assert "sesame" not in report
    assert f"    # url: where it redirects to, with its {with_what}\n    # headers: what was given here" in report


def test_303_took_the_request_so_that_posts_go_on_where_they_went(unix_recorder: Recorder) -> None:
    unix_recorder.script = says(b"HTTP/1.1 303 See Other\r\nLocation: /result/17\r\n" + LENGTH)
    probe = probed(unix_recorder)
    assert len(unix_recorder.talks) == 1
    assert probe.location == f"{unix_recorder.url}result/17"
    assert f"it took the request, and shows what came of it at {probe.location}" in probe.meaning
    assert "go on posting to the URL that was given" in probe.meaning
    assert "lose every post" not in probe.meaning
    assert (probe.code or "").startswith(f'sender = rawfnf.Sender("{unix_recorder.url}", ')
    assert f'connect_to="{unix_recorder.address}"' in (probe.code or "")
    report = _advice.report(probe)
    assert "\nSafe, if that is no page to log in:\n" in report
    assert report.endswith("Nothing faster was tried.")


def test_a_redirect_behind_an_early_hint_is_seen(recorder: Recorder) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLocation: /no\r\n\r\n"
    recorder.script = says(
        hint + b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /yes\r\n" + LENGTH + b"Location: /no\r\n"
    )
    assert probed(recorder).location == f"{recorder.url}yes"


def test_a_server_that_never_answers_is_asked_once(recorder: Recorder) -> None:
    recorder.script = never_answers
    probe = probed(recorder, linger=0.1)
    assert (probe.status, probe.closes, probe.now) == (None, None, None)
    assert probe.meaning == (
        "no answer in 0.1 s: whether it keeps what it got cannot be told; ask again with --linger 30"
    )
    assert recorder.next().whole
    assert len(recorder.talks) == 1
    assert 'closing="answered"' in (probe.code or "")


def test_a_way_ends_at_the_first_silence() -> None:
    for _ in range(10):
        with recording(script=in_turn(*[says(OK)] * 3, never_answers)) as peer:
            probe = probed(peer, linger=0.2, idle=0)
        if probe.answered.answered == 3:  # otherwise a busy machine's answer came when linger was over
            break
    assert probe.answered.answered == 3
    assert probe.now is not None
    assert (probe.now.posts, probe.now.failures) == (1, {"no answer in 0.2 s": 1})


def test_an_end_without_an_answer_is_a_finding(peer: Recorder) -> None:
    peer.script = closes_without_answer
    probe = probed(peer)
    assert (probe.status, probe.answered.failures) == (None, {"it closed without an answer": 1})


@pytest.mark.parametrize(
    ("said", "http2"),
    [
        (b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80", True),  # SETTINGS
        (b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes(8), True),  # GOAWAY
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
    ],
)
def test_what_speaks_no_http1_cannot_be_sent_to(peer: Recorder, said: bytes, *, http2: bool) -> None:
    def speaks(talk: Talk) -> None:
        talk.receive_request()
        talk.send(said)
        talk.half_close()

    peer.script = speaks
    probe = probed(peer)
    assert (probe.status, probe.http2, probe.code) == (None, http2, None)
    assert ("HTTP/2 only" if http2 else "no HTTP/1 response") in probe.meaning
    assert "cannot send there" in _advice.report(probe)


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("timeless")
def test_tls_is_told_with_its_tickets(tls_recorder: Recorder, tls_version: ssl.TLSVersion) -> None:
    probe = probed(tls_recorder)
    assert probe.tls is not None
    assert probe.now is not None
    assert probe.acked is not None
    newer = tls_version is ssl.TLSVersion.TLSv1_3
    assert (probe.tls.version, probe.tls.alpn) == ("TLSv1.3" if newer else "TLSv1.2", None)
    assert probe.tls.tickets == (2 if newer else 0)
    assert probe.tls.not_after is not None
    assert probe.tls.not_after > datetime.now(timezone.utc)
    assert probe.now.answered == 3
    assert (probe.now.possible, probe.acked.possible) == (not newer, True)
    assert "ssl_context=ssl_context" in (probe.code or "")


def test_the_protocol_that_was_agreed_on_is_told(authority: trustme.CA) -> None:
    theirs, ours = server_context(authority, ssl.TLSVersion.TLSv1_3), ssl.create_default_context()
    theirs.set_alpn_protocols(["h2", "http/1.1"])
    ours.set_alpn_protocols(["http/1.1"])
    authority.configure_trust(ours)
    with recording(context=theirs, options={"ssl_context": ours}) as peer:
        probe = probed(peer, attempts=1, idle=0)
    assert probe.tls is not None
    assert probe.tls.alpn == "http/1.1"


def test_http2_that_was_agreed_on_is_told_though_the_server_is_silent(authority: trustme.CA) -> None:
    theirs, ours = server_context(authority, ssl.TLSVersion.TLSv1_3), ssl.create_default_context()
    theirs.set_alpn_protocols(["h2"])
    ours.set_alpn_protocols(["h2", "http/1.1"])
    authority.configure_trust(ours)
    with recording(context=theirs, options={"ssl_context": ours}) as peer:
        peer.script = never_answers
        probe = probed(peer, linger=0.1)
    assert (probe.status, probe.http2, probe.code) == (None, True, None)
    assert "HTTP/2 only" in probe.meaning


def test_an_unverified_certificate_has_no_end_that_is_known(tls_recorder: Recorder) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    probe = probed(tls_recorder, ssl_context=context, attempts=1, idle=0)
    assert probe.tls is not None
    assert probe.tls.not_after is None
    assert "not verified" in _advice.report(probe)


def test_a_certificate_that_is_not_trusted_is_an_error(tls_recorder: Recorder) -> None:
    with pytest.raises(rawfnf.ConnectError, match="not trusted"):
        probed(tls_recorder, ssl_context=ssl.create_default_context())
    assert tls_recorder.next().data == b""


# --- errors and arguments -------------------------------------------------------------------------------------------


def test_what_cannot_be_reached_is_an_error() -> None:
    with pytest.raises(rawfnf.ConnectError) as caught:
        rawfnf.probe(f"http://127.0.0.1:{refusing_port()}/")
    assert (caught.value.phase, caught.value.bytes_sent) == ("connect", 0)
    with black_hole() as (host, port), pytest.raises(rawfnf.ConnectError, match="timed out"):
        rawfnf.probe(f"http://{host}:{port}/", timeout=0.05)
    with pytest.raises(rawfnf.ConnectError) as caught:
        rawfnf.probe("http://nobody.invalid/")
    assert caught.value.phase == "resolve"


def test_that_it_cannot_be_reached_any_more_is_a_finding(recorder: Recorder) -> None:
    def answers_and_leaves(talk: Talk) -> None:
        recorder._listener.shutdown(socket.SHUT_RDWR)  # close() lets an accept() that waits already take one more
        says(OK)(talk)

    recorder.script = answers_and_leaves
    probe = probed(recorder, attempts=1, timeout=0.5)
    assert probe.now is not None
    assert probe.now.answered == 0
    assert [*probe.now.failures] in (["Connection refused"], ["Connection reset by peer"], ["timed out"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"url": "ftp://h/"}, "ftp"),
        ({"attempts": 0}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"attempts": 2.0}, "attempts"),
        ({"attempts": 10_000}, "attempts"),
        ({"idle": -1}, "idle"),
        ({"idle": float("nan")}, "idle"),
        ({"linger": -1}, "linger"),
        ({"timeout": 0}, "timeout"),
        ({"data": b"", "json": 1}, "json"),
        ({"headers": {"Content-Length": "1"}}, "Content-Length"),
        ({"headers": 5}, "headers"),
        ({"connect_to": 5}, "connect_to"),
        ({"source_address": "nonsense"}, "source_address"),
    ],
)
def test_malformed_arguments_touch_no_network(recorder: Recorder, options: dict[str, Any], named: str) -> None:
    with pytest.raises(rawfnf.RequestError, match=named):
        rawfnf.probe(**{"url": recorder.url} | options)
    assert recorder.talks == []


def test_no_credential_is_shown(recorder: Recorder) -> None:
    url = recorder.url.replace("://", "://me:sesame@") + "?key=sesame"
    probe = rawfnf.probe(url, attempts=1, idle=0, headers={"X-Key": "sesame"}, params={"token": "sesame"})
    assert "sesame" not in repr(probe) + _advice.report(probe)
    assert probe.code == 'sender = rawfnf.Sender(url, closing="answered", params=params, headers=headers)'
    assert "# url, params, headers: what was given here" in _advice.report(probe)


@pytest.mark.skipif(sys.platform == "win32", reason="no signal interrupts a wait on Windows")
def test_an_interrupt_leaves_nothing_behind(peer: Recorder) -> None:
    def interrupts(talk: Talk) -> None:
        talk.receive_request()
        os.kill(os.getpid(), signal.SIGINT)

    peer.script = in_turn(*[says(OK)] * 4, interrupts)
    with pytest.raises(KeyboardInterrupt):
        probed(peer)
    assert all(peer.next().end for _ in range(5))  # and _nothing_left looks for descriptors


@pytest.mark.skipif(sys.platform == "win32", reason="no signal interrupts a wait on Windows")
def test_an_interrupt_lets_idle_connections_go(peer: Recorder) -> None:
    def interrupts(talk: Talk) -> None:
        talk.receive_request()
        if talk.whole:
            os.kill(os.getpid(), signal.SIGINT)

    peer.script = in_turn(*[says(OK)] * 3, interrupts)
    with pytest.raises(KeyboardInterrupt):
        probed(peer, attempts=1)
    assert all(peer.next().end for _ in range(6))


# --- the recommendation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, ""),
        ({"timeout": None}, ", timeout=None"),
        ({"method": "PUT"}, ', method="PUT"'),
        ({"auth": ("me", "sesame")}, ", auth=auth"),
        ({"headers": {"Content-Type": "text/plain"}}, ', headers={"Content-Type": "text/plain"}'),
        ({"headers": iter([(b"Accept", b"a'b")])}, ', headers={"Accept": "a\'b"}'),
        ({"headers": [("Accept", 'a"b')]}, ', headers={"Accept": \'a"b\'}'),
        ({"headers": [("Accept", "x"), ("X-Key", "sesame")]}, ", headers=headers"),
        ({"source_address": "127.0.0.1"}, ', source_address="127.0.0.1"'),
        ({"source_address": ("127.0.0.1", 0)}, ', source_address=("127.0.0.1", 0)'),
    ],
)
def test_the_line_to_paste_repeats_what_was_given(recorder: Recorder, options: dict[str, Any], said: str) -> None:
    probe = rawfnf.probe(recorder.url, attempts=1, idle=0, **options)
    assert probe.code == f'sender = rawfnf.Sender("{recorder.url}", closing="answered"{said})'


def test_the_line_to_paste_is_python(peer: Recorder) -> None:
    probe = probed(peer)
    names: dict[str, Any] = {"rawfnf": rawfnf, **peer.options}
    assert probe.code is not None
    exec(probe.code, names)
    with names["sender"] as sender:
        assert sender.post(b"a body")
        assert sender.flush(PATIENCE)
    assert sender.stats.answered == {204: 1}


@pytest.mark.usefixtures("timeless")
@pytest.mark.parametrize(
    ("attempts", "said"),
    [
        (1, "1 of 1 does not exclude a loss of up to 95 % (20: 14 %, 100: 3 %)"),
        (5, "5 of 5 does not exclude a loss of up to 45 % (20: 14 %, 100: 3 %)"),
        (20, "20 of 20 does not exclude a loss of up to 14 % (100: 3 %)"),
        (100, "100 of 100 does not exclude a loss of up to 3 %"),
    ],
)
def test_how_much_may_be_lost_unseen_is_told_by_numbers(recorder: Recorder, attempts: int, said: str) -> None:
    probe = probed(recorder, attempts=attempts, idle=0)
    assert any(note.startswith(f"what is rare: {said}; more attempts") for note in probe.unseen)


def test_what_is_rare_is_told_only_of_what_looked_possible(recorder: Recorder) -> None:
    recorder.script = in_turn(says(OK), closes_without_answer)
    assert not any("rare" in note for note in probed(recorder, attempts=1, idle=0).unseen)


def test_that_a_spare_may_live_longer_than_was_watched_is_told(recorder: Recorder) -> None:
    probe = probed(recorder, attempts=1, idle=0.3)
    assert probe.idle is not None
    watched = f"whether idle connections live longer than the {probe.idle.seconds:.3g} s that were watched: "
    (note,) = (note for note in probe.unseen if note.startswith(watched))
    assert probe.idle.seconds >= 0.3
    assert "a spare may be 30 s old (--idle 30 tells)" in note
    assert _advice._LIFE == _pool._OLDEST
    assert not any("live longer" in note for note in probed(recorder, attempts=1, idle=0).unseen)


def test_the_report_fits_80_columns_but_for_code(peer: Recorder) -> None:
    probe = probed(
        peer, linger=PATIENCE + 0.25, headers={"X-A-Field-Of-Our-Own": "1"}, params={"a": "1"}, auth=("u", "p")
    )
    lines = _advice.report(probe).splitlines()
    code = [line.removeprefix("    ") for line in lines if len(line) > 80]
    assert len(code) == 1 + len(probe.faster)
    assert code == [probe.code, *probe.faster]
    assert {"  - ", "    "} < {line[:4] for line in lines}  # notes, and what is wrapped of them


@pytest.mark.usefixtures("timeless")
def test_the_report_says_what_its_words_stand_for(recorder: Recorder) -> None:
    lines = _advice.report(probed(recorder, attempts=1)).splitlines()
    row = lines.index("closing=    its values, and how the request fared with each:")
    ways = [line.split()[0] for line in lines[row + 1 : lines.index("", row)] if line[2] != " "]
    assert ways == ["answered", "now", "acked"]
    possible = lines.index("Looked possible too (but read what a client cannot see):")
    assert lines[possible + 3].startswith("    # data: the body")
