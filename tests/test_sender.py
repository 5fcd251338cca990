"""Sender over real sockets, as the peer saw it: spares, what is held, pump(), large bodies, options, recovery.

rawfnf.Sender and rawfnf.aio.Sender (by awaited.py) pass the same tests, but for a few about threads. All come from
the fixture `sender`, which closes it behind the test and holds its account to the law of conservation. It stands first
among a test's fixtures, so that the peers are gone by then and nothing has to linger.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError  # the built-in one from Python 3.11 on
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

import psutil
import pytest
import trustme

from rawfnf import ConnectError, Request, RequestError, Sender, SendError, Stats, _pool, _tcp, aio
from rawfnf._connection import Connection
from rawfnf._route import route_to
from tests.awaited import SENDERS, AnySender, AwaitedSender, NewSender, senders
from tests.conftest import descriptors
from tests.peers import (
    AF_UNIX,
    ENDLESS,
    NARROW,
    NO_CONTENT,
    OK,
    PATIENCE,
    TOO_LARGE,
    UNACKED,
    Recorder,
    Script,
    Talk,
    answer_at_once,
    answers,
    black_hole,
    closes_without_answer,
    let_pass,
    never_answers,
    recording,
    refusing_port,
    server_context,
    until,
)
from tests.wire import Capture, captured

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

linux = pytest.mark.skipif(sys.platform != "linux", reason="what is tested is Linux's")
unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows' Python has no Unix sockets")

SMALL = b'{"temperature": 21.5}'
# How much later than agreed a call may come back on a machine that has other things to do, in seconds: less than any
# timeout that is to be told from it.
LATE = 4.0
# Seconds of a timeout that passes in vain, behind a handshake that a busy machine must make within it.
IN_VAIN = 1.5
# Seconds of a look that shows that something does not happen.
LOOK = 0.06

# For what is only about the one's thread, or the other's event loop.
only_threads = pytest.mark.parametrize("sender", ["Sender"], indirect=True)
only_loops = pytest.mark.parametrize("sender", ["aio.Sender"], indirect=True)

Make: TypeAlias = Callable[..., AnySender]
Listen: TypeAlias = Callable[..., Recorder]


# --- fixtures ------------------------------------------------------------------------------------------------------


def assert_law(stats: Stats) -> None:
    ended = sum(stats.answered.values()) + stats.acked + stats.closed_now + stats.unanswered + stats.reset
    assert stats.posted == ended + stats.held, stats


@pytest.fixture(params=SENDERS)
def sender(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Make a Sender, or an aio.Sender, to a peer, or to a URL; closed behind the test."""
    made: list[AnySender] = []
    with senders(request.param) as new:

        def make(to: Recorder | str, **options: Any) -> AnySender:
            url = to if isinstance(to, str) else to.url
            made.append(new(url, **{"linger": PATIENCE} | ({} if isinstance(to, str) else to.options) | options))
            return made[-1]

        yield make
        for each in made:
            each.close()
            assert_law(each.stats)
            assert (each.stats.held, each.stats.spares) == (0, 0)


@pytest.fixture(params=[False, True], ids=["alone", "background"])
def background(request: pytest.FixtureRequest) -> bool:
    """Where nobody works in the background, and where the thread does, or for aio the event loop."""
    in_background: bool = request.param
    return in_background


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Make peers of a test's own choice."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(recording(**options))


@pytest.fixture(params=["plain", "TLSv1.2", "TLSv1.3", "Unix"])
def peer(
    request: pytest.FixtureRequest, listen: Listen, authority: trustme.CA, trusting: ssl.SSLContext, tmp_path: Path
) -> Recorder:
    """A recorder by each transport: conftest.py's, and a Unix socket."""
    if request.param == "plain":
        return listen()
    if request.param == "Unix":
        if AF_UNIX < 0:
            pytest.skip("Windows' Python has no Unix sockets")
        path = str(tmp_path / "s")
        return listen(family=AF_UNIX, address=path, options={"connect_to": path})
    version = ssl.TLSVersion.TLSv1_2 if request.param == "TLSv1.2" else ssl.TLSVersion.TLSv1_3
    return listen(context=server_context(authority, version), options={"ssl_context": trusting})


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """An event that scripts wait for: set at the end whatever happens, so that no script waits for a failed test.

    It stands behind the peers among a test's fixtures: they end when their scripts do.
    """
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for calls that wait."""
    with ThreadPoolExecutor(8) as executor:
        yield executor


# --- looking -------------------------------------------------------------------------------------------------------


def account(made: AnySender) -> dict[str, object]:
    """Return what is not zero in the account of posts; spares have none."""
    stats = made.stats
    assert_law(stats)
    return {name: value for name, value in stats._asdict().items() if value and name != "spares"}


def accepted(peer: Recorder, count: int) -> list[Talk]:
    """Wait for that many more connections."""
    return [peer.accepted() for _ in range(count)]


def warmed(made: AnySender, peer: Recorder, count: int) -> list[Talk]:
    """Open spares, the first of their kind; return them once the peer has shaken hands and its tickets are read."""
    made.warm()
    talks = accepted(peer, count)
    until(lambda: all(talk.handshaken for talk in talks), "our Finished, or nothing to shake hands with")
    until(lambda: made.pump() is not None and not unread(peer) and made.stats.spares == count, "tickets read")
    return talks


def unread(peer: Recorder) -> int:
    """Bytes that have come from the peer, and wait in our kernel; 0 where descriptors cannot be listed."""
    count = 0
    for number, what in descriptors().items():
        if what.startswith("socket:"):
            with contextlib.suppress(OSError):  # it is closed by now, or is no connection
                count += unread_on(number, peer)
    return count


def unread_on(descriptor: int, peer: Recorder) -> int:
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl
    import termios

    sock = socket.socket(fileno=descriptor)
    try:
        if sock.getpeername() != peer.address:
            return 0
        return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
    finally:
        sock.detach()


def requests(peer: Recorder) -> list[Talk]:
    """Return the connections on which something of a request has come."""
    return [talk for talk in peer.talks if talk.request is not None]


def assert_stays(fact: Callable[[], object], what: str, seconds: float = LOOK) -> None:
    """Look for a while: it does not change."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert fact(), what
        let_pass(0.005)


def assert_ends_politely(talk: Talk) -> None:
    assert talk.end == "FIN"
    assert talk.close_notify == (talk.tls_version is not None)


def assert_cut_off(talk: Talk) -> None:
    """Nothing that the peer saw looks like the end of a request; a Unix socket has no RST."""
    assert talk.request is not None
    assert not talk.whole
    assert not talk.close_notify
    assert talk.end == "RST" or talk.socket.family == AF_UNIX


# --- spares --------------------------------------------------------------------------------------------------------


def test_the_constructor_touches_no_network(sender: Make, peer: Recorder, *, background: bool) -> None:
    before = descriptors(), threading.enumerate()
    made = sender(peer, spares=3, background=background)
    assert (descriptors(), threading.enumerate()) == before
    assert made.stats == Stats(0, {}, 0, 0, 0, 0, 0, 0, 0, 0)
    made.close()
    assert peer.talks == []


def test_warm_opens_exactly_as_many_as_asked_for(sender: Make, peer: Recorder, *, background: bool) -> None:
    made = sender(peer, spares=3, background=background)
    talks = warmed(made, peer, 3)
    made.warm()
    assert made.stats.spares == 3
    assert_stays(lambda: len(peer.talks) == 3, "no more are opened")
    assert not any(talk.data for talk in talks)


def test_a_post_goes_out_on_a_spare(sender: Make, peer: Recorder, *, background: bool) -> None:
    made = sender(peer, spares=2, background=background)
    talks = warmed(made, peer, 2)
    assert made.post(SMALL) is True
    talk = peer.next() if background else when_answered(made, peer)
    assert talk in talks
    assert talk.data == Request(peer.url).encode(SMALL)
    assert_ends_politely(talk)
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "answered": {204: 1}}


def when_answered(made: AnySender, peer: Recorder) -> Talk:
    """Flush, and return the connection that ended by it."""
    assert made.flush(PATIENCE)
    return peer.next()


def test_with_nobody_in_the_background_post_opens_nothing_for_later(sender: Make, peer: Recorder) -> None:
    made = sender(peer, spares=2, background=False)
    made.post(SMALL)
    peer.accepted()
    assert_stays(lambda: len(peer.talks) == 1, "its own connection")
    assert made.stats.spares == 0
    made.warm()
    accepted(peer, 2)
    made.post(SMALL)
    assert_stays(lambda: len(peer.talks) == 3, "it went out on a spare, and opened no other")
    assert made.stats.spares == 1


def test_in_the_background_a_spare_that_has_gone_is_replaced(sender: Make, peer: Recorder) -> None:
    made = sender(peer, spares=2)
    talks = warmed(made, peer, 2)
    made.post(SMALL)
    peer.accepted()
    until(lambda: made.stats.spares == 2, "a new spare")
    assert peer.next() in talks
    assert_stays(lambda: len(peer.talks) == 3, "one for one")


def test_many_posts_use_many_spares(sender: Make, peer: Recorder, *, background: bool) -> None:
    made = sender(peer, spares=8, background=background)
    warmed(made, peer, 8)
    bodies = [b"%d" % number for number in range(8)]
    assert all(made.post(body) for body in bodies)
    assert made.flush(PATIENCE)
    assert sorted(bytes(talk.body) for talk in requests(peer)) == bodies
    assert account(made) == {"posted": 8, "answered": {204: 8}}


def test_tickets_are_read_from_spares(
    sender: Make, tls_recorder: Recorder, go: threading.Event, *, background: bool
) -> None:
    """Unread they would make Linux end the connection by RST: facts.md."""

    def script(talk: Talk) -> None:
        talk.shake_hands()
        go.set()
        answer_at_once(talk)

    tls_recorder.script = script
    made = sender(tls_recorder, spares=1, background=background)
    made.warm()
    assert go.wait(PATIENCE), "the server's tickets have left"
    if background:
        until(lambda: not unread(tls_recorder), "they are read in the background")
    else:
        made.pump()
        assert not unread(tls_recorder)
    until(lambda: made.stats.spares == 1, "it is a spare again: while it is read it is none")
    made.close()
    assert_ends_politely(tls_recorder.next())


def test_a_spare_that_is_not_used_is_closed_politely(sender: Make, peer: Recorder, *, background: bool) -> None:
    made = sender(peer, spares=2, background=background)
    warmed(made, peer, 2)
    made.close()
    for _ in range(2):
        talk = peer.next()
        assert_ends_politely(talk)
        assert not talk.data


# --- spares that are none any more ---------------------------------------------------------------------------------


def half_closes(talk: Talk) -> None:
    talk.half_close()


def resets(talk: Talk) -> None:
    talk.reset()


def says_timeout(talk: Talk) -> None:
    talk.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def says_goodbye(talk: Talk) -> None:
    if talk.tls_version is None:
        pytest.skip("close_notify is TLS's")
    talk.say_goodbye()


def says_garbage(talk: Talk) -> None:
    talk.socket.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


ENDS = [half_closes, resets, says_timeout, says_goodbye, says_garbage]


