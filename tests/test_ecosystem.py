"""In company: under gevent's monkey-patching, and in the workers of multiprocessing.

What one greenlet, or one worker, does is tested where it belongs (test_life.py, test_sender_life.py). Here are several
at once, over TLS as well, with and without the thread; greenlets that are killed; and what crosses to another process.
"""

from __future__ import annotations

import contextlib
import errno
import ssl
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import rawfnf
from tests.peers import NO_CONTENT, PATIENCE, Recorder, Script, Talk, closes_without_answer, refusing_port, until
from tests.test_sender_life import (
    PATCHED,
    Start,
    all_ended,
    answered,
    answers_who_waits,
    assert_arrived,
    either,
    linux,
    start_methods,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

gevents = pytest.mark.skipif(sys.platform == "win32", reason="PRELUDE's pipes and gevent's do not go together there")
plain_and_tls = pytest.mark.parametrize("peer", [None, ssl.TLSVersion.TLSv1_3], ids=["plain", "TLS1.3"], indirect=True)
SEVERAL = 8


@pytest.fixture
def start(cafile: Path) -> Iterator[Start]:
    """Start programs that post to a peer."""
    with contextlib.closing(Start(cafile)) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["alone", "thread"])
def background(request: pytest.FixtureRequest) -> bool:
    """Without and with the background thread."""
    threaded: bool = request.param
    return threaded


def answers_all_at_once(requests: int) -> Script:
    """Answer only when so many requests are here: who waits for one answer before the next request gets none."""
    together = threading.Barrier(requests, timeout=PATIENCE)

    def script(talk: Talk) -> None:
        talk.receive_request()
        if talk.whole:
            together.wait()
            talk.send(NO_CONTENT)

    return script


def numbered(who: str, count: int) -> list[bytes]:
    return [f"{who} {number}".encode() for number in range(count)]


# --- greenlets ------------------------------------------------------------------------------------------------------

POSTS = """
os.environ["SSL_CERT_FILE"] = cafile  # for the default context
named = url.replace("127.0.0.1", "localhost")
def post(number):
    to, options = (url, {"ssl_context": context}) if number % 2 else (named, {})
    return rawfnf.post(to, f"greenlet {number}".encode(), closing="answered", linger=20, timeout=20, **options)
jobs = [gevent.spawn(post, number) for number in range(8)]
gevent.joinall(jobs, raise_error=True)
tell([[job.value.delivery, job.value.status, job.value.tls_version] for job in jobs])
"""


@gevents
@plain_and_tls
def test_posts_of_several_greenlets_are_on_their_way_at_once(start: Start, peer: Recorder) -> None:
    """By address and by name, which gevent's own resolver is asked for; with a context, and with the default one."""
    peer.script = answers_all_at_once(SEVERAL)
    (receipts,) = start(POSTS, peer, before=PATCHED, flags=()).end()
    assert receipts == [["answered", 204, "TLSv1.3" if peer.options else None]] * SEVERAL
    talks = all_ended(peer)
    assert sorted(bytes(talk.body) for talk in talks) == numbered("greenlet", SEVERAL)
    assert [(talk.end, talk.close_notify) for talk in talks] == [("FIN", bool(peer.options))] * SEVERAL


WAIT_FOR_ROOM = """
sender = make(spares=int(arguments[0]), max_held=2, timeout=20)
def work(name):
    for number in range(2):
        assert sender.post(f"greenlet {name + number}".encode())
jobs = [gevent.spawn(work, name) for name in range(0, 8, 2)]
gevent.joinall(jobs, raise_error=True)
tell(sender.flush(20))
tell(sender.stats)
sender.close()
"""


@gevents
@plain_and_tls
def test_greenlets_wait_for_room_in_a_sender(start: Start, peer: Recorder, *, background: bool) -> None:
    peer.script = answers_who_waits
    spares = 2 if background else 0
    program = start(WAIT_FOR_ROOM, peer, spares, background=background, before=PATCHED, flags=())
    assert program.end() == [True, answered(SEVERAL)]
    assert_arrived(peer, *numbered("greenlet", SEVERAL))


