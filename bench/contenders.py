"""Every way of posting that is compared, each written the way its own documentation would write it.

A contender is a function of a `Target`; what can be prepared once (a Session, a TLS context) it prepares there, and
returns the function whose calls are timed: alone, or with what it has to do around these calls, as a `Way`. Those that
post from a running event loop are in in_loops.py, those that log in loggers.py.
"""
# The packages are imported where they are used: a worker is to load none but its own contender's.

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import urlencode

from . import in_loops, loggers
from .payload import Body, Payload, compact_json, spaced_json
from .ways import LINGER, MOST_HELD, AsyncWay, Post, Target, Way

if TYPE_CHECKING:
    import ssl

    from .scenarios import Scenario

# Connections that the thread keeps open: at 1,000 posts a second they cover it while it cannot run for 16 ms.
THREAD_SPARES = 16
# Read timeout of the requests trick; urllib3 hands it to poll(), which rounds it up to one millisecond.
TRICK_TIMEOUT = (None, 0.00001)


def no_post(target: Target) -> Post:  # noqa: ARG001 - as all others take it
    """Do nothing: what the clock and a busy machine add to every post at a fixed rate."""
    return lambda body: None  # noqa: ARG005 - as above


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


def sender(target: Target) -> Way:
    """Hand over to a Sender without a thread, whose user lets it work between the bursts, by pump() and warm()."""
    import rawfnf

    context = target.context()
    made = rawfnf.Sender(
        target.url,
        spares=target.burst,
        background=False,
        linger=LINGER,
        max_held=MOST_HELD,
        ssl_context=context,
    )

    def between() -> None:
        made.pump()
        made.warm()

    return Way(lambda body: made.post(**body), between, made)


def sender_thread(target: Target) -> Way:
    """Hand over to a Sender whose thread opens the connections and reads the answers."""
    import rawfnf

    context = target.context()
    spares = max(THREAD_SPARES, target.burst)
    made = rawfnf.Sender(target.url, spares=spares, linger=LINGER, max_held=MOST_HELD, ssl_context=context)
    return Way(lambda body: made.post(**body), made.warm, made)


def sender_now(target: Target) -> Way:
    """Hand over to a Sender that connects in each post, and closes as soon as the kernel has every byte."""
    import rawfnf

    made = rawfnf.Sender(target.url, closing="now", ssl_context=target.context())
    return Way(lambda body: made.post(**body), sender=made)


def sender_without_spares(target: Target) -> Way:
    """Hand over to a Sender that connects in each post, and closes in a later one, when the server has answered."""
    import rawfnf

    made = rawfnf.Sender(target.url, linger=LINGER, ssl_context=target.context())
    return Way(lambda body: made.post(**body), sender=made)


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
        content, kind = encoded(body)
        with connect(target, context) as sock:
            sock.sendall(request_head(target, kind, len(content)) + content)
            sock.shutdown(socket.SHUT_WR)

    return post


def encoded(body: Body) -> tuple[bytes, str]:
    """Return the content, and its Content-Type."""
    if "json" in body:
        return json.dumps(body["json"]).encode(), "application/json"
    data = body["data"]
    if isinstance(data, bytes):
        return data, "application/octet-stream"
    return urlencode(data).encode(), "application/x-www-form-urlencoded"


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


def plain_calls(scenario: Scenario) -> bool:
    """Where a plain function is called, in every scenario of that kind."""
    return not scenario.within


def near(scenario: Scenario) -> bool:
    """On this machine: what a network's round trip costs is the same for all who connect anew."""
    return plain_calls(scenario) and not scenario.far


def near_plain(scenario: Scenario) -> bool:
    """Without TLS, where closing now is right for a server that reads its requests."""
    return near(scenario) and not scenario.tls


def near_at_once(scenario: Scenario) -> bool:
    """Where nothing is held for long: a thread that reads late answers would disturb whoever is measured then."""
    return near(scenario) and not scenario.busy


def alone(scenario: Scenario) -> bool:
    """Where post() is compared with itself, awaited: one at a time, over plain TCP."""
    return near_plain(scenario) and near_at_once(scenario) and scenario.burst == 1


def over_tls(scenario: Scenario) -> bool:
    """Where it differs from its row over plain TCP."""
    return scenario.tls is not None


def in_a_loop(scenario: Scenario) -> bool:
    """Where an application that has an event loop posts from it."""
    return scenario.within == "asyncio"


