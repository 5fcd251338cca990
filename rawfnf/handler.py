"""PostHandler: log records, posted without waiting for the answer.

Theory of operation. emit() makes a body of the record and hands it to a QueueingSender, which neither connects nor
waits in its caller: with a ready spare the bytes go to the kernel, otherwise to the Sender's thread. What can go wrong
around that is what this file is about:

- Something may log in the middle of emit(): str() of an argument, a Formatter, a finalizer, a signal handler. To post
  that at once would be a recursion, perhaps without end. It is put off until the record at hand has been posted. What
  is logged while *that* is posted is counted and not posted, so that there is an end.
- Something may log in a Sender's thread: a finalizer, or an SSLContext of the user's own class. If it is our posts that
  make it log, each record brings forth the next, for ever. So only some may come from there for each from elsewhere.
- logging.config closes all handlers, and leaves them with loggers that it does not mention. So close() is no end: the
  next record opens another Sender. Not one that closing itself has brought forth, which would never come to an end.
- A record may come at the interpreter's exit, from a hook, when the Senders are closed. It gets one of its own, and is
  waited for. All waits at the exit share one time: see _Patience.
- No lock is held in emit(): threads wait neither for each other nor for a flush. The Sender has its own.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import logging
import math
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from ._errors import RawfnfError, RequestError, not_prepared
from ._pool import Stats
from ._request import Request, json_encode
from ._sender import QueueingSender, Sender

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Container, Iterator

    from ._request import Auth, ConnectTo, Fields, Message, Params
    from ._route import Closing

S = TypeVar("S", bound=Sender)

# What the body calls its own: mapLogRecord() says what it is.
_ALWAYS = {"timestamp", "level", "logger", "message"}
_FIELDS = _ALWAYS | {"exception", "stack", "file", "line", "function", "process", "thread", "task"}
# What every record has. What it has besides is `extra`, but for what a newer Python or a Formatter gives it.
_ATTRIBUTES = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__)
_STANDARD = _ATTRIBUTES | {"message", "asctime", "taskName"}
_JSON = (("Content-Type", "application/json"),)
_TEXT = (("Content-Type", "text/plain; charset=utf-8"),)
# What a Sender's thread is called, and how many records may come from there in a row: a collector of garbage that runs
# there may find many objects to log, such as asyncio's tasks that were never awaited.
_THREAD, _FROM_THREAD = "rawfnf", 1000
_ECHOES = f"more than {_FROM_THREAD} records in a row are from a Sender's thread: does posting bring them forth?"
# Seconds that records may take, all together, when `linger` is used up at the interpreter's exit.
_LATE = 1.0
_TOO_LATE = "the interpreter's exit has waited for as long as it may: raise linger"
# How many levels of a value that json refuses are kept as JSON; what is deeper becomes text.
_DEEPEST = 16

# Set before anything is closed: hooks are run in reverse, and what closes Senders and handlers was loaded before this.
_exit = threading.Event()
atexit.register(_exit.set)


class PostHandler(logging.Handler):
    """A logging handler that posts each record, and does not wait for the answer.

    emit() takes the time to make the body, and to hand it to the kernel or, while no connection is ready, to the
    background thread. It never raises: what goes wrong with a record goes to handleError(), as in every handler. So
    does why no connection can be opened, with the next record or close(), and each reason once.

    The records that came are `stats.posted + dropped`. Those that were lost are `dropped`, `stats.reset`,
    `stats.unanswered` (it may have arrived), and the answers other than 2xx. There is no retry.

    Without a Formatter the body is what `mapLogRecord` returns, as JSON. With one it is exactly what the Formatter
    returns, in UTF-8, as text/plain. A Content-Type among `headers` replaces either.

    close(), and so an exit of the interpreter, waits for what is under way, for `linger` seconds at most. A record that
    comes after close() opens everything again: logging.config closes handlers that are still in use. The constructor
    touches no network; the first record starts the thread. Thread-safe; after a fork the child starts empty.

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
        self._patience = _Patience(linger)
        self._new_sender = functools.partial(
            _LogSender, self._patience, url, spares=spares, max_held=max_held, when_busy="drop", **options
        )
        self._senders = {0: self._new_sender()}  # all but the last are closed; setdefault() needs no lock
        self._late_sender = functools.partial(Sender, url, background=False, **options)
        self._late: list[Stats] = []  # of those Senders
        self._text = None if typed else _TEXT
        self._here = _Here()
        self._from_thread = 0  # records in a row
        self._told: set[str] = set()
        super().__init__(level)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._senders[len(self._senders) - 1]!r} ({logging.getLevelName(self.level)})>"

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
            self._lose()
        else:
            self._here.late.append(record)

    def _post_all(self, records: list[logging.LogRecord]) -> None:
        for record in records:
            self._post(record)

    def _post(self, record: logging.LogRecord) -> None:
        if self._echoes(record):
            self._lose()
            self._tell(record, RecursionError(_ECHOES))
            return
        try:
            try:
                body = self._body(record)
            except BaseException:  # an interrupt's record counts as well
                self._lose()
                raise
            self._hand_over(record, body, None if self.formatter is None else self._text)
        except Exception:  # noqa: BLE001  # the application is not to fail because of its log
            self.handleError(record)

    def _echoes(self, record: logging.LogRecord) -> bool:
        """Tell whether it is one too many from a Sender's thread. Threads that meet here may let one more pass."""
        self._from_thread = self._from_thread + 1 if _from_sender(record) else 0
        return self._from_thread > _FROM_THREAD

    def _hand_over(self, record: logging.LogRecord, body: bytes, headers: Fields | None) -> None:
        while True:
            number = len(self._senders)
            sender = self._senders[number - 1]
            if sender.take(body, headers):
                self._tell(record, sender.failure)
                return
            if _from_sender(record) or any(closed.works_here for closed in list(self._senders.values())):
                self._lose()  # closing may have brought it forth
                return
            if _exit.is_set():
                self._post_late(record, body, headers)
                return
            self._senders.setdefault(number, self._made(self._new_sender))  # of two threads here one wins

    def _post_late(self, record: logging.LogRecord, body: bytes, headers: Fields | None) -> None:
        """Post at the interpreter's exit, and wait for it, while there is time for that."""
        left = self._patience.left(_LATE)
        if not left:
            self._lose()
            self._tell(record, RequestError(_TOO_LATE))
            return
        sender = self._made(functools.partial(self._late_sender, timeout=left / 2, linger=left / 2))
        try:
            with self._patience.used(), sender:
                sender.post(body, headers=headers)
        finally:
            self._late.append(sender.stats)

    def _made(self, make: Callable[[], S]) -> S:
        try:
            return make()
        except BaseException:  # out of descriptors for reading certificates
            self._lose()
            raise

    def _lose(self) -> None:
        """Account for a record that is not posted."""
        self._senders[0].lose()

    def _tell(self, record: logging.LogRecord, error: Exception | None) -> None:
        """Let handleError() tell of what other records suffer from as well, but of each such thing once."""
        if error is None or str(error) in self._told:
            return
        self._told.add(str(error))
        try:
            raise copy.copy(error)  # which holds on to no frames
        except Exception:  # noqa: BLE001  # handleError() looks for it there
            self.handleError(record)

    # --- life ------------------------------------------------------------------------------------------------------

    @property
    def stats(self) -> Stats:
        """How the posts so far ended, see `rawfnf.Stats`. `failed`: also records that were not handed over at all."""
        return _sum([*(sender.stats for sender in list(self._senders.values())), *self._late])

    @property
    def dropped(self) -> int:
        """How many records were lost before they were handed over.

        They found the queue full, could not be made a body of, were logged where that would have gone on for ever, or
        came so late in the interpreter's exit that they could not be sent. What is lost later is in `stats`.
        """
        stats = self.stats
        return stats.dropped + stats.failed

    def flush(self) -> None:
        """Wait until nothing is under way, for at most `linger` seconds; `stats.held` tells what still is."""
        self._senders[len(self._senders) - 1].linger()

    def close(self) -> None:
        """Wait as flush() does, then close everything, and end the thread. A record that comes later opens it again."""
        super().close()
        for sender in list(self._senders.values()):
            sender.close()
            stats = sender.stats
            if stats.reset or stats.unanswered:  # otherwise no record has suffered from it
                self._tell(logging.makeLogRecord({"name": __name__, "msg": "at close()"}), sender.failure)


