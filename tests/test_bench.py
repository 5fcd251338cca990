"""`python -m bench`, as a user runs it: what it prints, writes and exits with; how fast anything is, is not asked."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench import columns, loggers, loopworker, openloop, options, syscalls, worker
from bench.contenders import (
    AIO_SENDER,
    AIOHTTP,
    CONTENDERS,
    KNOWN,
    NOW,
    OURS,
    POST_HANDLER,
    SENDER,
    SENDER_THREAD,
)
from bench.lanes import contradiction
from bench.ledger import Ledger
from bench.network import missing as missing_network
from bench.payload import payload
from bench.report import broken_promises
from bench.results import Row, Table
from bench.scenarios import SCENARIOS, Scenario
from bench.stage import open_bench
from bench.stats import not_ranked
from bench.ways import AsyncWay, Span, Target, Way

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.payload import Body
    from tests.peers import Recorder

ROOT = Path(__file__).parent.parent
SECONDS = 110  # so that pytest, which waits for 120, need not end it
NOWHERE = Target("http://127.0.0.1:9/", "127.0.0.1", 9, "/", tls=False, cafile=None)
BY_THREAD = {SENDER_THREAD.name, POST_HANDLER.name}
WITH_BOOKS = {SENDER.name, AIO_SENDER.name, *BY_THREAD}


def bench(*arguments: str, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env=os.environ | (variables or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def check_row(row: Row, scenario: Scenario) -> None:
    name = row.contender
    if lack := KNOWN[name].lacks:
        assert lack in row.note
        return
    if name in {*OURS, AIOHTTP.name} or scenario.within:
        assert row.sent
        assert row.sent == row.delivered, row
        assert len(row.ns) == len(row.cpu_ns) > 0
        assert not row.note
    if name in OURS:
        assert row.threads == (name in BY_THREAD)
    if name.startswith(("rawfnf", "aio.post")):
        assert row.descriptors == 0
    if name in WITH_BOOKS:
        assert row.claims == {"answered 200": row.sent}
    if not (KNOWN[name].waits and scenario.busy):  # who waits for late answers posts alone, alongside the others
        assert row.sent % scenario.burst == 0


def scenario_named(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


def test_a_short_run_counts_what_arrived_and_writes_samples_and_picture(tmp_path: Path) -> None:
    out, plot = tmp_path / "samples.json", tmp_path / "plot.png"
    names = ["at-once", "burst-tls1.3", "far-tls1.3", "asyncio", "logging"]
    done = bench("--seconds", "2", *(f"--scenario={name}" for name in names), "--json", str(out), "--plot", str(plot))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "numbers to reach" in done.stdout
    assert "posts back to back, p50" in done.stdout
    assert "HTTPHandler ÷ PostHandler" in done.stdout
    run = json.loads(out.read_text())
    assert {"Python", "system", "OpenSSL", "h11", "requests", "urllib3", "urllib3's file"} <= run["metadata"].keys()
    assert [table["scenario"]["name"] for table in run["tables"]] == names
    for table in run["tables"]:
        scenario = scenario_named(table["scenario"]["name"])
        rows = [Row(**row) for row in table["rows"]]
        # The floors need a compiler: where there is none, their rows say so.
        assert [row.contender for row in rows] == [who.name for who in CONTENDERS if who.where(scenario)]
        if scenario.far and (lack := missing_network()):
            assert all(lack in row.note for row in rows)
            continue
        for row in rows:
            check_row(row, scenario)
    assert plot.stat().st_size > 10_000


def test_a_contender_gets_ready_before_a_burst_and_never_within() -> None:
    done = ""

    def post(content: Body) -> None:
        nonlocal done
        done += str(int(content["json"]["id"]))

    def between() -> None:
        nonlocal done
        done += " "

    caller = worker.Caller(Way(post, between), NOWHERE._replace(burst=4))
    made = caller.block(worker.Posts("json", 0), most=10, limit_ns=10**12)
    assert done == " 0123 4567 89"
    assert len(made["ns"]) == len(made["aside_ns"]) == 10
    late = caller.block(worker.Posts("json", 0), most=10, limit_ns=-1)
    assert len(late["ns"]) == 4
    rare = worker.Caller(Way(post, between), NOWHERE._replace(apart=0.001))
    assert len(rare.block(worker.Posts("json", 0), most=10, limit_ns=-1)["ns"]) == 2


def test_in_a_loop_what_posts_began_is_done_before_the_next_burst_and_its_cpu_counts() -> None:
    done, spent = "", 0

    async def work() -> None:
        nonlocal done, spent
        await asyncio.sleep(0)
        start = time.thread_time_ns()
        sum(range(100_000))
        spent += time.thread_time_ns() - start
        done += "."

    async def measured() -> worker.Block:
        tasks: list[asyncio.Task[None]] = []

        async def post(content: Body) -> None:
            nonlocal done
            done += str(int(content["json"]["id"]))
            tasks.append(asyncio.create_task(work()))

        async def finish() -> None:
            nonlocal done
            await asyncio.gather(*tasks)
            done += " "

        caller = loopworker.AsyncCaller(AsyncWay(post, finish), NOWHERE._replace(burst=2), None)
        return await caller.block(worker.Posts("json", 0), most=5, limit_ns=10**12)

    began = time.process_time_ns()
    made = asyncio.run(measured())
    whole = time.process_time_ns() - began
    assert done == "01.. 23.. 4. "
    assert len(made["ns"]) == 5
    assert sum(made["aside_ns"]) >= 0.99 * spent > 0  # the work's, all of it
    assert sum(made["cpu_ns"]) + sum(made["aside_ns"]) <= whole  # and nothing of it is the posts' as well
    assert min(made["aside_ns"]) > 0


def test_bursts_begin_no_sooner_than_told() -> None:
    caller = worker.Caller(Way(lambda _body: None), NOWHERE._replace(apart=0.01))
    start = time.perf_counter()
    caller.block(worker.Posts("json", 0), most=4, limit_ns=10**12)
    assert time.perf_counter() - start >= 3 * 0.01


def test_a_worker_without_an_event_loop_refuses_a_contender_that_needs_one() -> None:
    with pytest.raises(SystemExit, match="loopworker"):
        worker.prepared(worker.Assignment(AIOHTTP.name, NOWHERE, "json"))


def test_a_contender_whose_package_is_missing_says_which() -> None:
    assert AIOHTTP._replace(needs=("json", "no_such_package")).lacks == "pip install no_such_package"
    assert NOW.lacks == ""


def test_a_record_that_is_logged_has_the_body_that_is_expected() -> None:
    logged: list[str] = []

    class Kept(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            logged.append(record.getMessage())
            logged.append(json.dumps(record.__dict__))
            return True

    factory = logging.getLogRecordFactory()
    logger = logging.getLogger(loggers.NAME)
    try:
        span = loggers.logged_by(Kept())({"json": payload(7)})
    finally:
        logging.setLogRecordFactory(factory)
        logger.handlers.clear()
    expected = loggers.record_of(payload(7))
    assert logged == [expected.getMessage(), json.dumps(expected.__dict__)]
    assert isinstance(span, Span)
    assert span.ns > 0


def test_the_cpu_of_a_row_that_lost_something_is_void() -> None:
    rows = [Row(name, ns=[1], sent=1, delivered=1, whole_cpu_ns=[cpu]) for name, cpu in (("one", 30), ("other", 50))]
    (one, other), lost = rows, rows[0]._replace(delivered=0)
    assert columns.whole_cpu(one) == 30
    assert columns.whole_cpu(other) == 50
    assert columns.whole_cpu(lost) is None


@pytest.mark.parametrize("contender", [NOW.name, SENDER.name, SENDER_THREAD.name])
def test_memory_descriptors_and_books_are_watched_over_many_posts(contender: str) -> None:
    done = bench("--flat", "2000", "--contender", contender)
    assert done.returncode in (0, 1), (
        done.stderr
    )  # 2,000 posts say nothing about flatness: that it looks, is asked here
    assert "descriptors" in done.stdout
    assert "NOT true" not in done.stdout
    assert "delivered 4000/4000." in done.stdout


def test_posts_at_a_fixed_rate_are_counted_beside_the_trick(tmp_path: Path) -> None:
    out = tmp_path / "samples.json"
    done = bench("--open-loop", "0.5", "--json", str(out))
    assert done.returncode in (0, 1), done.stderr  # how late any of them was, is not asked
    assert "latency from the intended start" in done.stdout
    sender, trick, nobody = (table["rows"][0] for table in json.loads(out.read_text())["tables"])
    assert sender["sent"] == sender["delivered"] == len(sender["ns"]) + 20  # which were to warm up
    assert len(sender["ns"]) == openloop.RATE * 0.5
    assert sender["claims"] == {"answered 200": sender["sent"]}
    assert trick["ns"]
    assert nobody["ns"]
    assert nobody["delivered"] is None


def test_a_post_on_a_spare_makes_two_system_calls_at_most() -> None:
    if lack := syscalls.missing():
        pytest.skip(lack)
    with open_bench(seed=1) as made:
        pairs = zip((SENDER, SENDER_THREAD), syscalls.SCENARIOS, strict=True)
        traces = [syscalls.trace(made, contender, scenario) for contender, scenario in pairs]
    for trace in traces:
        assert "sendto" in trace.calls
        assert len(trace.calls) <= syscalls.MOST, trace.calls


def test_only_the_posting_threads_calls_between_the_marks_count() -> None:
    trace = """\
