"""What the contenders of `python -m bench` post, by real connections; how fast they are, is not asked.

What nobody may leave behind is watched by conftest.py: every descriptor and thread is gone after close().
"""

from __future__ import annotations

import asyncio
import inspect
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench import endpoint, in_loops, loggers, loopworker, worker
from bench.contenders import (
    AIOHTTP_CANCELLED,
    AIOHTTP_TRICK,
    CONTENDERS,
    HTTP_HANDLER,
    KNOWN,
    NO_POST,
    NOW,
    POST_HANDLER,
    QUEUE_HANDLER,
    SENDER_WITHOUT_SPARES,
    TRICK,
    measured_in,
)
from bench.payload import body, form_encoded, payload
from bench.scenarios import SCENARIOS, Scenario
from bench.ways import LINGER, Target, Way
from tests.peers import NO_CONTENT, Recorder, recording, refusing_port, server_context, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme

    from bench.contenders import Contender
    from bench.payload import Kind
    from tests.peers import Talk

PLAIN = Scenario("plain", "plain TCP")
POSTS = 5
SIZE = 64 << 10
# Whose posts raise in another thread or task, or go to logging's handleError(): no caller sees it.
SILENT = {"requests, thread", "aiohttp, task", "Sender, thread", HTTP_HANDLER.name}
IN_PYTHON = [known for known in CONTENDERS if known.make and known.family != "queue"]
FOR_EVERYTHING = [known for known in IN_PYTHON if known not in {POST_HANDLER, QUEUE_HANDLER}]


