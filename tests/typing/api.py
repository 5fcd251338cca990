# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""Public uses that mypy --strict and pyright must accept, and some that they must refuse. Read by them, never run."""

from __future__ import annotations

import array
import asyncio
import gzip
import io
import logging
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from typing_extensions import assert_type

import rawfnf
from rawfnf import (
    ConnectError,
    Origin,
    Probe,
    RawfnfError,
    Receipt,
    Request,
    RequestError,
    Sender,
    SendError,
    Stats,
    Timings,
    aio,
    post,
    probe,
)
from rawfnf.handler import PostHandler

if TYPE_CHECKING:
    import ctypes
    import mmap
    import ssl
    import subprocess
    from collections.abc import Iterable, Iterator, Mapping, Sequence

URL = "https://example.com/events"


class Event(TypedDict):
    """What an application's events look like."""

    name: str
    size: int


def chunks() -> Iterator[bytes]:
    yield b"one"
    yield b"two"


def buffers() -> Iterator[bytearray | memoryview]:
    yield bytearray(b"one")
    yield memoryview(b"two")


def bytes_and_text(mapped: mmap.mmap, octets: ctypes.Array[ctypes.c_char]) -> None:
    post(URL)
    post(URL, None)
    post(URL, b"bytes")
    post(URL, bytearray(b"bytes"))
    post(URL, memoryview(b"bytes"))
    post(URL, array.array("d", [1.0]))
    post(URL, mapped)
    post(URL, octets)
    post(URL, "text")


def forms(
    texts: Mapping[str, str],
    numbers: dict[str, int],
    mixed: dict[str, str | int | None],
    lists: dict[str, list[str]],
    several: Mapping[str, str | Sequence[str]],
) -> None:
    post(URL, {"a": "1"})
    post(URL, {"a": 1})
    post(URL, {"a": 1.5, "b": True, "c": None})
    post(URL, {b"a": b"1"})
    post(URL, {"a": ["1", "2"]})
    post(URL, {"a": "1", "b": ["2", "3"]})
    post(URL, {})
    post(URL, OrderedDict(a="1"))
    post(URL, texts)
    post(URL, numbers)
    post(URL, mixed)
    post(URL, lists)
    post(URL, several)


def pairs_of_a_form(pairs: list[tuple[str, str]], mixed_pairs: Sequence[tuple[str, str | int]]) -> None:
    post(URL, [("a", "1"), ("a", "2")])
    post(URL, (("a", "1"), ("b", 2)))
    post(URL, pairs)
    post(URL, mixed_pairs)


def streams(pieces: Iterable[bytes], pipe: subprocess.Popen[bytes]) -> None:
    post(URL, [b"one", b"two"])
    post(URL, chunks())
    post(URL, buffers())
    post(URL, pieces)
    post(URL, (line for line in [b"one"]))
    post(URL, map(str.encode, ["one"]))
    with open("body", "rb") as file, Path("body").open("rb") as other, gzip.open("body.gz") as packed:
        post(URL, file)
        post(URL, other)
        post(URL, packed)
    with open("body", "rb", buffering=0) as raw, tempfile.TemporaryFile() as temporary:
        post(URL, raw)
        post(URL, temporary)
    post(URL, io.BytesIO(b"bytes"))
    post(URL, sys.stdin.buffer)
    post(URL, pipe.stdout)


def every_form_of_json(event: Event, value: object) -> None:
    post(URL, json={"a": [1, 2.5, None, True, {"b": "c"}]})
    post(URL, json=[1, 2])
    post(URL, json="text")
    post(URL, json=event)
    post(URL, json=value)


