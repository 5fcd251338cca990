"""Every way of posting that is compared, each written the way its own documentation would write it.

A contender is a function of a `Target`; what can be prepared once (a Session, a TLS context) it prepares there, and
returns the function whose calls are timed: alone, or with what it has to do around these calls, as a `Way`. Those that
post from a running event loop are in in_loops.py, those that log in loggers.py, message queues in queues.py.

A "trick" gives up reading the answer, by a timeout. That timeout raises in the normal course of things, and is all that
is suppressed.
"""
# The packages are imported where they are used: a worker is to load none but its own contender's.

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias
from urllib.parse import urlencode

from . import in_loops, loggers, queues
from .payload import Body, Payload, compact_json, sized, spaced_json
from .ways import LINGER, MOST_HELD, READ_TIMEOUT, AsyncWay, Post, Target, Way, nothing

if TYPE_CHECKING:
    import rawfnf

    from .scenarios import Scenario

# Of the requests trick: to connect, and to read.
TRICK_TIMEOUT = (None, READ_TIMEOUT)
# What the threads of a contender are called that starts its own.
THREAD = "post"


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

    return way_of(made, between)


def sender_thread(target: Target) -> Way:
    """Hand over to a Sender whose thread opens the connections and reads the answers."""
    import rawfnf

    context = target.context()
    spares = max(target.spares, target.burst)
    made = rawfnf.Sender(target.url, spares=spares, linger=LINGER, max_held=MOST_HELD, ssl_context=context)
    return way_of(made, made.warm)


def sender_thread_acked(target: Target) -> Way:
    """Hand over to a Sender with a thread, which closes once the peer's TCP has acknowledged every byte."""
    import rawfnf

    context = target.context()
    spares = max(target.spares, target.burst)
    made = rawfnf.Sender(target.url, closing="acked", spares=spares, max_held=MOST_HELD, ssl_context=context)
    return way_of(made, made.warm)


def sender_thread_now(target: Target) -> Way:
    """Hand over to a Sender whose thread opens the connections; each is closed as soon as the kernel has every byte."""
    import rawfnf

    spares = max(target.spares, target.burst)
    made = rawfnf.Sender(target.url, closing="now", spares=spares, ssl_context=target.context())
    return way_of(made, made.warm)


def sender_now(target: Target) -> Way:
    """Hand over to a Sender that connects in each post, and closes as soon as the kernel has every byte."""
    import rawfnf

    return way_of(rawfnf.Sender(target.url, closing="now", ssl_context=target.context()))


def sender_acked(target: Target) -> Way:
    """Hand over to a Sender that connects in each post, and closes in a later one, when every byte is acknowledged."""
    import rawfnf

    return way_of(rawfnf.Sender(target.url, closing="acked", max_held=MOST_HELD, ssl_context=target.context()))


def sender_without_spares(target: Target) -> Way:
    """Hand over to a Sender that connects in each post, and closes in a later one, when the server has answered."""
    import rawfnf

    return way_of(rawfnf.Sender(target.url, linger=LINGER, max_held=MOST_HELD, ssl_context=target.context()))


def way_of(made: rawfnf.Sender, between: Callable[[], None] = nothing) -> Way:
    """Return what posts by a Sender."""
    return Way(lambda body: made.post(**body), between, made, made.close)


def requests_trick(target: Target) -> Post:
    """Give up reading the answer at once: the approach that rawfnf is to replace."""
    import requests

    verify = target.cafile or True

    def post(body: Body) -> None:
        with contextlib.suppress(requests.exceptions.ReadTimeout):
            requests.post(target.url, **body, timeout=TRICK_TIMEOUT, verify=verify)

    return post


def requests_session_trick(target: Target) -> Way:
    """Do the same on a Session, which may reuse its connection when the answer came within the timeout."""
    import requests

    session = requests.Session()
    # Per call as well: REQUESTS_CA_BUNDLE would override session.verify.
    verify = target.cafile or True

    def post(body: Body) -> None:
        with contextlib.suppress(requests.exceptions.ReadTimeout):
            session.post(target.url, **body, timeout=TRICK_TIMEOUT, verify=verify)

    return Way(post, close=session.close)


def requests_thread(target: Target) -> Way:
    """Start a thread that calls requests.post and waits for the answer; what it raises there, no caller sees."""
    import requests

    options = {"verify": target.cafile or True, "timeout": LINGER}

    def post(body: Body) -> None:
        threading.Thread(target=requests.post, args=(target.url,), kwargs=body | options, name=THREAD).start()

    return Way(post, close=join_threads)


