"""Servers that the delivery matrix has no rows of: what they do is for a probe to find out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench.servers.base import Running, Server, Site, free_port, path_of, running
from bench.servers.native import go
from bench.servers.python import gunicorn, row

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def s_server(site: Site) -> AbstractContextManager[Running]:
    """Run OpenSSL's own server: it refuses whoever does not offer HTTP/2 by ALPN, and goes no further than that."""
    port = free_port()
    version = f"-tls{site.tls}".replace(".", "_")
    listen, certificate = f"{site.address}:{port}", str(site.certificates.server)
    command = [path_of("openssl"), "s_server", "-accept", listen, version, "-www", "-alpn", "h2", "-cert", certificate]
    return running(site, command, port, "s_server")


HTTP2_ONLY = Server(
    "s_server",
    "OpenSSL's s_server, HTTP/2 alone",
    "application server",
    s_server,
    programs=("openssl",),
    install="Debian's openssl",
)
ONE_WORKER = row("gunicorn, one worker", "Gunicorn with one sync worker", gunicorn(), "gunicorn")
GO_SILENT = Server(
    "Go, silent",
    "Go's net/http, a handler that honours its request's context, and writes nothing once that is done",
    "application server",
    partial(go, honours=True, silent=True),
    programs=("go",),
    install="Debian's golang-go",
)