def every_option(fields: Mapping[str, str], query: dict[str, str], context: ssl.SSLContext) -> None:
    receipt = post(
        URL,
        b"body",
        json=None,
        params={"a": "1", "b": ["2"], "c": None, "d": 4},
        headers={"X-A": "1"},
        auth=("user", "password"),
        method="PUT",
        timeout=5,
        closing="answered",
        linger=0.5,
        ssl_context=context,
        connect_to=("10.0.0.7", 8443),
        source_address=("127.0.0.1", 0),
    )
    assert_type(receipt, Receipt)
    post(URL, params="a=1", headers=fields, auth=(b"user", "password"), timeout=None, closing=None, linger=5)
    post(URL, params=query, headers=[("X-A", "1"), ("X-A", "2")], closing="now", connect_to="/run/agent.sock")
    post(URL, params=[("a", "1")], headers={b"X-A": b"1"}, closing="acked", connect_to=Path("/run/agent.sock"))
    post(URL, params=query.items(), headers={"X-A": b"1"}, source_address="127.0.0.1")
    post(URL, headers=[("X-A", b"1"), (b"X-B", "2")])
    post(URL, headers=fields.items())


def what_a_receipt_tells(receipt: Receipt) -> None:
    assert_type(receipt.delivery, Literal["sent", "acked", "answered"])
    assert_type(receipt.status, int | None)
    assert_type(receipt.bytes_sent, int)
    assert_type(receipt.peer, tuple[str, int] | str)
    assert_type(receipt.tls_version, str | None)
    assert_type(receipt.timings, Timings)
    assert_type(receipt.timings.handshake, float)
    if receipt.delivery == "answered" and receipt.status is not None and receipt.status >= 400:
        print(receipt.peer)
    resolve, connect, handshake, send, close = receipt.timings
    print(max(filter(None, (resolve, connect, handshake, send, close))), receipt.timings.send or 0.0)


def a_request() -> None:
    request = Request(URL, params={"a": "1"}, headers={"X-A": "1"}, auth=("user", "password"), method="PATCH")
    assert_type(request.encode(b"body"), bytes)
    assert_type(request.encode({"a": 1}, params="b=2", headers=[("Idempotency-Key", "1")], path="/other"), bytes)
    assert_type(request.encode(json={"a": 1}), bytes)
    assert_type(request.encode(), bytes)
    assert_type(request.origin, Origin)
    assert_type(request.origin.scheme, str)
    assert_type(request.origin.host, str)
    assert_type(request.origin.port, int)
    scheme, host, port = request.origin
    version: str = rawfnf.__version__
    print(scheme, host, port, version)


def a_sender(pieces: Iterable[bytes], event: Event) -> None:
    with Sender(URL, spares=2) as sender:
        assert_type(sender, Sender)
        sender.warm()
        assert_type(sender.post(b"bytes"), bool)
        sender.post()
        sender.post("text", headers={"Idempotency-Key": "1"}, params={"a": 1}, path="/devices/7")
        sender.post({"a": 1}, headers=[("X-A", b"1")], params="b=2")
        sender.post(json=event)
        sender.post(pieces)
        with open("body", "rb") as file:
            sender.post(file)
        assert_type(sender.pump(), float | None)
        assert_type(sender.flush(), bool)
        if not sender.flush(0.5) and not sender.flush(timeout=1):
            print(sender.stats.held)
    sender.close()


def every_option_of_a_sender(fields: Mapping[str, str], context: ssl.SSLContext, *, drop: bool) -> None:
    Sender(
        URL,
        params={"a": "1", "b": ["2"]},
        headers=fields,
        auth=("user", b"password"),
        method="PUT",
        timeout=None,
        closing="acked",
        linger=1,
        ssl_context=context,
        connect_to=("10.0.0.7", 8443),
        source_address="127.0.0.1",
        spares=4,
        max_held=64,
        when_busy="drop" if drop else "wait",
        background=False,
    )
    Sender(URL, timeout=1.5, closing="now", connect_to=Path("/run/agent.sock"), background=None)


def what_stats_tell(sender: Sender) -> None:
    stats = sender.stats
    assert_type(stats, Stats)
    assert_type(stats.answered, dict[int, int])
    assert_type(stats.answered.get(401, 0), int)
    posted, answered, *others = stats
    assert_type(posted, int)
    print(answered, others)
    assert stats.posted == (
        sum(stats.answered.values()) + stats.acked + stats.closed_now + stats.unanswered + stats.reset + stats.held
    )
    print(stats.dropped, stats.failed, stats.spares, stats._asdict())


