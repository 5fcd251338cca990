"""What a probe reports of real servers, beside what their handlers did: the truth that no client sees.

Each test probes a server, and compares with the handlers that ran to their end. A line that the probe recommends is
then pasted, and everything that it posts must arrive.
"""

from __future__ import annotations

import os
import ssl
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

import rawfnf
from tests import servers
from tests.peers import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from tests.servers import Server

ATTEMPTS = 5
# All requests that a probe sends: each closing's, and one beside idle connections.
ALL = 3 * ATTEMPTS + 1
POSTS = 5


@pytest.fixture(scope="module")
def stack() -> Iterator[ExitStack]:
    """Stops the servers that a module's fixtures start."""
    with ExitStack() as made:
        yield made


def started(stack: ExitStack, server: AbstractContextManager[Server]) -> Server:
    try:
        return stack.enter_context(server)
    except servers.MissingError as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp


@pytest.fixture(scope="module")
def nginx(stack: ExitStack, folder: Any) -> Server:
    """Its defaults: it gives a request up when its client ends.

    It works for longer than an acknowledgement may take (40 ms, linux: TCP_DELACK_MIN): else an answer comes before it.
    """
    return started(stack, servers.nginx_proxy(folder("nginx"), work=0.1))


@pytest.fixture(scope="module")
def tolerant_nginx(stack: ExitStack, folder: Any) -> Server:
    """`proxy_ignore_client_abort on`."""
    return started(stack, servers.nginx_proxy(folder("tolerant"), ignore_abort=True))


@pytest.fixture(scope="module")
def puma(stack: ExitStack, folder: Any) -> Server:
    return started(stack, servers.puma(folder("puma")))


@pytest.fixture(scope="module")
def gunicorn_sync(stack: ExitStack, folder: Any) -> Server:
    """One worker, which serves one connection at a time."""
    return started(stack, servers.gunicorn(folder("sync")))


@pytest.fixture(scope="module")
def gunicorn_threads(stack: ExitStack, folder: Any) -> Server:
    return started(stack, servers.gunicorn(folder("threads"), "--threads", "4"))


@pytest.fixture(scope="module")
def uvicorn(stack: ExitStack, folder: Any) -> Server:
    return started(stack, servers.uvicorn(folder("uvicorn")))


@pytest.fixture(scope="module")
def go(stack: ExitStack, folder: Any) -> Server:
    return started(stack, servers.go(folder("go")))


@pytest.fixture(scope="module")
def http2_only(stack: ExitStack, folder: Any) -> Server:
    return started(stack, servers.http2_only(folder("http2")))


def probed(url: str, **options: Any) -> rawfnf.Probe:
    return rawfnf.probe(url, b"a body", attempts=ATTEMPTS, idle=0.1, timeout=PATIENCE, linger=PATIENCE, **options)


def possible(probe: rawfnf.Probe) -> tuple[bool | None, bool | None]:
    """Whether "now" and "acked" looked possible."""
    assert probe.now is not None
    assert probe.acked is not None
    return probe.now.possible, probe.acked.possible


def paste(probe: rawfnf.Probe, server: Server, posts: int = POSTS, **given: Any) -> None:
    """Do as the probe recommends: everything arrives, and is worked on to its end."""
    assert probe.code is not None
    names = {"rawfnf": rawfnf, **given}
    exec(probe.code, names)
    sender: Any = names["sender"]
    before = server.handled()
    with sender:
        for _ in range(posts):
            assert sender.post(b"a body")
        assert sender.flush(PATIENCE)
    assert server.handled() - before == posts
    assert sender.stats.answered == {200: posts}


def handled_all(server: Server, before: int, requests: int = ALL) -> None:
    until(lambda: server.handled() - before >= requests, "all handlers ran to their end")
    assert server.handled() - before == requests


def loses(probe: rawfnf.Probe, server: Server, before: int) -> None:
    """Nothing but the safe closing is recommended, and rightly so."""
    assert probe.status == 200
    assert probe.answered[:3] == ("answered", ATTEMPTS, ATTEMPTS)
    assert probe.answered.possible
    assert possible(probe) == (False, False)
    assert probe.faster == ()
    # The last request, beside idle connections, was answered: what was sent before it has had its time.
    assert ATTEMPTS + 1 <= server.handled() - before < ALL
    paste(probe, server)


def keeps(probe: rawfnf.Probe, server: Server, before: int) -> None:
    """Both fast closings look possible, and are."""
    assert probe.status == 200
    assert possible(probe) == (True, True)
    assert len(probe.faster) == 2
    handled_all(server, before)
    paste(probe, server)
    before = server.handled()
    for line in probe.faster:
        eval(line, {"rawfnf": rawfnf, "data": b"a body"})
    handled_all(server, before, len(probe.faster))


