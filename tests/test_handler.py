"""PostHandler: what a record becomes, and that logging does not wait, raise, recurse, or lose anything in silence."""

# ruff: noqa: N802  # mapLogRecord, handleError, HTTPHandler, dictConfig: logging's names

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import errno
import gc
import json
import logging
import logging.config
import logging.handlers
import queue
import signal
import ssl
import sys
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pytest

import rawfnf
from rawfnf.handler import PostHandler
from tests.peers import (
    PATIENCE,
    HttpServer,
    Recorder,
    Talk,
    answer_at_once,
    black_hole,
    let_pass,
    never_answers,
    recording,
    refusing_port,
    server_context,
    until,
)
from tests.test_import import in_a_fresh_interpreter
from tests.test_sender_life import (
    LOOK,
    Start,
    all_ended,
    answers_who_waits,
    in_the_middle,
    interrupt,
    linux,
    numbers_of_places,
    unix,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

H = TypeVar("H", bound=logging.Handler)

LOGGER = "rawfnf.test"


class Logs:
    """A logger, and the handlers that a test gives it."""

    def __init__(self) -> None:
        self.logger = logging.Logger(LOGGER)  # none of logging's tree, where pytest has handlers of its own

    def to(self, peer: Recorder, **options: Any) -> PostHandler:
        return self.by(PostHandler(peer.url, **peer.options, **options))

    def by(self, handler: H) -> H:
        self.logger.addHandler(handler)
        return handler

    def close(self) -> None:
        for handler in self.logger.handlers:
            handler.close()


@pytest.fixture
def logs() -> Iterator[Logs]:
    """A logger that passes on everything, to the test's handlers alone."""
    with contextlib.closing(Logs()) as made:
        yield made


@pytest.fixture
def start(cafile: Path) -> Iterator[Start]:
    """Start programs that log to a peer."""
    with contextlib.closing(Start(cafile)) as made:
        yield made


def record(message: object = "hello", *args: object, **attributes: object) -> logging.LogRecord:
    """Make a record; attributes are set as `extra` does it."""
    made = logging.LogRecord(LOGGER, logging.INFO, "here.py", 7, message, args, None, "work")
    made.__dict__.update(attributes)
    return made


def arrived(peer: Recorder) -> Talk:
    """Return what came next; spares that were never used have nothing to say."""
    talk = peer.next()
    while not talk.data:
        talk = peer.next()
    assert talk.whole
    return talk


def posted(peer: Recorder) -> Any:
    """Return the JSON that came next."""
    talk = arrived(peer)
    assert talk.header("content-type") == "application/json"
    return json.loads(talk.body.decode())


def messages(peer: Recorder, count: int) -> list[str]:
    """Return the messages of the next so many records, sorted: each has a connection of its own."""
    return sorted(posted(peer)["message"] for _ in range(count))


def handed_over(handler: PostHandler) -> int:
    """Return how many records came, by the account; its law holds."""
    stats = handler.stats
    ends = (stats.acked, stats.closed_now, stats.unanswered, stats.reset, stats.held)
    assert stats.posted == sum(stats.answered.values()) + sum(ends), stats
    return stats.posted + handler.dropped


class Errors(PostHandler):
    """Keeps what logging would print to stderr."""

    errors: list[BaseException | None]

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        self.errors.append(sys.exc_info()[1])


def keeping_errors(peer: Recorder, **options: Any) -> Errors:
    handler = Errors(peer.url, **peer.options, **options)
    handler.errors = []
    return handler


# --- what is posted -------------------------------------------------------------------------------------------------


def test_a_record_arrives_as_json(peer: Recorder, logs: Logs) -> None:
    handler = logs.to(peer)
    before = dt.datetime.now(dt.timezone.utc)
    logs.logger.warning("%d of %s", 3, "dré", extra={"user": "ü", "count": 2})
    talk = arrived(peer)
    after = dt.datetime.now(dt.timezone.utc)
    fields = json.loads(talk.body.decode())
    assert talk.body == json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    at = dt.datetime.strptime(fields.pop("timestamp"), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=dt.timezone.utc)
    assert before - dt.timedelta(seconds=1) <= at <= after
    assert fields.pop("line") > 0
    assert fields.pop("process") > 0
    assert fields == {
        "level": "WARNING",
        "logger": LOGGER,
        "message": "3 of dré",
        "file": __file__,
        "function": "test_a_record_arrives_as_json",
        "thread": "MainThread",
        "user": "ü",
        "count": 2,
    }
    handler.flush()
    assert handler.stats.answered == {204: 1}
    assert handler.dropped == 0


def test_http_server_gets_records(http_server: HttpServer, logs: Logs) -> None:
    handler = logs.by(PostHandler(http_server.url + "log?a=b", headers={"X-Key": "k"}, params={"c": "d"}))
    for number in range(3):
        logs.logger.info("record %d", number)
    served = [http_server.next() for _ in range(3)]
    assert {json.loads(one.body)["message"] for one in served} == {"record 0", "record 1", "record 2"}
    assert {(one.path, one.headers["X-Key"], one.headers["Content-Type"]) for one in served} == {
        ("/log?a=b&c=d", "k", "application/json")
    }
    handler.flush()
    assert handler.stats.answered == {200: 3}


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (0.5, "1970-01-01T00:00:00.500000Z"),
        (1763824980.25, "2025-11-22T15:23:00.250000Z"),
        (951827696.999999, "2000-02-29T12:34:56.999999Z"),
        (-1.0, "1969-12-31T23:59:59.000000Z"),
    ],
)
def test_the_time_is_utc_to_the_microsecond(recorder: Recorder, logs: Logs, created: float, shown: str) -> None:
    logs.to(recorder).handle(record(created=created))
    assert posted(recorder)["timestamp"] == shown


def test_an_exception_is_posted_with_its_traceback(recorder: Recorder, logs: Logs) -> None:
    logs.to(recorder)
    try:
        try:
            int("x")
        except ValueError as error:
            raise LookupError("not there") from error
    except LookupError:
        logs.logger.exception("failed", stack_info=True)
    fields = posted(recorder)
    assert fields["message"] == "failed"
    assert fields["exception"].startswith("Traceback (most recent call last):\n")
    assert "ValueError: invalid literal" in fields["exception"]
    assert fields["exception"].endswith("\nLookupError: not there")
    assert fields["stack"].startswith("Stack (most recent call last):\n")


