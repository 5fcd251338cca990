"""The life around a Sender: forks, workers, exits, interrupts, oblivion, want of descriptors, gevent.

What ends a process, or forks one, runs in a Python of its own (see Program); its peer is here, and tells what it saw.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import rawfnf
from rawfnf import ConnectError, RequestError, Sender, _pool, _sender
from rawfnf._connection import Connection
from tests.peers import (
    ENDLESS,
    NO_CONTENT,
    PATIENCE,
    Recorder,
    Talk,
    answer_at_once,
    let_pass,
    never_answers,
    recording,
    refusing_port,
    server_context,
    until,
)
from tests.test_post import assert_cut_off, gate, interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    import trustme

ROOT = Path(__file__).parent.parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="what is tested is Linux's")
unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork(), and no signals to speak of")

EMPTY: dict[str, Any] = {
    "posted": 0,
    "answered": {},
    "acked": 0,
    "closed_now": 0,
    "unanswered": 0,
    "reset": 0,
    "held": 0,
    "dropped": 0,
    "failed": 0,
}
# How long a peer looks whether something happens that is not to happen, and lets its answer be waited for, in seconds.
LOOK = 0.2
# What takes longer has been forgotten until `linger` is over, which is PATIENCE where this is asked.
SOON = PATIENCE / 4


def account(sender: Sender) -> dict[str, Any]:
    """Return what became of the posts; the law holds."""
    stats = sender.stats
    ends = (stats.acked, stats.closed_now, stats.unanswered, stats.reset, stats.held)
    assert stats.posted == sum(stats.answered.values()) + sum(ends), stats
    told = stats._asdict()
    del told["spares"]
    return told


def answered(posts: int) -> dict[str, Any]:
    """Return the account of so many posts that were all answered with 204."""
    return EMPTY | {"posted": posts, "answered": {204: posts}}


@pytest.fixture(params=[None, ssl.TLSVersion.TLSv1_3], ids=["plain", "TLS1.3"])
def peer(request: pytest.FixtureRequest, authority: trustme.CA, trusting: ssl.SSLContext) -> Iterator[Recorder]:
    """A recorder; `Sender(peer.url, **peer.options)` reaches it."""
    context = None if request.param is None else server_context(authority, request.param)
    with recording(context=context, options=None if context is None else {"ssl_context": trusting}) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["alone", "thread"])
def background(request: pytest.FixtureRequest) -> bool:
    """Without and with the background thread."""
    threaded: bool = request.param
    return threaded


# Where neither makes much of a difference, and processes are started, which takes its time.
either = pytest.mark.parametrize(
    ("peer", "background"),
    [(None, False), (ssl.TLSVersion.TLSv1_3, True)],
    ids=["plain-alone", "TLS1.3-thread"],
    indirect=True,
)
over_tls = pytest.mark.parametrize("peer", [ssl.TLSVersion.TLSv1_3], ids=["TLS1.3"], indirect=True)


# --- what the peer sees ---------------------------------------------------------------------------------------------


def answers_who_waits(talk: Talk) -> None:
    """Answer late, and only a client that has left the connection open until then."""
    talk.receive_request()
    if talk.whole:
        assert not talk.ends_within(LOOK)
        assert not talk.close_notify
        talk.send(NO_CONTENT)


def all_ended(peer: Recorder) -> list[Talk]:
    """Wait until every connection has ended; return them in the order in which they came."""
    with socket.create_connection(peer.address) as last:  # whatever came before has been accepted when this has
        us = last.getsockname()
        until(lambda: any(talk.client == us for talk in peer.talks), "our own connection")
    until(lambda: all(talk.done.is_set() for talk in peer.talks), "the end of every connection")
    for talk in peer.talks:
        if talk.error is not None:
            raise talk.error
    return [talk for talk in peer.talks if talk.client != us]


def assert_arrived(peer: Recorder, *bodies: bytes) -> dict[bytes, Talk]:
    """Check that these bodies came, each once, with an ordinary end behind it, and nothing else; return what came."""
    talks = all_ended(peer)
    whole = [talk for talk in talks if talk.whole]
    assert Counter(bytes(talk.body) for talk in whole) == Counter(bodies)
    for talk in whole:
        assert talk.tls_error is None
        assert (talk.end, talk.close_notify) == ("FIN", talk.tls_version is not None)
        assert talk.data == rawfnf.Request(peer.url).encode(bytes(talk.body))
    assert [bytes(talk.data) for talk in talks if not talk.whole and talk.data] == []
    return {bytes(talk.body): talk for talk in whole}


# --- programs -------------------------------------------------------------------------------------------------------

PRELUDE = """\
import atexit, ctypes, json, multiprocessing, os, signal, ssl, sys, threading, time
import rawfnf

url, cafile, background, arguments = sys.argv[1], sys.argv[2], sys.argv[3] == "thread", sys.argv[4:]
context = ssl.create_default_context(cafile=cafile) if cafile else None