def named(contenders: list[Contender]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("contender", contenders, ids=[known.name for known in contenders])


def skip_unless_installed(contender: Contender) -> None:
    if contender.lacks:
        assert "CI" not in os.environ, contender.lacks
        pytest.skip(contender.lacks)


def answer_and_close(talk: Talk) -> None:
    """As a server does that says `Connection: close`: a client may wait for its end."""
    talk.receive_request()
    if talk.whole and talk.send(NO_CONTENT):
        talk.half_close()


@pytest.fixture(params=[None, ssl.TLSVersion.TLSv1_3], ids=["plain", "TLS1.3"])
def receiver(request: pytest.FixtureRequest, authority: trustme.CA) -> Iterator[Recorder]:
    context = server_context(authority, request.param) if request.param else None
    # It takes in what is sent at once: what is not on the wire yet is lost by those who close too early over TLS.
    with recording(context=context, script=answer_and_close, receive_buffer=8 * SIZE) as peer:
        yield peer


def target_of(peer: Recorder, cafile: Path) -> Target:
    tls = peer.url.startswith("https")
    return Target(f"{peer.url}there", peer.host, peer.port, "/there", tls, str(cafile))


async def post_from_loop(contender: Contender, target: Target, kind: Kind) -> list[str]:
    assert contender.make
    made = contender.make(target)
    assert inspect.isawaitable(made)
    way = await made
    assert (way.sender is not None) == bool(contender.sender_closes)
    errors = [(await loopworker.timed(way.post, body(number, kind))).error for number in range(POSTS)]
    await way.finish()
    await way.close()
    return errors


def post(contender: Contender, target: Target, kind: Kind) -> list[str]:
    """Post, as a worker does, and close; returns what was raised."""
    if contender.loop:
        loop = loopworker.new_loop(contender.loop)
        try:
            return loop.run_until_complete(post_from_loop(contender, target, kind))
        finally:
            loop.close()
    way = worker.prepared(worker.Assignment(contender.name, target, kind))
    assert (way.sender is not None) == bool(contender.sender_closes)
    errors = []
    for number in range(POSTS):
        way.between()
        errors.append(worker.timed(way.post, body(number, kind)).error)
    worker.settle(way)
    way.close()
    return errors


def expected(contender: Contender, kind: Kind, number: int) -> bytes:
    if isinstance(kind, int):
        return contender.sized(number, kind)
    return (form_encoded if kind == "form" else contender.body)(payload(number))


@pytest.mark.parametrize("kind", ["json", "form", SIZE])
@named(FOR_EVERYTHING)
def test_what_arrives_is_what_is_expected(contender: Contender, kind: Kind, receiver: Recorder, cafile: Path) -> None:
    skip_unless_installed(contender)
    target = target_of(receiver, cafile)
    assert set(post(contender, target, kind)) == {""}
    if not (contender.name.startswith("pycurl") and target.tls):  # of whose one millisecond a handshake takes two
        until(lambda: any(talk.whole for talk in receiver.talks), "nothing has arrived")
    bodies = {expected(contender, kind, number) for number in range(POSTS)}
    assert {bytes(talk.body) for talk in receiver.talks if talk.whole} <= bodies
    assert all(talk.request.target == b"/there" for talk in receiver.talks if talk.request)


@named([POST_HANDLER, QUEUE_HANDLER])
def test_handlers_post_what_is_expected_of_a_record(contender: Contender, receiver: Recorder, cafile: Path) -> None:
    assert set(post(contender, target_of(receiver, cafile), "json")) == {""}
    until(lambda: sum(talk.whole for talk in receiver.talks) == POSTS, "some have not arrived")
    arrived = {bytes(talk.body) for talk in receiver.talks if talk.whole}
    assert arrived == {expected(contender, "json", number) for number in range(POSTS)}


@named([known for known in FOR_EVERYTHING if known.name not in SILENT])
def test_only_the_timeout_that_is_the_trick_is_suppressed(contender: Contender) -> None:
    skip_unless_installed(contender)
    port = refusing_port()
    target = Target(f"http://127.0.0.1:{port}/", "127.0.0.1", port, "/", tls=False, cafile=None)

    async def raised() -> str:
        assert contender.make
        made = contender.make(target)
        if inspect.isawaitable(made):
            way = await made
            error = (await loopworker.timed(way.post, body(0, "json"))).error
            await way.close()
            return error
        plain = made if isinstance(made, Way) else Way(made)
        found = worker.timed(plain.post, body(0, "json")).error
        plain.close()
        return found

    # A machine that is busy for curl's one millisecond makes a timeout of it.
    assert any(asyncio.run(raised()) for _ in range(POSTS))


def test_a_body_of_a_given_size_begins_with_its_number_whoever_posts_it() -> None:
    for known in IN_PYTHON:
        assert known.sized(123, 100).startswith(b"0000000123")
        assert len(known.sized(123, SIZE)) == SIZE
        assert known.sized(1, SIZE) != known.sized(2, SIZE)


def test_a_handler_that_was_closed_hears_no_more(receiver: Recorder, cafile: Path) -> None:
    target = target_of(receiver, cafile)
    for _ in range(2):
        post(HTTP_HANDLER, target, "json")
    assert len(receiver.talks) == 2 * POSTS


def test_the_comparison_without_every_contender_is_the_one_of_the_readme() -> None:
    known = {name for scenario in SCENARIOS for name in measured_in(scenario, every=False) if name.core}
    assert known == {contender for contender in CONTENDERS if contender.core}
    assert not SENDER_WITHOUT_SPARES.core
    for scenario in SCENARIOS:
        alone, every = measured_in(scenario, every=False), measured_in(scenario, every=True)
        assert [each for each in every if each in alone] == alone
        assert all(each.core for each in alone)


def test_every_contender_is_measured_wherever_it_can_be() -> None:
    every = measured_in(PLAIN, every=True)
    left_out = {known.name for known in CONTENDERS if known.family != "queue"} - {known.name for known in every}
    assert left_out == {"rawfnf default", POST_HANDLER.name, QUEUE_HANDLER.name}
    large = measured_in(PLAIN._replace(kind=SIZE), every=True)
    assert {known.name for known in every} - {known.name for known in large} == {"C socket loop", "C send, open"}
    in_a_loop = measured_in(PLAIN._replace(within="asyncio"), every=True)
    assert {AIOHTTP_TRICK, AIOHTTP_CANCELLED} < set(in_a_loop)
    assert all(known.loop for known in in_a_loop)


def test_code_is_found_where_it_is_said_to_be() -> None:
    for known in KNOWN.values():
        name, _, line = known.code.partition(":")
        path = Path(endpoint.__file__).with_name(name)
        if known.make is None:
            assert path.exists()
            continue
        written = path.read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert f"def {known.make.__name__}(" in written
        assert known.says.endswith(".")
    assert AIOHTTP_TRICK.code.startswith(Path(in_loops.__file__).name)
    assert HTTP_HANDLER.code.startswith(Path(loggers.__file__).name)


def test_what_would_be_sent_to_a_users_endpoint_is_told_in_full() -> None:
    target = endpoint.target_of("http://127.0.0.1:9/there")
    plan = endpoint.plan(target, 3, "no C here", every=True)
    able = endpoint.contenders_for(target, "no C here", every=True)
    assert f"{3 * len(able)} POST requests" in plan
    assert all(known.name in plan for known in able)
    assert "C socket loop (missing: no C here)" in plan
    assert f"for up to {LINGER:g} s: rawfnf answered; HTTPHandler." in plan
    assert "requests, urllib3 and aiohttp follow a redirect" in plan
    few = endpoint.contenders_for(target, "no C here")
    assert {NOW, TRICK} < set(few) < set(able)
    assert NO_POST not in able
