"""What a probe reports of real servers, beside what their handlers did: the truth that no client sees.

Each test probes a server, and compares with the handlers that ran to their end. A line that the probe recommends is
then pasted, and everything that it posts must arrive.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

import rawfnf
from bench.payload import sized
from bench.servers.catalogue import SERVERS
from tests.peers import PATIENCE, until
from tests.rows import Row, line, started
from tests.servers import GO_SILENT, HTTP2_ONLY, ONE_WORKER

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from bench.scenarios import TLSVersion

NAMED = {server.name: server for server in SERVERS}
# Seconds: a busy machine must double this in most of the attempts before an answer looks "much sooner" than usual, or
# take half of it before a hasty one does not; and an answer must not come before an acknowledgement, which may take
# 40 ms (linux: TCP_DELACK_MIN).
WORK = 0.15
# Odd numbers are worked on. Pasted posts have a number of their own: handlers of the probe's requests may still be at
# work while those are counted, and their lines must not be taken for these.
BODY, PASTED = sized(1, 100), sized(3, 100)
ATTEMPTS = 5
# All requests that a probe sends: each closing's, and one beside idle connections.
ALL = 3 * ATTEMPTS + 1
POSTS = 5


@pytest.fixture(scope="module")
def stack() -> Iterator[ExitStack]:
    """Stops the servers that a module's fixtures start."""
    with ExitStack() as made:
        yield made


def named(stack: ExitStack, name: str, tls: TLSVersion | None = None) -> Row:
    return stack.enter_context(started(NAMED[name], tls, WORK))


@pytest.fixture(scope="module")
def nginx(stack: ExitStack) -> Row:
    """Its defaults: it gives a request up when its client ends."""
    return named(stack, "nginx")


@pytest.fixture(scope="module")
def nginx_tls(stack: ExitStack) -> Row:
    return named(stack, "nginx", "1.3")


@pytest.fixture(scope="module")
def tolerant_nginx(stack: ExitStack) -> Row:
    """`proxy_ignore_client_abort on`."""
    return named(stack, "nginx, ignore_client_abort")


@pytest.fixture(scope="module")
def tolerant_nginx_tls(stack: ExitStack) -> Row:
    return named(stack, "nginx, ignore_client_abort", "1.3")


@pytest.fixture(scope="module")
def puma(stack: ExitStack) -> Row:
    return named(stack, "Puma")


@pytest.fixture(scope="module")
def gunicorn_sync(stack: ExitStack) -> Row:
    """One worker, which serves one connection at a time."""
    return stack.enter_context(started(ONE_WORKER, late=WORK))


@pytest.fixture(scope="module")
def gunicorn_threads(stack: ExitStack) -> Row:
    return named(stack, "gunicorn gthread")


@pytest.fixture(scope="module")
def uvicorn(stack: ExitStack) -> Row:
    return named(stack, "uvicorn h11")


@pytest.fixture(scope="module")
def fastapi(stack: ExitStack) -> Row:
    """It awaits before it reads: uvicorn then says that the client has gone, although it holds the body."""
    return named(stack, "FastAPI, awaits")


@pytest.fixture(scope="module")
def go(stack: ExitStack) -> Row:
    return named(stack, "Go, context ignored")


@pytest.fixture(scope="module")
def go_silent(stack: ExitStack) -> Row:
    """It gives up once nobody waits, and says nothing, which net/http makes a 200."""
    return stack.enter_context(started(GO_SILENT, late=WORK))


@pytest.fixture(scope="module")
def http2_only(stack: ExitStack) -> Row:
    return stack.enter_context(started(HTTP2_ONLY, "1.3"))


def probed(row: Row, context: ssl.SSLContext | None = None) -> rawfnf.Probe:
    return rawfnf.probe(
        row.url,
        BODY,
        attempts=ATTEMPTS,
        idle=0.1,
        timeout=PATIENCE,
        linger=PATIENCE,
        ssl_context=context or row.context,
    )


def handled(row: Row, body: bytes = BODY) -> int:
    """How many handlers of this body have run to their end; each had the whole body."""
    lines = row.handled()
    assert {line(BODY), line(PASTED)}.issuperset(lines)
    return lines.count(line(body))


def possible(probe: rawfnf.Probe) -> tuple[bool | None, bool | None]:
    """Whether "now" and "acked" looked possible."""
    assert probe.now is not None
    assert probe.acked is not None
    return probe.now.possible, probe.acked.possible


def paste(probe: rawfnf.Probe, row: Row) -> None:
    """Do as the probe recommends: everything arrives, and is worked on to its end."""
    assert probe.code is not None
    names = {"rawfnf": rawfnf, "ssl_context": row.context}
    exec(probe.code, names)
    sender: Any = names["sender"]
    before = handled(row, PASTED)
    with sender:
        for _ in range(POSTS):
            assert sender.post(PASTED)
        assert sender.flush(PATIENCE)
    assert handled(row, PASTED) - before == POSTS
    assert sender.stats.answered == {200: POSTS}


def handled_all(row: Row, before: int, requests: int = ALL) -> None:
    until(lambda: handled(row) - before >= requests, "all handlers ran to their end")
    assert handled(row) - before == requests