def make(spares=0, **options):
    return rawfnf.Sender(url, ssl_context=context, background=background, spares=spares, **options)

def tell(what):  # in one write: several processes may
    os.write(1, json.dumps(what._asdict() if isinstance(what, rawfnf.Stats) else what).encode() + b"\\n")

def hear():
    assert os.read(0, 1)

"""

# 3.12's says that a fork of a process with threads may deadlock in the child: that it does not, is tested here.
STRICT = ("-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning")


class Program:
    """A Python of its own with a script that tells lines, and waits to hear that it may go on."""

    def __init__(self, command: list[str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, *command],
            bufsize=0,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        self._alarm = threading.Timer(PATIENCE, self._kill)
        self._alarm.start()

    def _kill(self) -> None:
        """End it, and its children: theirs are the pipes as well."""
        if sys.platform == "win32":
            self._process.kill()
        elif self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it, if it has not ended."""
        self._kill()
        self._process.__exit__(None, None, None)  # waits, and closes the pipes
        self._alarm.cancel()
        self._alarm.join()

    def hear(self) -> Any:
        """Return what it tells next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1].decode()
        return self._understand(line)

    def go_on(self) -> None:
        """Let it go on from its next, or present, hear()."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def end(self, code: int = 0) -> list[Any]:
        """Wait for its end, which is to be in order, and return what it still told."""
        out, err = self._process.communicate()
        assert err.decode() == ""
        assert self._process.returncode == code
        return [self._understand(line) for line in out.splitlines()]

    @staticmethod
    def _understand(line: bytes) -> Any:
        told = json.loads(line)
        if isinstance(told, dict):  # a Stats
            told["answered"] = {int(status): count for status, count in told["answered"].items()}
            del told["spares"]
        return told


class Start:
    """Starts programs, and ends what is left of them with the test."""

    def __init__(self, cafile: Path) -> None:
        self._cafile = cafile
        self._programs: list[Program] = []

    def __call__(
        self,
        code: str,
        peer: Recorder,
        *arguments: object,
        background: bool = False,
        before: str = "",
        path: Path | None = None,
        flags: tuple[str, ...] = STRICT,
    ) -> Program:
        """Run `before`, PRELUDE and `code`, as a file if there is a `path` for it."""
        script = before + PRELUDE + code
        if path is not None:
            path.write_text(script)
        run = ["-c", script] if path is None else [str(path)]
        told = [peer.url, str(self._cafile) if peer.options else "", "thread" if background else "alone"]
        program = Program([*flags, *run, *told, *map(str, arguments)])
        self._programs.append(program)
        return program

    def close(self) -> None:
        for program in self._programs:
            program.close()


@pytest.fixture
def start(cafile: Path) -> Iterator[Start]:
    """Start programs that post to a peer."""
    with contextlib.closing(Start(cafile)) as made:
        yield made


# --- fork -----------------------------------------------------------------------------------------------------------

FORKS = """
sender = make(spares=2)
sender.warm()
sender.post(b"before")
sender.flush()
sender.warm()
tell(sender.stats)
hear()
child = os.fork()
if child == 0:
    tell(sender.stats)
    sender.post(b"child")
    sender.flush()
    tell(sender.stats)
    sys.exit()  # by all that an exit runs
assert os.waitpid(child, 0)[1] == 0
sender.post(b"parent")
sender.flush()
tell(sender.stats)
sender.close()
"""


@unix
def test_after_a_fork_parent_and_child_post_on_connections_of_their_own(
    start: Start, peer: Recorder, *, background: bool
) -> None:
    program = start(FORKS, peer, background=background)
    assert program.hear() == answered(1)
    until(lambda: len(peer.talks) == 3, "a used spare, its successor, and another")
    parents = list(peer.talks)
    program.go_on()
    assert program.end() == [EMPTY, answered(1), answered(2)]
    arrived = assert_arrived(peer, b"before", b"child", b"parent")
    assert arrived[b"parent"] in parents, "on a spare of before the fork: the child has ended none"
    assert arrived[b"child"] not in parents


FORKS_WHILE_BUSY = """
sender = make(spares=2)
def work(name):
    for number in range(30):
        sender.post(f"{name}{number}".encode())
posters = [threading.Thread(target=work, args=(name,)) for name in "AB"]
for poster in posters:
    poster.start()
children = []
for name in "CDEF":
    child = os.fork()
    if child == 0:
        assert sender.stats.posted == sender.stats.held == sender.stats.spares == 0
        for number in range(3):
            sender.post(f"{name}{number}".encode())
        sender.flush()
        tell(sender.stats)
        if name in "CD":
            os._exit(0)
        sys.exit()
    children.append(child)
for poster in posters:
    poster.join()
for child in children:
    assert os.waitpid(child, 0)[1] == 0
sender.flush()
tell(sender.stats)
sender.close()
"""


