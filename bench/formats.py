"""The bodies of the delivery matrix: of a given size, each of its own, in the form that the server takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .payload import sized

if TYPE_CHECKING:
    from collections.abc import Callable

# Bytes of a line, at most: a body has as many lines as it needs, which shows one of which only a part was taken.
LINE = 1024
# 2023-11-14T22:13:20Z, in nanoseconds; each line is a millisecond later than the one before.
FIRST_NS, STEP_NS = 1_700_000_000_000_000_000, 1_000_000


def influx(number: int, size: int) -> bytes:
    """Return so many bytes, 100 at least, of InfluxDB's line protocol: a series, tagged with its number and length."""
    return lines(
        size, lambda index, of: f"readings,post={number:013d},of={of},note=% value=71.25 {FIRST_NS + index * STEP_NS}"
    )


def prometheus(number: int, size: int) -> bytes:
    """Return so many bytes, 100 at least, in Prometheus' text format: a metric of its own, a series for each line."""
    return lines(size, lambda index, of: f'readings_{number:013d}{{of="{of}",line="{index}",note="%"}} 71.25')


def lines(size: int, line: Callable[[int, int], str]) -> bytes:
    """Return as many lines as it takes: each is told which one it is, of how many; % is replaced by what is missing."""
    of = -(-size // LINE)
    made = []
    for index in range(of):
        text = line(index, of)
        length = size * (index + 1) // of - size * index // of
        made.append(text.replace("%", "." * (length - len(text))) + "\n")
    return "".join(made).encode()


def rabbitmq(number: int, size: int) -> bytes:
    """Return so many bytes, 100 at least, for RabbitMQ's HTTP API: a message to publish, its number in front."""
    before, after = '{"properties":{},"routing_key":"readings","payload":"', '","payload_encoding":"string"}'
    return (before + f"{number:013d}".ljust(size - len(before + after), ".") + after).encode()


FORMS: dict[str, Callable[[int, int], bytes]] = {
    "sized": sized,
    "influx": influx,
    "prometheus": prometheus,
    "rabbitmq": rabbitmq,
}


def content(number: int, size: int, form: str) -> bytes:
    """Return the body of post `number`."""
    return FORMS[form](number, size)
