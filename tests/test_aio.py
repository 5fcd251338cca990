"""What only asyncio has: cancellation at every await, turns, the running loop and its end, other loops, forks.

Everything else that post() and a Sender do is tested in test_post.py, through rawfnf.aio as well. Each test runs on
asyncio's loop and on uvloop's, and fails if a task, reader, writer or timer is left there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import inspect
import io
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

import rawfnf
from rawfnf import ConnectError, RequestError, SendError, Stats, aio
from tests.conftest import Ended, descriptors, new_uvloop, post_by_aio_sender
from tests.peers import (
    ENDLESS,
    NARROW,
    NO_CONTENT,
    PATIENCE,
    UNACKED,
    Recorder,
    Script,
    Talk,
    answer_at_once,
    black_hole,
    never_answers,
    recording,
    refusing_port,
    server_context,
    until,
)
from tests.test_post import gate, reads_once
from tests.test_sender_life import STRICT, Program, all_ended, answers_who_waits

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    import trustme

    Post: TypeAlias = Callable[..., Coroutine[Any, Any, rawfnf.Receipt | Ended]]

ROOT = Path(__file__).parent.parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="what is tested is Linux's")
unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork(), and no RLIMIT_NOFILE")
# How long a test looks whether something happens that is not to happen, in seconds.
LOOK = 0.2


# --- loops, and what is left in them ---------------------------------------------------------------------------------


class Resolver:
    """A loop's own resolver, which says what a test wants it to say; the system is asked if that is nothing."""

    says: list[str] | OSError | None = None  # addresses
    silent = False

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[object] = []

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        self.asked.append((host, port))
        if self.silent:
            await asyncio.get_running_loop().create_future()
        if isinstance(self.says, OSError):
            raise self.says
        if self.says is None:
            return await super().getaddrinfo(host, port, **options)  # type: ignore[misc]  # the loop's
        return [(2, 1, 6, "", (address, port)) for address in self.says]


class Loop:
    """Runs coroutines in an event loop of the test's own, and tells what they leave in it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        base: Any = asyncio.SelectorEventLoop if kind == "asyncio" else uvloop_or_skip()
        self.loop: Any = type("LoopWithResolver", (Resolver, base), {})()
        self.run(asyncio.sleep(0))  # uvloop opens what it needs only now
        self._own = set(descriptors())
        timers, self._polls = self.run(_in_loops())
        self._timers = {id(timer) for timer in timers}  # to keep them would keep what they are for

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    async def left(self) -> list[object]:
        """Return the tasks, readers, writers and timers that have been left."""
        for _ in range(2):
            await asyncio.sleep(0)  # what has been cancelled or closed takes its turn to end
        left: list[object] = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if self.kind == "asyncio":
            for descriptor in {*range(max(self._own) + 64)} - self._own:  # these tell whether there was one
                left += [f"reader of {descriptor}"] * self.loop.remove_reader(descriptor)
                left += [f"writer of {descriptor}"] * self.loop.remove_writer(descriptor)
        timers, polls = await _in_loops()
        left += [timer for timer in timers if id(timer) not in self._timers]
        return left + ["reader or writer"] * (polls - self._polls)

    def close(self) -> None:
        if not self.loop.is_closed():
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()


def uvloop_or_skip() -> object:
    made = new_uvloop()
    made.close()
    return type(made)


async def _in_loops() -> tuple[list[Any], int]:
    """Return the timers of all loops, and how many descriptors those of uvloop wait for, which does not tell."""
    things = [thing for thing in gc.get_objects() if type(thing).__name__ in {"TimerHandle", "UVPoll"}]
    timers = [thing for thing in things if type(thing).__name__ == "TimerHandle"]
    return [timer for timer in timers if not timer.cancelled()], len(things) - len(timers)


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    """A loop in which nothing is to be left."""
    with contextlib.closing(Loop(request.param)) as made:
        yield made
        if not made.loop.is_closed():
            assert made.run(made.left()) == []


@pytest.fixture(params=[None, ssl.TLSVersion.TLSv1_3], ids=["plain", "TLS1.3"])
def peer(request: pytest.FixtureRequest, authority: trustme.CA, trusting: ssl.SSLContext) -> Iterator[Recorder]:
    """A recorder; `post(peer.url, **peer.options)` reaches it."""
    context = None if request.param is None else server_context(authority, request.param)
    with recording(context=context, options=None if context is None else {"ssl_context": trusting}) as made:
        yield made


async def when(fact: Callable[[], object], what: str) -> None:
    """Wait for a fact that announces itself to nobody, as tests.peers.until does; the loop runs meanwhile."""

    async def look() -> None:
        while not fact():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.001)

    try:
        await asyncio.wait_for(look(), PATIENCE)
    except asyncio.TimeoutError:
        pytest.fail(f"{what}: not within {PATIENCE} s")


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns without having been suspended."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    pytest.fail("it was suspended")


def account(sender: aio.Sender) -> Stats:
    """Return what became of the posts; the law holds."""
    stats = sender.stats
    ends = (stats.acked, stats.closed_now, stats.unanswered, stats.reset, stats.held)
    assert stats.posted == sum(stats.answered.values()) + sum(ends), stats
    return stats


@contextlib.contextmanager
def few_descriptors(soft: int) -> Iterator[None]:
    """Let this process have so many descriptors; those that it has already it keeps."""
    if sys.platform == "win32":
        raise NotImplementedError
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def take_turns(most: int) -> None:
    """Let the running loop's post() take so many descriptors at once, and no more."""
    with few_descriptors(2 * most):
        assert aio._gate().size == most


posts = pytest.mark.parametrize("post", [aio.post, post_by_aio_sender], ids=["post", "Sender"])


# --- without suspending ---------------------------------------------------------------------------------------------


def test_a_small_post_that_closes_now_does_not_suspend_its_task(loop: Loop, recorder: Recorder) -> None:
    async def main() -> None:
        assert at_once(aio.post(recorder.url, b"x")).delivery == "sent"

    loop.run(main())
    talk = recorder.next()
    assert (bytes(talk.body), talk.whole, talk.end) == (b"x", True, "FIN")


@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
@pytest.mark.parametrize("background", [False, True])
def test_a_post_on_a_ready_spare_does_not_suspend_its_task(
    loop: Loop, peer: Recorder, closing: Any, *, background: bool
) -> None:
    async def main() -> None:
        async with aio.Sender(peer.url, spares=3, closing=closing, background=background, **peer.options) as sender:
            await sender.warm()
            for body in (b"1", b"2", b"3"):
                assert at_once(sender.post(body))
            assert account(sender).posted == 3
            assert await sender.flush()
            assert account(sender)[4:9] == (0, 0, 0, 0, 0)  # unanswered to failed

    loop.run(main())
    talks = [talk for talk in all_ended(peer) if talk.data]
    assert {bytes(talk.body) for talk in talks if talk.whole} == {b"1", b"2", b"3"}


