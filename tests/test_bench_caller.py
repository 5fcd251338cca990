"""What `python -m bench caller` measures with: each kind of scenario once, few contenders, and trouble that is real."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from bench import caller, held, nameserver, network, troubles, worker
from bench.extent import extent
from bench.progress import bar
from bench.repetitions import merged
from bench.results import Row, Table
from bench.scenarios import EVERY_SCENARIO, SUBSET, Scenario
from bench.stage import lacks, open_bench
from bench.ways import Span, Target, Way
from tests.peers import let_pass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.payload import Body

pytestmark = pytest.mark.campaign

RESOLV_CONF = Path("/etc/resolv.conf")
NOW, ANSWERED, SENDER, TRICK, AIO_POST = "rawfnf now", "rawfnf answered", "Sender", "requests trick", "aio.post"


def scenario_named(name: str) -> Scenario:
    return next(scenario for scenario in EVERY_SCENARIO if scenario.name == name)


def measured(name: str, *contenders: str, seconds: float = 0.2, repetitions: int = 1) -> dict[str, Row]:
    """Measure one scenario; skip what cannot be made here."""
    scenario = scenario_named(name)._replace(repetitions=repetitions)
    if lack := lacks(scenario):
        pytest.skip(lack)
    with open_bench(seed=1) as bench, bar(1) as progress:
        few = bench._replace(every=True, only=frozenset(contenders))
        table = caller.repeat(few, scenario, seconds, progress)
    rows = {row.contender: row for row in table.rows}
    assert set(rows) == set(contenders)
    return rows


def namespaces() -> set[str]:
    return set(os.listdir(network.NAMES)) if network.NAMES.exists() else set()


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    resolv = RESOLV_CONF.read_bytes() if RESOLV_CONF.exists() else b""
    yield
    ours = f"rawfnf-{os.getpid()}-"
    assert not [name for name in namespaces() if name.startswith(ours)]
    assert (RESOLV_CONF.read_bytes() if RESOLV_CONF.exists() else b"") == resolv
    assert not [child for child in psutil.Process().children(recursive=True) if "bench." in " ".join(child.cmdline())]


def test_where_a_port_is_refused_every_caller_is_told() -> None:
    for row in measured("refused", NOW, AIO_POST, TRICK).values():
        assert not row.arrives
        assert row.made == len(row.ns) > 0
        assert row.sent == 0
        (said,) = {error.partition(":")[0] for error in row.errors}
        assert said in {"ConnectError", "ConnectionError"}
        assert not row.note


def test_what_a_black_hole_holds_for_too_long_is_ended_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "LONGEST", 1.0)
    rows = measured("black-hole", NOW, TRICK)
    for row in rows.values():
        assert len(row.ns) == 1
        assert min(row.ns) >= 1e9
        assert row.errors == {"held for more than 1 s": 1}
        assert "lower bound" in row.note


def test_the_troubles_are_real() -> None:
    with troubles.refused() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    if lack := troubles.lacks("black hole"):
        pytest.skip(lack)
    with troubles.black_hole() as port:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                socket.create_connection(("127.0.0.1", port), 0.3)


def test_a_name_that_takes_two_seconds_holds_who_asks_for_it() -> None:
    rows = measured("resolver", NOW, TRICK, "C socket loop")
    assert "missing" in rows.pop("C socket loop").note
    for row in rows.values():
        assert min(row.ns) >= troubles.RESOLVING * 1e9
        assert row.delivered == row.sent == held.POSTS


def test_a_slow_reader_holds_who_hands_all_to_the_kernel_and_gets_all_of_it() -> None:
    for row in measured("slow-reader", NOW, TRICK).values():
        assert min(row.ns) > 0.2e9  # of two seconds, the rest is in the kernel's buffers
        assert row.delivered == row.sent == held.POSTS
        assert row.whole


def test_a_server_that_never_answers_holds_who_waits_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "LONGEST", 1.0)
    rows = measured("never", NOW, ANSWERED, AIO_POST)
    waiting = rows.pop(ANSWERED)
    assert min(waiting.ns) >= 1e9
    assert waiting.note.startswith("held for more than 1 s")
    assert waiting.delivered == waiting.sent == 1  # the receiver has it all the same
    for row in rows.values():
        assert max(row.ns) < 1e9
        assert row.delivered == row.sent > 0


def test_posts_at_a_fixed_rate_are_timed_from_when_they_were_to_begin() -> None:
    rows = measured("rate-200ms", NOW, ANSWERED, AIO_POST, SENDER)
    late = rows.pop(ANSWERED)
    # It can make five posts a second, and is asked for a hundred: each is later than the one before.
    assert late.ns == sorted(late.ns)
    assert late.ns[-1] - late.ns[0] > (len(late.ns) - 1) * 0.15e9
    for row in rows.values():
        assert len(row.ns) >= 16
        assert row.delivered == row.sent


def test_who_looks_at_its_own_clock_is_late_at_a_fixed_rate_all_the_same() -> None:
    def post(_: Body) -> Span:
        let_pass(0.002)
        return Span(7, 3)

    caller_of_posts = worker.Caller(
        Way(post), Target("http://127.0.0.1:9/", "127.0.0.1", 9, "/", tls=False, cafile=None)
    )
    made = caller_of_posts.at_fixed_rate(worker.Posts("json", 0), 10, 1_000_000, ready=True)
    assert made["ns"][-1] > 8_000_000
    assert set(made["cpu_ns"]) == {3}


def test_what_is_done_around_a_post_and_in_threads_is_told_once() -> None:
    def burn() -> None:
        end = time.thread_time() + 0.03
        while time.thread_time() < end:
            pass

    def post(_: Body) -> None:
        thread = threading.Thread(target=burn)
        thread.start()
        thread.join()

    target = Target("http://127.0.0.1:9/", "127.0.0.1", 9, "/", tls=False, cafile=None)
    made = worker.Caller(Way(post, lambda: let_pass(0.02)), target).block(worker.Posts("json", 0), 1, 10**9)
    assert made["cpu_ns"][0] >= 30_000_000
    assert made["aside_ns"][0] < 15_000_000
    assert made["ready_ns"][0] >= 20_000_000


def test_a_lossy_network_loses_packets_and_no_bodies() -> None:
    for row in measured("lossy-tls1.3", NOW, SENDER, AIO_POST, seconds=1.0).values():
        assert row.ns
        assert row.delivered == row.sent


def test_large_bodies_are_counted_by_their_hash_over_several_repetitions() -> None:
    for row in measured("1MiB", NOW, SENDER, TRICK, repetitions=2).values():
        assert row.delivered == row.sent
        assert len(set(row.rounds)) >= 2
        assert len(row.ns) == len(row.cpu_ns) == len(row.rounds)


def test_answers_that_come_after_five_seconds_are_waited_for_by_those_alone_who_want_them() -> None:
    rows = measured("works-5s", ANSWERED, AIO_POST, "aio.Sender")
    assert min(rows[ANSWERED].ns) >= 5e9
    assert max(rows[AIO_POST].ns) < 5e9
    for row in rows.values():
        assert row.delivered == row.sent > 0
    assert rows["aio.Sender"].claims == {"answered 200": rows["aio.Sender"].sent}


def test_repetitions_are_one_table_with_rounds_of_their_own() -> None:
    scenario = Scenario("s", "a scenario")
    one = Row("a", ns=[1, 2, 9], cpu_ns=[1, 1, 1], rounds=[0, 1, -1], sent=3, delivered=3, threads=1, errors={"e": 1})
    other = Row("a", ns=[3], cpu_ns=[1], rounds=[0], sent=1, delivered=0, threads=0, errors={"e": 2}, note="ended")
    missing = Row("b", "missing: pip install b")
    table = merged(scenario, [Table(scenario, [one, missing], 0.5), Table(scenario, [other, missing], 0.1)])
    first, second = table.rows
    assert first.ns == [1, 2, 9, 3]
    assert first.rounds == [0, 1, -1, 2]
    assert (first.sent, first.delivered, first.threads, first.note) == (4, 3, 1, "ended")
    assert first.errors == {"e": 3}
    assert table.others == 0.5  # of the most disturbed one
    assert second == missing
    assert caller.missing([table]) == {"b": "pip install b"}


def test_the_name_server_answers_what_it_knows_and_nothing_else() -> None:
    asked = b"\x08receiver\x04test\x00"
    head = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0)
    address, ipv6 = struct.pack("!HH", 1, 1), struct.pack("!HH", 28, 1)
    known = nameserver.answer(head + asked + address, "receiver.test", "10.0.0.1")
    record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x0a\x00\x00\x01"
    assert known == struct.pack("!6H", 7, 0x8180, 1, 1, 0, 0) + asked + address + record
    none = nameserver.answer(head + asked + ipv6, "receiver.test", "10.0.0.1")
    assert none == struct.pack("!6H", 7, 0x8180, 1, 0, 0, 0) + asked + ipv6
    unknown = nameserver.answer(head + asked + address, "another.test", "10.0.0.1")
    assert unknown == struct.pack("!6H", 7, 0x8183, 1, 0, 0, 0) + asked + address


def test_scenarios_have_names_of_their_own_survive_json_and_the_subset_has_some_of_them() -> None:
    names = [scenario.name for scenario in EVERY_SCENARIO]
    assert len(set(names)) == len(names)
    assert set(names) >= SUBSET
    for scenario in EVERY_SCENARIO:
        assert Scenario(**json.loads(json.dumps(scenario._asdict()))) == scenario
    everything = extent(EVERY_SCENARIO, None, full=False, subset=False)
    few = extent(EVERY_SCENARIO, None, full=False, subset=True)
    assert everything.seconds + everything.around < 14 * 60
    assert few.seconds + few.around < 2.5 * 60
    (asked,) = extent([scenario_named("at-once")], None, full=False, subset=True).scenarios
    assert (asked.name, asked.repetitions) == ("at-once", 1)
