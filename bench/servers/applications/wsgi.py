"""A WSGI application, as PEP 3333 has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.servers.applications.handled import handle

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read what CONTENT_LENGTH announces; the read gives less when the client is gone before."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    handle(body)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