def test_dropping_and_pumping_do_not_suspend_either(loop: Loop) -> None:
    async def main() -> None:
        async with aio.Sender("http://many.test/", spares=1, when_busy="drop", background=False) as sender:
            assert at_once(sender.post(b"x")) is False
            at_once(sender.pump())
            assert account(sender).dropped == 1

    loop.run(main())


# --- cancelled ------------------------------------------------------------------------------------------------------


async def cancelled(coroutine: Coroutine[Any, Any, Any], fact: Callable[[], object], loop: Loop) -> BaseException:
    """Cancel what is suspended, once something is a fact; return the CancelledError's cause. Nothing of it is left."""
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0)
    await when(fact, "what it is cancelled for")
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert await loop.left() == []
    return cause_of(caught.value)


def cause_of(cancelled: BaseException) -> BaseException:
    """Return a CancelledError's cause, as whoever awaits the task is told it."""
    if sys.version_info < (3, 11) and cancelled.__context__ is not None:
        cancelled = cancelled.__context__  # it is another one there, and this the task's own
    assert cancelled.__cause__ is not None
    return cancelled.__cause__


def assert_none_left(error: BaseException, phase: str = "connect") -> None:
    assert isinstance(error, ConnectError)
    assert (error.phase, error.bytes_sent) == (phase, 0)
    assert "cancelled" in str(error)


def assert_some_may_have_left(error: BaseException, phase: str, peer: Recorder) -> None:
    assert isinstance(error, SendError)
    assert (error.phase, error.host, error.port) == (phase, peer.host, peer.port)
    assert "cancelled" in str(error)


@posts
def test_cancelled_in_the_resolver(loop: Loop, post: Post) -> None:
    loop.loop.silent = True
    error = loop.run(cancelled(post("http://many.test/", b"x"), lambda: loop.loop.asked, loop))
    assert_none_left(error, "resolve")
    assert error.host == "many.test"
    assert loop.loop.asked == [(b"many.test", 80)]


@linux
@posts
def test_cancelled_while_connecting(loop: Loop, post: Post) -> None:
    with black_hole() as (host, port):
        error = loop.run(cancelled(post(f"http://{host}:{port}/", b"x"), at_any_time, loop))
    assert_none_left(error)
    assert (error.host, error.port) == (host, port)


def at_any_time() -> bool:
    return True


@posts
def test_cancelled_in_the_handshake(loop: Loop, recorder: Recorder, post: Post, trusting: ssl.SSLContext) -> None:
    recorder.script = never_answers
    url = recorder.url.replace("http:", "https:")

    def hello() -> bool:
        return any(talk.raw for talk in recorder.talks)

    error = loop.run(cancelled(post(url, b"x", ssl_context=trusting), hello, loop))
    assert_none_left(error, "handshake")
    assert recorder.next().raw[:1] == b"\x16"  # a record of the handshake, and never one of data (RFC 8446 §5.1)


@posts
@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_cancelled_in_the_middle_of_a_body_it_is_reset(loop: Loop, peer: Recorder, post: Post, closing: str) -> None:
    with gate() as ended:

        def script(talk: Talk) -> None:
            talk.receive_head()
            assert ended.wait(PATIENCE)

        peer.script = script
        coroutine = post(peer.url, ENDLESS, closing=closing, timeout=PATIENCE, **OPTIONS[post], **peer.options)
        error = loop.run(cancelled(coroutine, lambda: any(talk.request for talk in peer.talks), loop))
        ended.set()
        assert_some_may_have_left(error, "send", peer)
        assert 0 < error.bytes_sent < len(ENDLESS)
        talk = peer.next()
    assert (talk.whole, talk.end, talk.close_notify) == (False, "RST", False)


# Otherwise the loop would send the rest, and the post not wait.
OPTIONS: dict[Any, dict[str, Any]] = {aio.post: {}, post_by_aio_sender: {"background": False}}


@linux
def test_cancelled_while_it_waits_for_the_acknowledgement(loop: Loop) -> None:
    with recording(receive_buffer=NARROW) as peer, gate() as reads:
        peer.script = reads_once(reads)
        error = loop.run(cancelled(aio.post(peer.url, UNACKED, closing="acked"), at_any_time, loop))
        assert_some_may_have_left(error, "close", peer)
        reads.set()
        talk = peer.next()
    assert (bytes(talk.body), talk.end) == (UNACKED, "FIN"), "it was whole, and so is its end"


def test_cancelled_while_it_waits_for_the_answer(loop: Loop, peer: Recorder) -> None:
    peer.script = never_answers

    def arrived() -> bool:
        return any(talk.whole for talk in peer.talks)

    error = loop.run(cancelled(aio.post(peer.url, b"x", closing="answered", **peer.options), arrived, loop))
    assert_some_may_have_left(error, "close", peer)
    talk = peer.next()
    assert (bytes(talk.body), talk.end, talk.close_notify) == (b"x", "FIN", talk.tls_version is not None)


@unix
def test_cancelled_while_it_waits_for_its_turn(loop: Loop, recorder: Recorder) -> None:
    recorder.script = never_answers

    async def main() -> None:
        take_turns(1)
        first = asyncio.ensure_future(aio.post(recorder.url, b"1", closing="answered"))
        second = asyncio.ensure_future(aio.post(recorder.url, b"2"))
        third = asyncio.ensure_future(aio.post(recorder.url, b"3"))
        await when(lambda: any(talk.whole for talk in recorder.talks), "the first")
        second.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await second
        assert_none_left(cause_of(caught.value))
        first.cancel()
        assert (await third).delivery == "sent"

    loop.run(main())
    assert {bytes(recorder.next().body) for _ in range(2)} == {b"1", b"3"}


CLOSINGS: list[tuple[bytes, Any]] = [(b"1", "answered"), (b"2", "now"), (b"3", "now")]


