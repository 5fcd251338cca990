"""The server's answer, read by h11: its status, and when it is complete. Pure: no socket."""

from __future__ import annotations

import functools

import h11

# What is read behind an answer's head before it counts as complete, in bytes: enough for any status page, so that the
# server ends the connection itself; bounded, so that an endless answer does not hold the sender.
DISCARDED = 64 * 1024
_PIECE = 1024


@functools.lru_cache(maxsize=16)
def _request(method: bytes) -> h11.Request:
    # An event is immutable and says all that h11 must know to frame an answer (HEAD has no content): made once.
    return h11.Request(method=method, target=b"/", headers=[(b"Host", b""), (b"Connection", b"close")])


def _reader(method: bytes) -> h11.Connection:
    reader = h11.Connection(h11.CLIENT)
    reader.send(_request(method))
    reader.send(h11.EndOfMessage())
    return reader


# Status of answers that came whole and at once, by method and bytes. What h11 says of the same bytes is the same; a
# server repeats itself, but for the second in its Date; and to read an answer takes h11 some 35 µs, as long as all the
# rest of a post on a spare. So up to 64 short answers stay in memory, word for word.
_remembered: dict[tuple[bytes, bytes], int] = {}
_REMEMBERED, _SHORT = 64, 1024


def _remember(method: bytes, data: bytes, status: int) -> None:
    if len(_remembered) >= _REMEMBERED:
        _remembered.clear()
    _remembered[method, data] = status


class NotAnAnswerError(Exception):
    """What the server sent, or how it ended, is no HTTP/1 response."""


class Answer:
    """An answer on its way in. `status` is None until the head of the final response is there; 1xx are skipped.

    h11 as a client that has sent no request reads a 200 but rejects a 103, so it is told of a request first; its bytes
    are of no use, the real ones are in _request.py.
    """

    __slots__ = ("_discarded", "_method", "_reader", "_refused", "complete", "status")

    def __init__(self, method: bytes) -> None:
        self._method = method
        self._reader: h11.Connection | None = None
        self._discarded = 0
        self._refused = ""
        self.status: int | None = None
        self.complete = False

    def receive(self, data: bytes) -> None:
        """Take bytes as they came, b"" for EOF. h11 bounds a head to 16 KiB; content is dropped at once.

        Raises:
            NotAnAnswerError: these bytes, or an end here, are no HTTP/1 response. Not after the final head: what is
                wrong with the rest only ends it.

        """
        if self._refused:  # asked again, h11 would say the same, and keep what it cannot read
            raise NotAnAnswerError(self._refused)
        if self.complete:
            return
        if self._reader is None:
            status = _remembered.get((self._method, data))
            if status is None:
                self._reader = _reader(self._method)
                self._receive(self._reader, data)
                if self.complete and self.status is not None and len(data) <= _SHORT:
                    _remember(self._method, data, self.status)
            else:
                self.status, self.complete = status, True
            return
        self._receive(self._reader, data)

    def _receive(self, reader: h11.Connection, data: bytes) -> None:
        # h11 looks at the length of a head when it runs out of data: in pieces, so that it does not matter how much
        # came at once.
        try:
            for start in range(0, len(data) or 1, _PIECE):
                piece = data[start : start + _PIECE]
                if self.status is not None:
                    self._discarded += len(piece)  # as it came: a chunk of one byte is six
                reader.receive_data(piece)
                self._read(reader)
                self.complete = self.complete or self._discarded >= DISCARDED
        except h11.RemoteProtocolError as error:
            if self.status is None:
                why = f"it sent what is no HTTP/1 response ({error})" if data else "it closed without an answer"
                self._refused = why
                raise NotAnAnswerError(why) from error
            self.complete = True

    def _read(self, reader: h11.Connection) -> None:
        while not self.complete and (event := reader.next_event()) is not h11.NEED_DATA:
            self._note(event)

    def _note(self, event: object) -> None:
        if isinstance(event, h11.Response):
            self.status = event.status_code
        elif not isinstance(event, (h11.InformationalResponse, h11.Data)):  # EndOfMessage; ConnectionClosed behind it
            self.complete = True