# --- proxies --------------------------------------------------------------------------------------------------------


def test_nginx_with_its_defaults_keeps_only_what_is_answered(nginx: Server) -> None:
    before = nginx.handled()
    probe = probed(nginx.url)
    loses(probe, nginx, before)
    assert probe.now is not None
    assert (probe.now.answered, probe.now.failures) == (0, {"it closed without an answer": ATTEMPTS})
    assert probe.idle is not None
    assert (probe.idle.closed, probe.idle.beside) == (False, True)
    assert "spares=2" in (probe.code or "")


def test_nginx_that_ignores_aborts_keeps_everything(tolerant_nginx: Server) -> None:
    before = tolerant_nginx.handled()
    keeps(probed(tolerant_nginx.url), tolerant_nginx, before)


def test_tickets_speak_against_now_though_the_probe_that_listens_is_answered(tolerant_nginx: Server) -> None:
    context = ssl.create_default_context(cafile=tolerant_nginx.cafile)
    before = tolerant_nginx.handled()
    probe = probed(tolerant_nginx.tls_url, ssl_context=context)
    handled_all(tolerant_nginx, before)
    assert probe.tls is not None
    assert (probe.tls.version, probe.tls.tickets) == ("TLSv1.3", 2)
    assert probe.now is not None
    assert probe.now.answered == ATTEMPTS
    assert "tickets" in probe.now.why
    assert possible(probe) == (False, True)
    paste(probe, tolerant_nginx, ssl_context=context)


def test_nginx_over_tls_loses_as_it_does_without(nginx: Server) -> None:
    context = ssl.create_default_context(cafile=nginx.cafile)
    probe = probed(nginx.tls_url, ssl_context=context)
    assert possible(probe) == (False, False)
    paste(probe, nginx, ssl_context=context)


# --- applications' servers ------------------------------------------------------------------------------------------


def test_puma_keeps_only_what_is_answered(puma: Server) -> None:
    """It looks for our end before it calls the application: a FIN that comes later, behind an acknowledgement, may do.

    So of "acked" the probe can say what it saw, in a race that load decides, and no more.
    """
    before = puma.handled()
    probe = probed(puma.url)
    assert probe.now is not None
    assert (probe.status, probe.now.possible, probe.answered.possible) == (200, False, True)
    assert all("now" not in line for line in probe.faster)
    assert ATTEMPTS + 1 <= puma.handled() - before < ALL
    paste(probe, puma)


def test_gunicorn_keeps_everything_but_an_idle_connection_holds_its_only_worker(gunicorn_sync: Server) -> None:
    before = gunicorn_sync.handled()
    probe = probed(gunicorn_sync.url)
    assert probe.idle is not None
    assert not probe.idle.beside
    assert "spares" not in (probe.code or "")
    # The request beside was sent, and is served once the idle connections are gone.
    keeps(probe, gunicorn_sync, before)


def test_gunicorn_with_threads_keeps_idle_connections_too(gunicorn_threads: Server) -> None:
    before = gunicorn_threads.handled()
    probe = probed(gunicorn_threads.url)
    assert probe.idle is not None
    assert probe.idle.beside
    keeps(probe, gunicorn_threads, before)


def test_uvicorn_works_on_but_cannot_tell_so_that_only_what_is_answered_is_called_safe(uvicorn: Server) -> None:
    before = uvicorn.handled()
    probe = probed(uvicorn.url)
    handled_all(uvicorn, before)
    assert possible(probe) == (False, False)
    assert "uvicorn" in (probe.now.why if probe.now else "")
    paste(probe, uvicorn)


def test_uvicorn_with_an_application_that_reads_late_keeps_only_what_is_answered(uvicorn: Server) -> None:
    before = uvicorn.handled()
    loses(probed(f"{uvicorn.url}late"), uvicorn, before)


def test_go_keeps_what_its_handler_works_on_whoever_waits(go: Server) -> None:
    before = go.handled()
    keeps(probed(go.url), go, before)


def test_an_answer_of_go_whose_handler_was_cancelled_gives_itself_away_by_its_haste(go: Server) -> None:
    before = go.handled()
    probe = probed(f"{go.url}heeds")
    assert probe.now is not None
    assert probe.now.answered == ATTEMPTS  # 200 each time, and none of them was worked on to its end
    assert "sooner" in probe.now.why
    loses(probe, go, before)
    assert any("handler ran to its end" in what for what in probe.unseen)


def test_a_server_of_http2_only_is_told_as_such(http2_only: Server) -> None:
    context = ssl.create_default_context(cafile=http2_only.cafile)
    context.set_alpn_protocols(["http/1.1"])
    probe = probed(http2_only.tls_url, ssl_context=context)
    assert (probe.status, probe.http2, probe.code, probe.faster) == (None, True, None, ())
    assert "HTTP/2" in probe.meaning