@unix
@pytest.mark.parametrize("peer", [None], ids=["plain"], indirect=True)
def test_forks_in_the_middle_of_other_threads_posts_lose_nothing_and_send_nothing_twice(
    start: Start, peer: Recorder, *, background: bool
) -> None:
    """Without TLS: a child of a fork while another thread is inside OpenSSL may find locks there taken for ever.

    That is so of any program (fork(2): such a child may call async-signal-safe functions only). Forks with TLS spares,
    and nobody else inside OpenSSL, are tested above.
    """
    told = start(FORKS_WHILE_BUSY, peer, background=background).end()
    assert told == [answered(3)] * 4 + [answered(60)]
    posts = dict.fromkeys("AB", 30) | dict.fromkeys("CDEF", 3)
    assert_arrived(peer, *(f"{name}{number}".encode() for name in posts for number in range(posts[name])))


FORKS_WHILE_SENDING = """
from tests.peers import until
sender = make()
poster = threading.Thread(target=sender.post, args=(bytes(range(256)) * 65536,))
poster.start()
hear()  # the server has the head, and reads no more of it
if background:
    until(lambda: sender.stats.held, "the rest is with the thread")
child = os.fork()
if child == 0:
    tell(sender.stats)
    sender.post(b"child")
    sender.flush()
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
tell(sender.stats)
poster.join()
sender.flush()
tell(sender.stats)
sender.close()
"""


@either
@unix
def test_a_body_that_is_half_sent_at_a_fork_is_the_parents_to_finish(
    start: Start, peer: Recorder, *, background: bool
) -> None:
    body = bytes(range(256)) * 65536
    with gate() as child_gone:

        def script(talk: Talk) -> None:
            talk.receive_head()
            if talk.request is not None and talk.header("Content-Length") == str(len(body)):
                assert child_gone.wait(PATIENCE)
            answer_at_once(talk)

        peer.script = script
        program = start(FORKS_WHILE_SENDING, peer, background=background)
        until(lambda: peer.talks and peer.talks[0].request, "the head")
        program.go_on()
        assert program.hear() == EMPTY
        # With the thread the body is its own by now; without, a post that is not all sent is in no term.
        assert program.hear() in ([EMPTY | {"posted": 1, "held": 1}] if background else [EMPTY])
        child_gone.set()
        assert program.end() == [answered(1)]
    assert_arrived(peer, body, b"child")


FORKS_IN_A_BODY = """
sender = make(spares=1)
sender.warm()
parent = os.getpid()
def body():
    yield b"one, "
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
    yield b"two"
try:
    sender.post(body())
except rawfnf.SendError as error:
    assert os.getpid() != parent
    tell(sender.stats)
    sender.post(b"child")
    sender.flush()
    sys.exit()
sender.flush()
tell(sender.stats)
sender.close()
"""


@unix
def test_a_post_that_forks_in_the_middle_goes_on_in_the_parent_and_fails_in_the_child(
    start: Start, peer: Recorder, *, background: bool
) -> None:
    assert start(FORKS_IN_A_BODY, peer, background=background).end() == [EMPTY | {"failed": 1}, answered(1)]
    talks = all_ended(peer)
    assert sorted(bytes(talk.body) for talk in talks if talk.whole) == [b"child", b"one, two"]
    assert {talk.end for talk in talks if talk.whole} == {"FIN"}
    assert {talk.tls_error for talk in talks} == {None}


FORKS_WHILE_HOLDING = """
sender = make(closing=arguments[0], linger=20)
sender.post(b"held")
child = os.fork()
if child == 0:
    tell(sender.stats)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
tell(sender.stats)
sender.flush()
tell(sender.stats)
sender.close()
tell("closed")
if (child := os.fork()) == 0:
    try:
        sender.post(b"closed")
    except rawfnf.RequestError as error:
        tell(str(error))
    os._exit(0)
os.waitpid(child, 0)
"""


@either
@unix
def test_what_is_held_at_a_fork_is_the_parents_to_wait_for(start: Start, peer: Recorder, *, background: bool) -> None:
    with gate() as child_gone:

        def script(talk: Talk) -> None:
            talk.receive_request()
            assert child_gone.wait(PATIENCE)
            answers_who_waits(talk)

        peer.script = script
        program = start(FORKS_WHILE_HOLDING, peer, "answered", background=background)
        assert [program.hear(), program.hear()] == [EMPTY, EMPTY | {"posted": 1, "held": 1}]
        child_gone.set()
        told = program.end()
    assert told[:2] == [answered(1), "closed"]
    assert_arrived(peer, b"held")
    assert len(told) == 3, "what was closed before the fork stays closed"
    assert "is closed" in told[2]


