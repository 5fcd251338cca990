"""Every way of posting that is compared, each written the way its own documentation would write it.

A contender is a function of a `Target`; what can be prepared once (a Session, a TLS context) it prepares there, and
returns the function whose calls are timed.
"""
# The packages are imported where they are used: a worker is to load none but its own contender's.

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from .payload import Body, Payload, compact_json, spaced_json

if TYPE_CHECKING:
    import rawfnf

Post = Callable[[Body], "rawfnf.Receipt | None"]

# Longer than the slowest scenario's answer (5 s): "answered" is to be given the chance to be it.
LINGER = 10.0
# Read timeout of the requests trick; urllib3 hands it to poll(), which rounds it up to one millisecond.
TRICK_TIMEOUT = (None, 0.00001)


class Target(NamedTuple):
    """Where a worker posts to."""

    url: str
    host: str
    port: int
    path: str  # the request target
    tls: bool
    cafile: str | None  # None: the system's trust store

    def context(self) -> ssl.SSLContext | None:
        """Return a TLS client context that trusts the embedded receiver; None on plain TCP."""
        return ssl.create_default_context(cafile=self.cafile) if self.tls else None


def rawfnf_default(target: Target) -> Post:
    """rawfnf.post as the README shows it: closing now on TCP, acked over TLS."""
    import rawfnf

    context = target.context()
    return lambda body: rawfnf.post(target.url, **body, ssl_context=context)


def rawfnf_now(target: Target) -> Post:
    """Half-close and close as soon as the kernel has every byte."""
    import rawfnf

    context = target.context()
    return lambda body: rawfnf.post(target.url, **body, closing="now", ssl_context=context)


def rawfnf_acked(target: Target) -> Post:
    """Close once the peer's TCP has acknowledged every byte."""
    import rawfnf

    context = target.context()
    return lambda body: rawfnf.post(target.url, **body, closing="acked", ssl_context=context)


def rawfnf_answered(target: Target) -> Post:
    """Close once the server has answered."""
    import rawfnf

    context = target.context()
    return lambda body: rawfnf.post(target.url, **body, closing="answered", linger=LINGER, ssl_context=context)


def requests_trick(target: Target) -> Post:
    """Give up reading the answer at once: the approach that rawfnf is to replace."""
    import requests

    verify = target.cafile or True

    def post(body: Body) -> None:
        with contextlib.suppress(requests.exceptions.ReadTimeout):
            requests.post(target.url, **body, timeout=TRICK_TIMEOUT, verify=verify)

    return post


def requests_session_trick(target: Target) -> Post:
    """Do the same on a Session, which may reuse its connection when the answer came within the timeout."""
    import requests

    session = requests.Session()
    # Per call as well: REQUESTS_CA_BUNDLE would override session.verify.
    verify = target.cafile or True

    def post(body: Body) -> None:
        with contextlib.suppress(requests.exceptions.ReadTimeout):
            session.post(target.url, **body, timeout=TRICK_TIMEOUT, verify=verify)

    return post


def raw_socket(target: Target) -> Post:
    """Connect, sendall, half-close, close: what one writes by hand."""
    context = target.context()

    def post(body: Body) -> None:
        if "data" in body:
            content, kind = urlencode(body["data"]).encode(), "application/x-www-form-urlencoded"
        else:
            content, kind = json.dumps(body["json"]).encode(), "application/json"
        with connect(target, context) as sock:
            sock.sendall(request_head(target, kind, len(content)) + content)
            sock.shutdown(socket.SHUT_WR)

    return post


def connect(target: Target, context: ssl.SSLContext | None) -> socket.socket:
    """Return a connected socket, over TLS when there is a context."""
    sock = socket.create_connection((target.host, target.port))
    return context.wrap_socket(sock, server_hostname=target.host) if context else sock


def request_head(target: Target, kind: str, length: int) -> bytes:
    """Return a head with the fields that rawfnf sends as well."""
    return (
        f"POST {target.path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\nUser-Agent: bench\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    ).encode()


class Contender(NamedTuple):
    """One row of every table."""

    name: str
    make: Callable[[Target], Post] | None  # None: a program of its own, see floor.py
    json: Callable[[Payload], bytes]  # the bytes that the receiver is to see of a JSON body
    plain: bool = True  # is it measured over plain TCP?
    over_tls: bool = True
    waits: bool = False  # does its caller wait for the answer?


FLOOR = Contender("C socket loop", None, compact_json, over_tls=False)
TRICK = Contender("requests trick", requests_trick, spaced_json)
NOW = Contender("rawfnf now", rawfnf_now, compact_json)

CONTENDERS = (
    FLOOR,
    Contender("Python socket", raw_socket, spaced_json),
    NOW,
    Contender("rawfnf acked", rawfnf_acked, compact_json),
    Contender("rawfnf answered", rawfnf_answered, compact_json, waits=True),
    # On plain TCP the default is "now", which has its row.
    Contender("rawfnf default", rawfnf_default, compact_json, plain=False),
    TRICK,
    Contender("trick, Session", requests_session_trick, spaced_json),
)