class FirstWait:
    """On the first connections read nothing of what follows the handshake before the event; then answer, as on all."""

    def __init__(self, peer: Recorder, count: int, event: threading.Event) -> None:
        self.waiting: list[Talk] = []  # from now on they are the test's to deal with
        self._peer, self._count, self._event = peer, count, event

    def __call__(self, talk: Talk) -> None:
        talk.shake_hands()
        if talk in self._peer.talks[: self._count]:
            self.waiting.append(talk)
            assert self._event.wait(PATIENCE)
        answer_at_once(talk)


class OneAtATime:
    """Reads the next request only when the client of the one before has closed, as gunicorn's gthread worker does."""

    def __init__(self) -> None:
        self._turn = threading.Lock()

    def __call__(self, talk: Talk) -> None:
        with self._turn:
            talk.receive_request()
            talk.send(NO_CONTENT)
            talk.receive_to_end()


def test_a_post_that_waits_closes_meanwhile_what_has_been_answered(
    sender: Make, recorder: Recorder, *, background: bool
) -> None:
    recorder.script = OneAtATime()
    made = sender(recorder, background=background, timeout=LATE)
    assert made.post(SMALL)
    assert made.post(LARGE)
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 2, "answered": {204: 2}}


def doomed(made: AnySender, peer: Recorder, count: int, event: threading.Event) -> list[Talk]:
    """Open spares, and return them for the test to end on the peer's side, which does nothing before the event."""
    script = peer.script = FirstWait(peer, count, event)
    warmed(made, peer, count)
    until(lambda: len(script.waiting) == count, "they are the test's")
    return script.waiting


@pytest.mark.parametrize("end", ENDS)
def test_a_spare_that_the_server_has_ended_or_spoken_on_is_never_used(
    sender: Make, peer: Recorder, go: threading.Event, *, end: Script, background: bool
) -> None:
    """However shortly before: what is in our kernel is known to a post, whoever else has heard of it."""
    made = sender(peer, spares=2, background=background)
    ended = doomed(made, peer, 2, go)
    for talk in ended:
        end(talk)
    assert made.post(SMALL)
    until(lambda: len(requests(peer)) == 1, "the request")
    assert requests(peer)[0] not in ended
    go.set()
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "answered": {204: 1}}
    assert len(requests(peer)) == 1


def too_early(_: object) -> bool:
    """Look at a spare a moment before the server ends it: what a look cannot see."""
    return False


@pytest.mark.parametrize("others", [0, 1])
def test_if_a_spare_takes_no_byte_the_next_is_taken(
    sender: Make, peer: Recorder, go: threading.Event, monkeypatch: pytest.MonkeyPatch, *, others: int
) -> None:
    """The reset comes between the look and the send: there is a next spare, or a connection of its own."""
    made = sender(peer, spares=2, background=False)
    ended = doomed(made, peer, 2, go)[: 2 - others]
    monkeypatch.setattr(Connection, "stirred", too_early)
    for talk in ended:
        resets(talk)
    file = io.BytesIO(b"before" + SMALL)
    file.seek(6)
    assert made.post(file)
    go.set()
    assert made.flush(PATIENCE)
    (talk,) = requests(peer)
    assert talk.body == SMALL
    assert talk not in ended
    assert account(made) == {"posted": 1, "answered": {204: 1}}


def test_if_no_spare_takes_a_byte_a_sender_that_drops_says_so(
    sender: Make, peer: Recorder, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sender(peer, spares=1, background=False, when_busy="drop")
    (talk,) = doomed(made, peer, 1, go)
    monkeypatch.setattr(Connection, "stirred", too_early)
    resets(talk)
    file = io.BytesIO(bytes(200_000))
    assert made.post(file) is False
    assert file.tell() == 0, "nothing was sent of it: it can be sent again"
    assert account(made) == {"dropped": 1}
    assert requests(peer) == []


def test_the_race_that_cannot_be_won_is_counted_and_nothing_is_sent_twice(
    sender: Make, peer: Recorder, *, background: bool
) -> None:
    def script(talk: Talk) -> None:
        talk.receive_head()
        talk.reset()

    peer.script = script
    made = sender(peer, spares=2, background=background)
    warmed(made, peer, 2)
    assert made.post(SMALL)
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "reset": 1}
    assert_stays(lambda: len(requests(peer)) == 1, "it is not sent again")