7 access("bench: a post begins", F_OK) = -1 ENOENT (No such file or directory)
7 sendto(5, "POST", 4, MSG_NOSIGNAL, NULL, 0 <unfinished ...>
8 epoll_wait(3, [], 17, 24981) = 0
7 <... sendto resumed>) = 4
7 futex(0x55974aec36c0, FUTEX_WAKE_PRIVATE, 1) = 1
7 access("bench: a post has ended", F_OK) = -1 ENOENT (No such file or directory)
7 close(5) = 0
7 access("bench: a post begins", F_OK) = -1 ENOENT (No such file or directory)
7 poll([{fd=5, events=POLLIN}], 1, 0) = 0 (Timeout)
7 access("bench: a post has ended", F_OK) = -1 ENOENT (No such file or directory)
"""
    assert list(syscalls.calls_of_posts(trace)) == [["sendto"], ["poll"]]


def test_without_strace_it_says_so_and_traces_nothing(tmp_path: Path) -> None:
    done = bench("--syscalls", variables={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert "strace" in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--flat", "5", "--open-loop"),
        ("--syscalls", "--scenario", "at-once"),
        ("--syscalls", "--json", "samples.json"),
        ("--open-loop", "--plot", "plot.svg"),
        ("--contender", "Sender"),
        ("--flat", "5", "--contender", "C socket loop"),
    ],
)
def test_options_that_exclude_each_other_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="2"):
        options.parse(arguments)


def ledger(**counts: int) -> Ledger:
    known = Counter(counts)
    answered = {200: known.pop("answered", 0)}
    names = [name for name in Ledger._fields if name != "answered"]
    return Ledger(answered=answered, **{name: known[name] for name in names})


def test_books_that_contradict_themselves_or_the_posts_are_named() -> None:
    assert contradiction(None, 3) == ""
    assert contradiction(ledger(posted=3, answered=2, held=1), 3) == ""
    assert "law" in contradiction(ledger(posted=3, answered=2), 3)
    assert "law" in contradiction(ledger(posted=2, answered=2), 3)


def test_books_survive_the_workers_pipe() -> None:
    kept = ledger(posted=5, answered=3, reset=1, held=1)
    assert Ledger.from_json(json.dumps(kept._asdict())) == kept
    assert Ledger.from_json("null") is None
    assert kept.claims == {"answered 200": 3, "reset": 1, "held": 1}
    assert kept.promised == 3


def test_nothing_is_sent_to_a_users_endpoint_unless_they_agree(recorder: Recorder) -> None:
    done = bench("--url", recorder.url, "--posts", "2")
    assert done.returncode == 2
    assert "This sends" in done.stderr
    assert recorder.url in done.stderr
    assert recorder.talks == []


def test_an_agreed_comparison_posts_to_the_users_endpoint_and_claims_no_delivery(
    recorder: Recorder, tmp_path: Path
) -> None:
    plot = tmp_path / "plot.svg"
    done = bench("--url", recorder.url, "--posts", "2", "--yes", "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    assert plot.stat().st_size > 10_000
    assert "unknown" in done.stdout
    assert sum(talk.whole for talk in recorder.talks) >= 2 * 4  # rawfnf's closings and the naive socket, at least


def test_rows_that_cannot_be_told_apart_are_named_in_one_chain() -> None:
    rounds = list(range(20))
    even, odd = [1 + number % 2 for number in rounds], [2 - number % 2 for number in rounds]
    rows = [Row(name, ns=ns, rounds=rounds) for name, ns in (("a", even), ("b", odd), ("c", even), ("d", [9] * 20))]
    assert not_ranked(rows) == [["a", "b", "c"]]


def test_a_promise_that_was_not_kept_is_named() -> None:
    kept = Row("kept", ns=[1], sent=10, delivered=10, promised=10)
    lost = Row("lost", ns=[1], sent=10, delivered=9, promised=0)
    broken = Row("broken", ns=[1], sent=10, delivered=9, promised=10, broken_promises=1)
    (line,) = broken_promises([Table(Scenario("s", "a scenario"), [kept, lost, broken])])
    assert line.startswith("broken in s: 1 of 10")
