"""The contenders that log: what a handler that posts each record adds to the cost of `logger.info()`.

The records have everything that logging puts into them, at its usual price. Only then what differs from run to run (the
time, the process, the line) is replaced by what is the same everywhere, so that the receiver's hash can be compared.
"""

from __future__ import annotations

import functools
import logging
import logging.handlers
import queue
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from .payload import compact_json, sized
from .ways import LINGER, Span, Target, Way

if TYPE_CHECKING:
    from .payload import Body, Payload
    from .ways import Post

NAME, MESSAGE = "bench", "%(device)s, reading %(id)s: %(celsius)s degrees, %(note)s"
# Of a record whose argument is to become the form.
FORM = "a form"
# Bytes of the number in front of a body of a given size.
NUMBER = 10
# 2023-11-14T22:13:20Z; the rest is of no meaning.
EVERYWHERE = {
    "created": 1.7e9,
    "msecs": 0.0,
    "relativeCreated": 1000.0,
    "thread": 1,
    "threadName": "MainThread",
    "process": 1,
    "processName": "MainProcess",
    "taskName": None,
    "pathname": "/readings.py",
    "filename": "readings.py",
    "module": "readings",
    "lineno": 1,
    "funcName": "read",
}


def record(*arguments: Any, **more: Any) -> logging.LogRecord:
    """Make a record, as logging would, that is the same in every process."""
    made = logging.LogRecord(*arguments, **more)
    made.__dict__.update(EVERYWHERE)
    return made


def record_of(content: Payload) -> logging.LogRecord:
    """Return the record that `logged_by` makes of it."""
    return record(NAME, logging.INFO, "", 0, MESSAGE, (content,), None)


class Watched(logging.Handler):
    """Hands records on to a handler, and times that: what a logger does before, it does for every handler."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self.handler = handler
        self.span = Span(0, 0)

    def handle(self, record: logging.LogRecord) -> bool:
        """Do what a logger does: its handlers filter, lock and emit in here."""
        cpu = time.process_time_ns()
        start = time.perf_counter_ns()
        self.handler.handle(record)
        end = time.perf_counter_ns()
        self.span = Span(end - start, time.process_time_ns() - cpu)
        return True


def logged_by(handler: logging.Handler) -> Post:
    """Return what logs a line by this handler alone, and tells how long the handler took."""
    logging.setLogRecordFactory(record)
    # Not getLogger(), whose loggers are everybody's: a second handler's Formatter would add to the records.
    logger = logging.Logger(NAME, logging.INFO)
    watched = Watched(handler)
    logger.addHandler(watched)

    def post(body: Body) -> Span:
        if "json" in body:
            logger.info(MESSAGE, body["json"])
        else:
            logger.info(FORM, as_form(body["data"]))
        return watched.span

    return post


def forget(handler: logging.Handler) -> None:
    """Close the handler, and let records be made as they always are."""
    handler.close()
    logging.setLogRecordFactory(logging.LogRecord)


def as_form(data: Payload | bytes) -> Payload:
    """Return what becomes the form: of a body of so many bytes, one field of that size, whose name is the number."""
    if isinstance(data, bytes):
        return {data[:NUMBER].decode(): "0" * (len(data) - NUMBER - 1)}
    return data


def sized_form(number: int, size: int) -> bytes:
    """Return the bytes of that form: it cannot be anything else than a form."""
    return urlencode(as_form(sized(number, size))).encode()


class Standard(logging.handlers.HTTPHandler):
    """What the standard library has, with that method overridden which is there for it."""

    def mapLogRecord(self, record: logging.LogRecord) -> dict[str, Any]:  # noqa: N802 - logging's name
        """Return what becomes the form: every attribute, or what was logged in order to be one."""
        if record.msg == FORM and isinstance(record.args, dict):
            return record.args
        return super().mapLogRecord(record)


def standard(target: Target) -> logging.Handler:
    """Return the standard library's handler."""
    context = target.context()
    return Standard(f"{target.host}:{target.port}", target.path, "POST", secure=context is not None, context=context)


def http_handler(target: Target) -> Way:
    """Log by the standard library's HTTPHandler, which connects for each record, and waits for the answer."""
    handler = standard(target)
    return Way(logged_by(handler), close=lambda: forget(handler))


def queue_handler(target: Target) -> Way:
    """Log by QueueHandler, as the logging cookbook shows: HTTPHandler waits in a QueueListener's thread."""
    records = queue.Queue[logging.LogRecord](-1)
    started = list[bool]()
    handler, sink = logging.handlers.QueueHandler(records), standard(target)
    listener = logging.handlers.QueueListener(records, sink)

    def between() -> None:
        if not started:  # its thread counts, as those of the others do
            listener.start()
            started.append(True)
        records.join()

    def close() -> None:
        if started:
            listener.stop()
        forget(handler)
        sink.close()

    return Way(logged_by(handler), between, close=close)


def post_handler(target: Target) -> Way:
    """Log by rawfnf's PostHandler, with its defaults."""
    from rawfnf.handler import PostHandler

    made = PostHandler(target.url, linger=LINGER, ssl_context=target.context())
    return Way(logged_by(made), sender=made, close=lambda: forget(made))


@functools.cache
def mapping_of_post_handler() -> Any:
    """Return what makes a PostHandler's JSON object of a record."""
    from rawfnf.handler import PostHandler

    return PostHandler("http://localhost/").mapLogRecord


def body_of_post_handler(content: Payload) -> bytes:
    """Return the body of the record."""
    return compact_json(mapping_of_post_handler()(record_of(content)))


def body_of_http_handler(content: Payload) -> bytes:
    """Return the body of the record: every attribute, form-encoded."""
    return urlencode(record_of(content).__dict__).encode()


def body_of_queue_handler(content: Payload) -> bytes:
    """Return the body of the record, as it comes out of the queue."""
    prepared: logging.LogRecord = logging.handlers.QueueHandler(queue.Queue()).prepare(record_of(content))
    return urlencode(prepared.__dict__).encode()