def test_no_exception_is_none(recorder: Recorder, logs: Logs) -> None:
    logs.to(recorder)
    logs.logger.error("failed", exc_info=True)
    fields = posted(recorder)
    assert "exception" not in fields
    assert "stack" not in fields


def test_what_logging_is_told_to_leave_out_is_left_out(
    recorder: Recorder, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("logThreads", "logProcesses"):
        monkeypatch.setattr(logging, name, False)
    logs.to(recorder)
    logs.logger.info("hello")
    assert set(posted(recorder)) == {"timestamp", "level", "logger", "message", "file", "line", "function"}


def test_extra_fields_cannot_replace_ours(recorder: Recorder, logs: Logs) -> None:
    logs.to(recorder)
    extra = {"level": "low", "timestamp": 1, "exception": "none", "task": 5, "level_": "kept", "file2": "f"}
    logs.logger.info("hello", extra=extra)
    fields = posted(recorder)
    assert (fields["level"], fields["message"]) == ("INFO", "hello")
    assert (fields["timestamp_"], fields["exception_"], fields["task_"], fields["file2"]) == (1, "none", 5, "f")
    assert sorted(value for name, value in fields.items() if name.startswith("level_")) == ["kept", "low"]


class Untold:
    """Has no form at all."""

    def __repr__(self) -> NoReturn:
        raise ValueError("not me")


class Shown:
    def __str__(self) -> str:
        return "shown"


class Words(str):
    __slots__ = ()


class Torn(dict[str, int]):
    def items(self) -> NoReturn:
        raise KeyError("torn")

    def __repr__(self) -> str:
        return "torn"


ITSELF: list[object] = [1]
ITSELF.append(ITSELF)
DEEP: object = "end"
for _ in range(5000):
    DEEP = [DEEP]


ANYTHING: dict[str, tuple[object, object]] = {
    "None": (None, None),
    "bool": (True, True),
    "nested": ([1, "a", {"b": None}], [1, "a", {"b": None}]),
    "tuple": ((1, 2), [1, 2]),
    "str()": (Shown(), "shown"),
    "no str()": (Untold(), "<Untold>"),
    "no str() within": ([Untold(), 1.5], ["<Untold>", 1.5]),
    "bytes": (b"\xff", "b'\\xff'"),
    "date": (dt.date(2026, 1, 2), "2026-01-02"),
    "exception": (ValueError("x"), "x"),
    "subclass of str": (Words("w"), "w"),
    "NaN": (float("nan"), "nan"),
    "infinite": ([float("-inf"), 1, True, None, 0.5], ["-inf", 1, True, None, 0.5]),
    "keys": ({(1, 2): {"a"}, None: 1}, {"(1, 2)": "{'a'}", "null": 1}),
    "long int": ([10**5000, 1], ["<int>", 1]),
    "surrogate": ("\udc80\U0001f40d\u2028", "\udc80\U0001f40d\u2028"),
    "torn": (Torn(a=1), "torn"),
}


@pytest.mark.parametrize(("value", "shown"), ANYTHING.values(), ids=list(ANYTHING))
def test_an_extra_field_may_be_anything(recorder: Recorder, logs: Logs, value: object, shown: object) -> None:
    logs.to(recorder)
    logs.logger.info("hello", extra={"value": value})
    assert posted(recorder)["value"] == shown


@pytest.mark.parametrize("value", [ITSELF, DEEP], ids=["itself", "deep"])
def test_a_value_without_end_is_cut_off(recorder: Recorder, logs: Logs, value: object) -> None:
    logs.to(recorder)
    logs.logger.info("hello", extra={"value": value, "other": 1})
    fields = posted(recorder)
    assert (fields["message"], fields["other"], type(fields["value"])) == ("hello", 1, list)


def test_mapLogRecord_may_be_overridden(recorder: Recorder, logs: Logs) -> None:
    class Short(PostHandler):
        def mapLogRecord(self, record: logging.LogRecord) -> dict[str, object]:
            return {"m": super().mapLogRecord(record)["message"], "host": "h"}

    logs.by(Short(recorder.url))
    logs.logger.info("hello")
    assert posted(recorder) == {"m": "hello", "host": "h"}


def test_a_hook_made_for_HTTPHandler_serves_here(recorder: Recorder, logs: Logs) -> None:
    class Hook:
        def mapLogRecord(self, record: logging.LogRecord) -> dict[str, Any]:
            return record.__dict__ | {"host": "h"}

    class Old(Hook, logging.handlers.HTTPHandler):
        pass

    class New(Hook, PostHandler):
        pass

    logs.by(Old(f"127.0.0.1:{recorder.port}", "/log", method="POST"))
    logs.logger.error("failed: %s", "why", exc_info=ValueError("x"))
    old = dict(urllib.parse.parse_qsl(arrived(recorder).body.decode()))
    logs.by(New(recorder.url))
    logs.logger.handlers[-1].handle(record("failed: %s", "why"))
    new = posted(recorder)
    assert set(old) - set(new) <= {"message", "asctime"}, "a Formatter's"
    assert (new["host"], new["name"], new["args"]) == ("h", old["name"], ["why"])


# --- with a Formatter -----------------------------------------------------------------------------------------------


def test_with_a_formatter_the_body_is_its_output(peer: Recorder, logs: Logs) -> None:
    handler = logs.to(peer)
    handler.setFormatter(logging.Formatter("%(levelname)s|%(message)s"))
    logs.logger.error("gröʃ %s", "\udc80")
    talk = arrived(peer)
    assert bytes(talk.body) == "ERROR|gröʃ ".encode() + b"\\udc80"
    assert talk.header("content-type") == "text/plain; charset=utf-8"
    handler.setFormatter(None)
    logs.logger.error("again")
    assert posted(peer)["message"] == "again"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-ndjson"},
        {b"Content-Type": b"application/x-ndjson"},
        [("X-A", "b"), ("CONTENT-TYPE", "application/x-ndjson")],
        [["content-type", "application/x-ndjson"]],
        (pair for pair in [("content-type", "application/x-ndjson")]),
    ],
)
def test_a_content_type_among_headers_replaces_ours(recorder: Recorder, logs: Logs, headers: Any) -> None:
    handler = logs.to(recorder, headers=headers)
    logs.logger.info("hello")
    talk = arrived(recorder)
    assert json.loads(talk.body)["message"] == "hello"
    assert talk.header("content-type") == "application/x-ndjson"
    handler.setFormatter(logging.Formatter('{"m":"%(message)s"}'))
    logs.logger.info("hello")
    talk = arrived(recorder)
    assert bytes(talk.body) == b'{"m":"hello"}'
    assert talk.data.lower().count(b"\r\ncontent-type: application/x-ndjson\r\n") == 1
    assert talk.data.lower().count(b"content-type") == 1