@unix
def test_a_turn_that_comes_together_with_the_cancellation_goes_to_the_next(loop: Loop, recorder: Recorder) -> None:
    recorder.script = never_answers

    async def main() -> None:
        take_turns(1)
        first, second, third = (
            asyncio.ensure_future(aio.post(recorder.url, body, closing=closing)) for body, closing in CLOSINGS
        )
        await when(lambda: any(talk.whole for talk in recorder.talks), "the first")
        first.cancel()
        await asyncio.sleep(0)
        second.cancel()  # it has its turn by now, and does not know
        assert (await third).delivery == "sent"
        assert second.cancelled()
        assert await aio.post(recorder.url, b"4")

    loop.run(main())
    assert {bytes(recorder.next().body) for _ in range(3)} == {b"1", b"3", b"4"}


def test_cancelled_while_it_waits_for_room_it_makes_way_for_the_next(loop: Loop, recorder: Recorder) -> None:
    with gate() as answers:
        recorder.script = answers_when(answers)

        async def main() -> None:
            async with aio.Sender(recorder.url, max_held=1, timeout=PATIENCE) as sender:
                assert await sender.post(b"1")
                second = asyncio.ensure_future(sender.post(b"2"))
                third = asyncio.ensure_future(sender.post(b"3"))
                await asyncio.sleep(0)
                second.cancel()
                with pytest.raises(asyncio.CancelledError) as caught:
                    await second
                assert_none_left(cause_of(caught.value))
                assert (account(sender).posted, account(sender).failed) == (1, 1)
                answers.set()
                assert await third
                assert await sender.flush()
                assert account(sender) == Stats(2, {204: 2}, 0, 0, 0, 0, 0, 0, failed=1, spares=0)

        loop.run(main())
    assert {bytes(recorder.next().body) for _ in range(2)} == {b"1", b"3"}  # the peer's threads end in any order


@posts
def test_a_file_whose_post_is_cancelled_before_anything_has_left_is_back_where_it_stood(loop: Loop, post: Post) -> None:
    loop.loop.silent = True
    file = io.BytesIO(b"read:not yet")
    file.seek(5)
    error = loop.run(cancelled(post("http://many.test/", file), lambda: loop.loop.asked, loop))
    assert_none_left(error, "resolve")
    assert file.read() == b"not yet"


@posts
def test_an_iterable_that_raises_cancelled_error_does_not_make_it_a_lie(
    loop: Loop, recorder: Recorder, post: Post
) -> None:
    """As what asks a cancelled future for its result does."""

    def chunks() -> Iterator[bytes]:
        yield b"one"
        yield b"two"
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError) as caught:
        loop.run(post(recorder.url, chunks(), closing="acked"))
    assert not isinstance(caught.value.__cause__, ConnectError)
    talk = recorder.next()
    assert (talk.whole, talk.end) == (False, "RST")


def test_timeouts_around_a_post_lead_to_what_is_known_of_it(loop: Loop, recorder: Recorder) -> None:
    recorder.script = never_answers

    async def main() -> BaseException:
        with pytest.raises(asyncio.TimeoutError) as caught:
            await asyncio.wait_for(aio.post(recorder.url, b"x", closing="answered"), 0.01)
        return caught.value

    assert_some_may_have_left(causes(loop.run(main()))[-1], "close", recorder)
    assert recorder.next().whole


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout() is new in Python 3.11")
def test_so_does_asyncio_timeout(loop: Loop) -> None:
    loop.loop.silent = True

    async def main() -> BaseException:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.01):
                await aio.post("http://many.test/", b"x")
        return caught.value

    assert_none_left(causes(loop.run(main()))[-1], "resolve")


def causes(error: BaseException) -> list[BaseException]:
    """Return an error, and what a traceback shows above it."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return chain


class Interrupted:
    """Awaits a coroutine, and cancels the task where that is suspended for the n-th time.

    `late`: together with what is waited for, which has come when the task is told.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], time: int, *, late: bool) -> None:
        self._coroutine, self._late = coroutine, late
        self.left = time  # suspensions until then

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self._pass_on(self._coroutine.send(None))

    def send(self, value: Any) -> Any:
        return self._pass_on(self._coroutine.send(value))

    def throw(self, *error: Any) -> Any:
        return self._pass_on(self._coroutine.throw(*error))

    def close(self) -> None:
        self._coroutine.close()

    def _pass_on(self, future: Any) -> Any:
        self.left -= 1
        task = asyncio.current_task()
        if self.left == 0 and task is not None:
            if self._late and future is not None:
                future.add_done_callback(lambda _: task.cancel())
            else:
                task.cancel()
        return future


async def interrupted(
    coroutine: Coroutine[Any, Any, Any], time: int, *, late: bool
) -> tuple[bool, BaseException | None]:
    """Tell whether it came as far as that, and its CancelledError's cause if it was cancelled."""
    awaitable = Interrupted(coroutine, time, late=late)

    async def main() -> None:
        await awaitable

    task = asyncio.ensure_future(main())
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
        return awaitable.left <= 0, None
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    return True, cause_of(caught.value)


LARGE = bytes(4 << 20)


def assert_truthful(peer: Recorder, causes: dict[int, BaseException | None], *, whole: bool = True) -> None:
    """Check what came of the posts by number: whole if they were not cancelled; nothing, if no byte is said to."""
    came: Counter[int] = Counter()
    for talk in all_ended(peer):
        if talk.data and not talk.whole:
            assert (talk.end, talk.close_notify) == ("RST", False), "this looks like the end of a request"
        if talk.request is not None:
            number = int(talk.header("x-number") or 0)
            assert not isinstance(causes[number], ConnectError)
            came[number] += talk.whole
    assert all(times <= 1 for times in came.values())
    assert not whole or {number for number, cause in causes.items() if cause is None} <= {*came.elements()}
    assert all(cause is None or isinstance(cause, (ConnectError, SendError)) for cause in causes.values())


@pytest.mark.parametrize("late", [False, True], ids=["before", "with"])
@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_wherever_a_post_is_cancelled_nothing_is_left_and_what_it_says_is_true(
    loop: Loop, peer: Recorder, closing: Any, *, late: bool
) -> None:
    causes: dict[int, BaseException | None] = {}

    async def main() -> None:
        reached = True
        while reached and len(causes) < MOST:
            number = len(causes) + 1
            coroutine = aio.post(peer.url, LARGE, headers={"X-Number": str(number)}, closing=closing, **peer.options)
            reached, causes[number] = await interrupted(coroutine, number, late=late)

    loop.run(main())
    # Tickets that meet a closed socket make our kernel drop what is on its way, which is why it is not the default.
    assert_truthful(peer, causes, whole=closing != "now" or not peer.options)


MOST = 9


