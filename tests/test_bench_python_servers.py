"""The servers of the delivery matrix that are written in Python: each takes whole bodies, over the TLS it was told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.payload import sized
from bench.servers.python import PYTHON
from tests.peers import until
from tests.rows import MIB, line, started, validate

if TYPE_CHECKING:
    from bench.scenarios import TLSVersion

pytestmark = pytest.mark.campaign

SERVERS = {server.name: server for server in PYTHON}
KIB_100, MIB_8 = 100 << 10, 8 * MIB
# TLS 1.2 of two stands for that of the others: one by OpenSSL's configuration, one by a context of our own.
PLACES: list[tuple[str, TLSVersion | None]] = [
    *((server.name, None) for server in PYTHON),
    *((server.name, "1.3") for server in PYTHON if server.tls),
    ("uvicorn h11", "1.2"),
    ("gunicorn gthread", "1.2"),
]


@pytest.mark.parametrize(("name", "tls"), PLACES)
def test_it_handles_whole_bodies_and_leaves_no_process(name: str, tls: TLSVersion | None) -> None:
    with started(SERVERS[name], tls) as row:
        validate(row)
        assert row.running.logs[0].stat().st_size
    assert SERVERS[name].version()


def test_http_server_is_an_upstream_for_connections_that_stay_and_bodies_in_chunks() -> None:
    bodies = [sized(2, MIB_8), sized(4, KIB_100)]
    with started(SERVERS["http.server"]) as row:
        connection = row.connection()
        connection.request("POST", "/", bodies[0])
        with connection.getresponse() as response:
            assert response.read() == b"ok"
        kept = connection.sock
        parts = iter([bodies[1][:100], bodies[1][100:]])
        connection.request("POST", "/", parts, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        with connection.getresponse() as response:
            assert response.read() == b"ok"
        assert connection.sock is kept
        connection.close()
        assert row.handled() == [line(body) for body in bodies]


@pytest.mark.parametrize("name", ["http.server", "gunicorn sync", "uvicorn httptools"])
def test_a_body_that_was_cut_short_is_told_as_it_came(name: str) -> None:
    with started(SERVERS[name]) as row:
        row.post_half_closed(2, sent=60)
        until(row.handled, "its handler has run")
        assert row.handled() == [line(sized(2, 60))]


@pytest.mark.parametrize("name", ["FastAPI, awaits", "Django, awaits"])
def test_an_application_that_awaits_first_loses_a_request_with_an_early_fin(name: str) -> None:
    with started(SERVERS[name]) as row:
        row.post_half_closed(2)
        # Awaits the same 2 ms, from later on: by its answer the handler of the first would have run.
        second = row.post(4, 100)
        assert row.handled() == [second]
