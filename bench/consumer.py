"""Counts and hashes what comes out of message queues: what receiver.py is to those who post by HTTP.

It runs as a process of its own, `python -m bench.consumer COUNTERS rabbitmq HOST PORT`, or `... COUNTERS kafka`, which
is librdkafka's mock broker as well: a cluster of one broker, in a thread of that library, which keeps its messages in
memory and speaks Kafka's protocol over TCP. It says where the broker is, then obeys lines of JSON on standard input
until that ends. Each contender has a queue of its own, and each queue a connection and a thread.

A body counts as arrived when a consumer has it: not when the broker took it, which may yet lose it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from .counter import Counters
from .receiver import Report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .receiver import Command

# Seconds in which nothing comes out of a queue: what is missing then is lost. A Pace has waited for each post before.
SILENCE = 1.0
# Seconds that the mock broker gets to say what it is.
PATIENCE = 10.0
# Milliseconds that Kafka's consumer leaves a request for messages with the broker. A real broker answers it as soon as
# there are any; the mock answers when the time is over, and a worker that waits for the receiver waits as long.
POLL_MS = 5

Address: TypeAlias = tuple[str, int]


class Broker(Protocol):
    """What messages come from."""

    address: Address

    def bodies(self, queue: str) -> Iterator[bytes]:
        """Make a queue; return what comes out of it, for ever."""


class RabbitMQ:
    """A node that runs already."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def bodies(self, queue: str) -> Iterator[bytes]:
        """Make a durable queue; return what comes out of it, for ever."""
        import pika

        channel = pika.BlockingConnection(pika.ConnectionParameters(*self.address)).channel()
        channel.queue_declare(queue, durable=True)
        return (body for _, _, body in channel.consume(queue, auto_ack=True))


class Kafka:
    """librdkafka's mock cluster, which lives as long as this object."""

    def __init__(self) -> None:
        from confluent_kafka import Producer

        self._cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        (broker,) = self._cluster.list_topics(timeout=PATIENCE).brokers.values()
        self.address: Address = (broker.host, broker.port)

    def bodies(self, topic: str) -> Iterator[bytes]:
        """Make a topic; return what comes out of all its partitions, for ever."""
        from confluent_kafka import Consumer, TopicPartition

        partitions = self._cluster.list_topics(topic, PATIENCE).topics[topic].partitions  # asked for, it is made
        consumer = Consumer({
            "bootstrap.servers": "{}:{}".format(*self.address),
            "group.id": "bench",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": POLL_MS,
            "log_level": 0,
        })  # fmt: skip
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        return self._values(consumer)

    @staticmethod
    def _values(consumer: Any) -> Iterator[bytes]:
        from confluent_kafka import KafkaException

        while True:
            message = consumer.poll()
            if message.error():
                raise KafkaException(message.error())
            yield message.value()


class Queue:
    """One slot's queue: a thread of its own counts what comes out of it, and lets the worker go on."""

    def __init__(self, bodies: Iterator[bytes], counters: Counters, slot: int) -> None:
        self.bodies: Counter[str] = Counter()
        self.failure: Exception | None = None
        self._came = threading.Event()
        threading.Thread(target=self._consume, args=(bodies, counters, slot), daemon=True).start()

    def _consume(self, bodies: Iterator[bytes], counters: Counters, slot: int) -> None:
        try:
            for body in bodies:
                self.bodies[hashlib.sha256(body).hexdigest()] += 1
                self._came.set()
                counters.add_one(slot)
        except Exception as failure:  # noqa: BLE001 - raised by report(): what it missed is not the contender's loss
            self.failure = failure

    def report(self) -> Report:
        """Wait until nothing more comes, and return what came; raises what ended the consumer, if anything did."""
        while self._came.wait(SILENCE):
            self._came.clear()
        if self.failure:
            raise self.failure
        return Report(bodies=dict(self.bodies), broken=0)


def serve(broker: Broker, counters: Counters) -> None:
    """Obey until standard input ends."""
    queues = dict[int, Queue]()
    for line in sys.stdin:
        command: Command = json.loads(line)
        reply: object
        if "listen" in command:
            slot = command["listen"]
            reply = name_of(slot)
            queues[slot] = Queue(broker.bodies(name_of(slot)), counters, slot)
        elif "forget" in command:
            queues[command["forget"]].bodies.clear()
            reply = None
        else:
            reply = queues[command["report"]].report()
        print(json.dumps(reply), flush=True)


def name_of(slot: int) -> str:
    """Return the name of a slot's queue."""
    return f"readings-{slot}"


def main() -> None:
    """Say where the broker is, then serve."""
    counters, kind, *address = sys.argv[1:]
    broker = Kafka() if kind == "kafka" else RabbitMQ((address[0], int(address[1])))
    print(json.dumps(broker.address), flush=True)
    # Not closed: the queues' threads write to them to the end.
    serve(broker, Counters(Path(counters)))


if __name__ == "__main__":
    main()
