"""The real peers as fixtures (what they are is told in peers.py), and the watch over what a test leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pytest
import trustme

import rawfnf
import rawfnf.aio
from bench.network import missing, network
from tests.peers import AF_UNIX, HttpServer, Recorder, recording, release_ports, server_context, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.network import Network


try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]
else:
    uvloop.new_event_loop().close()  # the first one opens a pipe that libuv keeps


class Ended(NamedTuple):
    """How a Sender counted its only post: a Receipt's words, or "unanswered", or "reset"."""

    delivery: str
    status: int | None


Outcome: TypeAlias = rawfnf.Receipt | Ended
Post: TypeAlias = Callable[..., Outcome]
PostAlone: TypeAlias = Callable[..., rawfnf.Receipt]

# A thread or descriptor may be on its way out when a test ends; nothing is given longer than this, in seconds.
_GRACE = 5.0


def descriptors() -> dict[int, str]:
    """Return this process's open descriptors, and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        with contextlib.suppress(FileNotFoundError):  # the one that listed the directory
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Let SIGINT interrupt, whoever started the tests: in a shell's background job it is ignored from the start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Fail a test that leaves a thread or a descriptor behind: autouse, so it looks after all others have gone."""
    threads, before = set(threading.enumerate()), descriptors()
    yield
    release_ports()

    def left() -> list[str]:
        opened = [what for number, what in descriptors().items() if before.get(number) != what]
        return [thread.name for thread in threading.enumerate() if thread not in threads] + opened

    with contextlib.suppress(AssertionError):  # what is left is told below, as it is by then
        until(lambda: not left(), "clean", _GRACE)
    if found := left():
        pytest.fail(f"left behind: {found}")


def post_by_sender(url: str, data: Any = None, *, json: object = None, closing: Any = None, **options: Any) -> Ended:
    """Post once by a Sender of its own, and wait for what becomes of it. Without `closing`, post()'s default is taken.

    What a Sender raises, this raises; a reset behind the hand-over it only counts.
    """
    closing = closing or ("acked" if url.lower().startswith("https:") else "now")
    with rawfnf.Sender(url, closing=closing, background=False, **options) as sender:
        try:
            handed_over = sender.post(data, json=json)
        except BaseException:
            assert sender.stats == rawfnf.Stats(0, {}, 0, 0, 0, 0, 0, 0, failed=1, spares=0)
            raise
        assert handed_over
        assert sender.flush()
        return ending(sender.stats)


async def post_by_aio_sender(
    url: str, data: Any = None, *, json: object = None, closing: Any = None, **options: Any
) -> Ended:
    """As post_by_sender, awaited."""
    closing = closing or ("acked" if url.lower().startswith("https:") else "now")
    async with rawfnf.aio.Sender(url, closing=closing, **options) as sender:
        try:
            handed_over = await sender.post(data, json=json)
        except BaseException:
            assert sender.stats == rawfnf.Stats(0, {}, 0, 0, 0, 0, 0, 0, failed=1, spares=0)
            raise
        assert handed_over
        assert await sender.flush()
        return ending(sender.stats)


def new_uvloop() -> asyncio.AbstractEventLoop:
    """Return an event loop of uvloop's, if there is one for this system."""
    if uvloop is None:
        pytest.skip("there is no uvloop for this system")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def ending(stats: rawfnf.Stats) -> Ended:
    """Tell in which term of the account a Sender's only post has ended."""
    assert (stats.posted, stats.held, stats.dropped, stats.failed) == (1, 0, 0, 0)
    terms = {"acked": stats.acked, "sent": stats.closed_now, "unanswered": stats.unanswered, "reset": stats.reset}
    ends = [Ended("answered", status) for status, posts in stats.answered.items() for _ in range(posts)]
    ends += [Ended(delivery, None) for delivery, posts in terms.items() for _ in range(posts)]
    (ended,) = ends  # the law: it is in exactly one
    return ended


