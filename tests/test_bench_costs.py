"""What a post costs besides time, as bench/ counts it: system calls, segments, what is left behind, imports."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from bench import footprint, syscalls, wire
from bench.contenders import AIO_SENDER, AIOHTTP, FLOOR, NOW, RABBITMQ, SENDER, SENDER_NOW, SENDER_THREAD, TRICK
from bench.lanes import Lane, held_by, row_of
from bench.matrix import Cell, Matrix
from bench.measure import Measurement
from bench.network import missing as missing_network
from bench.network import network
from bench.outcome import outcome
from bench.processes import WorkerProcess, python
from bench.results import Row, Run, Table
from bench.scenarios import Scenario
from bench.stage import open_bench, receiver_at
from bench.ways import Target
from bench.worker import Assignment
from tests.peers import PATIENCE, refusing_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.contenders import Contender
    from bench.stage import Bench

pytestmark = pytest.mark.campaign

ETH_P_ALL = 3  # linux/if_ether.h
OUTGOING = 4  # linux/if_packet.h
TCP = 6
FLAGS = {0x02: "SYN", 0x01: "FIN", 0x04: "RST"}
AT_ONCE = Scenario("at once", "plain TCP, answered at once", timed=False)
NEVER = Scenario("never", "plain TCP, never answered", answers=False, timed=False)


def needs(lack: str | None) -> None:
    """Skip and say what is missing; fail in CI, which has it all."""
    if lack:
        assert "CI" not in os.environ, lack
        pytest.skip(lack)


def worker_of(contender: Contender, port: int) -> WorkerProcess:
    target = Target(f"http://127.0.0.1:{port}/", "127.0.0.1", port, "/", tls=False, cafile=None)
    return WorkerProcess(python("worker", Assignment(contender.name, target, "json").to_json()))


class Packet(NamedTuple):
    out: bool
    flags: str
    size: int


class Sniffer:
    """Reads every TCP packet of an interface, as it crosses it."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def take(self) -> list[Packet]:
        """Return what has been captured since the last time."""
        found = list[Packet]()
        while True:
            try:
                packet, (_, _, kind, *_) = self._socket.recvfrom(0x10000)
            except BlockingIOError:
                return found
            if packet[0] >> 4 == 4 and packet[9] == TCP:
                flags = packet[(packet[0] & 15) * 4 + 13]
                names = " ".join(name for bit, name in FLAGS.items() if flags & bit)
                found.append(Packet(kind == OUTGOING, names, int.from_bytes(packet[2:4], "big")))


@contextmanager
def at_both_ends(made: Bench) -> Iterator[tuple[Bench, Sniffer]]:
    """Open a network as the bench does, with a packet socket at the client's end."""
    if sys.platform != "linux":
        pytest.skip("needs Linux")
    else:
        with network(rtt=wire.RTT) as between, receiver_at(made, between.server) as receiver:
            with between.client.inside():
                sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)  # captures nothing yet
            with sock:
                sock.bind(("tun0", ETH_P_ALL))
                sock.settimeout(0)
                yield made._replace(receiver=receiver, inside=between.client.command), Sniffer(sock)


@pytest.mark.parametrize("contender", [NOW, SENDER, TRICK], ids=lambda contender: contender.name)
def test_segments_and_bytes_of_a_post_are_those_that_cross_the_interface(contender: Contender) -> None:
    needs(missing_network())
    with (
        open_bench(seed=1) as made,
        at_both_ends(made) as (there, sniffer),
        Measurement(there, wire.PLAIN) as measurement,
    ):
        (lane,) = measurement.open([contender]).values()
        before = wire.post_alone(lane)
        sniffer.take()
        counts = wire.post_alone(lane).since(before)
        seen = sniffer.take()
    out, back = ([packet for packet in seen if packet.out is way] for way in (True, False))
    sizes = [sum(packet.size for packet in packets) for packets in (out, back)]
    assert counts == wire.Counts(len(out), len(back), *sizes), seen
    assert sum("SYN" in packet.flags for packet in out) == 1