SENDERS = """
def work(number):
    with make(spares=int(arguments[0]), linger=20, timeout=20) as sender:
        sender.warm()
        assert sender.post(f"greenlet {number}".encode())
        assert sender.flush(20)
        return sender.stats
jobs = [gevent.spawn(work, number) for number in range(8)]
gevent.joinall(jobs, raise_error=True)
for job in jobs:
    tell(job.value)
"""


@gevents
@plain_and_tls
def test_a_sender_of_each_greenlet_lets_the_others_on(start: Start, peer: Recorder, *, background: bool) -> None:
    """While one warms up, or waits for its answer."""
    peer.script = answers_all_at_once(SEVERAL)
    told = start(SENDERS, peer, 1, background=background, before=PATCHED, flags=()).end()
    assert told == [answered(1)] * SEVERAL
    assert_arrived(peer, *numbered("greenlet", SEVERAL))


LEAVES_IT_OPEN = """
sender = make(spares=1)
gevent.spawn(sender.post, b"last").join()
"""


@gevents
@either
def test_an_exit_under_gevent_waits_for_the_answer(start: Start, peer: Recorder, *, background: bool) -> None:
    peer.script = answers_who_waits
    assert start(LEAVES_IT_OPEN, peer, background=background, before=PATCHED, flags=()).end() == []
    assert_arrived(peer, b"last")


KILLED = """
import gevent.os
def by_post():
    rawfnf.post(url, b"by post", closing="answered", ssl_context=context, linger=60)
def by_sender():
    sender.post(b"by Sender")
    sender.flush()
with make() as sender:
    sender.post(b"first")
    sender.flush()
    gevent.os.tp_read(0, 1)  # with this all is there that stays
    before = os.listdir("/proc/self/fd")
    jobs = [gevent.spawn(by_post), gevent.spawn(by_sender)]
    gevent.os.tp_read(0, 1)  # both requests have come
    gevent.killall(jobs)
    tell([type(job.value).__name__ for job in jobs])
    tell(len(os.listdir("/proc/self/fd")) - len(before))
    tell(sender.stats)
    gevent.os.tp_read(0, 1)  # the answer may come
"""


@linux
@gevents
@plain_and_tls
def test_a_killed_greenlets_post_is_closed_and_its_senders_stays_held(start: Start, peer: Recorder) -> None:
    """A Sender's post has been handed over, whoever waits for it: its answer is still to come."""
    killed = threading.Event()

    def script(talk: Talk) -> None:
        talk.receive_request()
        if talk.body == b"by Sender":
            assert killed.wait(PATIENCE)
        if talk.whole and talk.body != b"by post":
            talk.send(NO_CONTENT)

    peer.script = script
    program = start(KILLED, peer, before=PATCHED, flags=())
    program.go_on()
    until(lambda: sum(talk.whole for talk in peer.talks) == 3, "both requests, behind the first")
    program.go_on()
    assert program.hear() == ["GreenletExit", "GreenletExit"]
    assert program.hear() == 1, "the Sender's connection"
    assert program.hear() == answered(1) | {"posted": 2, "held": 1}
    killed.set()
    program.go_on()
    assert program.end() == []
    assert_arrived(peer, b"first", b"by post", b"by Sender")


FORKS = """
sender = make(spares=1)
sender.warm()
gevent.spawn(sender.post, b"before").join()
children = []
for number in range(2):
    child = os.fork()
    if child == 0:
        jobs = [gevent.spawn(sender.post, f"child {2 * number + job}".encode()) for job in range(2)]
        gevent.joinall(jobs, raise_error=True)
        sender.flush()
        tell(sender.stats)
        sys.exit()
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
gevent.spawn(sender.post, b"parent").join()
sender.flush()
tell(sender.stats)
sender.close()
"""


@gevents
@either
def test_children_of_a_fork_under_gevent_post_on_connections_of_their_own(
    start: Start, peer: Recorder, *, background: bool
) -> None:
    """As a server does that loads its application before it forks its workers (gunicorn --preload -k gevent)."""
    peer.script = answers_who_waits
    told = start(FORKS, peer, background=background, before=PATCHED, flags=()).end()
    assert told == [answered(2), answered(2), answered(2)]
    assert_arrived(peer, b"before", b"parent", *numbered("child", 4))


