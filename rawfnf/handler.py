"""PostHandler: log records, posted without waiting for the answer.

Theory of operation. emit() makes a body of the record and hands it to a QueueingSender, which neither connects nor
waits in its caller: with a ready spare the bytes go to the kernel, otherwise to the Sender's thread. What can go wrong
around that is what this file is about:

- Something may log in the middle of emit(): str() of an argument, a Formatter, a finalizer, a signal handler. To post
  that at once would be a recursion, perhaps without end. It is put off until the record at hand has been posted. What
  is logged while *that* is posted is counted and not posted, so that there is an end.
- Something may log in a Sender's thread: a finalizer, or an SSLContext of the user's own class. If it is our posts that
  make it log, each record brings forth the next, for ever. So only some may come from there for each from elsewhere.
- A record may come after logging.shutdown(), from an exit hook. It gets a Sender of its own, and is waited for.
- No lock is held in emit(): threads wait neither for each other nor for a flush. The Sender has its own.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from time import monotonic
from typing import TYPE_CHECKING, Any

from ._errors import RawfnfError, not_prepared
from ._request import Request, json_encode
from ._sender import QueueingSender, Sender

if TYPE_CHECKING:
    import ssl
    from collections.abc import Container

    from ._pool import Stats
    from ._request import Auth, ConnectTo, Fields, Params
    from ._route import Closing

# What the body calls its own: mapLogRecord() says what it is.
_ALWAYS = {"timestamp", "level", "logger", "message"}
_FIELDS = _ALWAYS | {"exception", "stack", "file", "line", "function", "process", "thread", "task"}
# What every record has. What it has besides is `extra`, but for what a newer Python or a Formatter gives it.
_ATTRIBUTES = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__)
_STANDARD = _ATTRIBUTES | {"message", "asctime", "taskName"}
_JSON = (("Content-Type", "application/json"),)
_TEXT = (("Content-Type", "text/plain; charset=utf-8"),)
# What a Sender's thread is called, and how many records may come from there in a row.
_THREAD, _FROM_THREAD = "rawfnf", 16
# How many levels of a value that json refuses are kept as JSON; what is deeper becomes text.
_DEEPEST = 16

# Set before logging.shutdown() is run: hooks are run in reverse, and logging was loaded before this file.
_exit = threading.Event()
atexit.register(_exit.set)


class PostHandler(logging.Handler):
    """A logging handler that posts each record, and does not wait for the answer.

    emit() takes the time to make the body, and to hand it to the kernel or, while no connection is ready, to the
    background thread. It never raises: what goes wrong with a record goes to handleError(), as in every handler. A
    record that finds the thread's queue full is counted, and lost. The records that came are `stats.posted + dropped`.

    Without a Formatter the body is what `mapLogRecord` returns, as JSON. With one it is exactly what the Formatter
    returns, in UTF-8, as text/plain. A Content-Type among `headers` replaces either.

    close(), and so an exit of the interpreter, waits for what is under way, for `linger` seconds at most. The
    constructor touches no network; the first record starts the thread. Thread-safe; after a fork the child starts
    empty.

    Args:
        url, params, headers, auth, method: as for `rawfnf.Request`.
        level: as for `logging.Handler`.
        timeout, closing, linger, ssl_context, connect_to, source_address, spares, max_held: as for `rawfnf.Sender`.
            Wherever a tuple is asked for, a list does as well: JSON and YAML have no tuples.

    Raises:
        RequestError: malformed arguments.
        ConnectError: the system's certificates cannot be read.

    """

    # Has logging.shutdown() call close() alone, which flushes as well: it lingers once. Heeded from Python 3.12 on.
    flushOnClose = False  # noqa: N815  # logging's name

    def __init__(
        self,
        url: str,
        *,
        level: int | str = logging.NOTSET,
        params: Params | None = None,
        headers: Fields | None = None,
        auth: Auth | None = None,
        method: str = "POST",
        timeout: float | None = 5.0,
        closing: Closing = "answered",
        linger: float = 5.0,
        ssl_context: ssl.SSLContext | None = None,
        connect_to: ConnectTo | None = None,
        source_address: tuple[str, int] | str | None = None,
        spares: int = 2,
        max_held: int = 64,
    ) -> None:
        options: dict[str, Any] = {
            "params": _settled(params),
            "auth": _settled(auth),
            "method": method,
            "timeout": timeout,
            "closing": closing,
            "linger": linger,
            "ssl_context": ssl_context,
            "connect_to": _settled(connect_to),
            "source_address": _settled(source_address),
        }
        fields = _settled(headers)
        typed = _says_type(url, fields)
        pairs = tuple(fields.items() if isinstance(fields, Mapping) else fields or ())
        options["headers"] = pairs if typed else pairs + _JSON
        self._sender = _LogSender(url, spares=spares, max_held=max_held, when_busy="drop", **options)
        self._late_sender = functools.partial(Sender, url, background=False, **options)
        self._text = None if typed else _TEXT
        self._here = _Here()
        self._from_thread = 0  # records in a row
        self._ended = self._ended_at_exit = False
        super().__init__(level)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._sender!r} ({logging.getLevelName(self.level)})>"

    # --- what is posted --------------------------------------------------------------------------------------------

    def mapLogRecord(self, record: logging.LogRecord) -> dict[str, object]:  # noqa: N802  # HTTPHandler's name
        """Return what becomes the JSON object: override it to post other fields, or to add some.

        HTTPHandler's returns `record.__dict__`; the override of a subclass that comes from there may do so as well.

        - timestamp: when it was logged, in UTC, RFC 3339: 2026-11-22T15:04:05.678901Z
        - level, logger, message: "ERROR", "app.db", and the message with its arguments put in
        - exception: type, message and traceback, as text; stack: what stack_info=True asks for. Only where there is one
        - file, line, function: where it was logged
        - process: its number; thread, task: their names. None of them that logging was told to leave out
        - whatever `extra` holds, under its own name; one that is taken already gets an underscore

        Values may be anything: what has no form in JSON is posted as its str().
        """
        fields: dict[str, object] = {
            "timestamp": _timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info or record.exc_text:
            _add(fields, "exception", _exception(record))
        _add(fields, "stack", record.stack_info)
        fields["file"] = record.pathname
        fields["line"] = record.lineno
        _add(fields, "function", record.funcName)
        _add(fields, "process", record.process)
        _add(fields, "thread", record.threadName)
        _add(fields, "task", getattr(record, "taskName", None))
        if len(record.__dict__) != len(_ATTRIBUTES):
            for name, value in list(record.__dict__.items()):
                if name not in _STANDARD:
                    fields[_free(name, fields)] = value
        return fields

    def _body(self, record: logging.LogRecord) -> bytes:
        if self.formatter is None:
            return _json(self.mapLogRecord(record))
        return _utf8(self.format(record))

    # --- the way of a record ---------------------------------------------------------------------------------------

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit the record if the filters let it pass; logging's own would hold the handler's lock meanwhile."""
        passed: object = self.filter(record)
        if isinstance(passed, logging.LogRecord):  # from Python 3.12 on a filter may replace it
            record = passed
        if passed:
            self.emit(record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over the record, without waiting. Never raises; `stats` and `dropped` tell what became of it."""
        here = self._here
        if here.posting:  # in this very thread, further down the stack
            self._put_off(record)
            return
        late: list[logging.LogRecord] = []
        try:
            here.posting, here.late = True, late
            try:
                self._post(record)
            finally:
                here.late = None
                self._post_all(late)
        finally:
            here.posting = False

    def _put_off(self, record: logging.LogRecord) -> None:
        if self._here.late is None:
            self._sender.lose()
        else:
            self._here.late.append(record)

    def _post_all(self, records: list[logging.LogRecord]) -> None:
        for record in records:
            self._post(record)

    def _post(self, record: logging.LogRecord) -> None:
        if self._echoes(record):
            self._sender.lose()
            return
        try:
            try:
                body = self._body(record)
            except BaseException:  # an interrupt's record counts as well
                self._sender.lose()
                raise
            self._hand_over(body, None if self.formatter is None else self._text)
        except Exception:  # noqa: BLE001  # the application is not to fail because of its log
            self.handleError(record)

    def _hand_over(self, body: bytes, headers: Fields | None) -> None:
        if not self._ended_at_exit:
            self._sender.post(body, headers=headers)
            return
        with self._late_sender() as sender:
            sender.post(body, headers=headers)

    def _echoes(self, record: logging.LogRecord) -> bool:
        """Tell whether it is one too many from a Sender's thread. Threads that meet here may let one more pass."""
        name = record.threadName or threading.current_thread().name  # logging.logThreads may be False
        self._from_thread = self._from_thread + 1 if name == _THREAD else 0
        return self._from_thread > _FROM_THREAD

    # --- life ------------------------------------------------------------------------------------------------------

    @property
    def stats(self) -> Stats:
        """How the posts so far ended, see `rawfnf.Stats`. `failed`: also records that no body could be made of."""
        return self._sender.stats

    @property
    def dropped(self) -> int:
        """How many records were not handed over: those that failed, and those that found the queue full."""
        stats = self._sender.stats
        return stats.dropped + stats.failed

    def flush(self) -> None:
        """Wait until nothing is under way, for at most `linger` seconds; `stats.held` tells what still is."""
        self._sender.linger()

    def close(self) -> None:
        """Wait as flush() does, then close everything, and end the thread. May be called again."""
        if not self._ended:
            self._ended, self._ended_at_exit = True, _exit.is_set()
        super().close()
        self._sender.close()


class _LogSender(QueueingSender):
    """Is closed by logging.shutdown(), through its handler: until then exit hooks may log."""

    _lingered = 0.0  # seconds, at the interpreter's exit

    def linger(self) -> None:
        """Wait until nothing is held, for at most `linger` seconds; at the exit that is for all such waits together."""
        began = monotonic()
        with contextlib.suppress(RawfnfError):  # out of descriptors to wait with: nothing is lost by that
            self.flush(self._patience())
        if _exit.is_set():
            self._lingered += monotonic() - began

    def lose(self) -> None:
        """Account for a post that was never asked for."""
        self._pool.fail()

    def close(self) -> None:
        """Take no more posts, and flush within the same bound."""
        self._pump.close(self._patience())

    def _patience(self) -> float:
        return max(0.0, self._linger - self._lingered)

    def _close_at_exit(self) -> None:
        self.linger()


class _Here(threading.local):
    """What this thread is in the middle of."""

    posting = False
    late: list[logging.LogRecord] | None = None  # logged meanwhile; None: there is to be no more


# --- bodies --------------------------------------------------------------------------------------------------------


def _timestamp(seconds: float) -> str:
    """Return RFC 3339, section 5.6."""
    whole, microseconds = divmod(round(seconds * 1e6), 1_000_000)
    return f"{_date_and_time(whole)}.{microseconds:06d}Z"


@functools.lru_cache(maxsize=4)  # datetime takes as long as all the rest of a body
def _date_and_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()[: -len("+00:00")]


def _add(fields: dict[str, object], name: str, value: object) -> None:
    if value is not None:
        fields[name] = value


def _free(name: str, fields: Container[str]) -> str:
    """Return a name for one of `extra` that does not replace anything."""
    while name in _FIELDS or name in fields:
        name += "_"
    return name


_encode = json_encode()
# Knows how to format exceptions.
_FORMATTER = logging.Formatter()


def _exception(record: logging.LogRecord) -> str | None:
    if record.exc_info and record.exc_info[0] is None:  # exc_info=True, and there was none
        return None
    if record.exc_text or not record.exc_info:  # another handler's Formatter has done it
        return record.exc_text
    return _FORMATTER.formatException(record.exc_info)


def _utf8(text: str) -> bytes:
    """Encode what must be encoded: a lone surrogate, as in the name of a file, becomes its escape, in JSON as well."""
    return text.encode("utf-8", "backslashreplace")


def _as_text(value: object) -> str:
    """Return a value's str(), or what else can be said of it."""
    for way in (str, repr):
        try:
            return way(value)
        except Exception:  # noqa: BLE001, PERF203, S112  # its own code may raise anything
            continue
    return f"<{type(value).__name__}>"


def _json(fields: Mapping[str, object]) -> bytes:
    """Return compact JSON, whatever is in there."""
    try:
        text = _encode(fields)
    except Exception:  # noqa: BLE001  # a value that holds itself; NaN; a key, or a class, of any kind
        text = _encode(_plain(fields, _DEEPEST))
    return _utf8(text)


def _plain(value: object, levels: int) -> object:
    """Return a form of the value that json surely takes."""
    try:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return _plain_int(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if levels and isinstance(value, Mapping):
            return {_plain_key(key): _plain(item, levels - 1) for key, item in list(value.items())}
        if levels and isinstance(value, (list, tuple)):
            return [_plain(item, levels - 1) for item in list(value)]
    except Exception:  # noqa: BLE001, S110  # a class of its own mind: its text has to do
        pass
    return _as_text(value)


def _plain_int(value: int) -> int | str:
    try:
        int.__repr__(value)
    except ValueError:  # more digits than sys.set_int_max_str_digits() allows
        return hex(value)
    return value


def _plain_key(key: object) -> str | int | None:
    return key if key is None or isinstance(key, (str, int)) else _as_text(key)


# --- arguments -----------------------------------------------------------------------------------------------------


def _settled(value: Any) -> Any:
    """Return an argument for good: lists as tuples, and with what logging.config's own classes convert on access."""
    if isinstance(value, dict):
        return {key: _settled(value[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return tuple(_settled(value[place]) for place in range(len(value)))
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
        return tuple(value)
    return value


def _says_type(url: str, fields: Any) -> bool:
    """Tell whether there is a Content-Type among these fields; RequestError if they are none."""
    try:
        head = Request(url, headers=fields).encode()
    except (OSError, ImportError) as error:
        raise not_prepared(error) from error
    return b"\r\ncontent-type:" in head.lower()