class FormFormatter(logging.Formatter):
    """The README's."""

    def format(self, record: logging.LogRecord) -> str:
        return urllib.parse.urlencode(record.__dict__)


def test_a_form_arrives_as_from_HTTPHandler(recorder: Recorder, logs: Logs) -> None:
    handler = logs.to(recorder, headers={"Content-Type": "application/x-www-form-urlencoded"})
    handler.setFormatter(FormFormatter())
    made = record("a & b: %s", "ü")
    handler.handle(made)
    ours = arrived(recorder)
    logs.by(logging.handlers.HTTPHandler(f"127.0.0.1:{recorder.port}", "/", method="POST")).handle(made)
    theirs = arrived(recorder)
    assert ours.body == theirs.body
    assert ours.header("content-type") == theirs.header("content-type")


# --- configuration --------------------------------------------------------------------------------------------------

PASSWORD = "pässword"


def configured(**handler: Any) -> dict[str, Any]:
    """Return a configuration as it comes from JSON or YAML."""
    loggers = {LOGGER: {"level": "DEBUG", "propagate": False, "handlers": ["post"]}}
    made = {"version": 1, "disable_existing_loggers": False, "handlers": {"post": handler}, "loggers": loggers}
    loaded: dict[str, Any] = json.loads(json.dumps(made))
    return loaded


NOTHING = {"version": 1, "disable_existing_loggers": False}


@contextlib.contextmanager
def configuring(config: dict[str, Any]) -> Iterator[PostHandler]:
    """Configure logging for the length of the block."""
    logging.config.dictConfig(config)
    logger = logging.getLogger(LOGGER)
    (handler,) = logger.handlers
    assert isinstance(handler, PostHandler)
    try:
        yield handler
    finally:
        logging.config.dictConfig(NOTHING)
        logger.removeHandler(handler)
        handler.close()


@pytest.mark.parametrize("key", ["class", "()"])
def test_dictConfig_knows_every_option(recorder: Recorder, key: str) -> None:
    config = configured(
        **{key: "rawfnf.handler.PostHandler"},
        url="http://collector.test/log",
        level="WARNING",
        params={"a": ["b", "c"]},
        headers={"X-Key": f"ext://{__name__}.LOGGER"},
        auth=["user", f"ext://{__name__}.PASSWORD"],
        method="PUT",
        timeout=3,
        closing="acked",
        linger=2.5,
        connect_to=["127.0.0.1", recorder.port],
        source_address=["127.0.0.1", 0],
        spares=1,
        max_held=3,
    )
    with configuring(config) as handler:
        logging.getLogger(LOGGER).info("too low")
        logging.getLogger(LOGGER).warning("hello")
        talk = arrived(recorder)
        assert talk.data.startswith(b"PUT /log?a=b&a=c HTTP/1.1\r\n")
        assert talk.header("host") == "collector.test"
        assert talk.header("x-key") == LOGGER
        credentials = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
        assert talk.header("authorization") == f"Basic {credentials}"
        assert json.loads(talk.body)["message"] == "hello"
        handler.flush()
        assert handler.stats.acked + sum(handler.stats.answered.values()) == 1


def test_dictConfig_gives_a_formatter_and_tls(tls_recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "CONTEXT", tls_recorder.options["ssl_context"], raising=False)
    config = configured(
        **{"class": "rawfnf.handler.PostHandler"},
        url=tls_recorder.url,
        ssl_context=f"ext://{__name__}.CONTEXT",
        formatter="short",
        headers=[["Content-Type", "text/x-log"], ["X-A", "b"]],
    )
    config["formatters"] = {"short": {"format": "%(levelname)s:%(message)s"}}
    with configuring(config):
        logging.getLogger(LOGGER).info("hello")
        talk = arrived(tls_recorder)
        assert (bytes(talk.body), talk.header("content-type")) == (b"INFO:hello", "text/x-log")


def test_a_new_configuration_leaves_nothing_of_the_old(recorder: Recorder) -> None:
    threads = set(threading.enumerate())
    config = configured(**{"class": "rawfnf.handler.PostHandler"}, url=recorder.url)
    with configuring(config) as first:
        logging.getLogger(LOGGER).info("one")
        assert posted(recorder)["message"] == "one"
        with configuring(config) as second:
            assert second is not first
            logging.getLogger(LOGGER).info("two")
            until(lambda: second.stats.answered, "the answer")
            assert len([thread for thread in threading.enumerate() if thread.name == "rawfnf"]) == 1
    peers = [thread for thread in threading.enumerate() if thread.name == "recorder"]
    assert set(threading.enumerate()) - set(peers) == threads - set(peers)
    assert len([talk for talk in all_ended(recorder) if talk.whole]) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://h/"},
        {"headers": ["no pair"]},
        {"headers": {"Content-Length": "1"}},
        {"auth": ["only one"]},
        {"connect_to": ["h"]},
        {"closing": "later"},
        {"linger": -1},
        {"spares": -1},
        {"max_held": 0},
        {"params": 5},
        {"headers": 5},
    ],
    ids=str,
)
def test_what_is_malformed_is_refused_at_once(options: dict[str, Any]) -> None:
    known = list(logging._handlerList)  # type: ignore[attr-defined]
    with pytest.raises(rawfnf.RequestError):
        PostHandler(**({"url": "http://h/"} | options))
    assert logging._handlerList == known  # type: ignore[attr-defined]


def test_a_handler_shows_no_secret() -> None:
    handler = PostHandler("http://user:secret@h/p?key=secret", headers={"X": "secret"})
    assert repr(handler) == "<PostHandler <rawfnf.Sender <rawfnf.Request POST http://h/p> open> (NOTSET)>"
    handler.close()


def test_importing_rawfnf_loads_no_handler() -> None:
    program = "import rawfnf\nrawfnf.Sender\nprint('rawfnf.handler' in sys.modules, 'logging' in sys.modules)"
    assert in_a_fresh_interpreter(program) == "False False\n"