def awaited(post: Callable[..., Any], new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Post]:
    """Make a coroutine function an ordinary one, which runs an event loop: until it is done, and not one turn more."""
    loop = new_loop()
    loop.run_until_complete(asyncio.sleep(0))  # uvloop opens what it needs only now

    def run(*args: Any, **options: Any) -> Outcome:
        task = loop.create_task(post(*args, **options))
        try:
            outcome: Outcome = loop.run_until_complete(task)
        except KeyboardInterrupt:
            task.cancel()  # as asyncio.run() does
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            raise
        return outcome

    yield run
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(params=["post", "Sender", "aio.post", "aio.post-uvloop", "aio.Sender"])
def post(request: pytest.FixtureRequest) -> Iterator[Post]:
    """Every way to send one request: the same tests hold for each."""
    way, _, is_uvloop = request.param.partition("-")
    if way.startswith("aio."):
        post = rawfnf.aio.post if way == "aio.post" else post_by_aio_sender
        yield from awaited(post, new_uvloop if is_uvloop else asyncio.new_event_loop)
    else:
        yield rawfnf.post if way == "post" else post_by_sender


@pytest.fixture(params=["post", "Sender"])
def post_waiting(request: pytest.FixtureRequest) -> Post:
    """The ways that wait in a selector of their own."""
    return rawfnf.post if request.param == "post" else post_by_sender


@pytest.fixture
def post_alone() -> PostAlone:
    """rawfnf.post itself: for its own default, what only a Receipt tells, or only who is still there to be told."""
    return rawfnf.post


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Plain TCP on 127.0.0.1; answers 204 at once unless given another script."""
    with recording() as peer:
        yield peer


@pytest.fixture
def unix_recorder(tmp_path: Path) -> Iterator[Recorder]:
    """The same on a Unix socket: `address` is its path, `url` is http://localhost:80/."""
    if AF_UNIX < 0:
        pytest.skip("Windows' Python has no Unix sockets")
    path = str(tmp_path / "s")
    with recording(family=AF_UNIX, address=path, options={"connect_to": path}) as peer:
        yield peer


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that only `trusting` trusts."""
    return trustme.CA()


@pytest.fixture(scope="session")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts `authority`, and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def cafile(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of `authority`, for a Python of its own."""
    path: Path = tmp_path_factory.mktemp("authority") / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS1.2", "TLS1.3"])
def tls_version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    """Every TLS test runs on both."""
    version: ssl.TLSVersion = request.param
    return version


@pytest.fixture
def tls_recorder(authority: trustme.CA, trusting: ssl.SSLContext, tls_version: ssl.TLSVersion) -> Iterator[Recorder]:
    """TLS on 127.0.0.1, for the names localhost and rawfnf.test; 1.3 sends session tickets."""
    with recording(context=server_context(authority, tls_version), options={"ssl_context": trusting}) as peer:
        yield peer


@pytest.fixture(params=[None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["plain", "TLS1.2", "TLS1.3"])
def peer(request: pytest.FixtureRequest, authority: trustme.CA, trusting: ssl.SSLContext) -> Iterator[Recorder]:
    """A recorder on 127.0.0.1 by each transport; `post(peer.url, ..., **peer.options)` reaches it."""
    version: ssl.TLSVersion | None = request.param
    context = None if version is None else server_context(authority, version)
    with recording(context=context, options=None if context is None else {"ssl_context": trusting}) as made:
        yield made


@pytest.fixture
def http_server() -> Iterator[HttpServer]:
    """http.server in a thread: `served` and `failed` tell what its application got."""
    with HttpServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="http.server")
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _network(loss: float) -> Iterator[Network]:
    if reason := missing():
        pytest.skip(reason)
    with network(rtt=0.02, loss=loss) as made:
        yield made


@pytest.fixture(scope="session")
def far() -> Iterator[Network]:
    """A network with a round trip of 20 ms."""
    yield from _network(0.0)


@pytest.fixture(scope="session")
def lossy() -> Iterator[Network]:
    """A network with a round trip of 20 ms that loses 2 % of all packets."""
    yield from _network(0.02)