@pytest.mark.parametrize("late", [False, True], ids=["before", "with"])
@pytest.mark.parametrize("background", [False, True], ids=["pumped", "background"])
def test_wherever_a_senders_post_is_cancelled_the_law_holds_and_what_it_says_is_true(
    loop: Loop, peer: Recorder, *, background: bool, late: bool
) -> None:
    causes: dict[int, BaseException | None] = {}

    async def main() -> None:
        async with aio.Sender(peer.url, max_held=2, background=background, **peer.options) as sender:
            reached = True
            while reached and len(causes) < MOST:
                number = len(causes) + 1
                coroutine = sender.post(LARGE, headers={"X-Number": str(number)})
                reached, causes[number] = await interrupted(coroutine, number, late=late)
                account(sender)
            assert await sender.flush(PATIENCE)
            failed = sum(cause is not None for cause in causes.values())
            posted = len(causes) - failed
            assert account(sender) == Stats(posted, {204: posted} if posted else {}, 0, 0, 0, 0, 0, 0, failed, 0)
        assert await loop.left() == []

    loop.run(main())
    assert_truthful(peer, causes)


# --- turns: ten thousand at once --------------------------------------------------------------------------------------


class Counting(asyncio.Protocol):
    """A server in a loop: counts whole bodies, which end in a full stop, and answers."""

    def __init__(self, bodies: Counter[bytes]) -> None:
        self._bodies, self._data = bodies, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._data.endswith(b"."):
            self._bodies[self._data.partition(b"\r\n\r\n")[2]] += 1
            self._transport.write(NO_CONTENT)
            self._transport.close()


