"""The contenders that hand over to a message queue, as people are told to do: each as its client's documentation does.

Their `Target` is a broker, see brokers.py; its path names the queue, or the topic, which is there already. They connect
when they get ready for their first post, not before: the threads and descriptors that this takes count, as those of the
others do.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

from .ways import LINGER, Way

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confluent_kafka import Producer

    from .payload import Body
    from .ways import Post, Target


def rabbitmq(target: Target) -> Way:
    """Publish a persistent message to a durable queue by pika, on one connection; nothing says whether it arrived."""
    import pika

    persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)

    @functools.cache
    def channel() -> Any:
        return pika.BlockingConnection(pika.ConnectionParameters(target.host, target.port)).channel()

    def post(body: Body) -> None:
        channel().basic_publish("", target.path, json.dumps(body["json"]), persistent)

    return published_by(channel, post)


def rabbitmq_confirmed(target: Target) -> Way:
    """Do the same, and wait for the broker's confirm; what no queue takes (`mandatory`) raises."""
    import pika

    persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)

    @functools.cache
    def channel() -> Any:
        opened = pika.BlockingConnection(pika.ConnectionParameters(target.host, target.port)).channel()
        opened.confirm_delivery()
        return opened

    def post(body: Body) -> None:
        channel().basic_publish("", target.path, json.dumps(body["json"]), persistent, mandatory=True)

    return published_by(channel, post)


def kafka(target: Target) -> Way:
    """Produce by confluent-kafka, to librdkafka's mock broker: a thread of librdkafka's sends."""
    from confluent_kafka import Producer

    @functools.cache
    def producer() -> Producer:
        return Producer({"bootstrap.servers": f"{target.host}:{target.port}"})

    def post(body: Body) -> None:
        producer().produce(target.path, json.dumps(body["json"]), on_delivery=raise_failure)
        producer().poll(0)

    return produced_by(producer, post)


def kafka_flushed(target: Target) -> Way:
    """Do the same, and wait for the mock broker's acknowledgement: what a caller does that must know."""
    from confluent_kafka import Producer

    @functools.cache
    def producer() -> Producer:
        return Producer({"bootstrap.servers": f"{target.host}:{target.port}"})

    def post(body: Body) -> None:
        producer().produce(target.path, json.dumps(body["json"]), on_delivery=raise_failure)
        producer().flush()

    return produced_by(producer, post)


def published_by(channel: Callable[[], Any], post: Post) -> Way:
    """Connect before the first burst; before each, do what keeps the connection open."""

    def between() -> None:
        # Answers heartbeats: the broker closes a connection that leaves two of them unanswered.
        channel().connection.process_data_events()

    def close() -> None:
        channel().connection.close()

    return Way(post, between, close=close)


def produced_by(producer: Callable[[], Producer], post: Post) -> Way:
    """Start librdkafka before the first burst; in the end let it send what it still has."""

    def between() -> None:
        producer()

    def close() -> None:
        producer().flush(LINGER)

    return Way(post, between, close=close)


def raise_failure(error: Any, message: object) -> None:  # noqa: ARG001 - as librdkafka calls it
    """Raise, out of poll() or flush(), that a message could not be delivered."""
    from confluent_kafka import KafkaException

    if error is not None:
        raise KafkaException(error)