def test_in_the_background_a_spare_that_the_server_has_ended_is_replaced(
    sender: Make, peer: Recorder, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, as it was an idle timeout; what ends when it has just been opened is taken for a refusal, see below."""
    monkeypatch.setattr(_pool, "_WELCOME", 0.0)
    monkeypatch.setattr(_pool, "_FIRST_BACKOFF", 2 * PATIENCE)
    made = sender(peer, spares=2)
    talks = doomed(made, peer, 2, go)
    half_closes(talks[0])
    go.set()
    peer.accepted()
    until(lambda: made.stats.spares == 2, "a new one")
    assert_ends_politely(peer.next())
    assert_stays(lambda: len(peer.talks) == 3, "one for one")


def test_warm_does_not_count_spares_that_the_server_has_ended(
    sender: Make, peer: Recorder, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool, "_WELCOME", 0.0)
    made = sender(peer, spares=2, background=False)
    for talk in doomed(made, peer, 2, go):
        half_closes(talk)
    made.warm()
    assert made.stats.spares == 2
    until(lambda: len(peer.talks) == 4, "two new ones")


def test_a_spare_that_is_too_old_is_not_used(sender: Make, peer: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sender(peer, spares=1, background=False)
    (old,) = warmed(made, peer, 1)
    monkeypatch.setattr(_pool, "_OLDEST", 0.0)
    assert made.post(SMALL)
    assert made.flush(PATIENCE)
    (talk,) = requests(peer)
    assert talk is not old
    until(lambda: made.pump() is not None and old.end, "it is closed")
    assert_ends_politely(old)


def test_a_sender_that_drops_has_no_use_for_a_spare_that_is_too_old(
    sender: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sender(recorder, spares=1, background=False, when_busy="drop")
    made.warm()
    monkeypatch.setattr(_pool, "_OLDEST", 0.0)
    assert made.post(SMALL) is False
    assert account(made) == {"dropped": 1}


def test_in_the_background_ageing_spares_are_replaced(
    sender: Make, peer: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool, "_AGEING", 0.06)
    monkeypatch.setattr(_pool, "_OLDEST", 0.1)
    made = sender(peer, spares=2)
    began = time.monotonic()
    made.warm()
    for _ in range(4):
        talk = peer.next()
        assert not talk.data
        assert_ends_politely(talk)
    opened = len(peer.talks)
    assert opened <= 2 * (1 + (time.monotonic() - began) / 0.06), "each lives for 0.06 s at least"
    made.post(SMALL)
    until(lambda: requests(peer), "the request")
    assert not requests(peer)[0].whole or requests(peer)[0].body == SMALL


def test_an_ageing_spare_is_closed_when_its_successor_is_ready(
    sender: Make, tls_recorder: Recorder, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(talk: Talk) -> None:
        assert talk is tls_recorder.talks[0] or go.wait(PATIENCE)
        talk.shake_hands()

    tls_recorder.script = script
    monkeypatch.setattr(_pool, "_AGEING", 0.1)
    made = sender(tls_recorder, spares=1)
    made.warm()
    accepted(tls_recorder, 2)
    assert_stays(lambda: made.stats.spares == 1, "it is still there")
    assert not tls_recorder.talks[0].done.is_set()
    monkeypatch.undo()  # the successor does not age
    go.set()
    assert_ends_politely(tls_recorder.next())
    until(lambda: made.stats.spares == 1, "the successor")
    assert not tls_recorder.talks[1].done.is_set()


# --- names ---------------------------------------------------------------------------------------------------------


def address(last: int) -> _tcp.Address:
    return _tcp.Address(socket.AF_INET, (f"127.0.0.{last}", 80))


def addresses_of(url: str) -> _pool.Addresses:
    route = route_to(Request(url).origin, ssl_context=None, connect_to=None, source_address=None)
    return _pool.Addresses(route)


def test_a_name_is_asked_for_at_first_and_every_60_s() -> None:
    known = addresses_of("http://rawfnf.test/")
    assert known.stale(1000.0)
    assert known.get() == ()
    known.renew((address(1),), 1000.0)
    assert known.get() == (address(1),)
    assert not known.stale(1059.9)
    assert known.stale(1060.0)


def test_a_name_is_asked_for_again_when_no_address_leads_there() -> None:
    known = addresses_of("http://rawfnf.test/")
    known.renew((address(1), address(2)), 1000.0)
    known.failed()
    assert known.stale(1000.0)
    assert known.get() == (address(1), address(2)), "until the resolver has said something else"


def test_a_resolver_that_is_out_of_order_is_not_asked_with_each_post() -> None:
    known = addresses_of("http://rawfnf.test/")
    known.renew((address(1),), 1000.0)
    known.postpone(1060.0)
    assert known.get() == (address(1),)
    assert not known.stale(1060.1)
    assert known.stale(1066.0)


def test_an_address_that_worked_comes_first() -> None:
    known = addresses_of("http://rawfnf.test/")
    known.renew((address(1), address(2), address(3)), 1000.0)
    known.worked(address(3))
    assert known.get() == (address(3), address(1), address(2))
    known.worked(address(9))
    assert known.get() == (address(3), address(1), address(2)), "not one that the resolver has withdrawn"


def test_the_address_that_worked_stays_first_when_the_name_is_asked_for_again() -> None:
    known = addresses_of("http://rawfnf.test/")
    known.renew((address(1), address(2)), 1000.0)
    known.worked(address(2))
    known.renew((address(1), address(2), address(3)), 1060.0)
    assert known.get() == (address(2), address(1), address(3))
    known.renew((address(1), address(3)), 1120.0)
    assert known.get() == (address(1), address(3))


def test_an_address_is_never_asked_for() -> None:
    known = addresses_of("http://127.0.0.1/")
    known.failed()
    assert not known.stale(1e9)
    assert known.get() == (address(1),)


# A process with an /etc/hosts of its own: argv is that file, a port, which Sender, and whether it
# is to work in the background.
NAMES = """
import json, socket, sys, time
import rawfnf
from rawfnf import _pool
from tests.awaited import senders
from tests.peers import Recorder, let_pass, until

hosts, port, way, background = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "True"

def name(*addresses):
    with open(hosts, "w") as file:
        file.writelines(f"{address} many.test\\n" for address in addresses)

def peer(address):
    return Recorder(address=(address, port))

def failure(call):
    try:
        call()
    except rawfnf.ConnectError as error:
        return error.phase

def sender(**options):
    return make(f"http://many.test:{port}/", **{"spares": 0, "background": background} | options)

def bodies(peer):
    return sorted(bytes(talk.body).decode() for talk in peer.talks if talk.request)

with senders(way) as make:
"""


class Named:
    """Runs programs for which /etc/hosts is a file of the test's own, and no other resolver is asked."""

    def __init__(self, directory: Path) -> None:
        self._hosts, self._order = directory / "hosts", directory / "nsswitch.conf"
        self._hosts.touch()
        self._order.write_text("hosts: files\n")

    def command(self, program: list[str]) -> list[str]:
        mounts = f"mount --bind {self._hosts} /etc/hosts && mount --bind {self._order} /etc/nsswitch.conf"
        return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", *program]

    def run(self, program: str, way: str, *, background: bool) -> Any:
        with socket.create_server(("127.0.0.2", 0)) as free:
            port = free.getsockname()[1]
        whole = NAMES + textwrap.indent(program, "    ")
        arguments = [str(self._hosts), str(port), way, str(background)]
        return told_by(self.command([sys.executable, "-W", "error", "-c", whole, *arguments]))


def told_by(command: list[str]) -> Any:
    """Run a program from the repository's root; return what it printed, as JSON."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(command, cwd=root, capture_output=True, timeout=2 * PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(params=SENDERS)
def way(request: pytest.FixtureRequest) -> str:
    """Name the Sender, for a program of its own."""
    name: str = request.param
    return name


@pytest.fixture
def named(tmp_path: Path) -> Named:
    """A resolver that says what the test wants it to say, and nothing of the network's."""
    if sys.platform != "linux":
        pytest.skip("mount namespaces are Linux's")
    made = Named(tmp_path)
    try:
        done = subprocess.run(made.command(["true"]), capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the command unshare (util-linux)")
    if done.returncode != 0:
        pytest.skip(f"needs root (CAP_SYS_ADMIN): {done.stderr.decode()}")
    return made


def test_addresses_are_failed_over_and_the_good_one_is_remembered(named: Named, way: str, *, background: bool) -> None:
    program = """
name("127.0.0.2", "127.0.0.3")
with sender() as made:
    good = peer("127.0.0.3")
    made.post(b"1")
    late = peer("127.0.0.2")
    for body in (b"2", b"3"):
        made.post(body)
    made.flush(20)
    print(json.dumps([bodies(late), bodies(good), made.stats.answered]))
good.close(), late.close()
"""
    assert named.run(program, way, background=background) == [[], ["1", "2", "3"], {"204": 3}]


def test_spares_fail_over_as_well(named: Named, way: str, *, background: bool) -> None:
    program = """
name("127.0.0.2", "127.0.0.3")
with sender(spares=2) as made:
    good = peer("127.0.0.3")
    made.warm()
    late = peer("127.0.0.2")
    made.post(b"1"), made.post(b"2")
    made.flush(20)
    made.warm()
    print(json.dumps([len(late.talks), bodies(good), made.stats.spares]))
good.close(), late.close()
"""
    assert named.run(program, way, background=background) == [0, ["1", "2"], 2]


def test_a_server_that_has_moved_is_found_when_the_name_is_asked_for_again(
    named: Named, way: str, *, background: bool
) -> None:
    program = """
name("127.0.0.2")
with sender() as made:
    old, new = peer("127.0.0.2"), peer("127.0.0.3")
    made.post(b"1")
    name("127.0.0.3")
    made.post(b"2")
    known = made._pool.addresses
    known.renew(known.get(), time.monotonic() - _pool._RESOLVED_FOR)  # as if a minute had passed
    until(lambda: made.post(b"3") and bodies(new), "the name is asked for again")
    made.flush(20)
    print(json.dumps([bodies(old)[:2], set(bodies(new)) == {"3"}]))
old.close(), new.close()
"""
    assert named.run(program, way, background=background) == [["1", "2"], True]


def test_a_name_is_asked_for_again_when_all_its_addresses_have_failed(
    named: Named, way: str, *, background: bool
) -> None:
    program = """
name("127.0.0.2")
with sender() as made:
    phase = failure(lambda: made.post(b"1"))
    name("127.0.0.3")
    new = peer("127.0.0.3")
    made.post(b"2")
    made.flush(20)
    print(json.dumps([phase, bodies(new), made.stats.failed]))
new.close()
"""
    assert named.run(program, way, background=background) == ["connect", ["2"], 1]


def test_while_the_resolver_is_out_of_order_what_it_said_before_is_tried(
    named: Named, way: str, *, background: bool
) -> None:
    program = """
with sender(timeout=1) as made:
    phases = [failure(lambda: made.post(b"1")), failure(made.warm)]
    name("127.0.0.2")
    _pool._RESOLVED_FOR = 0.0
    server = peer("127.0.0.2")
    made.post(b"2")
    name()
    made.post(b"3")
    made.flush(20)
    print(json.dumps([phases, bodies(server), made.stats.failed]))
server.close()
"""
    assert named.run(program, way, background=background) == [["resolve", None], ["2", "3"], 1]


def test_spares_wait_for_a_name_to_be_known(named: Named, way: str, *, background: bool) -> None:
    program = """
server = peer("127.0.0.2")
with sender(spares=1, timeout=0.3) as made:
    phase = failure(made.warm)
    name("127.0.0.2")
    until(lambda: failure(made.warm) is None, "warm() asks again")
    made.post(b"1")
    made.flush(20)
    print(json.dumps([phase, bodies(server)]))
server.close()
"""
    assert named.run(program, way, background=background) == ["resolve", ["1"]]


def test_in_the_background_a_name_is_asked_for_unasked(named: Named, way: str) -> None:
    """At first, and when the server has moved."""
    program = """
name("127.0.0.2")
old, new = peer("127.0.0.2"), peer("127.0.0.3")
with sender(spares=1) as made:
    made.pump()
    until(lambda: made.stats.spares == 1, "a spare")
    name("127.0.0.3")
    old.close()
    until(lambda: new.talks and made.stats.spares == 1, "another one, elsewhere")
    made.post(b"1")
    made.flush(20)
    print(json.dumps([bodies(old), bodies(new)]))
new.close()
"""
    assert named.run(program, way, background=True) == [[], ["1"]]


def test_in_the_background_an_old_name_is_asked_for_before_spares_are_opened(named: Named, way: str) -> None:
    """Where the resolver is out of order by then, they are opened all the same."""
    program = """
name("127.0.0.2")
_pool._RESOLVED_FOR = 0.1
old, new = peer("127.0.0.2"), peer("127.0.0.3")
with sender(spares=1) as made:
    made.warm()
    for addresses in [("127.0.0.3",), ()]:
        let_pass(0.15)
        name(*addresses)
        made.post(b"1")
        until(lambda: made.stats.spares == 1, "a new one")
    until(lambda: len(new.talks) == 2, "both")
    print(json.dumps(len(old.talks)))
old.close(), new.close()
"""
    assert named.run(program, way, background=True) == 1


def test_a_resolver_that_does_not_know_is_not_asked_all_the_time(named: Named, way: str) -> None:
    program = """
server = peer("127.0.0.2")
with sender(spares=1) as made:
    made.pump()
    worked = time.process_time()
    let_pass(0.5)
    worked = time.process_time() - worked
    name("127.0.0.2")
    until(lambda: made.stats.spares == 1, "a spare, unasked")
    print(json.dumps(worked))
server.close()
"""
    assert named.run(program, way, background=True) < 0.2


# --- held: "answered" ----------------------------------------------------------------------------------------------


def test_a_connection_is_left_open_until_the_server_has_answered(
    sender: Make, peer: Recorder, go: threading.Event, *, background: bool
) -> None:
    """On a spare, and on one of the post's own. Over TLS 1.3 this shows as well that session tickets are no answer."""
    open_still: list[bool] = []

    def script(talk: Talk) -> None:
        talk.receive_request()
        if talk.whole:
            open_still.append(not talk.ends_within(LOOK) and not talk.close_notify)
            assert go.wait(PATIENCE)
            talk.send(OK)

    peer.script = script
    made = sender(peer, spares=1, background=background)
    made.warm()
    made.post(SMALL)
    made.post(SMALL)
    assert account(made) == {"posted": 2, "held": 2}
    until(lambda: len(open_still) == 2, "a look at both")
    go.set()
    assert made.flush(PATIENCE)
    assert open_still == [True, True]
    until(lambda: all(talk.end for talk in requests(peer)), "their ends")
    for talk in requests(peer):
        assert talk.body == SMALL
        assert_ends_politely(talk)
    assert account(made) == {"posted": 2, "answered": {200: 2}}


def answers_what_is_asked(talk: Talk) -> None:
    """Answer with the statuses of the path, /103/200 or so; the last is final."""
    talk.receive_request()
    if talk.request is not None:
        for status in talk.request.target.decode().strip("/").split("/"):
            talk.send(f"HTTP/1.1 {status} Reason\r\n".encode())
            talk.send(b"\r\n" if status.startswith("1") else b"Content-Length: 3\r\n\r\nabc")


def test_answers_are_counted_by_status_and_1xx_are_skipped(sender: Make, peer: Recorder, *, background: bool) -> None:
    peer.script = answers_what_is_asked
    made = sender(peer, spares=2, background=background)
    made.warm()
    for path in ("/200", "/401", "/100/200", "/103/103/503", "/401", "/302"):
        assert made.post(SMALL, path=path)
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 6, "answered": {200: 2, 401: 2, 503: 1, 302: 1}}


def test_an_answer_may_come_byte_by_byte(sender: Make, peer: Recorder, *, background: bool) -> None:
    def script(talk: Talk) -> None:
        talk.receive_request()
        for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + OK:
            talk.send(bytes((byte,)))

    peer.script = script
    made = sender(peer, background=background)
    made.post(SMALL)
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "answered": {200: 1}}
    assert_ends_politely(peer.next())


def test_a_server_that_never_closes_is_not_waited_for(sender: Make, peer: Recorder, *, background: bool) -> None:
    peer.script = answers_what_is_asked
    made = sender(peer, background=background, linger=PATIENCE)
    made.post(SMALL, path="/200")
    assert_ends_politely(when_answered(made, peer))


def test_an_answer_that_ends_with_the_connection_is_left_when_linger_is_over(
    sender: Make, recorder: Recorder, *, background: bool
) -> None:
    recorder.script = answers(b"HTTP/1.1 201 Created\r\n\r\nas long as it takes")
    made = sender(recorder, background=background, linger=1.0)
    made.post(SMALL)
    assert_ends_politely(when_answered(made, recorder))
    assert account(made) == {"posted": 1, "answered": {201: 1}}


def test_the_answer_to_head_has_no_content(sender: Make, recorder: Recorder, *, background: bool) -> None:
    recorder.script = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    made = sender(recorder, method="HEAD", background=background)
    made.post()
    assert when_answered(made, recorder).data.startswith(b"HEAD / HTTP/1.1\r\n")
    assert account(made) == {"posted": 1, "answered": {200: 1}}


def resets_without_answer(talk: Talk) -> None:
    talk.receive_request()
    talk.reset()


def hangs_up_in_the_head(talk: Talk) -> None:
    talk.receive_request()
    talk.send(b"HTTP/1.1 200 OK\r\nContent-")
    talk.half_close()


def hangs_up_after_continue(talk: Talk) -> None:
    talk.receive_request()
    talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    talk.half_close()


def breaks_tls(talk: Talk) -> None:
    """Send what is neither TLS nor HTTP."""
    talk.receive_request()
    talk.socket.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


def says_goodbye_without_answer(talk: Talk) -> None:
    talk.receive_request()
    if talk.tls_version is None:
        talk.half_close()
    else:
        talk.say_goodbye()