def loses(probe: rawfnf.Probe, row: Row, before: int) -> None:
    """Nothing but the safe closing is recommended, and rightly so."""
    assert probe.status == 200
    assert probe.answered[:3] == ("answered", ATTEMPTS, ATTEMPTS)
    assert probe.answered.possible
    assert possible(probe) == (False, False)
    assert probe.faster == ()
    paste(probe, row)
    assert_some_are_lost(row, before)


def assert_some_are_lost(row: Row, before: int) -> None:
    """Behind pasted posts, which were answered: that gave the handlers of the probe's requests their time."""
    assert ATTEMPTS + 1 <= handled(row) - before < ALL


def keeps(probe: rawfnf.Probe, row: Row, before: int) -> None:
    """Both fast closings look possible, and are."""
    assert probe.status == 200
    assert possible(probe) == (True, True)
    assert len(probe.faster) == 2
    handled_all(row, before)
    paste(probe, row)
    before = handled(row)
    for call in probe.faster:
        eval(call, {"rawfnf": rawfnf, "data": BODY})
    handled_all(row, before, len(probe.faster))


# --- proxies --------------------------------------------------------------------------------------------------------


def test_nginx_with_its_defaults_keeps_only_what_is_answered(nginx: Row) -> None:
    before = handled(nginx)
    probe = probed(nginx)
    loses(probe, nginx, before)
    assert probe.now is not None
    assert (probe.now.answered, probe.now.failures) == (0, {"it closed without an answer": ATTEMPTS})
    assert probe.idle is not None
    assert (probe.idle.closed, probe.idle.beside) == (False, True)
    assert "spares=2" in (probe.code or "")


def test_nginx_that_ignores_aborts_keeps_everything(tolerant_nginx: Row) -> None:
    before = handled(tolerant_nginx)
    keeps(probed(tolerant_nginx), tolerant_nginx, before)


def test_tickets_speak_against_now_though_the_probe_that_listens_is_answered(tolerant_nginx_tls: Row) -> None:
    before = handled(tolerant_nginx_tls)
    probe = probed(tolerant_nginx_tls)
    handled_all(tolerant_nginx_tls, before)
    assert probe.tls is not None
    assert (probe.tls.version, probe.tls.tickets) == ("TLSv1.3", 2)
    assert probe.now is not None
    assert probe.now.answered == ATTEMPTS
    assert "tickets" in probe.now.why
    assert possible(probe) == (False, True)
    paste(probe, tolerant_nginx_tls)


def test_nginx_over_tls_loses_as_it_does_without(nginx_tls: Row) -> None:
    probe = probed(nginx_tls)
    assert possible(probe) == (False, False)
    paste(probe, nginx_tls)


# --- applications' servers ------------------------------------------------------------------------------------------


def test_puma_keeps_only_what_is_answered(puma: Row) -> None:
    """It looks for our end before it calls the application: a FIN that comes later, behind an acknowledgement, may do.

    So of "acked" the probe can say what it saw, in a race that load decides, and no more.
    """
    before = handled(puma)
    probe = probed(puma)
    assert probe.now is not None
    assert (probe.status, probe.now.possible, probe.answered.possible) == (200, False, True)
    assert all("now" not in call for call in probe.faster)
    paste(probe, puma)
    assert_some_are_lost(puma, before)


def test_gunicorn_keeps_everything_but_an_idle_connection_holds_its_only_worker(gunicorn_sync: Row) -> None:
    before = handled(gunicorn_sync)
    probe = probed(gunicorn_sync)
    assert probe.idle is not None
    assert not probe.idle.beside
    assert "spares" not in (probe.code or "")
    # The request beside was sent, and is served once the idle connections are gone.
    keeps(probe, gunicorn_sync, before)


def test_gunicorn_with_threads_keeps_idle_connections_too(gunicorn_threads: Row) -> None:
    before = handled(gunicorn_threads)
    probe = probed(gunicorn_threads)
    assert probe.idle is not None
    assert probe.idle.beside
    keeps(probe, gunicorn_threads, before)


def test_uvicorn_works_on_but_cannot_tell_so_that_only_what_is_answered_is_called_safe(uvicorn: Row) -> None:
    before = handled(uvicorn)
    probe = probed(uvicorn)
    handled_all(uvicorn, before)
    assert possible(probe) == (False, False)
    assert "uvicorn" in (probe.now.why if probe.now else "")
    paste(probe, uvicorn)


def test_uvicorn_with_an_application_that_reads_late_keeps_only_what_is_answered(fastapi: Row) -> None:
    before = handled(fastapi)
    loses(probed(fastapi), fastapi, before)


def test_go_keeps_what_its_handler_works_on_whoever_waits(go: Row) -> None:
    before = handled(go)
    keeps(probed(go), go, before)


def test_an_answer_of_go_whose_handler_was_cancelled_gives_itself_away_by_its_haste(go_silent: Row) -> None:
    before = handled(go_silent)
    probe = probed(go_silent)
    assert probe.now is not None
    assert probe.now.answered == ATTEMPTS  # 200 each time, and none of them was worked on to its end
    assert "sooner" in probe.now.why
    loses(probe, go_silent, before)
    assert any("handler ran to its end" in what for what in probe.unseen)


def test_a_server_of_http2_only_is_told_as_such(http2_only: Row) -> None:
    context = http2_only.context
    assert context is not None
    context.set_alpn_protocols(["http/1.1"])
    probe = probed(http2_only, context)
    assert (probe.status, probe.http2, probe.code, probe.faster) == (None, True, None, ())
    assert "HTTP/2" in probe.meaning