# The GIL is held over this fork(), and none of Python's hooks run: so do a C library's threads, or gRPC's.
FORKS_BEHIND_PYTHONS_BACK = """
sender = make(spares=2, closing=arguments[0])
sender.warm()
child = ctypes.PyDLL(None).fork()
if child == 0:
    while True:
        signal.pause()
sender.post(b"spare")  # the child has a copy of this connection, and of the spare that is left
sender.flush()
sender.close()
tell(sender.stats)
hear()
tell(os.waitpid(child, os.WNOHANG) == (0, 0))
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


@linux
@either
@pytest.mark.parametrize(
    ("closing", "end"),
    [("answered", {"answered": {204: 1}}), ("acked", {"acked": 1}), ("now", {"closed_now": 1})],
)
def test_the_parents_fin_is_not_held_back_by_a_childs_copies(
    start: Start, peer: Recorder, *, background: bool, closing: str, end: dict[str, Any]
) -> None:
    if closing == "acked":
        peer.script = never_answers
    program = start(FORKS_BEHIND_PYTHONS_BACK, peer, closing, background=background)
    assert program.hear() == EMPTY | {"posted": 1} | end
    assert_arrived(peer, b"spare")
    program.go_on()
    assert program.end() == [True], "the child has lived to the end, copies and all"


# --- workers --------------------------------------------------------------------------------------------------------

WORKERS = """
sender = make(spares=1)  # where the workers are forked, they inherit it
def work(number):
    sender.post(f"worker {number}".encode())
