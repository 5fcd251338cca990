"""_answer: a server's bytes, whole and in pieces → status, and when it is complete."""

from __future__ import annotations

import gzip
import itertools
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rawfnf._answer import DISCARDED, Answer, NotAnAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Outcome(NamedTuple):
    """What is known once bytes were received."""

    status: int | None
    complete: bool
    refused: bool = False


def outcome_of(pieces: Iterable[bytes], *, method: bytes = b"POST") -> Outcome:
    """Feed an answer piece by piece, b"" being EOF, until it is refused."""
    answer = Answer(method)
    try:
        for piece in pieces:
            answer.receive(piece)
    except NotAnAnswerError:
        return Outcome(answer.status, answer.complete, refused=True)
    return Outcome(answer.status, answer.complete)


def whole(data: bytes) -> list[bytes]:
    return [data] if data else []


def byte_by_byte(data: bytes) -> list[bytes]:
    return [bytes([octet]) for octet in data]


CUTS = pytest.mark.parametrize("cut", [whole, byte_by_byte])

OK = b"HTTP/1.1 200 OK\r\n"
GZIPPED = gzip.compress(b"hello", mtime=0)  # the same in every process, as the tests' names hold it

# method, bytes, and what they come to before EOF; EOF completes what is not
ANSWERS = [
    (b"POST", b"", Outcome(None, complete=False)),
    (b"POST", b"HTTP/1.1 ", Outcome(None, complete=False)),
    (b"POST", OK, Outcome(None, complete=False)),
    (b"POST", OK + b"Content-Length: 5\r\n", Outcome(None, complete=False)),
    # by length (RFC 9112 §6.3)
    (b"POST", OK + b"Content-Length: 0\r\n\r\n", Outcome(200, complete=True)),
    (b"POST", OK + b"Content-Length: 5\r\n\r\n", Outcome(200, complete=False)),
    (b"POST", OK + b"Content-Length: 5\r\n\r\nhell", Outcome(200, complete=False)),
    (b"POST", OK + b"Content-Length: 5\r\n\r\nhello", Outcome(200, complete=True)),
    (b"POST", OK + b"Content-Length: 5\r\n\r\nhello, and more", Outcome(200, complete=True)),
    (b"POST", OK + b"Content-Length: 5, 5\r\n\r\nhello", Outcome(200, complete=True)),
    (
        b"POST",
        OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(GZIPPED) + GZIPPED,
        Outcome(200, complete=True),
    ),
    # chunked
    (b"POST", OK + b"Transfer-Encoding: chunked\r\n\r\n", Outcome(200, complete=False)),
    (b"POST", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Outcome(200, complete=False)),
    (b"POST", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Outcome(200, complete=True)),
    (
        b"POST",
        OK + b"Transfer-Encoding: Chunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\nT: 1\r\n\r\n",
        Outcome(200, complete=True),
    ),
    # broken after the head: the answer is there, and over
    (b"POST", OK + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", Outcome(200, complete=True)),
    (b"POST", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello!!", Outcome(200, complete=True)),
    (b"POST", OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", Outcome(200, complete=True)),
    (b"POST", OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n: no trailer\r\n\r\n", Outcome(200, complete=True)),
    # until EOF
    (b"POST", OK + b"\r\n", Outcome(200, complete=False)),
    (b"POST", OK + b"\r\nhello", Outcome(200, complete=False)),
    (b"POST", OK + b"Connection: close\r\n\r\nhello", Outcome(200, complete=False)),
    (b"POST", b"HTTP/1.0 200 OK\r\n\r\nhello", Outcome(200, complete=False)),
    (b"POST", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", Outcome(200, complete=True)),
    # without content, whatever their fields say
    (b"POST", b"HTTP/1.1 204 No Content\r\n\r\n", Outcome(204, complete=True)),
    (b"POST", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Outcome(204, complete=True)),
    (b"POST", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Outcome(304, complete=True)),
    (b"HEAD", OK + b"Content-Length: 5\r\n\r\n", Outcome(200, complete=True)),
    (b"HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n", Outcome(200, complete=True)),
    (b"HEAD", OK + b"\r\n", Outcome(200, complete=True)),
    (b"GET", OK + b"Content-Length: 5\r\n\r\nhell", Outcome(200, complete=False)),
    (b"BREW", b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n", Outcome(418, complete=True)),
    # any final status is an answer
    (b"POST", b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", Outcome(302, complete=True)),
    (b"POST", b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", Outcome(413, complete=True)),
    (b"POST", b"HTTP/1.1 503 \r\nContent-Length: 0\r\n\r\n", Outcome(503, complete=True)),
    (b"POST", b"HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n", Outcome(503, complete=True)),  # IIS, nginx without a reason
    (b"POST", b"HTTP/1.1 799 Own\r\nContent-Length: 0\r\n\r\n", Outcome(799, complete=True)),
    (b"POST", b"HTTP/1.1 200 \xc3\xbc\r\nContent-Length: 0\r\nX: \xff\r\n\r\n", Outcome(200, complete=True)),
    (b"POST", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", Outcome(200, complete=True)),  # RFC 9112 §2.2: a bare LF
    # interim answers are skipped
    (b"POST", b"HTTP/1.1 100 Continue\r\n\r\n", Outcome(None, complete=False)),
    (b"POST", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", Outcome(None, complete=False)),
    (b"POST", b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", Outcome(200, complete=True)),
    (
        b"POST",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 50 + b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 500 Oops\r\n\r\n",
        Outcome(500, complete=False),
    ),
    (b"HEAD", b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"\r\n", Outcome(200, complete=True)),
]

# bytes that are no HTTP/1 response
REFUSED = [
    b"\n",
    b"\r\n\r\n",
    b"\0",
    b" HTTP/1.1 200 OK\r\n\r\n",
    b"hello\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    b"220 mail.example ESMTP\r\n\r\n",
    b"<html>\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80",  # an HTTP/2 server's SETTINGS
    b"\x15\x03\x03\x00\x02\x02\x46",  # a TLS alert
    b"HTTP/2 200 OK\r\n\r\n",
    b"HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 \r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 099 Low\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",  # nobody asked for it
    b"HTTP/1.1 100 Continue\r\n\r\nhello\r\n\r\n",
    OK + b"no field\r\n\r\n",
    OK + b"X : space before the colon\r\n\r\n",
    OK + b"X: \0\r\n\r\n",
    OK + b"Content-Length: five\r\n\r\n",
    OK + b"Content-Length: -5\r\n\r\n",
    OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    OK + b"Transfer-Encoding: gzip\r\n\r\n",
]


@CUTS
@pytest.mark.parametrize(("method", "data", "outcome"), ANSWERS)
def test_bytes_come_to_an_answer_however_they_are_cut(
    method: bytes, data: bytes, outcome: Outcome, cut: Callable[[bytes], list[bytes]]
) -> None:
    assert outcome_of(cut(data), method=method) == outcome
    answered = outcome.status is not None
    after_eof = Outcome(outcome.status, complete=answered, refused=not answered)
    assert outcome_of([*cut(data), b""], method=method) == after_eof


@CUTS
@pytest.mark.parametrize("data", REFUSED)
def test_bytes_that_are_no_response_are_refused_however_they_are_cut(
    data: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    assert outcome_of(cut(data)) == Outcome(None, complete=False, refused=True)


def test_an_end_without_an_answer_is_told_from_bytes_that_are_none() -> None:
    for before in ([], [b"HTTP/1.1 20"], [b"HTTP/1.1 100 Continue\r\n\r\n"]):
        answer = Answer(b"POST")
        for piece in before:
            answer.receive(piece)
        with pytest.raises(NotAnAnswerError, match="closed without an answer"):
            answer.receive(b"")
    with pytest.raises(NotAnAnswerError, match="no HTTP/1 response") as caught:
        Answer(b"POST").receive(b"\x15\x03\x03\x00\x02\x02\x46")
    assert str(caught.value).isprintable()


def test_what_was_refused_stays_refused() -> None:
    answer = Answer(b"POST")
    for data in (b"nonsense\r\n\r\n", OK + b"Content-Length: 0\r\n\r\n", b""):
        with pytest.raises(NotAnAnswerError):
            answer.receive(data)
    assert (answer.status, answer.complete) == (None, False)


def test_what_comes_behind_a_complete_answer_is_ignored() -> None:
    answer = Answer(b"POST")
    answer.receive(OK + b"Content-Length: 0\r\n\r\n")
    for data in (b"HTTP/1.1 500 Oops\r\n\r\n", b"\0nonsense", b"", b"x", b""):
        answer.receive(data)
    assert (answer.status, answer.complete) == (200, True)


@pytest.mark.parametrize("size", [1, 999, 1024, 16 * 1024, 64 * 1024])
@pytest.mark.parametrize(
    "head",
    [OK + b"\r\n", OK + b"Content-Length: 99999999999\r\n\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n"],
)
def test_endless_content_is_complete_at_64_kib(head: bytes, size: int) -> None:
    answer = Answer(b"POST")
    answer.receive(head)
    received = 0
    while not answer.complete:
        assert received < DISCARDED
        answer.receive(b"x" * size)
        received += size
    assert DISCARDED <= received < DISCARDED + size
    assert answer.status == 200
    assert DISCARDED == 64 * 1024


def in_kib(data: bytes) -> list[bytes]:
    return [data[start : start + 1024] for start in range(0, len(data), 1024)]


@pytest.mark.parametrize("cut", [whole, in_kib, byte_by_byte])
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 " + b"x" * 17 * 1024,
        OK + b"X: " + b"x" * 17 * 1024,
        OK + b"X: y\r\n" * 3000,
        b"HTTP/1.1 103 Early Hints\r\nX: " + b"x" * 17 * 1024,
    ],
)
def test_a_head_longer_than_16_kib_is_refused_however_it_is_cut(
    head: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    data = head + b"\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n"
    assert outcome_of(cut(data)) == Outcome(None, complete=False, refused=True)


@CUTS
def test_a_head_shorter_than_16_kib_is_read_however_it_is_cut(cut: Callable[[bytes], list[bytes]]) -> None:
    data = OK + b"X: " + b"x" * 15 * 1024 + b"\r\nContent-Length: 0\r\n\r\n"
    assert outcome_of(cut(data)) == Outcome(200, complete=True)


def test_answers_do_not_share_anything() -> None:
    one, other = Answer(b"POST"), Answer(b"POST")
    one.receive(OK)
    other.receive(b"HTTP/1.1 500 Oops\r\n")
    one.receive(b"Content-Length: 0\r\n\r\n")
    assert (one.status, one.complete) == (200, True)
    assert (other.status, other.complete) == (None, False)


PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 404 Not Found\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"X: y\r\n",
        b"\r\n",
        b"\n",
        b"3\r\nabc\r\n",
        b"0\r\n",
        b"0\r\n\r\n",
        b"abc",
        b":",
        b" ",
    ]
)
STREAMS = st.lists(PIECES | st.binary(max_size=4), max_size=10).map(b"".join) | st.binary(max_size=64)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([b"POST", b"HEAD"]), STREAMS, st.lists(st.integers(0, 200), max_size=8), st.booleans())
@example(b"POST", b"\r\n", [1], True)  # noqa: FBT003  # hypothesis wants its examples in order
def test_any_bytes_come_to_the_same_however_they_are_cut(
    method: bytes,
    data: bytes,
    cuts: list[int],
    ended: bool,  # noqa: FBT001  # drawn by hypothesis
) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [piece for start, end in itertools.pairwise(edges) if (piece := data[start:end])]
    eof = [b""] if ended else []
    outcome = outcome_of([*whole(data), *eof], method=method)
    assert outcome_of([*pieces, *eof], method=method) == outcome
    assert outcome_of([*byte_by_byte(data), *eof], method=method) == outcome
    if ended:
        assert outcome.complete != outcome.refused
    if outcome.status is not None:
        assert 200 <= outcome.status <= 999
        assert not outcome.refused


def test_what_is_remembered_of_an_answer_is_what_h11_says_of_it() -> None:
    """By method and by bytes, over and over, and beyond what is remembered."""
    for number in range(200):
        head = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\nX-Number: %d\r\n\r\n" % (400 + number, number)
        for _ in range(2):
            for method, data, complete in (
                (b"HEAD", head, True),
                (b"POST", head, False),
                (b"POST", head + b"ok", True),
            ):
                answer = Answer(method)
                answer.receive(data)
                assert (answer.status, answer.complete) == (400 + number, complete)