def test_a_filter_decides_and_may_replace_the_record(recorder: Recorder, logs: Logs) -> None:
    handler = logs.to(recorder)
    handler.addFilter(lambda made: made.msg != "no")
    assert not handler.handle(record("no"))
    if sys.version_info >= (3, 12):
        handler.addFilter(lambda made: logging.makeLogRecord({"msg": f"{made.msg}!"}))
    assert handler.handle(record("yes"))
    assert posted(recorder)["message"] == ("yes!" if sys.version_info >= (3, 12) else "yes")
    assert handed_over(handler) == 1


def test_a_queue_listener_posts(peer: Recorder, logs: Logs) -> None:
    handler = PostHandler(peer.url, **peer.options)
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logs.by(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, handler, respect_handler_level=True)
    listener.start()
    try:
        raise LookupError("gone")
    except LookupError:
        logs.logger.exception("number %d", 1, extra={"user": "u"})
    listener.stop()
    fields = posted(peer)
    handler.close()
    assert "LookupError: gone" in fields["message"] + fields.get("exception", "")
    assert (fields["message"][:8], fields["user"]) == ("number 1", "u")
    assert handler.stats.answered == {204: 1}


# --- nothing is raised, nothing lost in silence ---------------------------------------------------------------------


def test_what_cannot_be_formatted_goes_to_handleError_and_is_counted(recorder: Recorder, logs: Logs) -> None:
    handler = logs.by(keeping_errors(recorder))
    handler.handle(record("%d", "no number"))
    handler.handle(record("hello"))
    (error,) = handler.errors
    assert isinstance(error, TypeError)
    assert posted(recorder)["message"] == "hello"
    assert (handler.stats.posted, handler.stats.failed, handler.dropped) == (1, 1, 1)


def test_logging_says_so_on_stderr(recorder: Recorder, logs: Logs, capsys: pytest.CaptureFixture[str]) -> None:
    logs.to(recorder).handle(record("%d", "no number"))
    told = capsys.readouterr().err
    assert told.startswith("--- Logging error ---\n")
    assert "TypeError: %d format" in told


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_and_its_record_is_counted(
    recorder: Recorder, logs: Logs, stop: type[BaseException]
) -> None:
    class Stops:
        def __str__(self) -> NoReturn:
            logs.logger.info("late")
            raise stop

    handler = logs.by(keeping_errors(recorder))
    with pytest.raises(stop):
        logs.logger.info("%s", Stops())
    assert messages(recorder, 1) == ["late"]
    logs.logger.info("next")
    assert messages(recorder, 1) == ["next"]
    assert handler.errors == []
    assert (handler.stats.posted, handler.dropped) == (2, 1)


@contextlib.contextmanager
def answering_when_told(peer: Recorder) -> Iterator[threading.Event]:
    """Let the peer answer only when the event is set, which is at the end at the latest."""
    told = threading.Event()

    def script(talk: Talk) -> None:
        talk.receive_request()
        if talk.whole:
            told.wait(PATIENCE)
            answer_at_once(talk)

    peer.script = script
    try:
        yield told
    finally:
        told.set()


def test_emit_does_not_wait_for_answers(peer: Recorder, logs: Logs) -> None:
    with answering_when_told(peer) as told:
        handler = logs.to(peer, timeout=None, linger=2 * PATIENCE, max_held=3)
        for number in range(50):
            logs.logger.info("%d", number)
        stats = handler.stats
        assert (stats.posted, stats.held, stats.answered) == (50, 50, {})
        until(lambda: sum(talk.whole for talk in peer.talks) == 3, "as many as may be held")
        told.set()
        assert sorted(map(int, messages(peer, 50))) == list(range(50))
    handler.flush()
    assert handler.stats.answered == {204: 50}


@pytest.mark.parametrize("spares", [0, 8])
def test_what_the_queue_does_not_hold_is_dropped_and_counted(logs: Logs, spares: int) -> None:
    told = threading.Event()
    with recording(script=lambda _: assert_told(told), keep=False) as peer:
        handler = logs.to(peer, timeout=None, linger=0.1, spares=spares)
        handler.setFormatter(logging.Formatter())
        handler._senders[0].warm()
        big = "x" * (20 << 20)  # four are more than 64 MiB, and nobody reads them
        for _ in range(6):
            logs.logger.info(big)
        assert handler.stats.dropped >= 2
        assert handed_over(handler) == 6
        handler.close()
        told.set()
    assert handler.stats.held == 0
    assert handed_over(handler) == 6


def assert_told(told: threading.Event) -> None:
    assert told.wait(PATIENCE)


def test_a_server_that_refuses_holds_nobody_up(logs: Logs) -> None:
    handler = logs.by(PostHandler(f"http://127.0.0.1:{refusing_port()}/", timeout=None, linger=PATIENCE))
    for _ in range(20):
        logs.logger.info("hello")
    assert handler.stats.posted == 20
    until(lambda: handler.stats.held == 0, "that all are counted")
    assert handler.stats.reset == handed_over(handler) == 20
    assert handler.dropped == 0


@linux
def test_close_tells_of_a_black_hole(capsys: pytest.CaptureFixture[str]) -> None:
    with black_hole() as (host, port):
        handler = PostHandler(f"http://{host}:{port}/", timeout=0.1, linger=0.3)
        handler.handle(record("hello"))
        handler.close()
    assert (handler.stats.unanswered + handler.stats.reset, handler.dropped) == (1, 0)
    assert capsys.readouterr().err.count("ConnectError: ") == 1


@linux
def test_a_black_hole_holds_nobody_up(logs: Logs) -> None:
    with black_hole() as (host, port):
        handler = logs.by(PostHandler(f"http://{host}:{port}/", timeout=None, linger=0.1, max_held=2))
        for _ in range(20):
            logs.logger.info("hello")
        stats = handler.stats
        assert (stats.posted, stats.held) == (20, 20), "without a timeout nothing has ended"
        handler.flush()
        handler.close()
        assert handler.stats.unanswered == handed_over(handler) == 20


def test_a_server_that_comes_later_gets_the_records_that_come_then(logs: Logs) -> None:
    port = refusing_port()
    handler = logs.by(PostHandler(f"http://127.0.0.1:{port}/"))
    logs.logger.info("lost")
    until(lambda: handler.stats.reset == 1, "the refusal")
    with recording(address=("127.0.0.1", port)) as peer:
        logs.logger.info("arrives")
        assert messages(peer, 1) == ["arrives"]
        handler.close()
    assert handler.stats.answered == {204: 1}