@pytest.fixture
def counting() -> Iterator[tuple[str, Counter[bytes]]]:
    """The URL of a server that can be posted to ten thousand times, and the bodies that came."""
    bodies: Counter[bytes] = Counter()
    try:
        server_loop: asyncio.AbstractEventLoop = uvloop_or_skip()()  # type: ignore[operator]  # faster where it is there
    except pytest.skip.Exception:
        server_loop = asyncio.new_event_loop()
    listening = server_loop.create_server(lambda: Counting(bodies), "127.0.0.1", 0, backlog=1024)
    server = server_loop.run_until_complete(listening)
    thread = threading.Thread(target=server_loop.run_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", bodies

    async def end() -> None:
        server.close()
        await server.wait_closed()
        server_loop.stop()

    server_loop.call_soon_threadsafe(lambda: server_loop.create_task(end()))
    thread.join()
    server_loop.close()


PRELUDE = """
import asyncio, gc, json, logging, os, signal, sys, threading
import rawfnf, rawfnf.aio
logging.getLogger("asyncio").setLevel(logging.ERROR)  # and not that a callback takes long: this machine may be busy
url, kind, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]

def new_loop():
    if kind == "asyncio":
        return asyncio.new_event_loop()
    import uvloop
    return uvloop.new_event_loop()

def run(coroutine):
    if kind == "asyncio":
        return asyncio.run(coroutine)
    import uvloop
    return uvloop.run(coroutine)

def tell(what):
    os.write(1, json.dumps(what._asdict() if isinstance(what, rawfnf.Stats) else what).encode() + b"\\n")

def hear():
    assert os.read(0, 1)

"""


def program(code: str, url: str, loop: Loop, *arguments: str, flags: tuple[str, ...] = STRICT) -> Program:
    return Program([*flags, "-c", PRELUDE + code, url, loop.kind, *arguments])


TEN_THOUSAND = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
peak = 0

async def one(post, number):
    global peak
    await post(b"%d." % number)
    free = os.dup(0)  # the lowest that is free
    os.close(free)
    peak = max(peak, free)

async def main():
    if arguments[0] == "post":
        await asyncio.gather(*(one(lambda body: rawfnf.aio.post(url, body, closing="answered", timeout=60), number)
                               for number in range(10_000)))
    else:
        async with rawfnf.aio.Sender(url, timeout=60, linger=60, max_held=1_000_000) as sender:
            await asyncio.gather(*(one(sender.post, number) for number in range(10_000)))
            await sender.flush()
            assert sender.stats == (10_000, {204: 10_000}, 0, 0, 0, 0, 0, 0, 0, 0), sender.stats
    tell(64 < peak < 128 + 32)

run(main())
"""


@unix
@pytest.mark.parametrize("way", ["post", "Sender"])
def test_ten_thousand_at_once_are_posted_within_256_descriptors(
    loop: Loop, counting: tuple[str, Counter[bytes]], way: str
) -> None:
    url, bodies = counting
    with contextlib.closing(program(TEN_THOUSAND, url, loop, way, flags=("-W", "error"))) as client:
        assert client.end() == [True]
    assert bodies == Counter(b"%d." % number for number in range(10_000))


@unix
@pytest.mark.parametrize("closing", ["now", "answered"])
def test_posts_have_their_turns_in_the_order_in_which_they_came(loop: Loop, recorder: Recorder, closing: Any) -> None:
    numbers = [b"%d" % number for number in range(8)]

    async def main() -> None:
        take_turns(1)
        recorder.script = never_answers
        first = asyncio.ensure_future(aio.post(recorder.url, b"first", closing="answered"))
        await when(lambda: any(talk.whole for talk in recorder.talks), "the first")
        recorder.script = answer_at_once
        waiting = [asyncio.ensure_future(aio.post(recorder.url, number, closing=closing)) for number in numbers]
        await asyncio.sleep(0)
        assert not any(post.done() for post in waiting)
        assert len(recorder.talks) == 1
        first.cancel()
        await asyncio.gather(*waiting)

    loop.run(main())
    all_ended(recorder)
    assert [bytes(talk.body) for talk in recorder.talks[: len(numbers) + 1]] == [b"first", *numbers]


@unix
def test_a_post_whose_turn_does_not_come_in_time_has_left_nothing(loop: Loop, recorder: Recorder) -> None:
    recorder.script = never_answers
    file = io.BytesIO(b"whole")

    async def main() -> ConnectError:
        take_turns(1)
        first = asyncio.ensure_future(aio.post(recorder.url, b"1", closing="answered"))
        await when(lambda: any(talk.whole for talk in recorder.talks), "the first")
        with pytest.raises(ConnectError) as caught:
            await aio.post(recorder.url, file, timeout=0.01)
        first.cancel()
        await asyncio.wait([first])
        assert (await aio.post(recorder.url, b"3")).delivery == "sent"
        return caught.value

    error = loop.run(main())
    assert (error.phase, error.errno, error.host) == ("connect", errno.ETIMEDOUT, "127.0.0.1")
    assert "1 other posts are under way" in str(error)
    assert file.read() == b"whole"
    assert {bytes(recorder.next().body) for _ in range(2)} == {b"1", b"3"}


def test_a_sender_without_room_raises_in_time_and_leaves_nothing(loop: Loop, recorder: Recorder) -> None:
    with gate() as reads:
        recorder.script = reads_once(reads)

        async def main() -> None:
            async with aio.Sender(recorder.url, max_held=1, timeout=PATIENCE, background=False) as sender:
                sending = asyncio.ensure_future(sender.post(ENDLESS))
                await asyncio.sleep(0)
                sender._timeout = sender._pool._timeout = 0.01  # or the first would not last
                with pytest.raises(ConnectError, match="1 other posts are under way; raise max_held"):
                    await sender.post(b"x")
                sending.cancel()
                await asyncio.wait([sending])
                assert account(sender) == Stats(0, {}, 0, 0, 0, 0, 0, 0, failed=2, spares=0)

        loop.run(main())
        reads.set()
        recorder.next()
    assert len(recorder.talks) == 1


# --- want of descriptors ---------------------------------------------------------------------------------------------


@unix
@posts
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_out_of_descriptors_a_post_says_so_and_the_next_one_works(
    loop: Loop, recorder: Recorder, post: Post, host: str
) -> None:
    url = recorder.url.replace("127.0.0.1", host)

    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, int)  # its thread is there
        with few_descriptors(3), pytest.raises(ConnectError) as caught:
            await post(url, b"x")
        assert caught.value.errno == errno.EMFILE
        assert await loop.left() == []
        await post(url, b"y")

    loop.run(main())
    assert recorder.next().body == b"y"


@unix
def test_out_of_descriptors_spares_wait_and_come_when_there_are_some(loop: Loop, recorder: Recorder) -> None:
    async def main() -> None:
        async with aio.Sender(recorder.url, spares=2, timeout=0.15) as sender:
            with few_descriptors(3), pytest.raises(ConnectError) as caught:
                await sender.warm()
            assert caught.value.errno == errno.EMFILE
            await when(lambda: sender.stats.spares == 2, "both spares")

    loop.run(main())


# --- in the background -----------------------------------------------------------------------------------------------


def test_the_running_loop_alone_counts_answers_and_replaces_spares(loop: Loop, peer: Recorder) -> None:
    threads: set[str] = set()

    async def main() -> None:
        async with aio.Sender(peer.url, spares=2, **peer.options) as sender:
            for number in range(4):
                assert await sender.post(b"%d" % number)
            threads.update(thread.name for thread in threading.enumerate())
            await when(lambda: sender.stats.answered == {204: 4}, "the answers")
            await when(lambda: sender.stats.spares == len(idle(peer)) == 2, "the spares")
            ended = idle(peer)
            for talk in ended:
                talk.half_close()
            await when(lambda: sender.stats.spares == 2 and not any(talk in idle(peer) for talk in ended), "successors")
            assert account(sender) == Stats(4, {204: 4}, 0, 0, 0, 0, 0, 0, 0, spares=2)

    loop.run(main())
    assert threads == {"MainThread", "recorder"}


def idle(peer: Recorder) -> list[Talk]:
    """Return the connections that are spares, as the server sees it."""
    return [talk for talk in peer.talks if talk.handshaken and not talk.data and not talk.ended]


def test_the_running_loop_alone_ends_what_has_waited_for_linger(loop: Loop, recorder: Recorder) -> None:
    recorder.script = never_answers

    async def main() -> None:
        async with aio.Sender(recorder.url, linger=0.02) as sender:
            assert await sender.post(b"x")
            await when(lambda: sender.stats.unanswered == 1, "the end")
            assert account(sender) == Stats(1, {}, 0, 0, 1, 0, 0, 0, 0, 0)
        async with aio.Sender(recorder.url, closing="acked", linger=PATIENCE) as sender:
            assert await sender.post(b"y")
            await when(lambda: sender.stats.acked == 1, "the acknowledgement")

    loop.run(main())
    assert {(bytes(talk.body), talk.end) for talk in all_ended(recorder)} == {(b"x", "FIN"), (b"y", "FIN")}


def test_what_a_post_leaves_to_the_loop_is_sent_and_counted(loop: Loop, peer: Recorder) -> None:
    async def main() -> None:
        async with aio.Sender(peer.url, spares=1, timeout=PATIENCE, **peer.options) as sender:
            await sender.warm()
            body = bytearray(LARGE)
            assert at_once(sender.post(body))
            body[:] = b"x" * len(body)  # it is the caller's again
            await when(lambda: sender.stats.answered == {204: 1}, "the answer")

    loop.run(main())
    assert next(talk for talk in all_ended(peer) if talk.whole).body == LARGE


def answers_when(event: threading.Event) -> Script:
    """Read a whole request, answer once something has happened."""

    def script(talk: Talk) -> None:
        talk.receive_request()
        if talk.whole:
            assert event.wait(PATIENCE)
            talk.send(NO_CONTENT)

    return script


def test_without_background_nothing_happens_before_it_is_asked_for(loop: Loop, recorder: Recorder) -> None:
    with gate() as answers, gate() as answered:

        def script(talk: Talk) -> None:
            answers_when(answers)(talk)
            answered.set()

        recorder.script = script

        async def main() -> None:
            async with aio.Sender(recorder.url, spares=1, background=False) as sender:
                assert await sender.post(b"1")
                answers.set()
                await when(answered.is_set, "the answer is in our kernel")
                await asyncio.sleep(LOOK)
                assert (len(recorder.talks), account(sender).held) == (1, 1)
                assert await loop.left() == []
                assert await sender.pump() is not None  # it has opened a spare, which is to be replaced one day
                assert account(sender) == Stats(1, {204: 1}, 0, 0, 0, 0, 0, 0, 0, spares=1)
                assert await sender.post(b"2")
                assert await sender.flush()
                assert account(sender).answered == {204: 2}
                await sender.warm()
                assert await sender.post(b"3")
            assert account(sender) == Stats(3, {204: 3}, 0, 0, 0, 0, 0, 0, 0, spares=0)
            assert await sender.pump() is None

        loop.run(main())


def test_pump_tells_when_it_wants_to_be_called_again(loop: Loop, recorder: Recorder) -> None:
    recorder.script = never_answers

    async def main() -> None:
        async with aio.Sender(recorder.url, linger=0.05, background=False) as sender:
            assert await sender.pump() is None
            began = time.monotonic()
            await sender.post(b"x")
            pause = await sender.pump()
            while account(sender).held:
                assert pause is not None
                assert 0 <= pause <= 0.05
                assert time.monotonic() + pause >= began + 0.05
                await asyncio.sleep(pause)
                pause = await sender.pump()
            assert time.monotonic() >= began + 0.05
            assert account(sender).unanswered == 1
            assert pause is None

    loop.run(main())


@linux
def test_an_idle_sender_lets_its_loop_sleep(loop: Loop, peer: Recorder) -> None:
    async def main() -> int:
        async with aio.Sender(peer.url, spares=4, **peer.options) as sender:
            await sender.warm()
            assert await sender.post(b"x")
            await sender.flush()
            await sender.warm()
            await asyncio.sleep(0)
            before = switches()
            await asyncio.sleep(LOOK)
            return switches() - before

    assert loop.run(main()) <= 5  # each wait of a loop is one


def switches() -> int:
    """Return how often this thread has gone to sleep."""
    if sys.platform == "linux":
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    raise NotImplementedError


# --- the end of a wait ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [False, True])
def test_a_cancelled_flush_leaves_the_posts_as_they_were(loop: Loop, recorder: Recorder, *, background: bool) -> None:
    with gate() as answers:
        recorder.script = answers_when(answers)

        async def main() -> None:
            async with aio.Sender(recorder.url, linger=PATIENCE, background=background) as sender:
                assert await sender.post(b"x")
                await given_up(sender.flush())
                assert account(sender).held == 1
                answers.set()
                assert await sender.flush()
                assert account(sender).answered == {204: 1}

        loop.run(main())


@pytest.mark.parametrize("background", [False, True])
def test_a_cancelled_warm_leaves_no_timer_that_close_does_not_end(loop: Loop, *, background: bool) -> None:
    async def main() -> None:
        url = f"http://127.0.0.1:{refusing_port()}/"
        async with aio.Sender(url, spares=2, timeout=PATIENCE, background=background) as sender:
            await given_up(sender.warm())
            if not background:
                assert await loop.left() == []

    loop.run(main())


@pytest.mark.parametrize("background", [False, True])
def test_a_cancelled_close_has_closed(loop: Loop, recorder: Recorder, *, background: bool) -> None:
    recorder.script = never_answers

    async def main() -> None:
        sender = aio.Sender(recorder.url, linger=PATIENCE, background=background)
        assert await sender.post(b"x")
        await given_up(sender.close())
        assert account(sender) == Stats(1, {}, 0, 0, 1, 0, 0, 0, 0, 0)
        assert await loop.left() == []
        with pytest.raises(RequestError):
            await sender.post(b"y")

    loop.run(main())
    assert recorder.next().end == "FIN"


async def given_up(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Cancel it where it waits."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def test_a_post_in_the_resolver_that_a_close_overtakes_has_not_been_cancelled(loop: Loop) -> None:
    async def main() -> None:
        loop.loop.silent = True
        sender = aio.Sender("http://rawfnf.test/", linger=0.0)
        posting = asyncio.ensure_future(sender.post(b"x"))
        await when(lambda: loop.loop.asked, "the resolver is asked")
        await sender.close()
        with pytest.raises(RequestError, match="closed"):
            await posting
        assert sender.stats.failed == 1

    loop.run(main())


def test_a_close_that_is_cancelled_while_the_resolver_is_told_has_closed(loop: Loop, recorder: Recorder) -> None:
    recorder.script = never_answers

    async def main() -> None:
        loop.loop.says = ["127.0.0.1"]
        sender = aio.Sender(recorder.url.replace("127.0.0.1", "many.test"), spares=1, linger=PATIENCE)
        assert await sender.post(b"x")
        await when(lambda: any(talk.whole for talk in recorder.talks), "the post")
        await when(lambda: sender.stats.spares == len(idle(recorder)) == 1, "the spare")
        loop.loop.silent = True
        loop.loop.asked.clear()
        sender._pool.addresses.failed()
        idle(recorder)[0].half_close()  # so that the background needs another, and asks
        await when(lambda: loop.loop.asked, "the resolver is asked")
        task = asyncio.ensure_future(sender.close())
        await asyncio.sleep(0)
        task.cancel()  # it waits for the resolver's task
        await asyncio.wait([task])
        assert task.cancelled()
        assert account(sender).unanswered == 1
        assert await loop.left() == []

    loop.run(main())


# --- other loops ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [False, True])
def test_a_sender_goes_on_in_the_next_loop_when_its_own_is_closed(
    loop: Loop, peer: Recorder, *, background: bool
) -> None:
    with gate() as answers:
        peer.script = answers_when(answers)
        sender = aio.Sender(peer.url, spares=2, background=background, **peer.options)

        async def first() -> None:
            await sender.warm()
            assert await sender.post(b"1")
            assert account(sender).held == 1

        async def second() -> None:
            answers.set()
            assert await sender.post(b"2")
            assert await sender.flush()
            assert account(sender).answered == {204: 2}
            await sender.close()

        loop.run(first())
        loop.close()
        with contextlib.closing(Loop(loop.kind)) as other:
            other.run(second())
            assert other.run(other.left()) == []
    assert {bytes(talk.body) for talk in all_ended(peer) if talk.whole} == {b"1", b"2"}


def test_a_sender_serves_one_loop_at_a_time_also_in_other_threads(loop: Loop, recorder: Recorder) -> None:
    sender = aio.Sender(recorder.url)

    async def used() -> None:
        with pytest.raises(RequestError, match="another event loop"):
            await sender.post(b"x")
        for refused in (sender.warm, sender.flush, sender.pump, sender.close):
            with pytest.raises(RequestError, match="another event loop"):
                await refused()

    def elsewhere() -> None:
        with contextlib.closing(Loop(loop.kind)) as other:
            other.run(used())

    loop.run(sender.post(b"1"))
    elsewhere()
    loop.run(asyncio.to_thread(elsewhere))
    loop.run(sender.close())
    assert account(sender) == Stats(1, {204: 1}, 0, 0, 0, 0, 0, 0, failed=2, spares=0)


@pytest.mark.parametrize("wait", ["flush", "post"])
@pytest.mark.parametrize("background", [False, True])
def test_what_waited_in_a_closed_loop_does_not_disturb_the_next_one(
    loop: Loop, recorder: Recorder, wait: str, *, background: bool
) -> None:
    """A task that was never cancelled ends when it is forgotten, whenever that is."""
    with gate() as answers:
        recorder.script = answers_when(answers)
        sender = aio.Sender(recorder.url, max_held=1, timeout=PATIENCE, background=background)

        async def first() -> asyncio.Task[bool]:
            assert await sender.post(b"1")
            task = asyncio.ensure_future(sender.post(b"2") if wait == "post" else sender.flush())
            await asyncio.sleep(0)
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # of which asyncio is to say nothing here
            return task

        async def second(forgotten: list[asyncio.Task[bool]]) -> None:
            flushing = asyncio.ensure_future(sender.flush())
            await asyncio.sleep(0)
            forgotten.clear()
            gc.collect()
            answers.set()
            assert await flushing
            assert await sender.post(b"3")
            assert await sender.flush()
            assert account(sender).answered == {204: 2}
            await sender.close()

        forgotten = [loop.run(first())]
        loop.loop.close()
        with contextlib.closing(Loop(loop.kind)) as other:
            other.run(second(forgotten))
    assert {bytes(talk.body) for talk in all_ended(recorder)} == {b"1", b"3"}


# --- oblivion and the end of the process ------------------------------------------------------------------------------


@pytest.mark.parametrize("while_running", [True, False])
def test_a_forgotten_sender_warns_and_leaves_nothing(loop: Loop, peer: Recorder, *, while_running: bool) -> None:
    peer.script = never_answers

    def forget(senders: list[aio.Sender]) -> None:
        with pytest.warns(ResourceWarning, match=r"unclosed aio\.Sender for 127\.0\.0\.1"):
            senders.clear()

    async def main() -> list[aio.Sender]:
        senders = [aio.Sender(peer.url, spares=2, **peer.options)]
        await senders[0].warm()
        assert await senders[0].post(b"x")
        await when(lambda: any(talk.whole for talk in peer.talks), "the request")
        if while_running:
            forget(senders)
            assert await loop.left() == []
        return senders

    senders = loop.run(main())
    if not while_running:
        forget(senders)
    assert {talk.end for talk in all_ended(peer)} == {"FIN"}


def test_a_forgotten_sender_of_a_closed_loop_warns_and_leaves_nothing(loop: Loop, recorder: Recorder) -> None:
    sender = aio.Sender(recorder.url, spares=1)
    loop.run(sender.warm())
    loop.close()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del sender
    assert recorder.next().end == "FIN"


def test_a_sender_that_was_never_used_may_be_forgotten(loop: Loop) -> None:
    aio.Sender("http://127.0.0.1/", spares=1)
    gc.collect()


ENDS_WITH_HELD_POSTS = """
async def main():
    global sender
    sender = rawfnf.aio.Sender(url, spares=2)
    for number in range(3):
        await sender.post(b"%d" % number)

run(main())
"""

INTERRUPTED = """
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    global sender
    sender = rawfnf.aio.Sender(url)
    for number in range(3):
        await sender.post(b"%d" % number)
    signal.raise_signal(signal.SIGINT)
    await asyncio.sleep(60)

try:
    run(main())
except KeyboardInterrupt:
    tell("interrupted")
"""

CLOSED_UNDER_A_TASK = """
async def main():
    global sender, task
    sender = rawfnf.aio.Sender(url)
    for number in range(3):
        await sender.post(b"%d" % number)
    task = asyncio.ensure_future(sender.flush())
    await asyncio.sleep(0)

loop = new_loop()
loop.run_until_complete(main())
task._log_destroy_pending = False
loop.close()
"""

LOOP_IN_A_THREAD = """
ready = threading.Event()

async def main():
    global sender
    sender = rawfnf.aio.Sender(url)
    for number in range(3):
        await sender.post(b"%d" % number)
    ready.set()
    await asyncio.sleep(60)

loop = new_loop()
threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True).start()
ready.wait()
"""


@pytest.mark.parametrize(
    ("code", "told"),
    [(ENDS_WITH_HELD_POSTS, []), (INTERRUPTED, ["interrupted"]), (CLOSED_UNDER_A_TASK, []), (LOOP_IN_A_THREAD, [])],
    ids=["end", "interrupt", "closed under a task", "loop in a thread"],
)
def test_at_exit_the_answers_to_what_is_held_are_waited_for(
    loop: Loop, recorder: Recorder, code: str, told: list[str]
) -> None:
    recorder.script = answers_who_waits
    flags = ("-W", "error", "-W", "ignore::ResourceWarning") if code is LOOP_IN_A_THREAD else STRICT
    with contextlib.closing(program(code, recorder.url, loop, flags=flags)) as client:
        assert client.end() == told
    came = {bytes(talk.body): talk for talk in all_ended(recorder) if talk.data}
    assert {*came} == {b"0", b"1", b"2"}
    assert {talk.end for talk in came.values()} == {"FIN"}


def test_of_what_is_forgotten_with_its_loop_only_the_senders_complain(recorder: Recorder) -> None:
    """Whatever its cycles' order: since Python 3.12 sockets are garbage like any other, and may be finalized first."""
    recorder.script = never_answers

    async def forget() -> None:
        for _ in range(10):
            sender = aio.Sender(recorder.url, spares=2)
            await sender.warm()
            await sender.post(b"held")
            cycle: list[object] = [sender]
            cycle.append(cycle)

    thresholds = gc.get_threshold()
    try:
        with pytest.warns(ResourceWarning) as warned:  # noqa: PT031  # until() collects
            for number, each in enumerate(range(50, 550, 50), 1):  # some are made while garbage is collected
                gc.set_threshold(each, 2, 2)
                asyncio.run(forget())
                until(lambda: gc.collect() >= 0 and len(warned) >= 10 * number, "the warnings")  # noqa: B023
    finally:
        gc.set_threshold(*thresholds)
    assert {str(warning.message).partition(" for ")[0] for warning in warned} == {"unclosed aio.Sender"}