def every_error() -> None:
    try:
        post(URL)
    except RequestError as error:
        refused: ValueError = error
        print(refused)
    except ConnectError as error:
        unreached: OSError = error
        print(unreached, error.phase, error.host, error.port)
    except SendError as error:
        broken: OSError = error
        print(broken, error.errno)
        assert_type(error.bytes_sent, int)
    except RawfnfError as error:
        assert_type(error.phase, str)
        assert_type(error.host, str | None)
        assert_type(error.port, int | None)
        assert_type(error.errno, int | None)


async def awaited_posts(pieces: Iterable[bytes], event: Event, context: ssl.SSLContext) -> None:
    receipt = await aio.post(
        URL,
        {"a": 1},
        json=None,
        params=[("a", "1")],
        headers={"X-A": b"1"},
        auth=("user", b"password"),
        method="PUT",
        timeout=None,
        closing="answered",
        linger=1,
        ssl_context=context,
        connect_to=("10.0.0.7", 8443),
        source_address=("127.0.0.1", 0),
    )
    assert_type(receipt, Receipt)
    receipts = await asyncio.gather(aio.post(URL, b"bytes"), aio.post(URL, json=event), aio.post(URL, pieces))
    print([receipt.delivery for receipt in receipts])
    task = asyncio.create_task(aio.post(URL, closing=None, connect_to=Path("/run/agent.sock")))
    assert_type(await task, Receipt)


async def an_awaited_sender(event: Event, fields: Mapping[str, str]) -> None:
    async with aio.Sender(URL, spares=2) as sender:
        assert_type(sender, aio.Sender)
        await sender.warm()
        assert_type(await sender.post(b"bytes"), bool)
        await sender.post("text", headers={"Idempotency-Key": "1"}, params={"a": 1}, path="/devices/7")
        await sender.post(json=event)
        assert_type(await sender.pump(), float | None)
        if not await sender.flush(0.5) and not await sender.flush(timeout=None):
            assert_type(sender.stats, Stats)
    await sender.close()
    aio.Sender(URL, headers=fields, timeout=None, closing="now", max_held=64, when_busy="drop", background=False)


def a_probe(context: ssl.SSLContext, event: Event) -> None:
    found = probe(
        URL,
        b"body",
        params={"a": "1"},
        headers={"X-A": "1"},
        auth=("user", "password"),
        method="PUT",
        timeout=None,
        linger=2,
        ssl_context=context,
        connect_to=Path("/run/agent.sock"),
        source_address="127.0.0.1",
        attempts=3,
        idle=0.5,
    )
    assert_type(found, Probe)
    assert_type(probe(URL, json=event).code, str | None)
    assert_type(found.status, int | None)
    assert_type(found.round_trip, float | None)
    assert_type(found.answered.statuses, dict[int, int])
    assert_type(found.faster, tuple[str, ...])
    if found.now is not None and found.now.possible:
        print(found.now.answered / found.now.posts, found.now.why)
    if found.tls is not None and found.tls.not_after is not None:
        print(found.tls.not_after.isoformat(), found.tls.tickets)
    for address in found.addresses:
        assert_type(address, tuple[str, int] | str)


class ShopHandler(PostHandler):
    """Says for whom it logs."""

    def mapLogRecord(self, record: logging.LogRecord) -> dict[str, object]:  # noqa: N802  # HTTPHandler's name
        return {**super().mapLogRecord(record), "service": "shop"}


def a_handler(fields: Mapping[str, str], context: ssl.SSLContext) -> None:
    handler: logging.Handler = PostHandler(URL)
    logging.getLogger().addHandler(handler)
    shop = ShopHandler(
        URL,
        level=logging.WARNING,
        params={"a": "1"},
        headers=fields,
        auth=("user", "password"),
        method="PUT",
        timeout=None,
        closing="acked",
        linger=1,
        ssl_context=context,
        connect_to=("10.0.0.7", 8443),
        source_address="127.0.0.1",
        spares=4,
        max_held=64,
    )
    shop.setFormatter(logging.Formatter("%(message)s"))
    assert_type(shop.stats, Stats)
    assert_type(shop.dropped, int)
    shop.flush()
    shop.close()
    PostHandler(URL, level="INFO", connect_to="/run/agent.sock")


