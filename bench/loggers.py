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

from .payload import compact_json
from .ways import LINGER, Span, Target, Way

if TYPE_CHECKING:
    from .payload import Body, Payload
    from .ways import Post

NAME, MESSAGE = "bench", "%(device)s, reading %(id)s: %(celsius)s degrees, %(note)s"
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
    logger = logging.getLogger(NAME)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    watched = Watched(handler)
    logger.addHandler(watched)

    def post(body: Body) -> Span:
        logger.info(MESSAGE, body["json"])
        return watched.span

    return post


def standard(target: Target) -> logging.Handler:
    """Return what the standard library has."""
    return logging.handlers.HTTPHandler(f"{target.host}:{target.port}", target.path, method="POST")


def http_handler(target: Target) -> Post:
    """Log by the standard library's HTTPHandler."""
    return logged_by(standard(target))


def queue_handler(target: Target) -> Way:
    """Log by QueueHandler, as the logging cookbook shows: HTTPHandler waits in a QueueListener's thread."""
    records = queue.Queue[logging.LogRecord](-1)
    started = list[bool]()
    listener = logging.handlers.QueueListener(records, standard(target))

    def between() -> None:
        if not started:  # its thread counts, as those of the others do
            listener.start()
            started.append(True)
        records.join()

    return Way(logged_by(logging.handlers.QueueHandler(records)), between)


def post_handler(target: Target) -> Way:
    """Log by rawfnf's PostHandler, with its defaults."""
    from rawfnf.handler import PostHandler

    made = PostHandler(target.url, linger=LINGER)
    return Way(logged_by(made), sender=made)


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