NO_ANSWERS = [
    closes_without_answer,
    resets_without_answer,
    hangs_up_in_the_head,
    hangs_up_after_continue,
    breaks_tls,
    says_goodbye_without_answer,
    answers(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    answers(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"),
]


@pytest.mark.parametrize("spares", [0, 1])
def test_what_is_no_answer_is_counted_reset_and_nothing_is_sent_twice(
    sender: Make, peer: Recorder, *, background: bool, spares: int
) -> None:
    made = sender(peer, spares=spares, background=background)
    for number, script in enumerate(NO_ANSWERS):
        peer.script = script
        made.post(b"%d" % number)
        assert made.flush(PATIENCE)
        if spares:  # what stands ready has another script
            made.post(b"other")
            assert made.flush(PATIENCE)
    count = len(NO_ANSWERS) * (1 + spares)
    assert account(made) == {"posted": count, "reset": count}
    until(lambda: len(requests(peer)) == count, "each arrived once")
    assert all(talk.whole for talk in requests(peer))


def test_linger_ends_the_wait_for_an_answer(sender: Make, peer: Recorder, *, background: bool) -> None:
    """On a spare, and on a connection of the post's own."""
    peer.script = never_answers
    made = sender(peer, spares=1, background=background, linger=0.05)
    made.warm()
    started = time.monotonic()
    made.post(SMALL)
    made.post(SMALL)
    if background:
        until(lambda: not made.stats.held, "the background sees to it")
    else:
        assert made.flush(PATIENCE)
    assert 0.05 <= time.monotonic() - started < 0.05 + LATE
    assert account(made) == {"posted": 2, "unanswered": 2}
    until(lambda: len([talk for talk in requests(peer) if talk.end]) == 2, "their ends")
    for talk in requests(peer):
        assert talk.body == SMALL
        assert_ends_politely(talk)


def endlessly(piece: bytes, first: bytes = b"") -> Script:
    def script(talk: Talk) -> None:
        talk.receive_request()
        talk.send(first)
        while talk.whole and talk.send(piece):
            pass

    return script


# What a server says that never stops, and how it is counted.
ENDLESS_ANSWERS = [
    (endlessly(b"x" * 65536, b"HTTP/1.1 200 OK\r\n\r\n"), {"answered": {200: 1}}),
    (endlessly(b"x" * 65536, b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n"), {"answered": {200: 1}}),
    (endlessly(b"1\r\nx\r\n" * 9000, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), {"answered": {200: 1}}),
    (endlessly(b"HTTP/1.1 100 Continue\r\n\r\n" * 3000), {"unanswered": 1}),
    (endlessly(b"x" * 65536, b"HTTP/1.1 200 OK\r\nX-Long: "), {"reset": 1}),
]


@pytest.mark.parametrize(("script", "ends"), ENDLESS_ANSWERS, ids=["content", "100 MiB", "chunks", "1xx", "head"])
def test_endless_answers_are_cut_and_take_no_memory(
    sender: Make, recorder: Recorder, *, background: bool, script: Script, ends: dict[str, object]
) -> None:
    recorder.script = script
    made = sender(recorder, background=background, linger=0.2 if "unanswered" in ends else PATIENCE)
    memory = psutil.Process().memory_info().rss
    made.post(SMALL)
    assert made.flush(PATIENCE)
    assert psutil.Process().memory_info().rss - memory < 20 << 20
    assert account(made) == {"posted": 1} | ends


def test_many_that_wait_take_little_memory(sender: Make, recorder: Recorder, go: threading.Event) -> None:
    """Half an answer each, and a body that nobody needs any more: 64 KiB were 13 MB."""

    def script(talk: Talk) -> None:
        talk.receive_request()
        talk.send(b"HTTP/1.1 200 OK\r\nX-Half: ")
        assert go.wait(PATIENCE)
        talk.half_close()

    with recording(script=script, keep=False) as peer:
        made = sender(peer, background=False)
        tracemalloc.start()
        try:
            for _ in range(200):
                made.post(bytes(65536 + 1))
            until(lambda: made.pump() is not None and all(talk.whole for talk in peer.talks), "all have arrived")
            held = made.stats.held
            before, _ = tracemalloc.get_traced_memory()
            go.set()
            assert made.flush(PATIENCE)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert held == 200
    assert before - after < 200 * 30_000


# --- held: "acked" and "now" ---------------------------------------------------------------------------------------


def reads_once(event: threading.Event) -> Script:
    """Read nothing before the event, then to the client's end."""

    def script(talk: Talk) -> None:
        talk.shake_hands()
        assert event.wait(PATIENCE)

    return script


@pytest.mark.parametrize("spares", [0, 1])
def test_acked_does_not_wait_for_an_answer(sender: Make, peer: Recorder, *, background: bool, spares: int) -> None:
    peer.script = never_answers
    made = sender(peer, closing="acked", spares=spares, background=background)
    made.warm()
    made.post(SMALL)
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "acked": 1}
    until(lambda: requests(peer) and requests(peer)[0].end, "its end")
    assert requests(peer)[0].body == SMALL
    assert_ends_politely(requests(peer)[0])


@pytest.mark.parametrize("spares", [0, 1])
def test_acked_waits_until_all_is_acknowledged(
    sender: Make, listen: Listen, go: threading.Event, *, background: bool, spares: int
) -> None:
    peer = listen(receive_buffer=NARROW, script=reads_once(go))
    made = sender(peer, closing="acked", spares=spares, background=background, timeout=PATIENCE)
    made.warm()
    made.post(UNACKED)
    assert_stays(lambda: made.pump() is not None and account(made) == {"posted": 1, "held": 1}, "unacknowledged")
    go.set()
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "acked": 1}
    until(lambda: requests(peer) and requests(peer)[0].end, "its end")
    assert requests(peer)[0].body == UNACKED
    assert_ends_politely(requests(peer)[0])


@unix
def test_acked_on_a_unix_socket_means_read_by_the_peer(
    sender: Make, unix_recorder: Recorder, go: threading.Event, *, background: bool
) -> None:
    unix_recorder.script = reads_once(go)
    made = sender(unix_recorder, closing="acked", background=background)
    made.post(SMALL)
    assert not made.flush(LOOK)
    go.set()
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "acked": 1}


def test_acked_counts_what_came_instead(sender: Make, listen: Listen, go: threading.Event, *, background: bool) -> None:
    """An answer that is there anyway, a reset, and nothing within linger."""

    def answers_early(talk: Talk) -> None:
        talk.receive_head()
        talk.send(OK)
        talk.receive_to_end()

    def resets_unread(talk: Talk) -> None:
        until(lambda: made.stats.held, "all is handed over")
        talk.reset()

    for script, ends in ((answers_early, {"answered": {200: 1}}), (resets_unread, {"reset": 1})):
        peer = listen(receive_buffer=NARROW, script=script)
        made = sender(peer, closing="acked", background=background)
        made.post(UNACKED)
        assert made.flush(PATIENCE)
        assert account(made) == {"posted": 1} | ends
    peer = listen(receive_buffer=NARROW, script=reads_once(go))
    made = sender(peer, closing="acked", background=background, linger=0.2)
    made.post(UNACKED)
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "unanswered": 1}
    go.set()
    assert peer.next().body == UNACKED, "nothing is lost by giving up: the kernel goes on"


def test_where_the_kernel_does_not_tell_acked_waits_for_an_answer(
    sender: Make, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, *, background: bool
) -> None:
    """macOS and Windows, as far as Linux can show them: the two things that _tcp.py says there."""
    monkeypatch.setattr(_tcp, "TELLS_UNACKED", False)
    monkeypatch.setattr(_tcp, "unacked_bytes", lambda _: None)
    made = sender(recorder, closing="acked", background=background)
    made.post(SMALL)
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "answered": {204: 1}}
    recorder.script = never_answers
    made = sender(recorder, closing="acked", background=background, linger=0.05)
    made.post(SMALL)
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "unanswered": 1}


@pytest.mark.parametrize("spares", [0, 1])
def test_now_is_closed_by_post_itself(sender: Make, peer: Recorder, *, background: bool, spares: int) -> None:
    peer.script = never_answers
    made = sender(peer, closing="now", spares=spares, background=background)
    made.warm()
    made.post(SMALL)
    assert account(made) == {"posted": 1, "closed_now": 1}
    until(lambda: requests(peer) and requests(peer)[0].end, "its end")
    assert requests(peer)[0].body == SMALL
    assert_ends_politely(requests(peer)[0])


# --- max_held ------------------------------------------------------------------------------------------------------


def test_when_too_many_are_held_the_oldest_is_closed_after_timeout(
    sender: Make, peer: Recorder, pool: ThreadPoolExecutor
) -> None:
    def third(made: AnySender) -> float:
        started = time.monotonic()
        assert made.post(b"3")
        return time.monotonic() - started

    peer.script = never_answers
    senders = [sender(peer, max_held=2, timeout=IN_VAIN, background=background) for background in (False, True)]
    for made in senders:
        made.post(b"1")
        made.post(b"2")
    for took in pool.map(third, senders):
        assert IN_VAIN <= took < IN_VAIN + LATE
    for made in senders:
        assert account(made) == {"posted": 3, "unanswered": 1, "held": 2}
        talk = peer.next()
        assert talk.body == b"1"
        assert_ends_politely(talk)


@pytest.mark.parametrize("spares", [0, 1])
def test_a_post_waits_until_one_is_released(
    sender: Make, recorder: Recorder, go: threading.Event, pool: ThreadPoolExecutor, *, background: bool, spares: int
) -> None:
    def script(talk: Talk) -> None:
        talk.receive_request()
        assert talk.body != b"1" or go.wait(PATIENCE)
        if talk.whole:
            talk.send(NO_CONTENT)

    recorder.script = script
    made = sender(recorder, max_held=1, timeout=PATIENCE, spares=spares, background=background)
    made.warm()
    made.post(b"1")
    call = pool.submit(made.post, b"2")
    with pytest.raises(FutureTimeoutError):
        call.result(LOOK)
    assert account(made) == {"posted": 1, "held": 1}
    go.set()
    assert call.result(PATIENCE) is True
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 2, "answered": {204: 2}}


@pytest.mark.parametrize("spares", [0, 2])
def test_when_too_many_are_held_a_sender_that_drops_says_so_at_once(
    sender: Make, recorder: Recorder, *, background: bool, spares: int
) -> None:
    """Without spares it always does: then there is none that is ready."""
    recorder.script = never_answers
    made = sender(recorder, max_held=1, timeout=None, spares=spares, background=background, when_busy="drop")
    made.warm()
    assert made.post(b"1") is bool(spares)
    assert made.post(b"2") is False
    assert account(made) == ({"posted": 1, "held": 1, "dropped": 1} if spares else {"dropped": 2})
    until(lambda: [talk.whole for talk in requests(recorder)] == [True][:spares], "the one that was posted")
    assert_stays(lambda: len(requests(recorder)) <= 1, "nothing was sent of the other")
    assert [bytes(talk.body) for talk in requests(recorder)] == [b"1"][:spares]