def test_the_wire_is_counted_plain_and_over_tls_with_a_tick_for_each() -> None:
    needs(missing_network())
    ticks: list[None] = []
    with open_bench(seed=1) as made:
        plain, floor, tls = wire.measure(made, [NOW, FLOOR], lambda: ticks.append(None))
    assert (plain.contender, plain.scenario, floor.contender, tls.scenario) == (
        NOW.name,
        "plain TCP",
        FLOOR.name,
        "TLS 1.3",
    )
    assert not plain.note
    assert not tls.note
    # SYN, data with FIN; and a reset for the answer that comes after, and for the server's FIN.
    assert plain.segments_out == 4
    assert tls.bytes_in > plain.bytes_in + 500  # the certificate
    assert len(ticks) == len(wire.chosen([NOW, FLOOR])) == 3


def test_a_post_that_did_not_arrive_is_told_beside_its_segments() -> None:
    with open_bench(seed=1) as made, Measurement(made, AT_ONCE) as measurement:
        ((slot, lane),) = measurement.open([NOW]).items()
        lane.post(0, 2)
        report = made.receiver.report(slot)
        assert not wire.complaint(lane, report)
        del report["bodies"][lane.expected(1)]
        assert wire.complaint(lane, report) == "1 of 2 did not arrive"


def test_system_calls_are_counted_in_an_event_loop_too_and_also_those_that_come_later() -> None:
    needs(syscalls.missing())
    needs(AIOHTTP.lacks)
    ticks: list[None] = []
    with open_bench(seed=1) as made:
        found = syscalls.measure(made, [AIO_SENDER, AIOHTTP, SENDER_THREAD, FLOOR], lambda: ticks.append(None))
    sender, task, plain, tls = found
    assert len(ticks) == 4
    for trace in (sender, plain, tls):
        assert not trace.note
        assert "sendto" in trace.calls
        assert len(trace.calls) <= syscalls.MOST + 1  # aio: which process is this?
    assert "sendto" not in task.calls  # only the task is made
    for trace in found:
        assert trace.in_all is not None
        assert trace.in_all > len(trace.calls) + 2
    assert [goal.reached for goal in syscalls.goals(found)] == [True, True]


def test_system_calls_of_all_threads_count_until_the_next_post_but_not_the_benchs_own() -> None:
    trace = """\
7 socket(AF_INET) = 3
7 access("bench: a post begins", F_OK) = -1 ENOENT (No such file or directory)
7 sendto(5, "POST", 4, MSG_NOSIGNAL, NULL, 0 <unfinished ...>
8 epoll_wait(3, [], 17, 24981) = 0
7 <... sendto resumed>) = 4
7 access("bench: a post has ended", F_OK) = -1 ENOENT (No such file or directory)
7 sched_yield() = 0
8 close(5) = 0
7 access("bench: a post begins", F_OK) = -1 ENOENT (No such file or directory)
7 poll([{fd=5, events=POLLIN}], 1, 0) = 0 (Timeout)
"""
    assert list(syscalls.calls_until_the_next(trace)) == [3]


def test_a_contender_that_blocks_is_given_up_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    needs(syscalls.missing())
    monkeypatch.setattr(syscalls, "SECONDS", 2.0)
    with open_bench(seed=1) as made:
        trace = syscalls.trace(made, SENDER, NEVER)  # flush() waits for an answer
    assert not trace.calls
    assert "not done within 2 s" in trace.note


def test_without_strace_or_a_package_a_note_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needs(syscalls.missing())
    without = AIOHTTP._replace(needs=("no_such_module",))
    with open_bench(seed=1) as made:
        (trace,) = syscalls.measure(made, [without], lambda: None)
        assert "no_such_module" in trace.note
        monkeypatch.setenv("PATH", str(tmp_path))
        (trace,) = syscalls.measure(made, [AIOHTTP], lambda: None)
    assert "strace" in trace.note


