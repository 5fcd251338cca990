"""The servers of the delivery matrix that are written in Python: each takes whole bodies, over the TLS it was told."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest

from bench import certificates
from bench.payload import sized
from bench.processes import LOOPBACK
from bench.servers.base import Running, Server, Site
from bench.servers.python import PYTHON
from tests.peers import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.certificates import Certificates
    from bench.scenarios import TLSVersion

VERSIONS: dict[TLSVersion, ssl.TLSVersion] = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
SERVERS = {server.name: server for server in PYTHON}
# Linux holds back such bytes until more come, or the FIN. The servers run elsewhere, too.
MSG_MORE = int(getattr(socket, "MSG_MORE", 0))
KIB_100, MIB, MIB_8 = 100 << 10, 1 << 20, 8 << 20
# TLS 1.2 of two stands for that of the others: one by OpenSSL's configuration, one by a context of our own.
PLACES: list[tuple[str, TLSVersion | None]] = [
    *((server.name, None) for server in PYTHON),
    *((server.name, "1.3") for server in PYTHON if server.tls),
    ("uvicorn h11", "1.2"),
    ("gunicorn gthread", "1.2"),
]


class Started(NamedTuple):
    """A server that runs at a site."""

    site: Site
    running: Running

    def connection(self) -> HTTPConnection:
        if self.site.tls is None:
            return HTTPConnection(LOOPBACK, self.running.port, timeout=PATIENCE)
        context = ssl.create_default_context(cafile=self.site.certificates.authority)
        return HTTPSConnection(LOOPBACK, self.running.port, context=context, timeout=PATIENCE)

    def handled(self) -> list[str]:
        return self.site.handled.read_text().splitlines()


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.issue(tmp_path_factory.mktemp("certificates"), LOOPBACK)


@contextmanager
def started(name: str, folder: Path, issued: Certificates, tls: TLSVersion | None = None) -> Iterator[Started]:
    server: Server = SERVERS[name]
    if server.lacks:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(server.lacks)
    own = folder / "site"
    own.mkdir()
    site = Site(own, LOOPBACK, tls, issued, folder / "handled")
    with server.start(site) as running:
        assert processes(own)
        yield Started(site, running)
    until(lambda: not processes(own), "all its processes are gone")


def processes(folder: Path) -> list[int]:
    return [process.pid for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(folder)]


def line(body: bytes, number: int) -> str:
    return f"{number} {len(body)} {hashlib.sha256(body).hexdigest()}"


def post(connection: HTTPConnection, body: bytes) -> int:
    connection.request("POST", "/readings", body)
    with connection.getresponse() as response:
        response.read()
        return response.status


def post_half_closed(port: int, body: bytes, length: int) -> None:
    """Send a request with its FIN in the same segment, and wait until the server is through with the connection."""
    with socket.create_connection((LOOPBACK, port), PATIENCE) as client:
        head = f"POST /readings HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Length: {length}\r\n\r\n"
        client.sendall(head.encode() + body, MSG_MORE)
        client.shutdown(socket.SHUT_WR)
        while client.recv(1000):
            pass


@pytest.mark.parametrize(("name", "tls"), PLACES)
def test_it_handles_whole_bodies_and_leaves_no_process(
    name: str, tls: TLSVersion | None, tmp_path: Path, issued: Certificates
) -> None:
    bodies = {number: sized(number, 100 if number < 3 else MIB) for number in (1, 2, 3, 4)}
    with started(name, tmp_path, issued, tls) as server:
        for body in bodies.values():
            connection = server.connection()
            connection.connect()
            if isinstance(connection.sock, ssl.SSLSocket):
                assert connection.sock.version() == f"TLSv{tls}"
            assert post(connection, body) == 200
            connection.close()
        assert server.handled() == [line(body, number) for number, body in bodies.items()]
        if tls:
            refuses_the_other_version(server.running.port, "1.2" if tls == "1.3" else "1.3")
        assert server.running.logs[0].stat().st_size


def refuses_the_other_version(port: int, version: TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = VERSIONS[version]
    with socket.create_connection((LOOPBACK, port), PATIENCE) as client, pytest.raises(OSError, match=r"(?i)ssl|reset"):
        context.wrap_socket(client)


def test_http_server_is_an_upstream_for_connections_that_stay_and_bodies_in_chunks(
    tmp_path: Path, issued: Certificates
) -> None:
    bodies = [sized(2, MIB_8), sized(4, KIB_100)]
    with started("http.server", tmp_path, issued) as server:
        connection = server.connection()
        assert post(connection, bodies[0]) == 200
        kept = connection.sock
        parts = iter([bodies[1][:100], bodies[1][100:]])
        connection.request("POST", "/", parts, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        with connection.getresponse() as response:
            assert response.read() == b"ok"
        assert connection.sock is kept
        connection.close()
        assert server.handled() == [line(bodies[0], 2), line(bodies[1], 4)]


@pytest.mark.parametrize("name", ["http.server", "gunicorn sync", "uvicorn httptools"])
def test_a_body_that_was_cut_short_is_told_as_it_came(name: str, tmp_path: Path, issued: Certificates) -> None:
    with started(name, tmp_path, issued) as server:
        post_half_closed(server.running.port, sized(2, 60), 100)
        until(lambda: server.site.handled.exists() and server.handled(), "its handler has run")
        assert server.handled() == [line(sized(2, 60), 2)]


@pytest.mark.parametrize("name", ["FastAPI, awaits", "Django, awaits"])
def test_an_application_that_awaits_first_loses_a_request_with_an_early_fin(
    name: str, tmp_path: Path, issued: Certificates
) -> None:
    with started(name, tmp_path, issued) as server:
        post_half_closed(server.running.port, sized(2, 100), 100)
        # Awaits the same 2 ms, from later on: by its answer the handler of the first would have run.
        connection = server.connection()
        assert post(connection, sized(4, 100)) == 200
        connection.close()
        assert server.handled() == [line(sized(4, 100), 4)]