def join_threads() -> None:
    """Wait until the threads that were started have ended, for somewhat longer than each has for its answer."""
    until = time.monotonic() + 2 * LINGER
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join(max(0.0, until - time.monotonic()))


def urllib3_trick(target: Target) -> Way:
    """Do the trick by urllib3, on which requests stands; its PoolManager may reuse a connection, as a Session does."""
    import urllib3

    pool = urllib3.PoolManager(ca_certs=target.cafile, timeout=urllib3.Timeout(read=READ_TIMEOUT))

    def post(body: Body) -> None:
        content, kind = encoded(body)
        with contextlib.suppress(urllib3.exceptions.ReadTimeoutError):
            pool.request("POST", target.url, body=content, headers={"Content-Type": kind})

    return Way(post, close=pool.clear)


def httpx_trick(target: Target) -> Post:
    """Do the trick by httpx.post, which makes a Client for each call, and by default loads certificates for each."""
    import httpx

    verify = target.context() or ssl.create_default_context()
    timeout = httpx.Timeout(None, read=READ_TIMEOUT)

    def post(body: Body) -> None:
        content, kind = encoded(body)
        with contextlib.suppress(httpx.ReadTimeout):
            httpx.post(target.url, content=content, headers={"Content-Type": kind}, timeout=timeout, verify=verify)

    return post


def httpx_client_trick(target: Target) -> Way:
    """Do the trick on an httpx.Client, as its documentation advises; it may reuse a connection, as a Session does."""
    import httpx

    client = httpx.Client(verify=target.context() or True, timeout=httpx.Timeout(None, read=READ_TIMEOUT))

    def post(body: Body) -> None:
        content, kind = encoded(body)
        with contextlib.suppress(httpx.ReadTimeout):
            client.post(target.url, content=content, headers={"Content-Type": kind})

    return Way(post, close=client.close)


def http_client(target: Target) -> Post:
    """http.client's request(), then close() without getresponse(): its one timeout would be that of connecting, too."""
    context = target.context()

    def post(body: Body) -> None:
        content, kind = encoded(body)
        with contextlib.closing(http_connection(target, context)) as connection:
            connection.request("POST", target.path, content, {"Content-Type": kind})

    return post