def test_a_post_waits_no_longer_than_timeout_for_others_that_are_under_way(
    sender: Make,
    listen: Listen,
    go: threading.Event,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    *,
    background: bool,
) -> None:
    """There is nothing that could be closed in its favour; and its wait is no busy one."""
    peer = listen()
    script = peer.script = FirstWait(peer, 1, go)
    made = sender(peer, max_held=1, timeout=PATIENCE, background=background)
    call = pool.submit(made.post, pieces_of(LARGE, []))
    until(lambda: script.waiting, "it is under way")
    monkeypatch.setattr(made._pool, "_timeout", 0.3)
    started, worked = time.monotonic(), time.process_time()
    with pytest.raises(ConnectError) as caught:
        made.post(b"2")
    assert 0.3 <= time.monotonic() - started < 0.3 + LATE
    assert time.process_time() - worked < 0.15
    assert caught.value.errno == errno.ETIMEDOUT
    go.set()
    assert call.result(PATIENCE) is True
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "answered": {204: 1}, "failed": 1}


def test_posts_that_wait_have_their_turn_in_the_order_they_came(
    sender: Make, recorder: Recorder, pool: ThreadPoolExecutor, *, background: bool
) -> None:
    turns = [threading.Event() for _ in range(4)]

    def script(talk: Talk) -> None:
        talk.receive_request()
        assert turns[int(talk.body)].wait(PATIENCE)
        talk.send(NO_CONTENT)

    recorder.script = script
    made = sender(recorder, max_held=1, timeout=PATIENCE, background=background)
    calls = []
    for number in range(4):
        calls.append(pool.submit(made.post, b"%d" % number))
        until(lambda number=number: number in {0, len(made._pool._queue)} and recorder.talks, "it waits")  # type: ignore[misc]
    for count, turn in enumerate(turns, 1):
        until(lambda count=count: len(recorder.talks) == count, "its turn")  # type: ignore[misc]
        turn.set()
    assert all(call.result(PATIENCE) for call in calls)
    assert made.flush(PATIENCE)
    assert [bytes(talk.body) for talk in recorder.talks] == [b"0", b"1", b"2", b"3"]
    assert account(made) == {"posted": 4, "answered": {204: 4}}


@pytest.mark.parametrize("spares", [0, 4])
def test_forty_posts_by_eight_callers_at_once(
    sender: Make, peer: Recorder, pool: ThreadPoolExecutor, *, background: bool, spares: int
) -> None:
    """Each once, and on a connection of its own."""
    made = sender(peer, spares=spares, background=background, max_held=16)
    made.warm()
    bodies = [b"%d" % number for number in range(100, 140)]
    assert all(pool.map(made.post, bodies))
    assert made.flush(PATIENCE)
    assert sorted(bytes(talk.body) for talk in requests(peer)) == bodies
    assert account(made) == {"posted": 40, "answered": {204: 40}}


# --- pump() --------------------------------------------------------------------------------------------------------


def pump_in_time(made: AnySender, calls: int = 4) -> None:
    """Call pump() exactly when it wants to be called, until it does not; so many calls at most."""
    for _ in range(calls):
        seconds = made.pump()
        if seconds is None:
            return
        let_pass(seconds)
    raise AssertionError(seconds)


def test_pump_wants_nothing_where_there_is_nothing(sender: Make, peer: Recorder) -> None:
    made = sender(peer, background=False, linger=0.1)
    assert made.pump() is None
    made.post(SMALL)
    assert made.flush(PATIENCE)
    pump_in_time(made)
    assert made.pump() is None


@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("closing", ["acked", "answered"])
def test_pump_wants_to_be_called_when_linger_is_over(
    sender: Make, listen: Listen, go: threading.Event, *, closing: str, spares: int
) -> None:
    peer = listen(receive_buffer=NARROW, script=reads_once(go))
    made = sender(peer, closing=closing, background=False, linger=0.1, spares=spares)
    made.warm()
    started = time.monotonic()
    made.post(UNACKED)
    seconds = made.pump()
    deadline = time.monotonic() + 0.1 + LATE
    calls = 0
    while made.stats.held:
        assert seconds is not None
        assert 0 <= seconds <= 0.1
        let_pass(seconds)
        seconds, calls = made.pump(), calls + 1
    assert time.monotonic() - started >= 0.1
    assert time.monotonic() < deadline
    assert calls < (4 if closing == "answered" else 40)
    assert account(made) == {"posted": 1, "unanswered": 1}


def test_pump_wants_to_be_called_when_a_spare_gets_too_old(sender: Make, peer: Recorder) -> None:
    made = sender(peer, background=False, spares=2)
    warmed(made, peer, 2)
    seconds = made.pump()
    assert seconds is not None
    assert 20 < seconds <= 25, "its successor is opened when it is 25 s old"


def test_pump_replaces_ageing_spares_in_time(sender: Make, peer: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pool, "_AGEING", 0.05)
    made = sender(peer, background=False, spares=1)
    talks = warmed(made, peer, 1)
    for _ in range(10):
        if len(peer.talks) > 1 and made.stats.spares == 1 and talks[0].done.is_set():
            break
        seconds = made.pump()
        assert seconds is not None
        let_pass(min(seconds, LOOK))
    assert_ends_politely(peer.next())
    assert talks[0].done.is_set()


@linux
def test_pump_wants_to_be_called_when_connecting_has_taken_too_long(sender: Make) -> None:
    with black_hole() as (host, port):
        made = sender(f"http://{host}:{port}/", background=False, spares=1, timeout=0.2)
        seconds = due_in(made, 0.2)
        let_pass(seconds)
        due_in(made, _pool._FIRST_BACKOFF)  # now it waits before it tries again
        made.close()


def due_in(made: AnySender, wait: float) -> float:
    """Call pump(), which is to wait so long from some moment within the call; return what it says."""
    began = time.monotonic()
    seconds = made.pump()
    ended = time.monotonic()
    assert seconds is not None
    assert 0 <= seconds <= wait
    assert ended + seconds >= began + wait - 1e-6  # a float's last digits
    return seconds


def test_pump_waits_longer_each_time_it_is_refused(sender: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pool, "_FIRST_BACKOFF", 0.04)
    made = sender(f"http://127.0.0.1:{refusing_port()}/", background=False, spares=3)
    for wait in (0.04, 0.08, 0.16):
        let_pass(due_in(made, wait))


def test_pump_sees_what_has_arrived(sender: Make, peer: Recorder, go: threading.Event) -> None:
    def script(talk: Talk) -> None:
        talk.receive_request()
        talk.send(NO_CONTENT)
        go.set()

    peer.script = script
    made = sender(peer, background=False)
    made.post(SMALL)
    assert go.wait(PATIENCE)
    made.pump()
    assert account(made) == {"posted": 1, "answered": {204: 1}}


def test_pump_lends_the_background_a_hand(sender: Make, peer: Recorder) -> None:
    made = sender(peer, spares=2, background=True)
    made.pump()
    until(lambda: made.stats.spares == 2, "spares")
    for _ in range(20):
        made.post(SMALL)
        made.pump()
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 20, "answered": {204: 20}}


# --- nobody in the background --------------------------------------------------------------------------------------


def all_answered(peer: Recorder, count: int) -> None:
    """Wait until so many answers have left; nobody has looked at them."""
    until(lambda: sum(talk.whole for talk in peer.talks) == count, "requests")
    until(lambda: unread(peer) >= count * len(NO_CONTENT), "answers in our kernel")


@linux
def test_with_nobody_in_the_background_what_has_come_keeps_nobody_busy(sender: Make, recorder: Recorder) -> None:
    made = sender(recorder, background=False, spares=1)
    made.warm()
    made.post(SMALL)
    all_answered(recorder, 1)
    worked = time.process_time()
    let_pass(0.2)
    assert time.process_time() - worked < 0.1
    assert account(made) == {"posted": 1, "held": 1}
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "answered": {204: 1}}


def test_with_nobody_in_the_background_nothing_goes_on_behind_a_flush(sender: Make, recorder: Recorder) -> None:
    recorder.script = never_answers
    made = sender(recorder, background=False, linger=0.3)
    made.post(SMALL)
    assert made.flush(0.01) is False
    assert_stays(lambda: account(made) == {"posted": 1, "held": 1}, "linger is over, and nobody has looked", 0.4)
    made.pump()
    assert account(made) == {"posted": 1, "unanswered": 1}


@linux
def test_with_nobody_in_the_background_a_post_that_connects_reaps_a_few(
    sender: Make, recorder: Recorder, go: threading.Event
) -> None:
    recorder.script = FirstWait(recorder, 20, go)
    made = sender(recorder, background=False)
    for _ in range(20):
        made.post(SMALL)
    assert made.stats.held == 20
    go.set()
    all_answered(recorder, 20)
    assert made.post(SMALL)
    assert 21 - 8 <= made.stats.held < 20, "some, and not all: a post is not to take long"
    until(lambda: made.post(SMALL) and made.stats.held < 8, "each takes away more than it adds")
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": made.stats.posted, "answered": {204: made.stats.posted}}


@linux
def test_with_nobody_in_the_background_a_post_on_a_spare_reaps_only_when_it_is_crowded(
    sender: Make, recorder: Recorder
) -> None:
    made = sender(recorder, background=False, max_held=20, spares=12)
    made.warm()
    for _ in range(9):
        made.post(SMALL)
    all_answered(recorder, 9)
    made.post(SMALL)
    assert made.stats.held == 10, "up to half of max_held nothing is looked at"
    made.post(SMALL)
    assert 11 - 8 <= made.stats.held < 11
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 11, "answered": {204: 11}}


# --- the background ------------------------------------------------------------------------------------------------


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rawfnf"]


@only_threads
def test_there_is_one_daemon_thread_from_the_first_post_to_close(
    sender: Make, peer: Recorder, pool: ThreadPoolExecutor
) -> None:
    made = sender(peer, background=True, max_held=1000)
    assert threads() == []
    list(pool.map(lambda _: made.post(SMALL), range(40)))
    (thread,) = threads()
    assert thread.daemon
    assert made.flush(PATIENCE)
    assert threads() == [thread]
    made.close()
    assert not thread.is_alive()
    assert account(made) == {"posted": 40, "answered": {204: 40}}


@only_threads
@pytest.mark.parametrize(("options", "count"), [({}, 0), ({"spares": 1}, 1), ({"spares": 1, "background": False}, 0)])
def test_there_is_a_thread_by_default_if_there_are_spares(
    sender: Make, recorder: Recorder, options: dict[str, Any], count: int
) -> None:
    made = sender(recorder, **options)
    made.warm()
    made.post(SMALL)
    made.pump()
    assert len(threads()) == count


@only_loops
def test_a_loop_needs_no_thread(sender: Make, peer: Recorder, *, background: bool) -> None:
    """Not even to ask the resolver: the peer's is an address."""
    made = sender(peer, spares=2, background=background)
    before = {*threading.enumerate()}
    made.warm()
    assert all(made.post(SMALL) for _ in range(4))
    assert made.flush(PATIENCE)
    assert {thread.name for thread in threading.enumerate() if thread not in before} <= {"recorder"}
    assert account(made) == {"posted": 4, "answered": {204: 4}}


