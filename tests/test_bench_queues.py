"""The message queues of bench/: real brokers, what comes out of them, and what is lost on the way."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from bench import brokers, certificates, counter, queues
from bench.payload import body, payload, spaced_json
from bench.processes import LOOPBACK, ChildError
from bench.servers.base import Site
from bench.worker import Caller, Pace, Posts
from tests.peers import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.brokers import Broker
    from bench.ways import Target, Way

pytestmark = pytest.mark.campaign

ROOT = Path(__file__).parent.parent
POSTS = 40
# Posts, and is gone: without a flush, without an interpreter that ends in order.
GONE_AT_ONCE = """
import os, sys
from bench import queues
from bench.payload import body
from bench.ways import Target
host, port, path = sys.argv[1:]
way = queues.kafka(Target("", host, int(port), path, tls=False, cafile=None))
for number in range(100):
    way.post(body(number, "json"))
os._exit(0)
"""


@pytest.fixture(scope="module")
def counters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("counters") / "counters"
    counter.create(path)
    return path


@pytest.fixture(scope="module")
def kafka(counters: Path) -> Iterator[Broker]:
    if lack := brokers.lack_of("confluent_kafka"):
        assert "CI" not in os.environ, lack
        pytest.skip(lack)
    with brokers.kafka(counters) as broker:
        yield broker


def site_in(folder: Path) -> Site:
    return Site(folder, LOOPBACK, None, certificates.issue(folder, LOOPBACK), folder / "handled")


@pytest.fixture(scope="module")
def rabbitmq(counters: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    if lack := brokers.lack_of_rabbitmq():
        pytest.skip(lack)  # in CI as well: it is not installed there
    with brokers.rabbitmq(site_in(tmp_path_factory.mktemp("rabbitmq")), counters) as broker:
        yield broker


def check_that_all_arrive(make: Callable[[Target], Way], broker: Broker, counters: Path, slot: int) -> None:
    target = broker.listen(slot)
    with contextlib.closing(make(target)) as way, counter.Counters(counters) as shared:
        caller = Caller(way, target, Pace(shared, slot, broker.asleep))
        made = caller.block(Posts("json", 0), POSTS, limit_ns=10**11)
        until(lambda: shared[slot] == POSTS, "the worker was told of each")
    assert (len(made["ns"]), made["errors"]) == (POSTS, {})
    bodies = [hashlib.sha256(spaced_json(payload(number))).hexdigest() for number in range(POSTS)]
    assert broker.report(slot) == {"bodies": dict.fromkeys(bodies, 1), "broken": 0}


@pytest.mark.parametrize(("make", "slot"), [(queues.kafka, 0), (queues.kafka_flushed, 1)])
def test_what_is_produced_comes_out_of_the_topic_whole_and_once(
    make: Callable[[Target], Way], slot: int, kafka: Broker, counters: Path
) -> None:
    check_that_all_arrive(make, kafka, counters, slot)


@pytest.mark.parametrize(("make", "slot"), [(queues.rabbitmq, 2), (queues.rabbitmq_confirmed, 3)])
def test_what_is_published_comes_out_of_the_queue_whole_and_once(
    make: Callable[[Target], Way], slot: int, rabbitmq: Broker, counters: Path
) -> None:
    check_that_all_arrive(make, rabbitmq, counters, slot)


def test_what_librdkafka_still_holds_is_lost_with_its_process_and_nothing_was_raised(kafka: Broker) -> None:
    target = kafka.listen(10)
    command = [sys.executable, "-c", GONE_AT_ONCE, target.host, str(target.port), target.path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert sum(kafka.report(10)["bodies"].values()) < 100


def test_a_queue_that_nobody_made_loses_posts_silently_unless_they_are_confirmed(rabbitmq: Broker) -> None:
    from pika.exceptions import UnroutableError

    nowhere = rabbitmq.listen(11)._replace(path="nobody made it")
    with contextlib.closing(queues.rabbitmq(nowhere)) as unconfirmed:
        unconfirmed.post(body(1, "json"))
    with contextlib.closing(queues.rabbitmq_confirmed(nowhere)) as confirmed, pytest.raises(UnroutableError):
        confirmed.post(body(2, "json"))


def test_a_rabbitmq_leaves_no_process_behind_and_its_end_is_noticed(tmp_path: Path, counters: Path) -> None:
    if lack := brokers.lack_of_rabbitmq():
        pytest.skip(lack)

    def processes() -> list[str]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # gone, or on its way out
                if Path(process.cwd()).is_relative_to(tmp_path):
                    found.append(process.name())
        return found

    def report_of_a_killed_one() -> None:
        with brokers.rabbitmq(site_in(tmp_path), counters) as broker:
            assert {"epmd", "beam.smp"} <= set(processes())
            broker.listen(12)
            psutil.Process(broker.pids[1]).kill()
            broker.report(12)

    with pytest.raises(ChildError, match=r"has ended: pika\."):
        report_of_a_killed_one()
    until(lambda: not processes(), "all gone", 5)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, counters: Path) -> None:
    monkeypatch.setattr(brokers, "RABBITMQ_HOMES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("rabbitmq-server") is None
    with brokers.brokers(site_in(tmp_path), counters) as found:
        assert found["RabbitMQ"] == brokers.RABBITMQ_INSTALL