if __name__ == "__main__":
    sender.post(b"parent")
    start = multiprocessing.get_context(arguments[0])
    workers = [start.Process(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    tell([worker.exitcode for worker in workers])
"""


def start_methods() -> list[str]:
    import multiprocessing

    return multiprocessing.get_all_start_methods()


@either
@pytest.mark.parametrize("method", start_methods())
def test_what_workers_post_right_before_they_end_is_answered(
    start: Start, peer: Recorder, tmp_path: Path, *, background: bool, method: str
) -> None:
    peer.script = answers_who_waits
    program = start(WORKERS, peer, method, background=background, path=tmp_path / "workers.py")
    assert program.end() == [[0, 0]]
    assert_arrived(peer, b"parent", b"worker 0", b"worker 1")


EXECUTOR = """
from concurrent.futures import ProcessPoolExecutor
sender = make()
def work(number):
    sender.post(f"job {number}".encode())
if __name__ == "__main__":
    with ProcessPoolExecutor(2) as executor:
        list(executor.map(work, range(6)))
"""


@either
def test_what_an_executors_workers_post_is_answered(
    start: Start, peer: Recorder, tmp_path: Path, *, background: bool
) -> None:
    peer.script = answers_who_waits
    assert start(EXECUTOR, peer, background=background, path=tmp_path / "jobs.py").end() == []
    assert_arrived(peer, *(f"job {number}".encode() for number in range(6)))


# --- exit -----------------------------------------------------------------------------------------------------------

UNCLOSED = """
sender = make(spares=2)
if background:
    sender.warm()
sender.post(b"last")
exec(arguments[0])
"""


@either
@pytest.mark.parametrize(("last", "code"), [("", 0), ("sys.exit(3)", 3)])
def test_an_exit_without_close_waits_for_the_answer(
    start: Start, peer: Recorder, *, background: bool, last: str, code: int
) -> None:
    peer.script = answers_who_waits
    assert start(UNCLOSED, peer, last, background=background).end(code) == []
    assert_arrived(peer, b"last")


LINGERS = """
sender = make(linger=0.3)
sender.post(b"last")
"""


@either
def test_an_exit_waits_no_longer_than_linger(start: Start, peer: Recorder, *, background: bool) -> None:
    peer.script = never_answers
    began = time.monotonic()
    assert start(LINGERS, peer, background=background).end() == []
    assert time.monotonic() - began < PATIENCE / 2
    assert_arrived(peer, b"last")


HOOK = """
sender = make(spares=1)
others = []
def at_exit():
    sender.post(b"at exit")
    others.append(make(spares=1))
    others[0].post(b"by another")
atexit.register(at_exit)
sender.post(b"before")
"""


@either
def test_an_exit_hook_may_post(start: Start, peer: Recorder, *, background: bool) -> None:
    peer.script = answers_who_waits
    assert start(HOOK, peer, background=background).end() == []
    assert_arrived(peer, b"before", b"at exit", b"by another")


BUSY_AT_EXIT = """
sender = make(spares=1)
def work():
    try:
        while True:
            sender.post(b"x")
    except rawfnf.RequestError:  # closed
        pass
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
while sender.stats.posted < 50:
    threading.Event().wait(0.001)
"""


@either
def test_an_exit_while_daemon_threads_post_is_in_order(start: Start, peer: Recorder, *, background: bool) -> None:
    assert start(BUSY_AT_EXIT, peer, background=background).end() == []
    assert sum(talk.whole for talk in all_ended(peer)) >= 50


LEAVES_AT_ONCE = """
sender = make(spares=int(arguments[0]))
sender.warm()
sender.post(bytes(int(arguments[1])))
os._exit(0)
"""


@either
@pytest.mark.parametrize("size", [100, 64 << 10])
@pytest.mark.parametrize("spares", [0, 1])
def test_a_process_that_ends_at_once_has_posted_all_the_same(
    start: Start, peer: Recorder, *, background: bool, spares: int, size: int
) -> None:
    peer.script = never_answers
    assert start(LEAVES_AT_ONCE, peer, spares, size, background=background).end() == []
    assert [bytes(talk.body) for talk in all_ended(peer) if talk.whole] == [bytes(size)]


# --- KeyboardInterrupt ----------------------------------------------------------------------------------------------


def waiting_in(method: str) -> Callable[[], object]:
    """Return what waits until the main thread has come to wait inside this method of Sender's."""

    def waits() -> bool:
        frame: FrameType | None = sys._current_frames()[threading.main_thread().ident or 0]
        if frame is None or frame.f_code.co_name not in {"select", "wait"}:
            return False
        while frame is not None:
            if frame.f_code.co_name == method and frame.f_code.co_filename == sys.modules[Sender.__module__].__file__:
                return True
            frame = frame.f_back
        return False

    return lambda: until(waits, f"a wait in {method}()")


@contextlib.contextmanager
def answering_when_told(peer: Recorder) -> Iterator[threading.Event]:
    """Let the peer answer once the event is set, and not before."""
    with gate() as told:

        def script(talk: Talk) -> None:
            talk.receive_request()
            if talk.whole:
                assert told.wait(PATIENCE)
                talk.send(NO_CONTENT)

        peer.script = script
        yield told


INTERRUPTED: list[tuple[str, Callable[[Sender], object], dict[str, int]]] = [
    ("flush", lambda sender: sender.flush(), {}),
    ("post", lambda sender: sender.post(b"too many"), {"failed": 1}),
]


@unix
@pytest.mark.parametrize(("method", "call", "counted"), INTERRUPTED, ids=["flush", "post"])
def test_a_wait_that_is_interrupted_leaves_everything_as_it_was(
    peer: Recorder, *, background: bool, method: str, call: Callable[[Sender], object], counted: dict[str, int]
) -> None:
    with (
        answering_when_told(peer) as told,
        Sender(peer.url, max_held=1, timeout=PATIENCE, background=background, **peer.options) as sender,
    ):
        sender.post(b"held")
        with interrupted(waiting_in(method)):
            call(sender)
        assert account(sender) == EMPTY | {"posted": 1, "held": 1} | counted
        told.set()
        assert sender.post(b"again")
        assert sender.flush(PATIENCE)
        assert account(sender) == answered(2) | counted
    assert_arrived(peer, b"held", b"again")


@unix
def test_an_interrupted_close_has_closed_all_the_same(peer: Recorder, *, background: bool) -> None:
    with answering_when_told(peer):
        sender = Sender(peer.url, spares=1, linger=PATIENCE, background=background, **peer.options)
        sender.warm()
        sender.post(b"held")
        with interrupted(waiting_in("close")):
            sender.close()
        assert account(sender) == EMPTY | {"posted": 1, "unanswered": 1}
        with pytest.raises(RequestError, match="is closed"):
            sender.post(b"too late")
        sender.close()
    assert_arrived(peer, b"held")


@unix
def test_an_interrupt_while_the_body_is_sent_resets(peer: Recorder, *, background: bool) -> None:
    with gate() as returned, Sender(peer.url, timeout=PATIENCE, background=background, **peer.options) as sender:

        def script(talk: Talk) -> None:
            talk.receive_head()
            if talk.header("Content-Length") == str(len(ENDLESS)):
                assert returned.wait(PATIENCE)
            else:
                answer_at_once(talk)

        def stuck() -> None:
            until(lambda: peer.talks and peer.talks[0].request, "the head")
            waiting_in("post")()

        peer.script = script
        with interrupted(stuck):
            sender.post(ENDLESS)  # more than may be left to the thread
        returned.set()
        assert_cut_off(peer.next())
        assert sender.post(b"again")
        assert sender.flush(PATIENCE)
        assert account(sender) == answered(1) | {"failed": 1}
    assert peer.next().body == b"again"


@unix
def test_an_interrupted_warm_may_be_called_again(peer: Recorder, *, background: bool) -> None:
    """Where nothing listens at first, or its TLS is slow."""
    with (
        gate() as ready,
        ExitStack() as stack,
        Sender(
            peer.url,
            spares=2,
            timeout=PATIENCE,
            background=background,
            connect_to=None if peer.options else ("127.0.0.1", port := refusing_port()),
            **peer.options,
        ) as sender,
    ):

        def script(talk: Talk) -> None:
            assert ready.wait(PATIENCE)
            answer_at_once(talk)

        peer.script = script
        with interrupted(waiting_in("warm")):
            sender.warm()
        ready.set()
        at = peer if peer.options else stack.enter_context(recording(address=("127.0.0.1", port)))
        sender.warm()
        assert sender.stats.spares == 2
        assert sender.post(b"warm")
        assert sender.flush(PATIENCE)
        assert account(sender) == answered(1)
        sender.close()
        until(lambda: any(talk.body == b"warm" for talk in at.talks), "the post")


# --- in the middle of anything --------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_the_middle(act: Callable[[], object], *, at: int) -> Iterator[Counter[str]]:
    """Do something at the so-many-th place inside rawfnf where Python may run a signal handler, or a finalizer.

    These are the begin of a function, and the return from one that is written in C. Yields a count of the places.
    """
    count: Counter[str] = Counter()

    def look(frame: FrameType, event: str, _: object) -> None:
        if event in {"call", "c_return"} and frame.f_globals.get("__package__") == "rawfnf":
            count["places"] += 1
            if count["places"] == at:
                act()

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield count
    finally:
        sys.setprofile(before)


CALLS: dict[str, Callable[[Sender], object]] = {
    "post": lambda sender: sender.post(b"outer"),
    "flush": lambda sender: sender.flush(SOON),
    "pump": lambda sender: sender.pump(),
    "warm": lambda sender: sender.warm(),
}


def numbers_of_places(call: Callable[[int], int]) -> int:
    """Call with 1, 2, ... until the place with that number does not exist; return how many there were."""
    at = 1
    while call(at) >= at:
        at += 1
    return at - 1


@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_post_in_the_middle_of_anything_goes_out(
    recorder: Recorder, *, background: bool, call: Callable[[Sender], object], spares: int
) -> None:
    with Sender(recorder.url, spares=spares, linger=PATIENCE, background=background) as sender:

        def nested(at: int) -> int:
            sender.post(b"before")
            with in_the_middle(lambda: sender.post(b"inner"), at=at) as count:
                call(sender)
            assert sender.flush(SOON)
            return count["places"]

        assert numbers_of_places(nested) > 0
        assert account(sender) == answered(sender.stats.posted)
        posted = sender.stats.posted
    assert sum(talk.whole for talk in all_ended(recorder)) == posted


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # by its maker, before it had a name
@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_after_an_interrupt_anywhere_the_sender_is_of_use(
    recorder: Recorder, *, background: bool, call: Callable[[Sender], object], spares: int
) -> None:
    def interrupted_at(at: int) -> int:
        with Sender(recorder.url, spares=spares, max_held=2, linger=PATIENCE, background=background) as sender:
            sender.post(b"before")
            with contextlib.suppress(KeyboardInterrupt), in_the_middle(interrupt, at=at) as count:
                call(sender)
            account(sender)
            assert sender.post(b"again")
            assert sender.post(b"and again")
            assert sender.flush(SOON)
            assert account(sender)["posted"] >= 3
        return count["places"]

    assert numbers_of_places(interrupted_at) > 0
    gc.collect()  # and warn here of sockets without names, where nobody minds


@unix
@pytest.mark.parametrize("spares", [0, 2])
def test_a_signal_handler_may_post(recorder: Recorder, *, background: bool, spares: int) -> None:
    """By real signals, wherever they hit."""
    if sys.platform == "win32":
        raise NotImplementedError
    main, over, number = threading.main_thread().ident or 0, threading.Event(), signal.SIGUSR1
    handled = 0

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        assert sender.post(b"handler")

    def disturb() -> None:
        while not over.wait(0.002):
            signal.pthread_kill(main, number)

    before = signal.signal(number, handler)
    disturber = threading.Thread(target=disturb)
    try:
        with Sender(recorder.url, spares=spares, linger=PATIENCE, background=background) as sender:
            disturber.start()
            while handled < 50:
                assert sender.post(b"main")
                assert sender.flush(SOON)
            over.set()
            disturber.join()
            assert sender.flush(SOON)
            assert account(sender) == answered(sender.stats.posted)
            posted = sender.stats.posted
    finally:
        over.set()
        disturber.join()
        signal.signal(number, before)
    assert sum(talk.whole for talk in all_ended(recorder)) == posted


TERMINATED = """
sender = make(spares=1)
def handler(*_):
    sender.close()
    sys.exit()
signal.signal(signal.SIGTERM, handler)
sender.warm()
sender.post(b"last")
tell("posted")
sender.flush()
"""


@unix
@either
def test_a_signal_handler_may_close_a_sender(start: Start, peer: Recorder, *, background: bool) -> None:
    """And what is held is waited for: in the handler, or at exit, if it came in the middle of the Sender's own work."""
    peer.script = answers_who_waits
    # Its sys.exit() may come between socket() and its return to us: the socket is closed, with a warning, by Python.
    unnamed = ("-W", "ignore:unclosed <socket:ResourceWarning")
    program = start(TERMINATED, peer, background=background, flags=(*STRICT, *unnamed))
    assert program.hear() == "posted"
    program.terminate()
    assert program.end() == []
    assert_arrived(peer, b"last")


def test_a_finalizer_may_post_in_the_middle_of_a_post(peer: Recorder, *, background: bool) -> None:
    class Posts:
        def __del__(self) -> None:
            sender.post(b"finalizer")

    def body() -> Iterator[bytes]:
        posts = Posts()
        yield b"one, "
        del posts
        yield b"two"

    with Sender(peer.url, spares=1, background=background, **peer.options) as sender:
        sender.warm()
        sender.post(body())
        assert sender.flush(PATIENCE)
        assert account(sender) == answered(2)
    assert sorted(bytes(talk.body) for talk in all_ended(peer) if talk.whole) == [b"finalizer", b"one, two"]


@pytest.mark.parametrize("max_held", [1, 4096])
def test_a_finalizer_may_post_in_the_background_thread(recorder: Recorder, max_held: int) -> None:
    """Garbage is collected by whichever thread happens to make some."""
    places = 0
    refusals = [ConnectError, RequestError] if max_held == 1 else []  # the latter once it is closed

    def look(frame: FrameType, event: str, _: object) -> None:
        nonlocal places
        if event in {"call", "c_return"} and frame.f_globals.get("__package__") == "rawfnf" and places < 50 * 7:
            places += 1
            if places % 7 == 0:
                # Where the thread itself would have to make room it cannot wait: it closes the oldest, or refuses.
                with contextlib.suppress(*refusals):
                    sender.post(b"finalizer")

    threading.setprofile(look)
    try:
        with Sender(recorder.url, spares=1, max_held=max_held, timeout=None, background=True) as sender:
            while places < 50 * 7:
                sender.post(b"x")
            assert sender.flush(SOON)
    finally:
        threading.setprofile(None)
    told = account(sender)
    assert sum(talk.whole for talk in all_ended(recorder)) == told["posted"]
    assert max_held == 1 or told == answered(told["posted"])


# --- oblivion -------------------------------------------------------------------------------------------------------


def background_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rawfnf"]


def forget(made: list[Sender]) -> None:
    made.clear()
    gc.collect()


@pytest.mark.parametrize("spares", [0, 2])
def test_a_forgotten_sender_says_so_and_leaves_nothing(peer: Recorder, *, background: bool, spares: int) -> None:
    peer.script = never_answers
    made = [Sender(peer.url, spares=spares, linger=PATIENCE, background=background, **peer.options)]
    made[0].warm()
    made[0].post(b"held")
    with pytest.warns(ResourceWarning, match=rf"unclosed Sender for 127.0.0.1:{peer.port}: close\(\) it") as warned:
        forget(made)
    assert len(warned) == 1
    until(lambda: not background_threads(), "the end of the thread")
    assert_arrived(peer, b"held")


def parts() -> Counter[type]:
    """Count what Senders are made of."""
    gc.collect()
    kinds = {Sender, _pool.Pool, _sender._Pump, Connection}
    return Counter(type(found) for found in gc.get_objects() if type(found) in kinds)


def forget_ten(recorder: Recorder, *, background: bool) -> None:
    for _ in range(10):
        sender = Sender(recorder.url, background=background)
        sender.post(b"held")
        cycle: list[object] = [sender]  # as members of applications are
        cycle.append(cycle)
    del sender, cycle


def warnings_of(call: Callable[[], None], *, expected: int = 1) -> list[str]:
    """Return the warnings without their objects, whose source is the Sender."""
    with pytest.warns(ResourceWarning, match="unclosed Sender for") as warned:  # noqa: PT031  # until() collects
        call()
        # While another thread collects, which it may be doing by chance, gc.collect() does nothing.
        until(lambda: gc.collect() >= 0 and len(warned) >= expected, "the warnings")
    return [str(warning.message) for warning in warned]


def test_many_forgotten_senders_leave_no_memory(recorder: Recorder, *, background: bool) -> None:
    recorder.script = never_answers
    before = parts()
    assert len(warnings_of(lambda: forget_ten(recorder, background=background), expected=10)) == 10
    until(lambda: not background_threads(), "the end of the threads")
    # gc.collect() does nothing while another thread is collecting.
    until(lambda: parts() == before, "all of them are collected")


def test_a_sender_that_was_closed_or_never_used_is_forgotten_in_silence(
    recorder: Recorder, *, background: bool
) -> None:
    made = [Sender(recorder.url, spares=1, background=background) for _ in range(2)]
    made[0].post(b"x")
    made[0].close()
    forget(made)  # a warning in __del__ fails the test, by pytest's own hook


# --- at rest --------------------------------------------------------------------------------------------------------


@linux
@over_tls
def test_an_idle_thread_takes_no_time(peer: Recorder) -> None:
    """It looks after its connections by itself now and then; more often than that nothing is to wake it."""
    peer.script = never_answers

    def wake_ups() -> int:
        (thread,) = background_threads()
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary_ctxt"))

    with Sender(peer.url, spares=2, linger=PATIENCE, **peer.options) as sender:
        sender.post(b"held")
        sender.warm()
        until(lambda: len(peer.talks) == 3 and all(talk.handshaken for talk in peer.talks), "two spares")
        let_pass(LOOK)  # for tickets, and the thread's own second look
        before, cpu = wake_ups(), thread_time(background_threads()[0])
        let_pass(1.0)
        assert wake_ups() - before <= 8
        assert thread_time(background_threads()[0]) - cpu <= 0.02, "two ticks of the kernel's clock"
        for talk in peer.talks:
            talk.half_close()


def thread_time(thread: threading.Thread) -> float:
    (times,) = (times for times in psutil.Process().threads() if times.id == thread.native_id)
    return float(times.user_time + times.system_time)


# --- gevent ---------------------------------------------------------------------------------------------------------

PATCHED = "from gevent import monkey\nmonkey.patch_all()\nimport gevent\n"
GREENLETS = """
sender = make(spares=int(arguments[0]))
others = []
def other():
    while True:
        others.append(0)
        gevent.sleep(0.01)
gevent.spawn(other)
jobs = [gevent.spawn(sender.post, f"greenlet {number}".encode()) for number in range(8)]
gevent.joinall(jobs, raise_error=True)
others.clear()
flushed = sender.flush(10)
tell([flushed, len(others) > 5])
tell(sender.stats)
sender.close()
"""


@either
def test_under_gevent_posts_arrive_and_others_run_meanwhile(start: Start, peer: Recorder, *, background: bool) -> None:
    pytest.importorskip("gevent", reason="gevent has no wheel for this Python")
    peer.script = answers_who_waits
    program = start(GREENLETS, peer, 2 if background else 0, background=background, before=PATCHED, flags=())
    assert program.end() == [[True, True], answered(8)]
    assert_arrived(peer, *(f"greenlet {number}".encode() for number in range(8)))


# --- out of descriptors ---------------------------------------------------------------------------------------------

TIGHT = """
import errno, resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
def leave(count):
    free = [os.dup(0) for _ in range(count + 1)]
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
def attempt(call):
    try:
        return call()
    except rawfnf.ConnectError as error:
        assert error.errno == errno.EMFILE and "out of descriptors" in str(error), error
        return "out"
with make() as first:  # loads modules: they are files
    first.post(b"first")
for count in range(10):
    with make(spares=1, timeout=20) as sender:
        leave(count)
        posted = attempt(lambda: sender.post(b"tight"))
        sender._pool._timeout = 1.0  # where descriptors are wanting, warm() takes all of it
        warm = attempt(sender.warm)
        sender._pool._timeout = 20
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sender.post(b"wide")
        sender.warm()
        flushed = sender.flush(10)
        running = [thread.name for thread in threading.enumerate()]
        tell([count, posted, warm, flushed, "rawfnf" in running])
        tell(sender.stats)
"""


@either
@unix
def test_out_of_descriptors_a_post_says_so_and_with_enough_everything_works_again(
    start: Start, peer: Recorder, *, background: bool
) -> None:
    told = start(TIGHT, peer, background=background).end()
    assert [told[0][1], told[0][2]] == ["out", "out"]
    assert told[-2][1:3] == [True, None], "so few descriptors are enough"
    posted = 1
    for (count, tight, _, *rest), stats in zip(told[::2], told[1::2], strict=True):
        assert tight in {"out", True}, count
        assert rest == [True, background], count
        assert stats == (answered(2) if tight is True else answered(1) | {"failed": 1}), count
        posted += stats["posted"]
    assert sum(talk.whole for talk in all_ended(peer)) == posted


CLOSES_TIGHT = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
senders = [make(linger=0.3) for _ in range(2)]
with make(linger=0.1) as first:
    first.post(b"first")
free = [os.dup(0) for _ in range(2)]
for descriptor in free:
    os.close(descriptor)
resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
senders[0].post(b"last")  # on the last descriptor: none is left to wait with
if arguments[0] == "close":
    senders[0].close()
    tell(senders[0].stats)
"""


@unix
@pytest.mark.parametrize("way", ["close", "exit"])
def test_out_of_descriptors_to_wait_with_a_sender_still_closes(start: Start, recorder: Recorder, way: str) -> None:
    """Nobody can wait for the answer; the end is in order all the same."""
    recorder.script = never_answers
    told = start(CLOSES_TIGHT, recorder, way).end()
    assert told == ([EMPTY | {"posted": 1, "unanswered": 1}] if way == "close" else [])
    assert_arrived(recorder, b"first", b"last")