@only_loops
@pytest.mark.parametrize("spares", [0, 1])
def test_a_loop_works_in_the_background_by_default(sender: Make, recorder: Recorder, spares: int) -> None:
    made = sender(recorder, spares=spares)
    for _ in range(3):
        assert made.post(SMALL)
    until(lambda: account(made) == {"posted": 3, "answered": {204: 3}}, "unasked")
    until(lambda: made.stats.spares == spares, "unasked")


def at_work(made: list[AnySender]) -> list[threading.Thread]:
    """Return the threads that work in the background."""
    return list({each.loop.thread for each in made if isinstance(each, AwaitedSender)}) or threads()


def switches(thread: threading.Thread) -> int:
    """How often the thread has gone to sleep (linux: proc(5), status)."""
    with open(f"/proc/self/task/{thread.native_id}/status") as status:
        (line,) = (line for line in status if line.startswith("voluntary_ctxt_switches"))
    return int(line.split()[1])


def cpu_time(thread: threading.Thread) -> float:
    """Seconds that the thread has been at work."""
    (times,) = (each for each in psutil.Process().threads() if each.id == thread.native_id)
    return float(times.user_time + times.system_time)


@linux
def test_the_background_sleeps_when_there_is_nothing_to_do(
    sender: Make, listen: Listen, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """With spares ready, and a post held whose server takes its time."""
    context = server_context(authority, ssl.TLSVersion.TLSv1_3)
    plain, secure = listen(script=never_answers), listen(script=never_answers, context=context)
    made = [sender(plain, spares=3), sender(secure.url, spares=3, ssl_context=trusting)]
    for each in made:
        each.warm()
        each.post(SMALL)
        until(lambda each=each: each.stats.spares == 3, "the spare that was used is replaced")  # type: ignore[misc]
    until(lambda: not unread(secure), "tickets read")
    before = [(switches(thread), cpu_time(thread)) for thread in at_work(made)]
    let_pass(2)
    after = [(switches(thread), cpu_time(thread)) for thread in at_work(made)]
    assert len(before) == len(after) == (1 if isinstance(made[0], AwaitedSender) else 2)
    for (slept, worked), (slept_now, worked_now) in zip(before, after, strict=True):
        assert slept_now - slept <= 20, "it wakes once a second"
        assert worked_now - worked <= 0.02, "two ticks of the clock at most"
    assert [each.stats.held for each in made] == [1, 1]


# --- large bodies --------------------------------------------------------------------------------------------------

# More than a kernel takes when nobody reads (tcp_wmem ends at 4 MiB; the receiver's window grows with its reading).
LARGE = os.urandom(6 << 20)


def test_a_large_body_is_left_to_the_background(sender: Make, peer: Recorder, go: threading.Event) -> None:
    """And is the caller's own again: to be changed, and to be shrunk."""
    peer.script = FirstWait(peer, 9, go)  # all: among the first two may be the used spare's successor
    made = sender(peer, spares=1, background=True, timeout=PATIENCE)
    made.warm()
    for body in (bytearray(LARGE), array("I", LARGE)):
        assert made.post(body)
        body[0] ^= 1
        del body[1:]
    assert account(made) == {"posted": 2, "held": 2}
    go.set()
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 2, "answered": {204: 2}}
    for talk in requests(peer):
        assert talk.whole
        assert talk.body_hash.digest() == hashlib.sha256(LARGE).digest()


@pytest.mark.parametrize("closing", ["now", "acked"])
def test_a_large_body_is_left_to_the_background_whatever_the_closing(
    sender: Make, peer: Recorder, go: threading.Event, closing: str
) -> None:
    """TLS 1.3 has no tickets that could destroy it here: the peer reads when they have come."""

    def script(talk: Talk) -> None:
        talk.shake_hands()
        assert go.wait(PATIENCE)
        talk.receive_to_end()

    peer.script = script
    made = sender(peer, spares=1, background=True, timeout=PATIENCE, closing=closing)
    warmed(made, peer, 1)
    assert made.post(LARGE)
    assert account(made) == {"posted": 1, "held": 1}
    go.set()
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "closed_now" if closing == "now" else "acked": 1}
    until(lambda: requests(peer)[0].end, "its end")
    (talk,) = requests(peer)
    assert talk.body_hash.digest() == hashlib.sha256(LARGE).digest()
    assert_ends_politely(talk)


def test_with_nobody_in_the_background_a_large_body_is_waited_for(
    sender: Make, peer: Recorder, go: threading.Event, pool: ThreadPoolExecutor
) -> None:
    peer.script = FirstWait(peer, 1, go)
    made = sender(peer, background=False, timeout=PATIENCE)
    body = bytearray(LARGE)
    call = pool.submit(made.post, body)
    with pytest.raises(FutureTimeoutError):
        call.result(LOOK)
    assert account(made) == {}, "while its caller is sending, a post is in no term"
    go.set()
    assert call.result(PATIENCE) is True
    body.clear()
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 1, "answered": {204: 1}}
    assert requests(peer)[0].body_hash.digest() == hashlib.sha256(LARGE).digest()


def test_a_large_body_has_the_time_of_a_post_however_old_its_spare_is(sender: Make, recorder: Recorder) -> None:
    made = [sender(recorder, spares=1, background=background, timeout=PATIENCE) for background in (False, True)]
    for each in made:
        each.warm()
        (spare,) = each._pool._ready
        spare.deadline = time.monotonic() - 1.0  # that of its own connecting, as old as it may get
        assert each.post(LARGE[: 4 << 20])
        assert each.flush(PATIENCE)
        assert spare.bytes_sent > 4 << 20
        assert account(each) == {"posted": 1, "answered": {204: 1}}


def taken_at_once(url: str, path: str, size: int) -> int:
    """Return how many bytes of such a request a Unix socket takes when nobody reads: always as many."""
    request = Request(url)
    route = route_to(request.origin, ssl_context=None, connect_to=path, source_address=None)
    connection = Connection(route, route.known, time.monotonic(), None)
    connection.give(request.message(bytes(size)), closing="answered", linger=0.0)
    try:
        while not connection.bytes_sent:  # a Unix socket is connected at once
            connection.advance()
        return connection.bytes_sent
    finally:
        connection.abort()


@linux
@pytest.mark.parametrize("parts", [1, 3])
def test_64_mib_are_left_to_the_background_and_not_one_byte_more(
    sender: Make, listen: Listen, tmp_path: Path, go: threading.Event, pool: ThreadPoolExecutor, *, parts: int
) -> None:
    path, url, most = str(tmp_path / "s"), "http://localhost/", 64 << 20
    peer = listen(family=AF_UNIX, address=path, keep=False)
    peer.script = FirstWait(peer, 9, go)
    head = len(Request(url).encode(bytes(most))) - most
    taken = taken_at_once(url, path, most)
    made = sender(url, connect_to=path, background=True, timeout=PATIENCE)
    for size in [most // parts] * (parts - 1) + [most - most // parts * (parts - 1)]:
        assert made.post(bytes(size + taken - head)), "up to the last byte"
    call = pool.submit(made.post, bytes(taken - head + 1))
    with pytest.raises(FutureTimeoutError):
        call.result(LOOK)
    assert made.post(bytes(taken - head)), "what the kernel takes is not left to the background"
    assert account(made) == {"posted": parts + 1, "held": parts + 1}
    go.set()
    assert call.result(PATIENCE) is True
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": parts + 2, "answered": {204: parts + 2}}


def test_beyond_64_mib_a_post_waits_until_there_is_room(
    sender: Make, listen: Listen, go: threading.Event, pool: ThreadPoolExecutor
) -> None:
    peer = listen(keep=False)
    peer.script = FirstWait(peer, 2, go)
    made = sender(peer, background=True, timeout=PATIENCE)
    body = bytes(48 << 20)
    assert made.post(body)
    call = pool.submit(made.post, body)
    with pytest.raises(FutureTimeoutError):
        call.result(LOOK)
    assert account(made) == {"posted": 1, "held": 1}
    go.set()
    assert call.result(PATIENCE) is True
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 2, "answered": {204: 2}}
    assert [talk.body_length for talk in peer.talks] == [len(body)] * 2


def test_beyond_64_mib_a_post_waits_no_longer_than_timeout(sender: Make, peer: Recorder, go: threading.Event) -> None:
    peer.script = FirstWait(peer, 1, go)
    made = sender(peer, background=True, timeout=IN_VAIN)
    started = time.monotonic()
    with pytest.raises(SendError) as caught:
        made.post(ENDLESS)
    assert IN_VAIN <= time.monotonic() - started < IN_VAIN + LATE
    assert (caught.value.phase, caught.value.errno) == ("send", errno.ETIMEDOUT)
    assert 0 < caught.value.bytes_sent < len(ENDLESS)
    go.set()
    assert_cut_off(peer.next())
    assert account(made) == {"failed": 1}


def test_a_deadline_while_the_background_sends_is_unanswered_and_looks_like_no_end(
    sender: Make, peer: Recorder, go: threading.Event
) -> None:
    peer.script = FirstWait(peer, 3, go)
    made = [sender(peer, background=True, timeout=IN_VAIN, closing=how) for how in ("now", "acked", "answered")]
    for each in made:
        assert each.post(LARGE)
    for each in made:
        until(lambda each=each: not each.stats.held, "the deadline")  # type: ignore[misc]
        assert account(each) == {"posted": 1, "unanswered": 1}
    go.set()
    for _ in made:
        assert_cut_off(peer.next())


@pytest.mark.parametrize("spares", [0, 1])
def test_an_early_answer_ends_a_large_body(
    sender: Make, peer: Recorder, go: threading.Event, *, background: bool, spares: int
) -> None:
    """However it was met: in post(), or in the background; the peer keeps the connection open."""

    def script(talk: Talk) -> None:
        talk.receive_head()
        if talk.request is not None:
            talk.send(TOO_LARGE)
            assert go.wait(PATIENCE)

    peer.script = script
    made = sender(peer, spares=spares, background=background, timeout=PATIENCE)
    made.warm()
    assert made.post(bytes(48 << 20))
    started = time.monotonic()
    assert made.flush(PATIENCE)
    assert time.monotonic() - started < PATIENCE / 4
    assert account(made) == {"posted": 1, "answered": {413: 1}}
    go.set()
    until(lambda: requests(peer)[0].end, "its end")
    assert_cut_off(requests(peer)[0])


def test_a_reset_in_the_middle_of_a_large_body(sender: Make, peer: Recorder, *, background: bool) -> None:
    """It is the post's own failure where that waits, and `reset` where it is left to the background.

    On a Unix socket it may look like an end without an answer.
    """

    def script(talk: Talk) -> None:
        talk.receive_head()
        until(lambda: not background or made.stats.held, "it is left to the background")
        talk.reset()

    peer.script = script
    made = sender(peer, background=background, timeout=PATIENCE)
    if background:
        assert made.post(LARGE)
        assert made.flush(PATIENCE)
        assert account(made) == {"posted": 1, "reset": 1}
    else:
        with pytest.raises(SendError) as caught:
            made.post(LARGE)
        assert caught.value.errno in {errno.ECONNRESET, errno.EPIPE} or peer.address == peer.options.get("connect_to")
        assert account(made) == {"failed": 1}
    assert not peer.next().whole
    assert_stays(lambda: len(peer.talks) == 1, "it is not sent again")