def http_connection(target: Target, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    """Return what will connect in its first request."""
    if context is None:
        return http.client.HTTPConnection(target.host, target.port)
    return http.client.HTTPSConnection(target.host, target.port, context=context)


def pycurl_trick(target: Target) -> Post:
    """Give a Curl 1 ms, the least there is: of the whole transfer, as curl has no timeout of reading alone."""
    import certifi
    import pycurl

    cafile = target.cafile or certifi.where()

    def post(body: Body) -> None:
        content, kind = encoded(body)
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, target.url)
        curl.setopt(pycurl.CAINFO, cafile)
        curl.setopt(pycurl.HTTPHEADER, [f"Content-Type: {kind}"])
        curl.setopt(pycurl.POSTFIELDS, content)
        curl.setopt(pycurl.WRITEDATA, io.BytesIO())
        curl.setopt(pycurl.TIMEOUT_MS, 1)
        curl.setopt(pycurl.NOSIGNAL, 1)  # without it, timeouts of less than a second may count as over at once
        try:
            curl.perform()
        except pycurl.error as error:
            if error.args[0] != pycurl.E_OPERATION_TIMEDOUT:
                raise
        finally:
            curl.close()

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
    host = f"[{target.host}]" if ":" in target.host else target.host
    return (
        f"POST {target.path} HTTP/1.1\r\nHost: {host}:{target.port}\r\nUser-Agent: bench\r\n"
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


def plain_or_in_a_loop(scenario: Scenario) -> bool:
    """Everywhere but where an application logs."""
    return plain_calls(scenario) or in_a_loop(scenario)


def logged(scenario: Scenario) -> bool:
    """Where an application logs."""
    return scenario.within == "logging"


def queued(scenario: Scenario) -> bool:
    """Where the receiver is a message broker."""
    return scenario.within == "queues"


def also_beside_queues(scenario: Scenario) -> bool:
    """Where plain functions are called, and where message queues are to be compared with one."""
    return plain_calls(scenario) or queued(scenario)


def small(scenario: Scenario) -> bool:
    """Where a body fits on a command line, as those of the programs in C have to."""
    return plain_calls(scenario) and not isinstance(scenario.kind, int)


def near_small(scenario: Scenario) -> bool:
    """On this machine, where a body fits on a command line."""
    return near(scenario) and small(scenario)


def nowhere(scenario: Scenario) -> bool:  # noqa: ARG001 - as all others take it
    """Only where every contender is asked for."""
    return False


Prepared = Post | Way | Awaitable[AsyncWay]
Family: TypeAlias = Literal["rawfnf", "requests", "http client", "socket", "queue"]


class Contender(NamedTuple):
    """One row of every table."""

    name: str
    make: Callable[[Target], Prepared] | None  # None: a program of its own, see floor.py
    body: Callable[[Payload], bytes]  # the bytes that the receiver is to see, unless it is a form or of a given size
    family: Family  # whose rows have one colour
    where: Callable[[Scenario], bool] = nowhere  # is it measured there by `python -m bench` alone?
    able: Callable[[Scenario], bool] = plain_calls  # can it be measured there, when every contender is asked for?
    speaks_tls: bool = True  # False: over plain TCP in every scenario
    waits: bool = False  # does its caller wait for the answer?
    held: bool = False  # does its connection outlive the post?
    sender_closes: Literal["", "now", "acked", "answered"] = ""  # empty: it posts by no Sender, of whatever kind
    loop: Literal["", "asyncio", "uvloop"] = ""  # that its worker is to have running
    needs: tuple[str, ...] = ()  # modules that not everybody has
    delivers: bool = True  # is it counted what arrives of it? Of those that differ in what callers pay alone, one is
    sized: Callable[[int, int], bytes] = sized  # what the server is to see of a body of so many bytes, by its number

    @property
    def core(self) -> bool:
        """Whether `python -m bench` alone measures it."""
        return self.where is not nowhere

    @property
    def code(self) -> str:
        """Where its code is: file, and line."""
        if self.make is None:
            return "floor.c"
        code = self.make.__code__
        return f"{Path(code.co_filename).name}:{code.co_firstlineno}"

    @property
    def says(self) -> str:
        """What it does, in a line."""
        if self.make is None:
            return IN_C[self.held]
        return (self.make.__doc__ or "").splitlines()[0]

    @property
    def worker(self) -> str:
        """The module that runs it."""
        return "loopworker" if self.loop else "worker"

    @property
    def lacks(self) -> str:
        """Say what is missing; empty when nothing is."""
        missing = [module for module in self.needs if importlib.util.find_spec(module) is None]
        return f"pip install {' '.join(missing)}" if missing else ""


# What the programs in C do, by whether their connection outlives the post.
IN_C = {False: "The same in C: the floor.", True: "send() alone in C, on an open connection: the floor of a Sender."}

FLOOR = Contender("C socket loop", None, compact_json, "socket", near_small, small, speaks_tls=False, delivers=False)
OPEN_FLOOR = FLOOR._replace(name="C send, open", held=True)
TRICK = Contender("requests trick", requests_trick, spaced_json, "requests", plain_calls, also_beside_queues)
NOW = Contender("rawfnf now", rawfnf_now, compact_json, "rawfnf", near)
SENDER = Contender(
    "Sender", sender, compact_json, "rawfnf", plain_calls, held=True, sender_closes="answered", delivers=False
)
SENDER_THREAD = SENDER._replace(
    name="Sender, thread", make=sender_thread, where=near_at_once, able=also_beside_queues, delivers=True
)
SENDER_NOW = Contender("Sender, now", sender_now, compact_json, "rawfnf", near_plain, sender_closes="now")
SENDER_WITHOUT_SPARES = Contender(
    "Sender, no spares", sender_without_spares, compact_json, "rawfnf", held=True, sender_closes="answered"
)
SENDER_ACKED = SENDER_WITHOUT_SPARES._replace(name="Sender, acked", make=sender_acked, sender_closes="acked")
AIO_POST = Contender("aio.post", in_loops.aio_post, compact_json, "rawfnf", alone, loop="asyncio", delivers=False)
AIO_POST_UVLOOP = AIO_POST._replace(name="aio.post, uvloop", loop="uvloop", needs=("uvloop",))
AIO_SENDER = Contender(
    "aio.Sender",
    in_loops.aio_sender,
    compact_json,
    "rawfnf",
    in_a_loop,
    held=True,
    sender_closes="answered",
    loop="asyncio",
)
AIOHTTP = Contender(
    "aiohttp, task",
    in_loops.aiohttp_task,
    spaced_json,
    "http client",
    in_a_loop,
    held=True,
    loop="asyncio",
    needs=("aiohttp",),
)
AIOHTTP_TRICK = AIOHTTP._replace(
    name="aiohttp trick", make=in_loops.aiohttp_trick, where=nowhere, able=plain_or_in_a_loop, held=False
)
AIOHTTP_CANCELLED = AIOHTTP_TRICK._replace(name="aiohttp, cancelled", make=in_loops.aiohttp_cancelled)
POST_HANDLER = Contender(
    "PostHandler",
    loggers.post_handler,
    loggers.body_of_post_handler,
    "rawfnf",
    logged,
    logged,
    held=True,
    sender_closes="answered",
    delivers=False,
)
HTTP_HANDLER = Contender(
    "HTTPHandler",
    loggers.http_handler,
    loggers.body_of_http_handler,
    "http client",
    logged,
    waits=True,
    sized=loggers.sized_form,
)
QUEUE_HANDLER = Contender(
    "QueueHandler", loggers.queue_handler, loggers.body_of_queue_handler, "http client", logged, logged, delivers=False
)
RABBITMQ = Contender(
    "RabbitMQ",
    queues.rabbitmq,
    spaced_json,
    "queue",
    able=queued,
    held=True,
    needs=("pika",),
    delivers=False,
)
KAFKA = RABBITMQ._replace(name="Kafka (mock)", make=queues.kafka, needs=("confluent_kafka",))

CONTENDERS = (
    FLOOR,
    OPEN_FLOOR,
    Contender("Python socket", raw_socket, spaced_json, "socket", near),
    NOW,
    Contender("rawfnf acked", rawfnf_acked, compact_json, "rawfnf", near),
    Contender("rawfnf answered", rawfnf_answered, compact_json, "rawfnf", near, waits=True),
    # On plain TCP the default is "now", which has its row; over TLS it is "acked".
    Contender("rawfnf default", rawfnf_default, compact_json, "rawfnf", over_tls, over_tls, delivers=False),
    AIO_POST,
    AIO_POST_UVLOOP,
    SENDER,
    SENDER_THREAD,
    SENDER_ACKED._replace(name="Sender, thread, acked", make=sender_thread_acked),
    SENDER_NOW._replace(name="Sender, thread, now", make=sender_thread_now, where=nowhere, held=True),
    SENDER_WITHOUT_SPARES,
    SENDER_ACKED,
    SENDER_NOW,
    TRICK,
    Contender("trick, Session", requests_session_trick, spaced_json, "requests", near),
    Contender("requests, thread", requests_thread, spaced_json, "requests"),
    Contender("urllib3 trick", urllib3_trick, spaced_json, "http client", needs=("urllib3",)),
    Contender("httpx trick", httpx_trick, spaced_json, "http client", needs=("httpx",)),
    Contender("httpx trick, Client", httpx_client_trick, spaced_json, "http client", needs=("httpx",)),
    Contender("http.client", http_client, spaced_json, "http client"),
    Contender("pycurl, 1 ms", pycurl_trick, spaced_json, "http client", needs=("pycurl", "certifi")),
    AIO_SENDER,
    AIOHTTP,
    AIOHTTP_TRICK,
    AIOHTTP_CANCELLED,
    POST_HANDLER,
    QUEUE_HANDLER,
    HTTP_HANDLER,
    RABBITMQ,
    RABBITMQ._replace(name="RabbitMQ, confirmed", make=queues.rabbitmq_confirmed, waits=True),
    KAFKA,
    KAFKA._replace(name="Kafka (mock), flushed", make=queues.kafka_flushed, waits=True),
)
NO_POST = Contender("no post at all", no_post, compact_json, "socket", delivers=False)
KNOWN = {contender.name: contender for contender in (*CONTENDERS, NO_POST)}
# Those that post by rawfnf.
OURS = frozenset(contender.name for contender in CONTENDERS if contender.family == "rawfnf")
# Programs that know nothing of HTTP: what the others are compared with.
FLOORS = frozenset(contender.name for contender in CONTENDERS if contender.make is None)


def measured_in(scenario: Scenario, *, every: bool) -> list[Contender]:
    """Return who is measured in a scenario: by `python -m bench` alone, or every contender that can be."""
    return [known for known in CONTENDERS if known.where(scenario) or (every and known.able(scenario))]