FORKS = """
async def main():
    begun = asyncio.Event()

    def body():
        yield b"under way"
        begun.set()  # what is left to send goes in the same step

    under_way = asyncio.ensure_future(rawfnf.aio.post(url, body(), closing="answered", linger=60))
    await begun.wait()  # nothing below need ever let it begin
    async with rawfnf.aio.Sender(url, spares=2) as sender:
        await sender.warm()
        await sender.post(b"before")
        child = os.fork()
        if child == 0:
            assert sender.stats.posted == sender.stats.held == sender.stats.spares == 0

            async def posts():
                await sender.post(b"child")
                await sender.flush()
                assert sender.stats.answered == {204: 1}, sender.stats
                await sender.close()
                await rawfnf.aio.post(url, b"child too", closing="answered")

            try:
                run(posts())
                tell("child")
                hear()  # its copies of descriptors are there until the parent has ended its connections
            finally:
                os._exit(0)
        await sender.flush()
        await sender.warm()
        await sender.post(b"after")
        await sender.flush()
        assert sender.stats.answered == {204: 2}, sender.stats
    tell("parent")
    assert (await under_way).status == 204
    assert os.waitpid(child, 0)[1] == 0

run(main())
"""


@unix
def test_after_a_fork_in_a_coroutine_both_post_on_connections_of_their_own(loop: Loop, recorder: Recorder) -> None:
    with gate() as answers:

        def script(talk: Talk) -> None:
            (answers_when(answers) if talk is recorder.talks[0] else answer_at_once)(talk)

        recorder.script = script
        with contextlib.closing(program(FORKS, recorder.url, loop)) as client:
            assert {client.hear(), client.hear()} == {"parent", "child"}
            answers.set()
            talks = all_ended(recorder)  # while the child lives
            client.go_on()
            assert client.end() == []
    bodies = [bytes(talk.body) for talk in talks if talk.whole]
    assert Counter(bodies) == Counter((b"under way", b"before", b"after", b"child", b"child too"))
    assert {talk.end for talk in talks} == {"FIN"}