def pieces_of(body: bytes, read: list[int]) -> Iterator[bytes]:
    for start in range(0, len(body), 1_000_003):
        yield body[start : start + 1_000_003]
    read.append(len(body))


def test_files_and_iterables_are_read_inside_post(
    sender: Make, peer: Recorder, tmp_path: Path, *, background: bool
) -> None:
    path, read, body = tmp_path / "body", list[int](), LARGE[: 3 << 20]
    path.write_bytes(body)
    made = sender(peer, spares=1, background=background, timeout=PATIENCE)
    made.warm()
    with path.open("rb") as file:
        assert made.post(file)
        assert file.tell() == len(body)
    path.unlink()
    assert made.post(pieces_of(body, read))
    assert read == [len(body)]
    assert made.flush(PATIENCE)
    assert account(made) == {"posted": 2, "answered": {204: 2}}
    assert {talk.body_hash.digest() for talk in requests(peer)} == {hashlib.sha256(body).digest()}
    assert {talk.header("Transfer-Encoding") for talk in requests(peer)} == {None, "chunked"}


def test_what_has_waited_on_a_spare_is_seen_to_its_end(
    sender: Make, peer: Recorder, go: threading.Event, pool: ThreadPoolExecutor, *, background: bool
) -> None:
    """First the background waits for what comes on it, then post(), then the background again."""
    peer.script = FirstWait(peer, 1, go)
    made = sender(peer, spares=1, background=background, timeout=PATIENCE)
    warmed(made, peer, 1)
    call = pool.submit(made.post, pieces_of(LARGE, []))
    with pytest.raises(FutureTimeoutError):
        call.result(LOOK)
    go.set()
    assert call.result(PATIENCE) is True
    started = time.monotonic()
    assert made.flush(PATIENCE)
    assert time.monotonic() - started < LATE
    assert account(made) == {"posted": 1, "answered": {204: 1}}
    assert requests(peer)[0].body_hash.digest() == hashlib.sha256(LARGE).digest()


def test_a_stream_is_waited_for_by_post_itself(sender: Make, peer: Recorder, go: threading.Event) -> None:
    peer.script = FirstWait(peer, 1, go)
    made = sender(peer, background=True, timeout=IN_VAIN)
    with pytest.raises(SendError):
        made.post(pieces_of(ENDLESS, []))
    go.set()
    assert_cut_off(peer.next())
    assert account(made) == {"failed": 1}


def test_an_iterable_that_raises_ends_in_a_reset(sender: Make, peer: Recorder, *, background: bool) -> None:
    def body() -> Iterator[bytes]:
        yield SMALL
        raise ValueError("the disk is on fire")

    made = sender(peer, spares=1, background=background)
    made.warm()
    with pytest.raises(SendError, match="the disk is on fire"):
        made.post(body())
    until(lambda: requests(peer) and requests(peer)[0].end, "its end")
    assert_cut_off(requests(peer)[0])
    assert account(made) == {"failed": 1}


def test_close_cuts_off_what_the_background_could_not_send(
    sender: Make, peer: Recorder, go: threading.Event, pool: ThreadPoolExecutor
) -> None:
    """And whoever waits for it elsewhere need not wait any more."""
    peer.script = FirstWait(peer, 1, go)
    made = sender(peer, background=True, timeout=PATIENCE, linger=0.1)
    assert made.post(LARGE)
    call = pool.submit(made.flush)
    with pytest.raises(FutureTimeoutError):
        call.result(LOOK)
    made.close()
    assert call.result(PATIENCE) is True
    assert account(made) == {"posted": 1, "unanswered": 1}
    go.set()
    assert_cut_off(peer.next())


# --- options -------------------------------------------------------------------------------------------------------


def test_what_is_sent_is_what_request_encodes(sender: Make, peer: Recorder, *, background: bool) -> None:
    options: dict[str, Any] = {
        "params": {"a": "1"},
        "headers": {"X-Of-All": "1", "X-Other": "2"},
        "auth": ("user", "pass"),
        "method": "PUT",
    }
    calls: list[dict[str, Any]] = [
        {},
        {"data": b"bytes"},
        {"data": "text"},
        {"data": {"form": "1"}},
        {"json": {"a": [1, None]}},
        {"data": b"x", "headers": {"Idempotency-Key": "7", "X-Other": "3"}},
        {"data": b"x", "params": {"b": "2"}, "path": "/devices/7"},
        {"json": [1], "params": "c=3", "headers": [("X-A", "1"), ("X-A", "2")], "path": "/ü"},
        {"data": io.BytesIO(b"file")},
        {"data": [b"one", b"two"]},
    ]
    request = Request(peer.url, **options)
    expected = sorted(request.encode(**call) for call in calls)
    calls[-2]["data"].seek(0)
    made = sender(peer, spares=1, background=background, **options)
    made.warm()
    assert all(made.post(**call) for call in calls)
    assert made.flush(PATIENCE)
    assert sorted(bytes(talk.data) for talk in requests(peer)) == expected


def test_connect_to_keeps_the_urls_host_and_server_name(
    sender: Make, tls_recorder: Recorder, *, background: bool
) -> None:
    made = sender(
        "https://rawfnf.test/path",
        connect_to=tls_recorder.address,
        spares=1,
        background=background,
        **tls_recorder.options,
    )
    made.warm()
    made.post(SMALL)
    assert made.flush(PATIENCE)
    (talk,) = requests(tls_recorder)
    assert talk.header("Host") == "rawfnf.test"
    assert set(tls_recorder.sni) == {"rawfnf.test"}


@linux
def test_source_address_is_what_the_peer_sees(sender: Make, recorder: Recorder, *, background: bool) -> None:
    made = sender(recorder, source_address="127.0.0.2", spares=1, background=background)
    made.post(b"on a connection of its own")
    made.warm()
    made.post(b"on a spare")
    assert made.flush(PATIENCE)
    assert {talk.client[0] for talk in recorder.talks} == {"127.0.0.2"}
    assert len(requests(recorder)) == 2


@linux
def test_timeout_is_for_connecting_as_well(sender: Make, *, background: bool) -> None:
    with black_hole() as (host, port):
        made = sender(f"http://{host}:{port}/", timeout=0.2, background=background)
        started = time.monotonic()
        with pytest.raises(ConnectError) as caught:
            made.post(SMALL)
        assert 0.2 <= time.monotonic() - started < 0.2 + LATE
    assert (caught.value.phase, caught.value.errno) == ("connect", errno.ETIMEDOUT)
    assert account(made) == {"failed": 1}


def shown(value: object) -> str:
    """Name a case: the same in every process, so without addresses in memory."""
    return re.sub(r" (object )?at 0x[0-9a-f]+", "", str(value))


# (constructor's arguments, what the message names)
BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"url": "ftp://127.0.0.1/"}, "http"),
    ({"params": 5}, "params"),
    ({"headers": {"X A": "1"}}, "header"),
    ({"headers": {"Content-Length": "1"}}, "Content-Length"),
    ({"auth": "user:password"}, "auth"),
    ({"method": "GET IT"}, "method"),
    ({"timeout": 0}, "timeout"),
    ({"timeout": -1}, "timeout"),
    ({"timeout": "5"}, "timeout"),
    ({"closing": None}, "closing"),
    ({"closing": "later"}, "closing"),
    ({"linger": None}, "linger"),
    ({"linger": float("nan")}, "linger"),
    ({"ssl_context": "context"}, "ssl_context"),
    ({"ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, "ssl_context"),
    ({"connect_to": 8080}, "connect_to"),
    ({"connect_to": ("127.0.0.1", 0)}, "connect_to"),
    ({"source_address": "localhost"}, "source_address"),
    ({"source_address": "::1"}, "source_address"),
    ({"spares": -1}, "spares"),
    ({"spares": 1.5}, "spares"),
    ({"spares": True}, "spares"),
    ({"spares": None}, "spares"),
    ({"max_held": 0}, "max_held"),
    ({"max_held": "many"}, "max_held"),
    ({"when_busy": "raise"}, "when_busy"),
    ({"when_busy": ["drop"]}, "when_busy"),
    ({"background": 1}, "background"),
    ({"background": "yes"}, "background"),
]


@pytest.mark.parametrize("kind", [Sender, aio.Sender])
@pytest.mark.parametrize(("options", "named"), BAD_ARGUMENTS, ids=shown)
def test_bad_arguments_are_named_before_anything_touches_the_network(
    kind: NewSender, options: dict[str, Any], named: str
) -> None:
    before = descriptors(), threading.enumerate()
    with pytest.raises(RequestError, match=named) as caught:
        kind(**{"url": "http://127.0.0.1/"} | options)
    assert caught.value.phase == "request"
    assert (descriptors(), threading.enumerate()) == before


# (post's arguments, what the message names)
BAD_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"data": 5}, "data"),
    ({"data": io.StringIO("text")}, "data"),
    ({"data": b"", "json": 1}, "data and json"),
    ({"json": {1, 2}}, "json"),
    ({"params": 5}, "params"),
    ({"headers": {"X-A": "1\r\nX-B: 2"}}, "X-A"),
    ({"headers": {"Transfer-Encoding": "chunked"}}, "Transfer-Encoding"),
    ({"path": 5}, "path"),
    ({"path": "devices/\n7"}, "path"),
]


@pytest.mark.parametrize(("call", "named"), BAD_CALLS, ids=shown)
def test_bad_arguments_of_a_post_touch_no_network(
    sender: Make, recorder: Recorder, call: dict[str, Any], named: str
) -> None:
    made = sender(recorder, spares=1)
    with pytest.raises(RequestError, match=named):
        made.post(**call)
    assert account(made) == {"failed": 1}
    assert threads() == []
    assert recorder.talks == []


def test_a_file_is_back_where_it_stood_when_nothing_was_sent(sender: Make, recorder: Recorder) -> None:
    file = io.BytesIO(bytes(200_000))
    file.seek(1000)
    refused = sender(f"http://127.0.0.1:{refusing_port()}/")
    dropping = sender(recorder, when_busy="drop")
    closed = sender(recorder)
    closed.close()
    with pytest.raises(ConnectError):
        refused.post(file)
    assert file.tell() == 1000
    assert dropping.post(file) is False
    assert file.tell() == 1000
    with pytest.raises(RequestError):
        closed.post(file)
    assert file.tell() == 1000


def test_a_repr_shows_no_credentials(sender: Make, recorder: Recorder) -> None:
    url = recorder.url.replace("http://", "http://user:geheim@") + "path?key=geheim"
    made = sender(url, headers={"Authorization": "geheim"} if "@" not in url else {"X-Key": "geheim"})
    assert "geheim" not in repr(made)
    assert "127.0.0.1" in repr(made)
    assert "open" in repr(made)
    made.close()
    assert "closed" in repr(made)


# --- errors --------------------------------------------------------------------------------------------------------


def test_a_port_that_refuses_is_a_connect_error(sender: Make, *, background: bool) -> None:
    port = refusing_port()
    made = sender(f"http://127.0.0.1:{port}/", background=background)
    with pytest.raises(ConnectError, match="nothing listens there") as caught:
        made.post(SMALL)
    error = caught.value
    assert (error.phase, error.host, error.port, error.errno) == ("connect", "127.0.0.1", port, errno.ECONNREFUSED)
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert account(made) == {"failed": 1}