# --- what nobody would miss is told --------------------------------------------------------------------------------


@pytest.mark.parametrize("spares", [0, 2])
def test_what_keeps_us_from_connecting_is_told_once(logs: Logs, spares: int) -> None:
    with contextlib.closing(Errors(f"http://127.0.0.1:{refusing_port()}/", spares=spares)) as handler:
        handler.errors = []
        for lost in range(1, 4):
            handler.handle(record("hello"))
            until(lambda lost=lost: handler.stats.reset == lost, "the refusal")  # type: ignore[misc]
    (error,) = handler.errors
    assert isinstance(error, rawfnf.ConnectError)
    assert (error.phase, error.errno) == ("connect", errno.ECONNREFUSED)
    assert (handler.stats.reset, handler.dropped) == (3, 0)


def test_a_server_we_do_not_trust_is_told(tls_recorder: Recorder) -> None:
    handler = Errors(tls_recorder.url, ssl_context=ssl.create_default_context())
    handler.errors = []
    handler.handle(record("hello"))
    until(lambda: handler.stats.reset == 1, "the failure")
    handler.handle(record("hello"))
    handler.close()
    (error,) = handler.errors
    assert isinstance(error, rawfnf.ConnectError)
    assert error.phase == "handshake"


@pytest.mark.parametrize("spares", [0, 2])
def test_close_tells_of_it_where_no_record_has(spares: int, capsys: pytest.CaptureFixture[str]) -> None:
    handler = PostHandler(f"http://127.0.0.1:{refusing_port()}/", spares=spares)
    handler.handle(record("hello"))
    handler.close()
    told = capsys.readouterr().err
    assert told.startswith("--- Logging error ---\n")
    assert told.count("nothing listens there") == 1
    handler.close()
    assert capsys.readouterr().err == ""


def test_a_server_that_ends_after_its_answers_is_no_failure(logs: Logs, capsys: pytest.CaptureFixture[str]) -> None:
    with recording() as peer:
        handler = logs.to(peer)
        handler.handle(record("hello"))
        until(lambda: handler.stats.answered == {204: 1}, "the answer")
    until(lambda: handler._senders[0]._pool.last_failure is not None, "that no spare can be opened")
    handler.close()
    assert capsys.readouterr().err == ""


# --- after close() -------------------------------------------------------------------------------------------------


def no_thread() -> bool:
    """Tell whether there is none of a Sender."""
    return all(thread.name != "rawfnf" for thread in threading.enumerate())


def test_after_close_a_record_opens_the_handler_again(peer: Recorder) -> None:
    handler = keeping_errors(peer)
    for number in range(3):
        handler.handle(record(f"{number}"))
        handler.close()
        handler.close()
        assert no_thread()
        assert "closed" in repr(handler)
        assert handler.stats == stats_of(number + 1)
        handler.flush()
    assert handler.errors == []
    assert came(peer) == ["0", "1", "2"]


def stats_of(answered: int) -> rawfnf.Stats:
    """Return the account of so many records that were all answered, with nothing open."""
    return rawfnf.Stats(answered, {204: answered}, 0, 0, 0, 0, 0, 0, 0, 0)


def test_a_handler_outlives_a_configuration_that_does_not_mention_it(peer: Recorder) -> None:
    logger = logging.getLogger(LOGGER)
    config = configured(**{"class": "logging.NullHandler"})
    logger.setLevel(logging.INFO)
    logger.addHandler(handler := keeping_errors(peer))
    try:
        logger.info("before")
        assert posted(peer)["message"] == "before"
        logging.config.dictConfig(config | {"loggers": {}})
        logger.info("after")
        assert posted(peer)["message"] == "after"
    finally:
        logger.removeHandler(handler)
        logging.config.dictConfig(NOTHING)
        handler.close()
    assert handler.stats == stats_of(2)
    assert (handler.dropped, handler.errors) == (0, [])