WORKERS = """
import multiprocessing

def work(number):
    async def main():
        global sender
        sender = rawfnf.aio.Sender(url)
        await sender.post(b"%d" % number)
    run(main())

workers = [multiprocessing.get_context("fork").Process(target=work, args=(number,)) for number in range(3)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
tell([worker.exitcode for worker in workers])
"""


@unix
def test_what_a_worker_of_multiprocessing_leaves_open_is_flushed(loop: Loop, recorder: Recorder) -> None:
    recorder.script = answers_who_waits
    with contextlib.closing(program(WORKERS, recorder.url, loop)) as client:
        assert client.end() == [[0, 0, 0]]
    assert {bytes(talk.body) for talk in all_ended(recorder) if talk.end == "FIN"} == {b"0", b"1", b"2"}


# --- names ----------------------------------------------------------------------------------------------------------


def unreachable_twin(recorder: Recorder) -> list[str]:
    """Return addresses of which only the last has something that listens at the recorder's port."""
    return ["127.0.0.77", "127.0.0.78", recorder.host]


@linux
@posts
def test_the_loops_resolver_is_asked_and_all_addresses_are_tried(loop: Loop, recorder: Recorder, post: Post) -> None:
    loop.loop.says = unreachable_twin(recorder)
    loop.run(post(f"http://many.test:{recorder.port}/", b"x"))
    talk = recorder.next()
    assert (bytes(talk.body), talk.header("Host")) == (b"x", f"many.test:{recorder.port}")
    assert loop.loop.asked == [(b"many.test", recorder.port)]