def test_warm_tells_why_there_are_no_spares(sender: Make, *, background: bool) -> None:
    made = sender(f"http://127.0.0.1:{refusing_port()}/", spares=2, timeout=0.2, background=background)
    started = time.monotonic()
    with pytest.raises(ConnectError, match="nothing listens there") as caught:
        made.warm()
    assert time.monotonic() - started < 0.2 + LATE
    assert "0 of 2 spares" in str(caught.value)
    assert (caught.value.phase, caught.value.errno) == ("connect", errno.ECONNREFUSED)
    assert account(made) == {}


@linux
def test_warm_waits_no_longer_than_timeout(sender: Make, *, background: bool) -> None:
    with black_hole() as (host, port):
        made = sender(f"http://{host}:{port}/", spares=1, timeout=0.2, background=background)
        started = time.monotonic()
        with pytest.raises(ConnectError) as caught:
            made.warm()
        assert 0.2 <= time.monotonic() - started < 0.2 + LATE
        assert caught.value.errno == errno.ETIMEDOUT
        made.close()


def test_no_request_byte_leaves_before_the_certificate_is_verified(
    sender: Make, listen: Listen, trusting: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    context = server_context(trustme.CA(), tls_version)
    peer = listen(context=context, script=never_answers)
    made = sender(peer, spares=1, timeout=2.0, ssl_context=trusting)  # warm() takes all of it
    with pytest.raises(ConnectError, match="certificate not trusted") as caught:
        made.post(SMALL)
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    with pytest.raises(ConnectError, match="certificate not trusted"):
        made.warm()
    assert account(made) == {"failed": 1}
    made.close()
    assert len(peer.talks) > 1
    assert not any(talk.data for talk in peer.talks)


# --- close() -------------------------------------------------------------------------------------------------------


def test_a_closed_sender_takes_no_more_posts(sender: Make, peer: Recorder, *, background: bool) -> None:
    with sender(peer, spares=1, background=background) as made:
        made.warm()
        assert made.post(SMALL)
    assert account(made) == {"posted": 1, "answered": {204: 1}}, "close() has flushed it"
    for _ in range(2):
        with pytest.raises(RequestError, match="closed"):
            made.post(SMALL)
        with pytest.raises(RequestError, match="closed"):
            made.warm()
        made.close()
    assert made.pump() is None
    assert made.flush() is True
    assert account(made) == {"posted": 1, "answered": {204: 1}, "failed": 2}
    assert len(requests(peer)) == 1


def test_close_waits_no_longer_than_linger(sender: Make, peer: Recorder, *, background: bool) -> None:
    peer.script = never_answers
    made = sender(peer, spares=1, background=background, linger=0.05)
    made.warm()
    made.post(SMALL)
    made.post(SMALL)
    started = time.monotonic()
    made.close()
    assert time.monotonic() - started < 0.05 + LATE
    assert account(made) == {"posted": 2, "unanswered": 2}
    until(lambda: len([talk for talk in requests(peer) if talk.end]) == 2, "their ends")
    for talk in requests(peer):
        assert_ends_politely(talk)
    started = time.monotonic()
    made.close()
    assert time.monotonic() - started < 0.5, "it is closed already"


@linux
def test_close_without_linger_counts_what_has_come(sender: Make, recorder: Recorder) -> None:
    made = sender(recorder, linger=0, spares=1, background=False)
    made.warm()
    made.post(SMALL)
    all_answered(recorder, 1)
    made.close()
    assert account(made) == {"posted": 1, "answered": {204: 1}}


@pytest.mark.parametrize("linger", [PATIENCE, 0])
def test_what_is_under_way_when_close_comes_is_sent_to_its_end(
    sender: Make, peer: Recorder, go: threading.Event, pool: ThreadPoolExecutor, *, background: bool, linger: float
) -> None:
    """It is waited for as long as the others, and counted in any case."""

    def script(talk: Talk) -> None:
        talk.receive_head()
        assert go.wait(PATIENCE)
        answer_at_once(talk)

    peer.script = script
    made = sender(peer, background=background, linger=linger, timeout=PATIENCE)
    post = pool.submit(made.post, pieces_of(LARGE, []))
    until(lambda: requests(peer), "its head")
    close = pool.submit(made.close)
    until(lambda: "closed" in repr(made), "it is being closed")
    if not linger:
        close.result(PATIENCE)
    go.set()
    assert post.result(PATIENCE) is True
    close.result(PATIENCE)
    talk = peer.next()
    assert talk.whole
    assert talk.body_hash.digest() == hashlib.sha256(LARGE).digest()
    assert account(made) in ({"posted": 1, "unanswered": 1}, {"posted": 1, "answered": {204: 1}})


def test_close_is_quick_when_nothing_is_held(sender: Make, peer: Recorder, *, background: bool) -> None:
    """Also right behind a post(), when the background is anywhere between two naps."""
    for _ in range(10):
        made = sender(peer, linger=0, background=background, closing="now")
        made.post(SMALL)
        started = time.monotonic()
        made.close()
        assert time.monotonic() - started < 0.8


def test_flush_waits_until_nothing_is_held_or_for_its_timeout(
    sender: Make, recorder: Recorder, go: threading.Event, *, background: bool
) -> None:
    recorder.script = FirstWait(recorder, 3, go)
    made = sender(recorder, background=background)
    assert made.flush() is True
    assert made.flush(0) is True
    for _ in range(3):
        made.post(SMALL)
    started = time.monotonic()
    assert made.flush(0.1) is False
    assert 0.1 <= time.monotonic() - started < 0.1 + LATE
    assert made.flush(0) is False
    assert account(made) == {"posted": 3, "held": 3}
    go.set()
    assert made.flush() is True
    with pytest.raises(RequestError, match="timeout"):
        made.flush(-1)


def test_several_may_flush_at_once(
    sender: Make, recorder: Recorder, go: threading.Event, pool: ThreadPoolExecutor, *, background: bool
) -> None:
    recorder.script = FirstWait(recorder, 3, go)
    made = sender(recorder, background=background)
    for _ in range(3):
        made.post(SMALL)
    calls = [pool.submit(made.flush, PATIENCE) for _ in range(4)]
    worked = time.process_time()
    let_pass(0.2)
    assert time.process_time() - worked < 0.1, "they wait, and keep nobody busy"
    go.set()
    assert all(call.result(PATIENCE) for call in calls)
    assert account(made) == {"posted": 3, "answered": {204: 3}}


# --- down, and up again --------------------------------------------------------------------------------------------


def test_a_sender_recovers_by_itself_when_the_server_is_up_again(
    sender: Make, authority: trustme.CA, trusting: ssl.SSLContext, *, background: bool
) -> None:
    for context, options in (
        (None, {}),
        (server_context(authority, ssl.TLSVersion.TLSv1_3), {"ssl_context": trusting}),
    ):
        address = ("127.0.0.1", refusing_port())
        with recording(context=context, options=options, address=address) as first:
            made = sender(first, spares=2, background=background, timeout=PATIENCE)
            made.warm()
            made.post(b"1")
            assert made.flush(PATIENCE)
        until(lambda: refused(made), "the server is down, and each post says so")  # noqa: B023
        with recording(context=context, options=options, address=address) as second:
            if not background:
                made.warm()
            until(lambda: made.stats.spares == 2, "spares, unasked")  # noqa: B023
            assert made.post(b"2")
            assert made.flush(PATIENCE)
            assert [bytes(talk.body) for talk in requests(second)] == [b"2"]
        made.close()
        assert account(made)["answered"] == {204: 2}


def refused(made: AnySender) -> bool:
    """Whether a post is refused; before that, spares may go the way of the server."""
    try:
        made.post(b"lost")
    except ConnectError as error:
        return error.errno == errno.ECONNREFUSED
    return False


def opened(capture: Capture) -> int:
    """Count the SYNs captured so far, each an attempt to connect; on loopback none is lost."""
    count = 0  # of PACKET_OUTGOING (linux/if_packet.h: 4), and SYN without ACK
    capture._socket.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            packet, (_, _, kind, *_) = capture._socket.recvfrom(0x10000)
            flags = packet[(packet[0] & 15) * 4 + 13]
            count += kind == 4 and flags & 0x12 == 0x02
    return count


@linux
def test_a_server_that_refuses_meets_no_storm(sender: Make) -> None:
    address = ("127.0.0.1", refusing_port())
    with captured("lo", address) as capture:
        made = sender(f"http://{address[0]}:{address[1]}/", spares=8)
        made.pump()
        let_pass(0.7)
        made.close()
        attempts = opened(capture)
    assert 2 <= attempts <= 8 + 6


@pytest.mark.parametrize("end", [half_closes, resets, says_timeout])
def test_a_server_that_has_no_use_for_spares_meets_no_storm(sender: Make, recorder: Recorder, end: Script) -> None:
    recorder.script = end
    made = sender(recorder, spares=4)
    made.pump()
    let_pass(0.2)
    until(lambda: len(recorder.talks) >= 2, "it is tried, and the peer has heard of it")
    assert len(recorder.talks) <= 4 + 8


# A process that runs out of descriptors, and gets some again; argv is a URL, which Sender, and whether it
# is to work in the background.
DESCRIPTORS = """
import json, os, resource, sys, time
import rawfnf
from tests.awaited import senders
from tests.peers import let_pass, until

def limit(more):
    free = [os.dup(0) for _ in range(more + 1)]
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))

def numbers(call):
    try:
        call()
    except rawfnf.RawfnfError as error:
        return [type(error).__name__, error.errno]

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
url, way, background = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
with senders(way) as make:
    made = make(url, spares=2, background=background, timeout=5)
    late = make(url, spares=2, background=background, timeout=5)
    made.warm()
"""


@unix
def test_a_sender_recovers_when_it_was_out_of_descriptors(
    recorder: Recorder, go: threading.Event, way: str, *, background: bool
) -> None:
    """What it holds is not answered, and so gives none back, before it has recovered."""

    def script(talk: Talk) -> None:
        talk.receive_request()
        if talk.body == b"5":
            go.set()
        assert go.wait(PATIENCE)
        if talk.whole:
            talk.send(NO_CONTENT)

    recorder.script = script
    program = """
limit(0)
used = [made.post(b"1"), made.post(b"2")]
failures = [numbers(lambda: made.post(b"3")), numbers(lambda: late.post(b"4"))]
worked = time.process_time()
let_pass(0.3)
worked = time.process_time() - worked
if not background:
    made.pump()
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
made.warm(), late.warm()
used += [made.post(b"5"), late.post(b"6")]
made.close(), late.close()
answered = [each.stats.answered for each in (made, late)]
print(json.dumps([used, failures, worked < 0.2, answered, made.stats.failed, late.stats.failed]))
"""
    whole = DESCRIPTORS + textwrap.indent(program, "    ")
    told = told_by([sys.executable, "-W", "error", "-c", whole, recorder.url, way, str(background)])
    out = ["ConnectError", errno.EMFILE]
    assert told == [[True] * 4, [out, out], True, [{"204": 3}, {"204": 1}], 1, 1]
    assert sorted(bytes(talk.body) for talk in requests(recorder)) == [b"1", b"2", b"5", b"6"]
