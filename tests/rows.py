"""The servers of the delivery matrix as tests start them: each must take whole bodies, and leave no process behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import ssl
import tempfile
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest

from bench import certificates
from bench.payload import sized
from bench.places import OUTSIDE_CI
from bench.processes import LOOPBACK
from bench.servers.base import LATE, Running, Server, Site
from tests.peers import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.scenarios import TLSVersion

VERSIONS: dict[TLSVersion, ssl.TLSVersion] = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# Linux holds back such bytes until more come, or the FIN. The servers run elsewhere, too.
MSG_MORE = int(getattr(socket, "MSG_MORE", 0))
MIB = 1 << 20


def line(body: bytes) -> str:
    """Return the line that the handler of this body, which begins with its number, leaves at its end."""
    return f"{int(body[:10])} {len(body)} {hashlib.sha256(body).hexdigest()}"


class Row(NamedTuple):
    """A server that runs at a site."""

    site: Site
    running: Running

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self.site.tls else 'http'}://{LOOPBACK}:{self.running.port}/"

    @property
    def context(self) -> ssl.SSLContext | None:
        """What trusts its certificate; None over plain TCP."""
        return ssl.create_default_context(cafile=self.site.certificates.authority) if self.site.tls else None

    def connection(self) -> HTTPConnection:
        """Return the standard library's client."""
        if self.site.tls is None:
            return HTTPConnection(LOOPBACK, self.running.port, timeout=PATIENCE)
        return HTTPSConnection(LOOPBACK, self.running.port, context=self.context, timeout=PATIENCE)

    def post(self, number: int, size: int, path: str = "/") -> str:
        """Post by an ordinary exchange, in which all must be well; return the line that its handler should leave."""
        body = sized(number, size)
        connection = self.connection()
        connection.request("POST", path, body)
        if isinstance(connection.sock, ssl.SSLSocket):
            assert connection.sock.version() == f"TLSv{self.site.tls}"
        with connection.getresponse() as response:
            assert response.status == 200, response.read()
        connection.close()
        return line(body)

    def post_half_closed(self, number: int, path: str = "/", sent: int = 100) -> None:
        """Send a request with its FIN in the same segment, and wait until the server is through with the connection.

        It announces 100 bytes of body; so many of them are sent.
        """
        with socket.create_connection((LOOPBACK, self.running.port), PATIENCE) as client:
            head = f"POST {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Length: 100\r\n\r\n"
            client.sendall(head.encode() + sized(number, sent), MSG_MORE)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1000):
                pass

    def refuses(self, version: TLSVersion) -> bool:
        """Whether a handshake with this version of TLS alone fails."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = VERSIONS[version]
        with socket.create_connection((LOOPBACK, self.running.port), PATIENCE) as client:
            try:
                context.wrap_socket(client).close()
            except (ssl.SSLError, ConnectionError):
                return True
            return False

    def handled(self) -> list[str]:
        """Return the lines that handlers have left at their end."""
        return self.site.handled.read_text().splitlines() if self.site.handled.exists() else []

    def said(self, word: str, path: str) -> bool:
        """Whether a log has a line with this word about this request target."""
        logs = [log.read_text(errors="replace").splitlines() for log in self.running.logs if log.exists()]
        return any(word in line and path in line for lines in logs for line in lines)


@contextmanager
def started(server: Server, tls: TLSVersion | None = None, late: float = LATE) -> Iterator[Row]:
    """Start a server that this machine has; at the end none of its processes is left."""
    if server.lacks:
        required = os.environ.get("CI") and server.name not in OUTSIDE_CI
        (pytest.fail if required else pytest.skip)(server.lacks)
    # Not pytest's own folder: no other user may pass through that, and some servers change theirs.
    with tempfile.TemporaryDirectory(prefix="rawfnf-row-") as made:
        folder = Path(made)
        folder.chmod(0o711)
        (folder / "site").mkdir()
        issued = certificates.issue(folder, LOOPBACK)
        site = Site(folder / "site", LOOPBACK, tls, issued, folder / "handled", late=late)
        this = psutil.Process()
        others = this.children()
        with server.start(site) as running:
            own = [child for child in this.children() if child not in others]
            assert own
            yield Row(site, running)
            processes = own + [process for child in own for process in child.children(recursive=True)]
        until(lambda: not any(alive(process) for process in processes), "all its processes are gone")


def alive(process: psutil.Process) -> bool:
    """Whether it runs: who inherited it may never take notice of its end, as process 1 of some containers."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def check(server: Server, tls: TLSVersion | None) -> None:
    """Fail unless it handles whole bodies by this transport alone, and has a version."""
    with started(server, tls) as row:
        validate(row)
        assert server.version()


def validate(row: Row) -> None:
    """Fail unless it handles whole bodies, small and large, at once and late, by its own version of TLS alone."""
    wanted = [row.post(number, size) for size in (100, MIB) for number in (2, 3)]
    assert row.handled() == wanted
    if row.site.tls:
        assert row.refuses("1.2" if row.site.tls == "1.3" else "1.3")