# --- workers --------------------------------------------------------------------------------------------------------

POOL = """
def begin():  # in the worker
    global sender
    sender = make(spares=1)
def work(number):
    sender.post(f"job {number}".encode())
    return os.getpid()
if __name__ == "__main__":
    with multiprocessing.get_context(arguments[0]).Pool(2, begin, maxtasksperchild=2) as pool:
        workers = pool.map(work, range(6), chunksize=1)
        pool.close()
        pool.join()
    tell([len(workers), len(set(workers)) > 1, os.getpid() in workers])
"""


@either
@pytest.mark.parametrize("method", start_methods())
def test_a_pools_workers_flush_their_senders_when_they_end(
    start: Start, peer: Recorder, tmp_path: Path, *, background: bool, method: str
) -> None:
    """Each after two jobs, and the last ones with the pool; each has a Sender of its own, which nobody closes."""
    peer.script = answers_who_waits
    program = start(POOL, peer, method, background=background, path=tmp_path / "pool.py")
    assert program.end() == [[6, True, False]]
    assert_arrived(peer, *numbered("job", 6))


AWAITS = """
import asyncio
from rawfnf import aio
async def post(number):
    asyncio.get_running_loop().slow_callback_duration = 60  # this machine may be busy
    global sender
    sender = aio.Sender(url, ssl_context=context, spares=1)
    await sender.warm()
    await sender.post(f"worker {number}".encode())
def work(number):
    asyncio.run(post(number))
if __name__ == "__main__":
    start = multiprocessing.get_context(arguments[0])
    workers = [start.Process(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    tell([worker.exitcode for worker in workers])
"""


@plain_and_tls
@pytest.mark.parametrize("method", start_methods())
def test_a_worker_flushes_what_its_event_loop_has_left_open(
    start: Start, peer: Recorder, tmp_path: Path, method: str
) -> None:
    peer.script = answers_who_waits
    assert start(AWAITS, peer, method, path=tmp_path / "awaits.py").end() == [[0, 0]]
    assert_arrived(peer, *numbered("worker", 2))


CROSSING = """
from concurrent.futures import ProcessPoolExecutor
def post(to, body):
    return rawfnf.post(to, body, closing="answered", ssl_context=context if to == url else None)
def come_home(call, *arguments):
    try:
        receipt = call(post, arguments)
        tell([type(receipt).__name__, type(receipt.timings).__name__, receipt.delivery, receipt.status, receipt.peer])
    except rawfnf.RawfnfError as error:
        assert str(error) and "Traceback" in str(error.__cause__)  # the worker's
        tell([type(error).__name__, error.phase, error.host, error.port, error.bytes_sent, error.errno])
if __name__ == "__main__":
    method = multiprocessing.get_context(arguments[0])
    with method.Pool(1) as pool, ProcessPoolExecutor(1, mp_context=method) as executor:
        for call in (pool.apply, lambda function, given: executor.submit(function, *given).result(20)):
            for to in (url, arguments[1], arguments[2], "http://"):
                come_home(call, to, b"body")
        pool.close()
        pool.join()
"""


@plain_and_tls
@pytest.mark.parametrize("method", start_methods())
def test_receipts_and_errors_come_home_from_a_worker_whole(
    start: Start, peer: Recorder, recorder: Recorder, tmp_path: Path, method: str
) -> None:
    recorder.script = closes_without_answer
    nobody = refusing_port()
    sent = len(rawfnf.Request(recorder.url).encode(b"body"))
    program = start(CROSSING, peer, method, recorder.url, f"http://127.0.0.1:{nobody}/", path=tmp_path / "crossing.py")
    told: list[Any] = [
        ["Receipt", "Timings", "answered", 204, ["127.0.0.1", peer.port]],
        ["SendError", "close", "127.0.0.1", recorder.port, sent, None],  # a FIN has no number
        ["ConnectError", "connect", "127.0.0.1", nobody, 0, errno.ECONNREFUSED],
        ["RequestError", "request", None, None, 0, None],
    ]
    assert program.end() == told * 2
    assert [bytes(talk.body) for talk in all_ended(peer)] == [b"body"] * 2
    assert [bytes(talk.body) for talk in all_ended(recorder)] == [b"body"] * 2