def test_what_a_process_holds_is_its_memory_threads_and_descriptors() -> None:
    script = """
import os, sys, threading
print(flush=True)
sys.stdin.readline()
held = [bytearray(os.urandom(1) * (32 << 20)), open(os.devnull)]
threading.Thread(target=threading.Event().wait, daemon=True).start()
print(flush=True)
sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        before = held_by(process.pid)
        print(file=process.stdin, flush=True)
        process.stdout.readline()
        after = held_by(process.pid)
        process.stdin.close()
    assert after.memory_kib - before.memory_kib >= 32 << 10
    assert after.threads == before.threads + 1
    assert after.descriptors == before.descriptors + 1


def test_where_nothing_arrives_a_row_is_neither_void_nor_ranked_and_times_what_raised() -> None:
    with worker_of(NOW, refusing_port()) as worker:
        lane = Lane(NOW, worker)
        lane.is_ready()
        lane.post(0, 10)
        lane.leave()
        row = row_of(lane, None, cold_posts=0, arrives=False)
        unaware = row_of(lane, None, cold_posts=0)
    assert (row.whole, row.void) == (False, False)
    assert len(row.ns) == row.made == sum(row.errors.values()) == 10
    assert all("refused" in error for error in row.errors)
    assert row.silent == 0
    assert unaware.void
    assert not unaware.ns
    assert row.memory_kib is None  # nobody got warm


def test_a_post_of_which_nothing_is_said_and_that_does_not_arrive_is_lost_silently() -> None:
    assert Row("quiet", ns=[1], sent=3, delivered=None, arrives=False).silent == 3
    assert Row("raised", sent=0, errors={"refused": 3}, arrives=False).silent == 0
    assert Row("books", ns=[1], sent=3, claims={"unanswered": 2, "reset": 1}, arrives=False).silent == 0
    assert Row("lost", ns=[1], sent=3, delivered=1).silent == 2
    assert Row("unknown", ns=[1], sent=3, delivered=None).silent == 0


def test_imports_that_fail_or_are_missing_have_a_note_and_the_others_their_figures(tmp_path: Path) -> None:
    missing = footprint.Subject("none", "import no_such_module", needs="no_such_module", install="such")
    broken = footprint.Subject("broken", "import no_such_module")
    subjects = (footprint.BASELINE, missing, broken)
    chooser = random.Random(1)
    url = f"http://127.0.0.1:{refusing_port()}/"
    baseline, none, failed = footprint.measure(url, tmp_path, chooser, lambda: None, subjects)
    assert len(baseline.import_ns) == footprint.ROUNDS
    assert not baseline.note
    assert none.note == "missing: pip install such"
    assert "ModuleNotFoundError" in failed.note
    assert not none.import_ns + failed.import_ns


def test_every_package_that_is_compared_can_be_imported_and_post_where_a_line_does_that(tmp_path: Path) -> None:
    with open_bench(seed=1) as made:
        slot = next(made.slots)
        url = f"http://127.0.0.1:{made.receiver.listen(slot)}/"
        for subject in (each for each in footprint.ALL if not each.lacks):
            before = made.receiver.count(slot)
            ns, peak = footprint.fresh(subject, url, tmp_path)
            assert ns > 0
            assert peak or sys.platform != "linux"
            if subject.post:
                limit = time.monotonic() + PATIENCE
                while made.receiver.count(slot) == before:
                    assert time.monotonic() < limit, subject.name
    needs("; ".join(subject.lacks for subject in footprint.ALL if subject.lacks))


def matrix(*cells: Cell) -> Matrix:
    return Matrix({}, [], list(dict.fromkeys(cell.contender for cell in cells)), list(cells), {})


def cell(contender: str, delivered: int, transport: str = "plain") -> Cell:
    return Cell("nginx", transport, contender, sent=10, delivered=delivered)


def test_that_only_a_sender_has_all_in_every_cell_is_confirmed_or_refuted_by_the_matrix() -> None:
    good = [cell(SENDER_THREAD.name, 10), cell(SENDER_THREAD.name, 10, "TLS 1.3")]
    empty = Cell("nginx", "TLS 1.2", SENDER_THREAD.name, note="no certificate")
    yes, unknown, only = outcome(None, matrix(*good, cell(NOW.name, 9), cell(SENDER_NOW.name, 3), empty))
    assert unknown == "Not measured: Sender, thread at nginx, TLS 1.2."
    assert yes == "Confirmed. Sender, thread: 100 % in 2 of 2 cells, 20 posts."
    assert only.startswith("Confirmed")
    assert "none of the 2 others" in only
    no, not_only = outcome(None, matrix(good[0], cell(SENDER_THREAD.name, 9, "TLS 1.3"), cell(TRICK.name, 10)))
    assert no.startswith("Refuted")
    assert "nginx, TLS 1.3 (9/10)" in no
    assert not_only.startswith("Refuted")
    assert "requests trick (1)" in not_only
    assert "not measured" in outcome(None, matrix(cell(NOW.name, 9)))[0]


def row(contender: str, ns: int, posts: int = 100, *, lost: int = 0) -> Row:
    rounds = [number // 5 for number in range(posts)]
    return Row(contender, ns=[ns] * posts, rounds=rounds, sent=posts, delivered=posts - lost)


def test_that_a_sender_holds_its_caller_the_shortest_is_confirmed_or_refuted_by_the_run() -> None:
    near = Table(Scenario("near", ""), [row(SENDER.name, 10), row(TRICK.name, 900), row(FLOOR.name, 5)])
    # Quicker, but it loses: void.
    lossy = Table(Scenario("lossy", ""), [row(SENDER.name, 10), row(NOW.name, 5, lost=1)])
    few = Table(Scenario("few", ""), [row(SENDER.name, 10, posts=50), row(TRICK.name, 90, posts=50)])
    p50, p99, silent = outcome(Run({}, [near, lossy, few], [], []), None)
    assert p50 == "Confirmed: a Sender held its caller the shortest at p50 in 3 of 3 scenarios."
    assert "in 2 of 2 scenarios" in p99
    assert "unknown, for want of a Sender or of posts, in few" in p99
    assert silent == "Lost, and neither the call nor any books said so: rawfnf now in lossy (1 of 100)."
    slow = Table(Scenario("slow", ""), [row(SENDER.name, 2000), row(TRICK.name, 1000)])
    p50, _ = outcome(Run({}, [near, slow], [], []), None)
    assert p50.startswith("Refuted: a Sender held its caller the shortest at p50 in 1 of 2 scenarios; not in slow")
    assert "requests trick 1.00µs, Sender 2.00µs" in p50


def test_who_failed_or_was_not_counted_is_not_first_and_of_queues_and_endpoints_nothing_is_said() -> None:
    failed = row(TRICK.name, 1)._replace(note="exited with 1")
    uncounted = row(NOW.name, 2)._replace(delivered=None)
    near = Table(Scenario("near", ""), [row(SENDER.name, 10), failed, uncounted])
    assert all(said.startswith("Confirmed") for said in outcome(Run({}, [near], [], []), None))
    queues = Table(Scenario("queues", "", within="queues"), [row(RABBITMQ.name, 10)])
    assert not outcome(Run({}, [queues], [], []), None)
    endpoint = Table(Scenario("url", ""), [row(SENDER.name, 10)._replace(delivered=None)])
    assert not outcome(Run({}, [endpoint], [], []), None)


def test_where_no_network_can_be_made_each_contender_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open_bench(seed=1) as made:
        monkeypatch.setenv("PATH", str(tmp_path))  # no command ip
        found = wire.measure(made, [NOW], lambda: None)
    assert len(found) == 2
    assert all("a simulated network needs" in each.note for each in found)