@posts
def test_what_the_loops_resolver_raises_is_a_connect_error(loop: Loop, post: Post) -> None:
    loop.loop.says = failure = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(ConnectError, match=r"cannot resolve many\.test:80: Name or service not known") as caught:
        loop.run(post("http://many.test/", b"x"))
    error = caught.value
    assert (error.phase, error.host, error.errno, error.__cause__) == ("resolve", "many.test", failure.errno, failure)


@posts
def test_a_resolver_that_takes_longer_than_timeout_is_left_alone(loop: Loop, post: Post) -> None:
    loop.loop.silent = True

    async def main() -> ConnectError:
        with pytest.raises(ConnectError, match="the resolver took longer than timeout") as caught:
            await post("http://many.test/", b"x", timeout=0.02)
        assert await loop.left() == []
        return caught.value

    error = loop.run(main())
    assert (error.phase, error.errno) == ("resolve", errno.ETIMEDOUT)


@posts
def test_a_resolver_that_fails_when_the_post_is_cancelled_is_not_complained_about(loop: Loop, post: Post) -> None:
    loop.loop.says = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    complaints: list[object] = []
    loop.loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))

    async def main() -> None:
        reached, number = True, 0
        while reached:
            number += 1
            with contextlib.suppress(ConnectError):
                reached, cause = await interrupted(post("http://many.test/", b"x"), number, late=True)
                assert cause is not None
                assert_none_left(cause, "resolve")
                continue
            reached = False
        gc.collect()
        await asyncio.sleep(0)

    loop.run(main())
    assert complaints == []


# --- the module -----------------------------------------------------------------------------------------------------


def test_its_names_have_the_signatures_of_rawfnf() -> None:
    def signature(function: Callable[..., object]) -> list[tuple[str, object, object]]:
        parameters = inspect.signature(function).parameters.values()
        return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]

    assert aio.__all__ == ["Sender", "post"]
    assert signature(aio.post) == signature(rawfnf.post)
    assert signature(aio.Sender) == signature(rawfnf.Sender)
    for name in ("post", "warm", "pump", "flush", "close"):
        method, theirs = getattr(aio.Sender, name), getattr(rawfnf.Sender, name)
        assert inspect.iscoroutinefunction(method)
        assert signature(method) == signature(theirs)
        assert inspect.signature(method).return_annotation == inspect.signature(theirs).return_annotation
    assert inspect.iscoroutinefunction(aio.post)


def test_importing_rawfnf_loads_neither_it_nor_asyncio() -> None:
    code = (
        "import sys, rawfnf; rawfnf.Sender; print([name for name in ('asyncio', 'rawfnf.aio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


DEVELOPING = """
context = None
if arguments:
    import ssl
    context = ssl.create_default_context(cafile=arguments[0])

async def main():
    loop = asyncio.get_running_loop()
    assert loop.get_debug()
    for closing in ("now", "acked", "answered"):
        await rawfnf.aio.post(url, b"x", closing=closing, ssl_context=context)
    await asyncio.wait_for(rawfnf.aio.post(url.replace("127.0.0.1", "localhost"), b"x", ssl_context=context), 20)
    for background in (True, False):
        async with rawfnf.aio.Sender(url, spares=2, ssl_context=context, background=background) as sender:
            await sender.warm()
            await asyncio.gather(*(sender.post(b"x") for _ in range(5)))
            await sender.pump()
            await sender.flush()
            assert sender.stats.answered == {204: 5}
    task = asyncio.ensure_future(rawfnf.aio.post(url, bytes(64 << 20), ssl_context=context))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()

run(main())
gc.collect()
"""


def test_the_development_mode_finds_nothing_to_say(loop: Loop, peer: Recorder, cafile: Path) -> None:
    arguments = [str(cafile)] if peer.options else []
    with contextlib.closing(program(DEVELOPING, peer.url, loop, *arguments)) as client:
        assert client.end() == []