def _from_sender(record: logging.LogRecord) -> bool:
    return (record.threadName or threading.current_thread().name) == _THREAD  # logging.logThreads may be False


class _Patience:
    """How long the interpreter's exit may wait for a handler: `linger`, for all its waits together."""

    def __init__(self, linger: float) -> None:
        self._linger = linger
        self._used = 0.0

    def left(self, more: float = 0.0) -> float:
        """Return how many seconds are left."""
        return max(0.0, self._linger + more - self._used)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Count the time of this block, if it is the exit that waits."""
        began = monotonic()
        try:
            yield
        finally:
            if _exit.is_set():
                self._used += monotonic() - began


class _LogSender(QueueingSender):
    """Is asked for its posts' account when it is closed, too, and shares what time there is at the exit."""

    def __init__(self, patience: _Patience, url: str, **options: Any) -> None:
        self._patience = patience
        super().__init__(url, **options)

    @property
    def failure(self) -> RawfnfError | None:
        """Why the last attempt to connect failed; None if there are connections all the same."""
        return None if self._pool.quick() else self._pool.last_failure

    @property
    def works_here(self) -> bool:
        """Tell whether this thread is in the middle of what it does with its connections."""
        return self._pump._in_the_middle()  # noqa: SLF001  # the other half of a Sender

    def take(self, body: bytes, headers: Fields | None) -> bool:
        """Post, unless it is closed."""
        try:
            self.post(body, headers=headers)
        except RequestError:
            if not self._pool.closed:
                raise
            return False
        return True

    def lose(self) -> None:
        """Account for a post that was never asked for."""
        self._pool.fail()

    def linger(self) -> None:
        """Wait until nothing is held, for at most `linger` seconds."""
        unable = contextlib.suppress(RawfnfError)  # out of descriptors to wait with: nothing is lost by that
        with self._patience.used(), unable:
            self.flush(self._patience.left())

    def close(self) -> None:
        """Take no more posts, and flush within the same bound."""
        with self._patience.used():
            self._pump.close(self._patience.left())

    def _failed(self, message: Message | None, error: BaseException) -> None:
        if isinstance(error, RequestError) and self._pool.closed:  # take() says so, and another will have it
            if message is not None:
                self._pool.let_go(message)
        else:
            super()._failed(message, error)

    def _close_at_exit(self) -> None:
        _exit.set()  # a worker of multiprocessing has told nobody else
        super()._close_at_exit()


def _sum(all_stats: list[Stats]) -> Stats:
    """Return the counts of several Senders as if they were one's."""
    answered: dict[int, int] = {}
    for stats in all_stats:
        for status, posts in stats.answered.items():
            answered[status] = answered.get(status, 0) + posts
    counts = {name: sum(getattr(stats, name) for stats in all_stats) for name in Stats._fields if name != "answered"}
    return Stats(answered=answered, **counts)


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
            int.__repr__(value)  # ValueError: more digits than sys.set_int_max_str_digits() allows
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if levels and isinstance(value, Mapping):
            return {_plain_key(key): _plain(item, levels - 1) for key, item in list(value.items())}
        if levels and isinstance(value, (list, tuple)):
            return [_plain(item, levels - 1) for item in list(value)]
    except Exception:  # noqa: BLE001, S110  # a class of its own mind: its text has to do
        pass
    return _as_text(value)


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