def what_is_refused(request: Request, receipt: Receipt) -> None:
    post()  # type: ignore[call-arg]
    post(b"http://h/")  # type: ignore[arg-type]
    post(URL, 5)  # type: ignore[arg-type]
    post(URL, Path("body"))  # type: ignore[arg-type]
    post(URL, io.StringIO("text"))  # type: ignore[arg-type]
    post(URL, ["text"])  # type: ignore[arg-type]
    post(URL, b"", {"a": 1})  # type: ignore[call-arg]
    post(URL, closing="later")  # type: ignore[arg-type]
    post(URL, timeout="5")  # type: ignore[arg-type]
    post(URL, headers={"X-A": 1})  # type: ignore[arg-type]
    post(URL, headers={"X-A": None})  # type: ignore[arg-type]
    post(URL, auth="user:password")  # type: ignore[arg-type]
    post(URL, method=b"POST")  # type: ignore[arg-type]
    post(URL, connect_to=8080)  # type: ignore[arg-type]
    post(URL, linger=None)  # type: ignore[arg-type]
    request.encode(b"", method="PUT")  # type: ignore[call-arg]
    post(URL, ssl_context=True)  # type: ignore[arg-type]
    post(URL, source_address=("127.0.0.1", "0"))  # type: ignore[arg-type]
    print(receipt.status + 1)  # type: ignore[operator]
    receipt.status = 204  # type: ignore[misc]
    print(receipt.delivery == "lost")  # type: ignore[comparison-overlap]
    print(receipt.answer)  # type: ignore[attr-defined]


async def what_is_to_be_awaited(sender: aio.Sender) -> None:
    aio.post(URL)  # type: ignore[unused-coroutine]
    sender.post(b"body")  # type: ignore[unused-coroutine]
    print(aio.post(URL).status)  # type: ignore[attr-defined]
    await aio.post(URL, 5)  # type: ignore[arg-type]
    await aio.post(URL, closing="later")  # type: ignore[arg-type]
    await sender.post(b"body", closing="now")  # type: ignore[call-arg]
    aio.Sender(URL, when_busy="raise")  # type: ignore[arg-type]
    with sender:  # type: ignore[attr-defined]
        pass
    async with Sender(URL):  # type: ignore[attr-defined]
        pass


def what_a_probe_and_a_handler_refuse(handler: PostHandler) -> None:
    probe()  # type: ignore[call-arg]
    probe(URL, closing="now")  # type: ignore[call-arg]
    probe(URL, attempts=2.5)  # type: ignore[arg-type]
    probe(URL, idle=None)  # type: ignore[arg-type]
    PostHandler()  # type: ignore[call-arg]
    PostHandler(URL, logging.INFO)  # type: ignore[call-arg]
    PostHandler(URL, level=None)  # type: ignore[arg-type]
    PostHandler(URL, background=True)  # type: ignore[call-arg]
    PostHandler(URL, when_busy="wait")  # type: ignore[call-arg]
    handler.post(b"body")  # type: ignore[attr-defined]


def what_a_sender_refuses(sender: Sender) -> None:
    Sender()  # type: ignore[call-arg]
    Sender(URL, None)  # type: ignore[call-arg]
    Sender(URL, closing=None)  # type: ignore[arg-type]
    Sender(URL, closing="later")  # type: ignore[arg-type]
    Sender(URL, linger=None)  # type: ignore[arg-type]
    Sender(URL, spares=1.5)  # type: ignore[arg-type]
    Sender(URL, max_held=None)  # type: ignore[arg-type]
    Sender(URL, when_busy="raise")  # type: ignore[arg-type]
    Sender(URL, background="yes")  # type: ignore[arg-type]
    sender.post(URL, b"")  # type: ignore[call-arg]
    sender.post(5)  # type: ignore[arg-type]
    sender.post(b"", closing="now")  # type: ignore[call-arg]
    sender.post(b"", timeout=1)  # type: ignore[call-arg]
    sender.flush("5")  # type: ignore[arg-type]
    sender.stats = sender.stats  # type: ignore[misc]