def logged(scenario: Scenario) -> bool:
    """Where an application logs."""
    return scenario.within == "logging"


Prepared = Post | Way | Awaitable[AsyncWay]


class Contender(NamedTuple):
    """One row of every table."""

    name: str
    make: Callable[[Target], Prepared] | None  # None: a program of its own, see floor.py
    body: Callable[[Payload], bytes]  # the bytes that the receiver is to see, unless it is a form or of a given size
    where: Callable[[Scenario], bool] = near  # is it measured there?
    speaks_tls: bool = True  # False: over plain TCP in every scenario
    waits: bool = False  # does its caller wait for the answer?
    held: bool = False  # does its connection outlive the post?
    loop: Literal["", "asyncio", "uvloop"] = ""  # that its worker is to have running
    needs: tuple[str, ...] = ()  # modules that not everybody has

    @property
    def worker(self) -> str:
        """The module that runs it."""
        return "loopworker" if self.loop else "worker"

    @property
    def lacks(self) -> str:
        """Say what is missing; empty when nothing is."""
        missing = [module for module in self.needs if importlib.util.find_spec(module) is None]
        return f"pip install {' '.join(missing)}" if missing else ""


FLOOR = Contender("C socket loop", None, compact_json, speaks_tls=False)
OPEN_FLOOR = Contender("C send, open", None, compact_json, speaks_tls=False, held=True)
TRICK = Contender("requests trick", requests_trick, spaced_json, plain_calls)
NOW = Contender("rawfnf now", rawfnf_now, compact_json)
SENDER = Contender("Sender", sender, compact_json, plain_calls, held=True)
SENDER_THREAD = Contender("Sender, thread", sender_thread, compact_json, near_at_once, held=True)
SENDER_NOW = Contender("Sender, now", sender_now, compact_json, near_plain)
AIO_POST = Contender("aio.post", in_loops.aio_post, compact_json, alone, loop="asyncio")
AIO_POST_UVLOOP = AIO_POST._replace(name="aio.post, uvloop", loop="uvloop", needs=("uvloop",))
AIO_SENDER = Contender("aio.Sender", in_loops.aio_sender, compact_json, in_a_loop, held=True, loop="asyncio")
AIOHTTP = Contender(
    "aiohttp, task", in_loops.aiohttp_task, spaced_json, in_a_loop, held=True, loop="asyncio", needs=("aiohttp",)
)
POST_HANDLER = Contender("PostHandler", loggers.post_handler, loggers.body_of_post_handler, logged, held=True)
HTTP_HANDLER = Contender("HTTPHandler", loggers.http_handler, loggers.body_of_http_handler, logged, waits=True)
QUEUE_HANDLER = Contender("QueueHandler", loggers.queue_handler, loggers.body_of_queue_handler, logged)

CONTENDERS = (
    FLOOR,
    OPEN_FLOOR,
    Contender("Python socket", raw_socket, spaced_json),
    NOW,
    Contender("rawfnf acked", rawfnf_acked, compact_json),
    Contender("rawfnf answered", rawfnf_answered, compact_json, waits=True),
    # On plain TCP the default is "now", which has its row.
    Contender("rawfnf default", rawfnf_default, compact_json, over_tls),
    AIO_POST,
    AIO_POST_UVLOOP,
    SENDER,
    SENDER_THREAD,
    SENDER_NOW,
    TRICK,
    Contender("trick, Session", requests_session_trick, spaced_json),
    AIO_SENDER,
    AIOHTTP,
    POST_HANDLER,
    QUEUE_HANDLER,
    HTTP_HANDLER,
)
# Delivery is measured of these as well; what they cost their caller is the price of a connection, like rawfnf.post's.
SENDER_WITHOUT_SPARES = Contender("Sender, no spares", sender_without_spares, compact_json, held=True)
NO_POST = Contender("no post at all", no_post, compact_json)
KNOWN = {contender.name: contender for contender in (*CONTENDERS, SENDER_WITHOUT_SPARES, NO_POST)}
# Those that post by rawfnf.
OURS = frozenset(name for name in KNOWN if name.startswith(("rawfnf", "Sender", "aio.", "PostHandler")))
# Programs that know nothing of HTTP: what the others are compared with.
FLOORS = frozenset(contender.name for contender in CONTENDERS if contender.make is None)