def test_records_while_another_thread_closes_are_posted(peer: Recorder) -> None:
    handler = keeping_errors(peer)

    def work(name: str) -> None:
        for number in range(50):
            handler.handle(record(f"{name}{number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in "ABCD"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        handler.close()
    handler.close()
    assert no_thread()
    assert handler.errors == []
    assert handler.stats == stats_of(200)
    assert came(peer) == sorted(f"{name}{number}" for name in "ABCD" for number in range(50))


@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("outer", ["a record", "closing"])
def test_a_record_in_the_middle_of_closing_is_posted_or_counted(recorder: Recorder, outer: str, spares: int) -> None:
    answered = []

    def nested(at: int) -> int:
        handler = PostHandler(recorder.url, spares=spares, linger=PATIENCE)
        acts = {"a record": lambda: handler.handle(record("hello")), "closing": handler.close}
        acts["a record"]()
        inner = acts["closing" if outer == "a record" else "a record"]
        with in_the_middle(inner, at=at) as count:
            acts[outer]()
        handler.close()
        assert no_thread()
        answered.append(handler.stats.answered[204])
        lost = handler.stats.unanswered  # of a record whose post() has a spare in hand, in the frames below closing
        assert lost <= (outer == "a record")
        assert handler.stats.posted == answered[-1] + lost
        assert handed_over(handler) == (2 if outer == "a record" or count["places"] >= at else 1)
        return count["places"]

    assert numbers_of_places(nested) > 0
    assert len([talk for talk in all_ended(recorder) if talk.whole]) >= sum(answered)


# --- nothing recurses, nobody waits for another ---------------------------------------------------------------------


class Chatty:
    """Logs when it is shown, itself among it."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.shown = self.deepest = self.depth = 0

    def __str__(self) -> str:
        self.depth += 1
        self.shown, self.deepest = self.shown + 1, max(self.deepest, self.depth)
        self.logger.info("shown: %s", self)
        self.depth -= 1
        return "chatty"


def test_what_an_argument_logs_is_posted_after_it_and_does_not_recurse(recorder: Recorder, logs: Logs) -> None:
    handler, logger = logs.to(recorder), logs.logger
    chatty = Chatty(logger)
    logger.info("first: %s", chatty)
    assert (chatty.shown, chatty.deepest) == (2, 1)
    assert messages(recorder, 2) == ["first: chatty", "shown: chatty"]
    assert (handler.stats.posted, handler.dropped) == (2, 1), "what the second logged is counted, and not posted"
    logger.info("first: %s", chatty)
    assert (handler.stats.posted, handler.dropped) == (4, 2)


def test_a_formatter_a_hook_or_handleError_that_logs_does_not_recurse(recorder: Recorder, logs: Logs) -> None:
    logger = logs.logger

    class Loud(PostHandler):
        def mapLogRecord(self, record: logging.LogRecord) -> dict[str, object]:
            logger.info("from the hook")
            return super().mapLogRecord(record)

        def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002
            logger.info("from handleError")

    class LoudFormatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            logger.info("from the formatter")
            return super().format(record)

    handler = logs.by(Loud(recorder.url))
    logger.info("one")
    assert messages(recorder, 2) == ["from the hook", "one"]
    logger.info("%d", "no number")
    assert messages(recorder, 2) == ["from handleError", "from the hook"]
    handler.setFormatter(LoudFormatter())
    logger.info("two")
    assert sorted(bytes(arrived(recorder).body) for _ in range(2)) == [b"from the formatter", b"two"]
    handler.close()
    assert handler.stats.posted == 6
    assert handed_over(handler) == 6 + handler.dropped


class LoudContext(ssl.SSLContext):
    """A user's own class, which tells of every handshake: in the Sender's thread, for its spares."""

    logger: logging.Logger
    times = 1  # that it tells of it
    handshakes = 1000  # that it tells of

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        self.handshakes -= 1
        if self.handshakes >= 0:
            for _ in range(self.times):
                self.logger.info("a handshake in %s", threading.current_thread().name)
        return super().wrap_bio(*args, **options)


@pytest.fixture
def loud(authority: trustme.CA, logs: Logs) -> LoudContext:
    """A context that tells the logger."""
    context = LoudContext(ssl.PROTOCOL_TLS_CLIENT)
    context.logger = logs.logger
    authority.configure_trust(context)
    return context


@pytest.fixture
def loud_peer(authority: trustme.CA, tls_version: ssl.TLSVersion, loud: LoudContext) -> Iterator[Recorder]:
    """A recorder that is reached with it."""
    with recording(context=server_context(authority, tls_version), options={"ssl_context": loud}) as peer:
        yield peer


def test_what_the_senders_thread_logs_does_not_go_round_for_ever(
    loud_peer: Recorder, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawfnf.handler._FROM_THREAD", 16)  # for the sake of our time
    handler = logs.by(keeping_errors(loud_peer))
    logs.logger.info("one")
    until(lambda: handler.dropped >= 1, "that one is not posted any more")
    until(lambda: handler.stats.held == 0 and handler.stats.spares == 2, "quiet")
    posts = handler.stats.posted
    assert 2 <= posts <= 17
    let_pass(LOOK)
    assert handler.stats.posted == posts
    (error,) = handler.errors
    assert "in a row are from a Sender's thread" in str(error)
    logs.logger.info("two")
    until(lambda: b"two" in b"".join(bytes(talk.body) for talk in loud_peer.talks), "the next from elsewhere")
    handler.close()  # perhaps in the middle of those that this brings forth: what has been posted has its answer
    assert no_thread()
    bodies = [json.loads(talk.body) for talk in all_ended(loud_peer) if talk.whole]
    assert len(bodies) == handler.stats.posted == sum(handler.stats.answered.values())
    assert {body["message"] for body in bodies} == {"one", "two", "a handshake in rawfnf"}


def test_what_closing_brings_forth_opens_nothing(loud_peer: Recorder, logs: Logs) -> None:
    handler = logs.to(loud_peer, spares=0)
    for number in range(20):
        logs.logger.info("%d", number)
        handler.close()  # which connects, in this very thread, and has the context log
        assert no_thread()
    bodies = [json.loads(talk.body)["message"] for talk in all_ended(loud_peer) if talk.whole]
    assert len(bodies) == handler.stats.posted == sum(handler.stats.answered.values())
    assert set(map(str, range(20))) <= set(bodies)
    assert handed_over(handler) >= 40, "a handshake for each, and each is counted"


def test_a_crowd_of_records_from_the_senders_thread_arrives(loud_peer: Recorder, loud: LoudContext, logs: Logs) -> None:
    loud.times, loud.handshakes = 100, 1
    handler = logs.to(loud_peer)
    logs.logger.info("one")
    assert messages(loud_peer, 101) == sorted(["one", *["a handshake in rawfnf"] * 100])
    handler.close()
    assert handler.dropped == 0


class Gate:
    """Holds whoever shows it, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __str__(self) -> str:
        self.reached.set()
        assert self.opened.wait(PATIENCE)
        return "gate"


def test_a_thread_in_the_middle_of_emit_holds_no_other_up(recorder: Recorder) -> None:
    handler = PostHandler(recorder.url)
    gate = Gate()
    slow = threading.Thread(target=handler.handle, args=(record("slow %s", gate),))
    slow.start()
    assert gate.reached.wait(PATIENCE)
    handler.handle(record("quick"))
    assert messages(recorder, 1) == ["quick"]
    gate.opened.set()
    slow.join()
    assert messages(recorder, 1) == ["slow gate"]
    handler.close()


def test_a_flush_by_logging_holds_nobody_up(recorder: Recorder) -> None:
    with answering_when_told(recorder) as told:
        handler = PostHandler(recorder.url, linger=2 * PATIENCE)
        handler.handle(record("one"))
        until(lambda: any(talk.whole for talk in recorder.talks), "the first")

        def flush() -> None:  # as logging.shutdown() does it
            with handler.lock:  # type: ignore[union-attr]
                handler.flush()

        flushing = threading.Thread(target=flush)
        flushing.start()
        handler.handle(record("two"))
        until(lambda: sum(talk.whole for talk in recorder.talks) == 2, "the second")
        assert flushing.is_alive()
        told.set()
        flushing.join()
        handler.close()
    assert handler.stats.answered == {204: 2}


def test_eight_threads_lose_nothing(peer: Recorder, logs: Logs) -> None:
    handler = logs.to(peer, max_held=16)
    begin = threading.Barrier(8)

    def work(name: int) -> None:
        begin.wait(PATIENCE)
        for number in range(40):
            handler.handle(record(f"{name}-{number}", user=name))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert messages(peer, 320) == sorted(f"{name}-{number}" for name in range(8) for number in range(40))
    handler.flush()
    assert handler.stats.answered == {204: 320}
    assert handler.dropped == 0


def test_a_signal_handler_may_log_in_the_middle_of_emit(recorder: Recorder) -> None:
    handler = PostHandler(recorder.url)

    class Raises:
        def __str__(self) -> str:
            signal.raise_signal(signal.SIGINT)
            return "signalled"

    before = signal.signal(signal.SIGINT, lambda *_: handler.handle(record("from the signal handler")))
    try:
        handler.handle(record("%s", Raises()))
    finally:
        signal.signal(signal.SIGINT, before)
    assert messages(recorder, 2) == ["from the signal handler", "signalled"]
    handler.close()
    assert handler.dropped == 0


def test_a_finalizer_may_log_in_the_middle_of_anything(recorder: Recorder) -> None:
    handler = PostHandler(recorder.url)

    class Mourned:
        def __init__(self, number: int) -> None:
            self.number, self.itself = number, self

        def __del__(self) -> None:
            handler.handle(record(f"gone {self.number}"))

    threshold = gc.get_threshold()
    try:
        gc.set_threshold(5, 1, 1)  # wherever anything is made
        for number in range(100):
            Mourned(number)
            handler.handle(record(f"here {number}", made=[[number]]))
        gc.set_threshold(*threshold)
        gc.collect()
    finally:
        gc.set_threshold(*threshold)
    handler.close()
    assert handed_over(handler) == 200
    bodies = [json.loads(talk.body)["message"] for talk in all_ended(recorder) if talk.whole]
    assert len(bodies) == len(set(bodies)) == handler.stats.posted == sum(handler.stats.answered.values())
    assert {f"here {number}" for number in range(100)} <= set(bodies)


@pytest.mark.parametrize("spares", [0, 1])
def test_a_record_in_the_middle_of_anything_is_posted_or_counted(recorder: Recorder, spares: int) -> None:
    handler = PostHandler(recorder.url, spares=spares, linger=PATIENCE)

    def nested(at: int) -> int:
        with in_the_middle(lambda: handler.handle(record("inner")), at=at) as count:
            handler.handle(record("outer"))
        handler.flush()
        return count["places"]

    places = numbers_of_places(nested)
    assert places > 0
    handler.close()
    assert handed_over(handler) == 2 * places + 1, "the last time there was no such place"
    bodies = [json.loads(talk.body)["message"] for talk in all_ended(recorder) if talk.whole]
    assert len(bodies) == handler.stats.posted == sum(handler.stats.answered.values())
    assert bodies.count("outer") == places + 1
    assert bodies.count("inner") > places / 2


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # by its maker, before it had a name
@pytest.mark.parametrize("spares", [0, 1])
def test_after_an_interrupt_anywhere_the_handler_is_of_use(recorder: Recorder, spares: int) -> None:
    def interrupted_at(at: int) -> int:
        handler = PostHandler(recorder.url, spares=spares, linger=PATIENCE)
        handler.handle(record("before"))
        with contextlib.suppress(KeyboardInterrupt), in_the_middle(interrupt, at=at) as count:
            handler.handle(record("interrupted"))
        handler.handle(record(f"again {at}"))
        handler.close()
        assert handed_over(handler) >= 2
        assert handler.stats.posted == sum(handler.stats.answered.values())
        return count["places"]

    places = numbers_of_places(interrupted_at)
    gc.collect()  # and warn here of sockets without names, where nobody minds
    bodies = [json.loads(talk.body)["message"] for talk in all_ended(recorder) if talk.whole]
    assert {f"again {at}" for at in range(1, places + 2)} <= set(bodies)
    assert bodies.count("before") == places + 1


# --- where a process begins and ends --------------------------------------------------------------------------------

LOGS = """
import logging
from rawfnf.handler import PostHandler

def handle(**options):
    handler = PostHandler(url, ssl_context=context, **options)
    logging.root.setLevel("DEBUG")
    logging.root.handlers[:] = [handler]
    return handler
"""

over_either = pytest.mark.parametrize("peer", [None, ssl.TLSVersion.TLSv1_3], ids=["plain", "TLS1.3"], indirect=True)


def came(peer: Recorder) -> list[str]:
    """Return the messages of all records that came, sorted, once every connection has ended."""
    talks = [talk for talk in all_ended(peer) if talk.data]
    assert all(talk.whole for talk in talks)
    return sorted(json.loads(talk.body)["message"] for talk in talks)


ENDS = """
handler = handle()
sys.excepthook = lambda *_: None
logging.info("first")
logging.info("last")
exec(arguments[0])
"""


@over_either
@pytest.mark.parametrize(
    ("last", "code"), [("", 0), ("sys.exit(3)", 3), ("1 / 0", 1), ("logging.shutdown(); handler.close()", 0)]
)
def test_a_record_right_before_the_exit_arrives(start: Start, peer: Recorder, last: str, code: int) -> None:
    peer.script = answers_who_waits
    assert start(LOGS + ENDS, peer, last).end(code) == []
    assert came(peer) == ["first", "last"]


HOOKS_BEFORE = """
import atexit
atexit.register(lambda: logging.info("registered before logging"))
import logging
atexit.register(lambda: logging.info("registered between"))
"""
HOOKS = """
handle()
if arguments[0] == "busy":
    logging.info("first")
atexit.register(lambda: logging.info("registered last"))
"""


@over_either
@pytest.mark.parametrize("habit", ["busy", "silent"])
def test_records_of_exit_hooks_arrive(start: Start, peer: Recorder, habit: str) -> None:
    peer.script = answers_who_waits
    assert start(LOGS + HOOKS, peer, habit, before=HOOKS_BEFORE).end() == []
    hooks = ["registered before logging", "registered between", "registered last"]
    assert came(peer) == ["first", *hooks] if habit == "busy" else hooks


RECONFIGURED = """
handler = handle()
logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
if arguments[0] == "fork":
    logging.info("parent")
    handler.close()
    if os.fork() == 0:
        assert not handler.stats.posted
    else:
        assert os.wait()[1] == 0
logging.info("last")
"""


@over_either
@pytest.mark.parametrize("habit", ["quiet", pytest.param("fork", marks=unix)])
def test_a_record_after_a_new_configuration_and_before_the_exit_arrives(
    start: Start, peer: Recorder, habit: str
) -> None:
    peer.script = answers_who_waits
    before = HOOKS_BEFORE + "import logging.config\n"
    assert start(LOGS + RECONFIGURED, peer, habit, before=before).end() == []
    each = ["last", "registered before logging", "registered between"]
    assert came(peer) == (sorted([*each, *each, "parent"]) if habit == "fork" else each)


LATE_BEFORE = """
import atexit
def late():
    for number in range(5):
        logging.info(f"late {number}")
    tell(handler.stats)
    tell(handler.dropped)
atexit.register(late)
import logging
"""
LATE = """
handler = handle(linger=float(arguments[0]))
logging.raiseExceptions = False
"""


@over_either
def test_records_at_the_exit_are_in_the_account(start: Start, peer: Recorder) -> None:
    peer.script = answers_who_waits
    stats, dropped = start(LOGS + LATE, peer, 5, before=LATE_BEFORE).end()
    assert (stats["posted"], stats["answered"], dropped) == (5, {204: 5}, 0)
    assert came(peer) == [f"late {number}" for number in range(5)]


@over_either
@pytest.mark.parametrize("linger", [0, 1])
def test_records_at_the_exit_share_the_time_it_waits(start: Start, peer: Recorder, linger: float) -> None:
    peer.script = never_answers
    began = time.monotonic()
    stats, dropped = start(LOGS + LATE, peer, linger, before=LATE_BEFORE).end()
    assert time.monotonic() - began < linger + 1 + PATIENCE / 4
    assert stats["posted"] == stats["unanswered"] > 0
    assert (stats["posted"] + dropped, stats["failed"]) == (5, dropped)


@linux
def test_records_at_the_exit_wait_for_no_black_hole(start: Start, recorder: Recorder) -> None:
    began = time.monotonic()
    with black_hole() as (host, port):
        program = LOGS.replace("url,", f"'http://{host}:{port}/',") + LATE
        stats, dropped = start(program, recorder, 1, before=LATE_BEFORE).end()
    assert time.monotonic() - began < 2 + PATIENCE / 4
    assert (stats["posted"], stats["failed"], dropped) == (0, 5, 5)


ONE_AFTER_ANOTHER = """
handle(linger=3, max_held=1)
for number in range(3):
    logging.info(f"{number}")
"""


@over_either
def test_an_exit_waits_no_longer_than_linger(start: Start, peer: Recorder) -> None:
    peer.script = never_answers
    began = time.monotonic()
    assert start(LOGS + ONE_AFTER_ANOTHER, peer).end() == []
    assert time.monotonic() - began < 6, "three, one after another, would take three times linger"
    assert came(peer)[0] == "0"


BUSY_AT_EXIT = """
handler = handle(linger=1)
def work():
    while True:
        if handler.stats.held < 20:
            logging.info("busy")
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
while handler.stats.posted < 50:
    threading.Event().wait(0.001)
logging.raiseExceptions = False  # after logging.shutdown() they find the handler closed
logging.info("last")
"""


@over_either
def test_an_exit_while_daemon_threads_log_is_in_order(start: Start, peer: Recorder) -> None:
    assert start(LOGS + BUSY_AT_EXIT, peer).end() == []
    bodies = [bytes(talk.body) for talk in all_ended(peer) if talk.whole]
    assert len(bodies) > 50
    assert sum(b'"last"' in body for body in bodies) == 1


FORKS = """
handler = handle()
logging.info("before")
handler.flush()
child = os.fork()
if child == 0:
    tell(handler.stats)
    logging.info("child")
    handler.flush()
    tell(handler.stats)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
logging.info("parent")
handler.flush()
tell(handler.stats)
"""


@unix
@over_either
def test_a_forked_child_logs_on_connections_of_its_own(start: Start, peer: Recorder) -> None:
    told = start(LOGS + FORKS, peer).end()
    assert [(stats["posted"], stats["answered"]) for stats in told] == [(0, {}), (1, {204: 1}), (2, {204: 2})]
    assert came(peer) == ["before", "child", "parent"]


FORKS_WHILE_BUSY = """
handler = handle()
def work(name):
    for number in range(30):
        logging.info("%s%d", name, number)
threads = [threading.Thread(target=work, args=(name,)) for name in "AB"]
for thread in threads:
    thread.start()
children = []
for name in "CDEF":
    child = os.fork()
    if child == 0:
        logging.info(name)
        handler.flush()
        if name in "CD":
            os._exit(0)
        sys.exit()
    children.append(child)
for thread in threads:
    thread.join()
for child in children:
    assert os.waitpid(child, 0)[1] == 0
"""


@unix
def test_forks_in_the_middle_of_other_threads_records_lose_nothing(start: Start, recorder: Recorder) -> None:
    assert start(LOGS + FORKS_WHILE_BUSY, recorder).end() == []
    assert came(recorder) == sorted([*"CDEF", *(f"{name}{number}" for name in "AB" for number in range(30))])


WORKERS = """
def work(name):
    handle()
    logging.info(name)

def inherit(name):
    logging.info(name)

if __name__ == "__main__":
    method = multiprocessing.get_context(arguments[0])
    workers = [method.Process(target=work, args=(f"own {number}",)) for number in range(2)]
    inherited = handle()
    if arguments[0] == "fork":
        workers += [method.Process(target=inherit, args=(f"inherited {number}",)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
"""


@unix
@over_either
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_workers_log_right_before_they_end_arrives(
    start: Start, peer: Recorder, tmp_path: Path, method: str
) -> None:
    peer.script = answers_who_waits
    assert start(LOGS + WORKERS, peer, method, path=tmp_path / "program.py").end() == []
    inherited = ["inherited 0", "inherited 1"] if method == "fork" else []
    assert came(peer) == [*inherited, "own 0", "own 1"]


GEVENT = """
handler = handle()
done = []
def work(name):
    for number in range(5):
        logging.info("%s%d", name, number)
        gevent.sleep(0)
    done.append(name)
gevent.joinall([gevent.spawn(work, name) for name in "AB"])
handler.flush()
tell(handler.stats)
"""


def test_under_gevent_records_arrive(start: Start, recorder: Recorder) -> None:
    pytest.importorskip("gevent", reason="gevent has no wheel for this Python")
    before = "from gevent import monkey\nmonkey.patch_all()\nimport gevent\n"
    (stats,) = start(LOGS + GEVENT, recorder, before=before, flags=()).end()
    assert stats["answered"] == {204: 10}
    assert came(recorder) == sorted(f"{name}{number}" for name in "AB" for number in range(5))
