"""_request: every form of data, fields and credentials → exact bytes, with h11 and requests as the oracles."""

from __future__ import annotations

import array
import base64
import ctypes
import gzip
import io
import json as json_module
import mmap
import os
import re
import sys
import tempfile
import threading
import traceback
import tracemalloc
from collections import OrderedDict
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import h11
import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rawfnf
from rawfnf import Request, RequestError
from rawfnf._request import PIECE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URL = "http://h/p"
UA = b"User-Agent: rawfnf/%b\r\n" % rawfnf.__version__.encode()
HEAD = b"POST /p HTTP/1.1\r\nHost: h\r\n" + UA + b"Connection: close\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
JSON = b"Content-Type: application/json\r\n"


def whole(body: bytes, content_type: bytes = b"") -> bytes:
    """Return a POST of a body of known length to URL."""
    return HEAD + content_type + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(*chunks: bytes) -> bytes:
    """Return a POST of these chunks to URL."""
    written = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + written + b"0\r\n\r\n"


def received(wire: bytes) -> tuple[h11.Request, bytes]:
    """Return what a server, h11's, makes of the bytes: exactly one request, and its body."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(wire)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while isinstance(event := server.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert server.trailing_data == (b"", False)
    return request, body


def values(wire: bytes, name: bytes) -> list[bytes]:
    """Return the values of every field of this name, in order."""
    return [value for field, value in received(wire)[0].headers if field == name.lower()]


def everything_an_error_shows(error: BaseException) -> str:
    """Return str, repr and formatted traceback of an error and of whatever it is chained to, suppressed or not."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and link not in seen:
            seen.append(link)
            waiting += [link.__cause__, link.__context__]
    shown = [f"{link}\n{link!r}\n{''.join(traceback.format_exception(link))}" for link in seen]
    return "\n".join(shown)


# --- bodies in memory ----------------------------------------------------------------------------------------------

WHOLE: list[tuple[Any, bytes]] = [
    (None, whole(b"")),
    (b"", whole(b"")),
    (b"abc", whole(b"abc")),
    (b"\0\r\n\xff", whole(b"\0\r\n\xff")),
    ("", whole(b"")),
    ("a=1&b=2", whole(b"a=1&b=2")),
    ("grüße €😀", whole("grüße €😀".encode())),
    (bytearray(b"abc"), whole(b"abc")),
    (bytearray(), whole(b"")),
    (memoryview(b"abc"), whole(b"abc")),
    (memoryview(b"abcdef")[1:4], whole(b"bcd")),
    (memoryview(b""), whole(b"")),
    (memoryview(array.array("H", [0x6161, 0x6262])), whole(b"aabb")),
    (memoryview(b"abcdef").cast("B", (2, 3)), whole(b"abcdef")),
    (array.array("B", b"abc"), whole(b"abc")),
    (array.array("i"), whole(b"")),
    (array.array("d", [0.0, 0.0]), whole(bytes(16))),
    ((ctypes.c_uint16 * 2)(0x6161, 0x6262), whole(b"aabb")),
    ({"a": "1", "b": "2"}, whole(b"a=1&b=2", FORM)),
    ({}, whole(b"")),
    ([], whole(b"")),
    ((), whole(b"")),
    ({"a": None, "b": ""}, whole(b"b=", FORM)),
    ({"a": ["1", "2", None], "b": ("x",), "c": []}, whole(b"a=1&a=2&b=x", FORM)),
    ({"a": {"k": "v"}}, whole(b"a=k", FORM)),
    ({"a": [["1", "2"], "3"]}, whole(b"a=1&a=2&a=3", FORM)),
    ({"ü ": "ä&=+/?#%~", b"\xff": b"\x00 "}, whole(b"%C3%BC+=%C3%A4%26%3D%2B%2F%3F%23%25~&%FF=%00+", FORM)),
    ({"i": -1, "f": 1.5, "t": True, 7: 8}, whole(b"i=-1&f=1.5&t=True&7=8", FORM)),
    ([("a", "1"), ("a", "2")], whole(b"a=1&a=2", FORM)),
    ((("a", "1"), ["b", 2]), whole(b"a=1&b=2", FORM)),
    (OrderedDict(b="1", a="2"), whole(b"b=1&a=2", FORM)),
    (MappingProxyType({"a": "1"}), whole(b"a=1", FORM)),
]


@pytest.mark.parametrize(("data", "wire"), WHOLE)
def test_data_in_memory_goes_out_with_its_length(data: Any, wire: bytes) -> None:
    assert Request(URL).encode(data) == wire


def test_a_memory_map_goes_out_whole_and_can_be_closed_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"mapped")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        mapped.seek(3)  # a buffer is sent whole: it has no position
        assert Request(URL).encode(mapped) == whole(b"mapped")


def test_a_bytearray_is_free_again_afterwards() -> None:
    body = bytearray(b"abc")
    Request(URL).encode(body)
    body.clear()  # BufferError, if a view of it were still there
    assert Request(URL).encode(body) == whole(b"")


def test_a_large_body_in_memory_is_not_copied() -> None:
    body = bytes(8 * PIECE)
    message = Request(URL).message(body)
    assert message.pieces == (HEAD + b"Content-Length: %d\r\n\r\n" % len(body), body)
    assert message.pieces[1] is body
    assert message.stream is None


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7])
def test_bodies_around_the_size_of_a_piece_go_out_whole(size: int) -> None:
    body = os.urandom(size)
    request = Request(URL)
    assert request.encode(body) == whole(body)
    assert request.encode(bytearray(body)) == whole(body)
    assert request.encode(io.BytesIO(body)) == whole(body)
    assert received(request.encode(iter([body])))[1] == body


UNSENDABLE: list[tuple[Any, str]] = [
    (5, "int"),
    (1.5, "float"),
    (True, "bool"),
    (object(), "object"),
    (memoryview(b"abcdef")[::2], "not contiguous"),
    ("\ud800", "lone surrogate"),
    ({"a": "\ud800"}, "form-encoded"),
    ({"\udfff": "a"}, "form-encoded"),
    ([("a", "1"), ("b",)], "yields tuple"),
    ([b"a", "b"], "yields str"),
    ([1, 2], "yields int"),
    (["ab", "cd"], "yields str"),
    (iter([("a", "1")]), "yields tuple"),
    (iter([None]), "yields NoneType"),
    (iter([memoryview(b"abcd")[::2]]), "not contiguous"),
]


@pytest.mark.parametrize(("data", "says"), UNSENDABLE)
def test_data_that_cannot_be_sent_is_a_request_error_that_says_why(data: Any, says: str) -> None:
    with pytest.raises(RequestError, match="data") as caught:
        Request(URL).encode(data)
    assert says in str(caught.value)


def test_a_path_is_no_data_and_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"data cannot be.* (Posix|Windows)Path"):
        Request(URL).encode(tmp_path)  # type: ignore[arg-type]  # what a type checker refuses, too


# --- json ----------------------------------------------------------------------------------------------------------

JSONS: list[tuple[object, bytes]] = [
    ({"a": 1, "b": [1.5, True, None, "x"]}, b'{"a":1,"b":[1.5,true,null,"x"]}'),
    ({}, b"{}"),
    ([], b"[]"),
    ("", b'""'),
    (0, b"0"),
    (False, b"false"),
    (-0.0, b"-0.0"),
    (1e300, b"1e+300"),
    ("grüße 😀", '"grüße 😀"'.encode()),
    ('\u2028\0\n"\\/<', b'"\xe2\x80\xa8\\u0000\\n\\"\\\\/<"'),
    ({"ü": (1, 2)}, '{"ü":[1,2]}'.encode()),
    ({1: 2, None: 3, 1.5: 4}, b'{"1":2,"null":3,"1.5":4}'),
    (2**70, b"1180591620717411303424"),
]


@pytest.mark.parametrize(("value", "body"), JSONS)
def test_json_is_compact_utf8(value: object, body: bytes) -> None:
    assert Request(URL).encode(json=value) == whole(body, JSON)
    assert json_module.loads(body) is not None


def test_json_none_is_no_json() -> None:
    assert Request(URL).encode(json=None) == whole(b"")
    assert Request(URL).encode(b"x", json=None) == whole(b"x")


def circular() -> object:
    value: list[object] = []
    value.append(value)
    return value


def deep() -> object:
    value: list[object] = []
    for _ in range(200_000):
        value = [value]
    return value


UNSERIALISABLE: list[tuple[object, str]] = [
    (float("nan"), "JSON compliant"),
    ([float("inf")], "JSON compliant"),
    ({"a": -float("inf")}, "JSON compliant"),
    ({1, 2}, "set"),
    (b"bytes", "bytes"),
    (object(), "object"),
    ({(1, 2): 3}, "keys"),
    ({b"a": 3}, "keys"),
    (iter([1]), "not JSON serializable"),
    (1j, "complex"),
    ("\ud800", "lone surrogate"),
    ({"\udfff": 1}, "lone surrogate"),
    (circular(), "holds itself"),
    (deep(), "recursion"),
]


@pytest.mark.parametrize(("value", "says"), UNSERIALISABLE, ids=lambda value: value if isinstance(value, str) else "")
def test_json_that_cannot_be_serialised_is_a_request_error_that_says_why(value: object, says: str) -> None:
    with pytest.raises(RequestError, match=r"^json ") as caught:
        Request(URL).encode(json=value)
    assert says in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"x", "", {}, []])
@pytest.mark.parametrize("json", [0, {}, "x"])
def test_data_and_json_together_are_a_request_error(data: Any, json: object) -> None:
    with pytest.raises(RequestError, match="data and json are both given"):
        Request(URL).encode(data, json=json)


# --- streams: files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "position", "body"),
    [(b"", 0, b""), (b"abc", 0, b"abc"), (b"abc", 1, b"bc"), (b"abc", 3, b""), (b"abc", 10, b"")],
)
def test_a_file_goes_out_from_where_it_stands(content: bytes, position: int, body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(content)
    memory = io.BytesIO(content)
    for buffering in (-1, 0):
        with path.open("rb", buffering=buffering) as file:
            file.seek(position)
            assert Request(URL).encode(file) == whole(body)
    memory.seek(position)
    assert Request(URL).encode(memory) == whole(body)


def test_a_temporary_file_goes_out_with_its_length() -> None:
    with tempfile.TemporaryFile() as file, tempfile.SpooledTemporaryFile() as spooled:
        for opened in (file, spooled):
            opened.write(b"temporary")
            opened.seek(4)
            assert Request(URL).encode(opened) == whole(b"orary")


def test_a_compressed_file_goes_out_uncompressed(tmp_path: Path) -> None:
    path = tmp_path / "body.gz"
    body = os.urandom(1000) * 100
    path.write_bytes(gzip.compress(body))
    with gzip.open(path) as file:
        file.read(10)
        assert received(Request(URL).encode(file))[1] == body[10:]


def pipe_with(content: bytes) -> IO[bytes]:
    """Return the read end of a pipe that holds `content` and has no writer."""
    end, other_end = os.pipe()
    with os.fdopen(other_end, "wb") as writer:
        writer.write(content)
    return os.fdopen(end, "rb")


def test_a_pipe_goes_out_chunked() -> None:
    for content in (b"x", b"piped", os.urandom(60_000)):
        with pipe_with(content) as pipe:
            assert Request(URL).encode(pipe) == chunked(content)


def test_a_pipe_goes_out_as_it_comes() -> None:
    end, other_end = os.pipe()
    with os.fdopen(end, "rb", buffering=0) as pipe, os.fdopen(other_end, "wb", buffering=0) as writer:
        writer.write(b"one")
        message = Request(URL).message(pipe)  # returns, though the writer has not ended
        assert message.pieces == (chunked(b"one")[: -len(b"0\r\n\r\n")],)
        assert message.stream is not None
        writer.write(b"three")
        assert next(message.stream) == b"5\r\nthree\r\n"
        writer.close()
        assert list(message.stream) == [b"0\r\n\r\n"]


def test_an_empty_pipe_goes_out_as_no_chunk() -> None:
    with pipe_with(b"") as pipe:
        assert Request(URL).encode(pipe) == chunked()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("buffering", [-1, 0])
# seek(0, SEEK_END) says 0 in the first, and fails in the second, as tell() does in neither
@pytest.mark.parametrize("path", ["/proc/sys/kernel/ostype", "/proc/version"])
def test_a_file_of_proc_which_has_no_length_goes_out_chunked(path: str, buffering: int) -> None:
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "rb", buffering=buffering) as file:
        wire = Request(URL).encode(file)
    assert received(wire)[1] == content != b""
    assert values(wire, b"Transfer-Encoding") == [b"chunked"]


@pytest.mark.skipif(not os.path.exists("/sys/class/net/lo/mtu"), reason="needs Linux's /sys")
def test_a_small_file_that_claims_to_be_longer_than_it_is_goes_out_as_long_as_it_is() -> None:
    # Every file of /sys says 4096: a device's sensors, for one. curl -d @FILE sends what is there.
    with open("/sys/class/net/lo/mtu", "rb") as file:
        content = file.read()
        assert file.seek(0, os.SEEK_END) > len(content)
        file.seek(0)
        assert received(Request(URL).encode(file))[1] == content


class OnlyRead:
    """The least that is a file: no tell(), no seek()."""

    def __init__(self, *pieces: object) -> None:
        self._pieces = list(pieces)
        self.sizes: list[int] = []

    def read(self, size: int) -> Any:
        self.sizes.append(size)
        return self._pieces.pop(0) if self._pieces else b""


def test_a_file_that_cannot_tell_its_length_goes_out_chunked_as_it_is_read() -> None:
    file: Any = OnlyRead(b"one", b"three")
    assert Request(URL).encode(file) == chunked(b"one", b"three")
    assert set(file.sizes) == {PIECE}


class OneByteAtATime(io.BytesIO):
    """A file as sockets and terminals are: it gives less than is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(1, size) if size is not None and size >= 0 else 1)


def test_a_file_that_gives_less_than_asked_for_is_read_to_its_end() -> None:
    assert Request(URL).encode(OneByteAtATime(b"abcdef")) == whole(b"abcdef")


def test_a_file_that_grows_goes_out_as_long_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"a" * 2 * PIECE)
    with path.open("rb") as file:
        message = Request(URL).message(file)
        with path.open("ab") as writer:
            writer.write(b"more")
        assert message.stream is not None
        wire = b"".join((*message.pieces, *message.stream))
    assert wire == whole(b"a" * 2 * PIECE)


def test_a_file_that_shrinks_raises_and_never_ends_as_if_whole(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"a" * 3 * PIECE)
    with path.open("rb", buffering=0) as file:
        message = Request(URL).message(file)
        os.truncate(path, 2 * PIECE)
        assert message.stream is not None
        assert len(next(message.stream)) == PIECE
        with pytest.raises(EOFError, match=f"shrank while being sent: {PIECE} of its {3 * PIECE} bytes"):
            next(message.stream)


class Shrinks(io.BytesIO):
    """A file from which something else takes the end away while it is read."""

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self.truncate(self.tell())
        return piece


def test_encoding_a_file_that_shrinks_is_a_request_error() -> None:
    with pytest.raises(RequestError, match=r"data.*shrank") as caught:
        Request(URL).encode(Shrinks(bytes(3 * PIECE)))
    assert isinstance(caught.value.__cause__, EOFError)


def test_a_text_file_is_a_request_error_that_asks_for_binary_mode(tmp_path: Path) -> None:
    path = tmp_path / "body"
    for content in ("", "text", "ü" * PIECE):
        path.write_text(content, encoding="utf-8")
        with path.open(encoding="utf-8") as file, pytest.raises(RequestError, match="binary mode"):
            Request(URL).encode(file)  # type: ignore[arg-type]  # what a type checker refuses, too
        with pytest.raises(RequestError, match="binary mode"):
            Request(URL).encode(io.StringIO(content))  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize("buffering", [-1, 0])
def test_a_nonblocking_file_with_nothing_to_read_is_a_request_error(buffering: int) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no non-blocking pipes")
    else:
        end, other_end = os.pipe()
        os.set_blocking(end, False)
        try:
            with (
                os.fdopen(end, "rb", buffering=buffering) as pipe,
                pytest.raises(RequestError, match="non-blocking file that has nothing to read"),
            ):
                Request(URL).encode(pipe)
        finally:
            os.close(other_end)


def test_a_file_that_cannot_be_read_is_a_request_error_with_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "body"
    with path.open("wb") as file, pytest.raises(RequestError, match="cannot be read") as caught:
        Request(URL).encode(file)
    assert isinstance(caught.value.__cause__, io.UnsupportedOperation)
    with path.open("rb") as closed:
        pass
    with pytest.raises(RequestError, match=r"cannot be read.*closed") as caught:
        Request(URL).encode(closed)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not open directories")
def test_a_directory_is_a_request_error(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(RequestError, match="cannot be read"):
            Request(URL).encode(DirectoryFile(descriptor))  # type: ignore[arg-type]  # no BinaryIO
    finally:
        os.close(descriptor)


class DirectoryFile:
    """open() refuses a directory, read(2) does too."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, size: int) -> bytes:
        return os.read(self._descriptor, size)


@pytest.mark.parametrize("piece", [5, bytearray(b"x"), memoryview(b"x"), [b"x"]])
def test_a_file_whose_read_returns_no_bytes_is_a_request_error(piece: object) -> None:
    file: Any = OnlyRead(piece)
    with pytest.raises(RequestError, match=f"returns {type(piece).__name__}"):
        Request(URL).encode(file)
    file = OnlyRead(b"first", piece)
    with pytest.raises(RequestError, match=f"returns {type(piece).__name__}"):
        Request(URL).encode(file)


def test_a_large_file_comes_in_bounded_pieces(tmp_path: Path) -> None:
    size = 256 * PIECE + 1  # 16 MiB
    path = tmp_path / "body"
    with path.open("wb") as file:
        file.truncate(size)
    head = HEAD + b"Content-Length: %d\r\n\r\n" % size
    with path.open("rb") as file:
        tracemalloc.start()
        try:
            message = Request(URL).message(file)
            assert message.stream is not None
            first = b"".join(message.pieces)
            lengths = [len(piece) for piece in message.stream]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert first == head + bytes(PIECE)
    assert max(lengths) == PIECE
    assert len(first) + sum(lengths) == len(head) + size
    assert peak < 8 * PIECE


def test_a_large_file_of_unknown_length_comes_in_bounded_pieces() -> None:
    file: Any = OnlyRead(*[bytes(PIECE)] * 64)
    message = Request(URL).message(file)
    assert message.stream is not None
    assert max(len(piece) for piece in message.stream) <= PIECE + 16
    assert set(file.sizes) == {PIECE}


# --- streams: iterables --------------------------------------------------------------------------------------------


def generated(*items: Any) -> Iterator[Any]:
    yield from items


ITERABLES: list[tuple[Any, bytes]] = [
    ([b"one", b"three"], chunked(b"one", b"three")),
    ((b"one",), chunked(b"one")),
    ([b"ab"], chunked(b"ab")),  # of length 2, and no pair
    (generated(b"one", b"three"), chunked(b"one", b"three")),
    (generated(), chunked()),
    (generated(b""), chunked()),
    (generated(b"", b"a", b"", b"b", b""), chunked(b"a", b"b")),  # an empty chunk would end the message
    (iter([b"x" * 0x1F]), chunked(b"x" * 0x1F)),
    ({b"only"}, chunked(b"only")),
    (
        generated(bytearray(b"a"), memoryview(b"bcd")[1:], array.array("H", [0x6161]), mmap.mmap(-1, 2)),
        chunked(b"a", b"cd", b"aa", b"\0\0"),
    ),
]


@pytest.mark.parametrize(("data", "wire"), ITERABLES)
def test_an_iterable_goes_out_chunked_an_item_a_chunk(data: Any, wire: bytes) -> None:
    assert Request(URL).encode(data) == wire


def test_an_iterable_is_asked_for_one_item_before_the_head_and_for_the_others_one_by_one() -> None:
    asked: list[int] = []

    def items() -> Iterator[bytes]:
        for number in range(3):
            asked.append(number)
            yield b"%d" % number

    message = Request(URL).message(items())
    assert asked == [0]
    assert message.pieces == (chunked(b"0")[: -len(b"0\r\n\r\n")],)
    assert message.stream is not None
    assert next(message.stream) == b"1\r\n1\r\n"
    assert asked == [0, 1]
    assert list(message.stream) == [b"1\r\n2\r\n", b"0\r\n\r\n"]


def test_a_generator_may_fill_one_buffer_again_and_again() -> None:
    def items() -> Iterator[bytearray]:
        buffer = bytearray(1)
        for letter in b"abc":
            buffer[0] = letter
            yield buffer

    assert Request(URL).encode(items()) == chunked(b"a", b"b", b"c")


def test_a_generator_may_resize_its_buffer_once_it_is_asked_for_more() -> None:
    def items() -> Iterator[bytearray]:
        buffer = bytearray()
        for size in (1, 2, 3):
            buffer += b"x" * size
            yield buffer
            buffer.clear()  # BufferError, if a view of it were still there

    assert Request(URL).encode(items()) == chunked(b"x", b"xx", b"xxx")


def test_an_iterable_that_raises_is_a_request_error_with_the_cause() -> None:
    def items(*, good: int) -> Iterator[bytes]:
        yield from [b"x"] * good
        raise LookupError("the database is gone")

    for good in (0, 1, 2):
        with pytest.raises(RequestError, match=r"data failed.*LookupError: the database is gone") as caught:
            Request(URL).encode(items(good=good))
        assert isinstance(caught.value.__cause__, LookupError)


def test_what_an_iterable_raises_in_the_middle_reaches_whoever_sends_it_as_it_is() -> None:
    def items() -> Iterator[bytes]:
        yield b"x"
        raise LookupError("gone")

    message = Request(URL).message(items())
    assert message.stream is not None
    with pytest.raises(LookupError, match=r"^'?gone'?$"):
        list(message.stream)


def test_an_interrupted_iterable_is_no_request_error() -> None:
    def items() -> Iterator[bytes]:
        raise KeyboardInterrupt
        yield b""

    with pytest.raises(KeyboardInterrupt):
        Request(URL).encode(items())


# --- params --------------------------------------------------------------------------------------------------------

# URL, params, and the request target that they make
PARAMS: list[tuple[str, Any, bytes]] = [
    ("http://h", None, b"/"),
    ("http://h", {}, b"/"),
    ("http://h", [], b"/"),
    ("http://h", "", b"/"),
    ("http://h", {"a": None}, b"/"),
    ("http://h", {"a": "1"}, b"/?a=1"),
    ("http://h/p#f", {"a": "1"}, b"/p?a=1"),
    ("http://h?", {"a": "1"}, b"/?a=1"),
    ("http://h?", {}, b"/?"),
    ("http://h?x=y", {"a": "1"}, b"/?x=y&a=1"),
    ("http://h?x=y#f", {"x": "z"}, b"/?x=y&x=z"),
    ("http://h?x=y", {}, b"/?x=y"),
    ("http://h", {"a": ["1", 2, None, 3.5], "b": True}, b"/?a=1&a=2&a=3.5&b=True"),
    ("http://h", [("a", "1"), ("a", "2")], b"/?a=1&a=2"),
    ("http://h", {"a": "1"}.items(), b"/?a=1"),
    ("http://h", {"ü &": "=#?/+%~"}, b"/?%C3%BC+%26=%3D%23%3F%2F%2B%25~"),
    ("http://h", {b"\xff": b"\n"}, b"/?%FF=%0A"),
    ("http://h", "a=1&b=2", b"/?a=1&b=2"),
    ("http://h?x", "a=1", b"/?x&a=1"),
    ("http://h", "a=ü b#c%41%", b"/?a=%C3%BC%20b%23c%41%25"),
    ("http://h", "?a", b"/??a"),
]


@pytest.mark.parametrize(("url", "params", "target"), PARAMS)
def test_params_join_the_urls_query(url: str, params: Any, target: bytes) -> None:
    assert received(Request(url, params=params).encode())[0].target == target
    assert received(Request(url).encode(params=params))[0].target == target


@pytest.mark.parametrize(
    "params", [5, True, "\ud800", {"a": "\ud800"}, ["a"], [("a",)], "a\r\nX: y", "\0", b"a", object()]
)
def test_malformed_params_are_a_request_error_that_names_them(params: Any) -> None:
    with pytest.raises(RequestError, match=r"^params "):
        Request(URL, params=params)
    with pytest.raises(RequestError, match=r"^params "):
        Request(URL).encode(params=params)


def test_params_and_path_of_a_call_are_added_to_the_requests_own_and_stay_with_the_call() -> None:
    request = Request("http://h/p?u=1", params={"r": "2"})
    assert received(request.encode(params={"c": "3"}))[0].target == b"/p?u=1&r=2&c=3"
    assert received(request.encode(path="/other place"))[0].target == b"/other%20place?u=1&r=2"
    assert received(request.encode(path="/o", params="c=3"))[0].target == b"/o?u=1&r=2&c=3"
    assert received(request.encode())[0].target == b"/p?u=1&r=2"


@pytest.mark.parametrize("path", ["", "x", "http://h/", "/a?b", "/a#b", "/a\r\nX: y", "/\ud800", b"/a", 5])
def test_a_malformed_path_of_a_call_is_a_request_error_that_names_it(path: Any) -> None:
    with pytest.raises(RequestError, match=r"^path "):
        Request(URL).encode(path=path)


# --- fields --------------------------------------------------------------------------------------------------------

START = b"POST /p HTTP/1.1\r\n"
END = b"Connection: close\r\nContent-Length: 0\r\n\r\n"

# (headers, exact bytes); h11 puts Host first, wherever it is given (RFC 9110 §7.2)
HEADERS: list[tuple[Any, bytes]] = [
    (None, START + b"Host: h\r\n" + UA + END),
    ({}, START + b"Host: h\r\n" + UA + END),
    ([], START + b"Host: h\r\n" + UA + END),
    ({"X-A": "1"}, START + b"Host: h\r\n" + UA + b"X-A: 1\r\n" + END),
    ({b"X-A": b"1"}, START + b"Host: h\r\n" + UA + b"X-A: 1\r\n" + END),
    ({"x-a": "1"}, START + b"Host: h\r\n" + UA + b"x-a: 1\r\n" + END),
    ([("X-A", "1")], START + b"Host: h\r\n" + UA + b"X-A: 1\r\n" + END),
    ((["X-A", b"1"],), START + b"Host: h\r\n" + UA + b"X-A: 1\r\n" + END),
    (iter([("X-A", "1")]), START + b"Host: h\r\n" + UA + b"X-A: 1\r\n" + END),
    ([("X-A", "1"), ("B", "2"), ("x-A", "3")], START + b"Host: h\r\n" + UA + b"X-A: 1\r\nB: 2\r\nx-A: 3\r\n" + END),
    ({"X-A": ""}, START + b"Host: h\r\n" + UA + b"X-A: \r\n" + END),
    ({"X-A": "a b\tc"}, START + b"Host: h\r\n" + UA + b"X-A: a b\tc\r\n" + END),
    ({"X-A": b"\xc3\xbc\xff"}, START + b"Host: h\r\n" + UA + b"X-A: \xc3\xbc\xff\r\n" + END),
    ({"!#$%&'*+-.^_`|~9a": ":"}, START + b"Host: h\r\n" + UA + b"!#$%&'*+-.^_`|~9a: :\r\n" + END),
    ({"Host": "other:81"}, START + b"Host: other:81\r\n" + UA + END),
    ({"X-A": "1", "host": "other"}, START + b"host: other\r\n" + UA + b"X-A: 1\r\n" + END),
    ({"User-Agent": "mine"}, START + b"Host: h\r\nUser-Agent: mine\r\n" + END),
    ({"USER-AGENT": ""}, START + b"Host: h\r\nUSER-AGENT: \r\n" + END),
    ({"Content-Type": "text/plain"}, START + b"Host: h\r\n" + UA + b"Content-Type: text/plain\r\n" + END),
    ({"Authorization": "Bearer t"}, START + b"Host: h\r\n" + UA + b"Authorization: Bearer t\r\n" + END),
    ({"Cookie": "a=b", "Content-Encoding": "gzip"},
     START + b"Host: h\r\n" + UA + b"Cookie: a=b\r\nContent-Encoding: gzip\r\n" + END),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "wire"), HEADERS)
def test_headers_follow_rawfnfs_own_fields_or_replace_them(headers: Any, wire: bytes) -> None:
    assert Request(URL, headers=headers).encode() == wire


@pytest.mark.parametrize("name", ["Content-Type", "content-type"])
def test_a_given_content_type_replaces_that_of_forms_and_json(name: str) -> None:
    request = Request(URL, headers={name: "application/vnd.x+json"})
    for wire in (
        request.encode(json={}),
        request.encode({"a": "1"}),
        Request(URL).encode(json={}, headers=[(name, "x")]),
    ):
        assert len(values(wire, b"content-type")) == 1
    assert values(request.encode(json={}), b"content-type") == [b"application/vnd.x+json"]
    assert values(request.encode({"a": "1"}, headers={"CONTENT-TYPE": "x"}), b"content-type") == [b"x"]


def test_headers_of_a_call_replace_same_named_fields_and_stay_with_the_call() -> None:
    request = Request(URL, headers=[("X-A", "1"), ("X-B", "2"), ("x-a", "3")], auth=("u", "p"))
    before = request.encode()
    wire = request.encode(headers=[("X-a", "4"), ("X-C", "5"), ("X-C", "6")])
    assert values(wire, b"x-a") == [b"4"]
    assert values(wire, b"x-b") == [b"2"]
    assert values(wire, b"x-c") == [b"5", b"6"]
    assert values(wire, b"authorization") == values(before, b"authorization") != []
    assert values(request.encode(headers={"authorization": "Bearer t"}), b"authorization") == [b"Bearer t"]
    assert values(request.encode(headers={"Host": "other"}), b"host") == [b"other"]
    assert values(request.encode(headers={"user-agent": "me"}), b"user-agent") == [b"me"]
    assert request.encode() == before


FRAMING = ["Content-Length", "Transfer-Encoding", "Connection", "Expect", "Upgrade", "TE", "Trailer"]


@pytest.mark.parametrize("name", [*FRAMING, *map(str.lower, FRAMING), *map(str.upper, FRAMING)])
def test_framing_fields_are_refused_whatever_their_case(name: str) -> None:
    for headers in ({name: "0"}, {name.encode(): b""}, [("X-A", "1"), (name, "x")]):
        fields: Any = headers
        with pytest.raises(RequestError, match=f"^header '{name}' .*leave it out"):
            Request(URL, headers=fields)
        with pytest.raises(RequestError, match=f"^header '{name}' .*leave it out"):
            Request(URL).encode(headers=fields)


# (headers, what the message says); every value holds "secret" where it can
MALFORMED_HEADERS: list[tuple[Any, str]] = [
    ({"X-A": None}, "'X-A': its value must be str or bytes, not NoneType"),
    ({"X-A": 5}, "'X-A': its value must be str or bytes, not int"),
    ({"X-A": ["secret"]}, "'X-A': its value must be str or bytes, not list"),
    ({"X-A": bytearray(b"secret")}, "not bytearray"),
    ({5: "secret"}, "its name must be str or bytes, not int"),
    ({None: "secret"}, "its name must be str or bytes, not NoneType"),
    ({"X-A": "secretü"}, "'X-A': its value is not ASCII"),
    ({"X-A": "secret\ud800"}, "'X-A': its value is not ASCII"),
    ({"X-Ü": "secret"}, "its name is not ASCII"),
    ({"X-A": "secret "}, "'X-A' is malformed"),
    ({"X-A": " secret"}, "'X-A' is malformed"),
    ({"X-A": "secret\t"}, "'X-A' is malformed"),
    ({"X-A": " "}, "'X-A' is malformed"),
    ({"X-A": "secret\r\nX-B: 1"}, "'X-A': its value holds a control character"),
    ({"X-A": "secret\nX-B: 1"}, "'X-A': its value holds a control character"),
    ({"X-A": "secret\r"}, "'X-A': its value holds a control character"),
    ({"X-A": "secret\r\n obs-fold"}, "'X-A': its value holds a control character"),
    ({"X-A": "secret\0"}, "'X-A': its value holds a control character"),
    ({"X-A": "secret\x01"}, "'X-A': its value holds a control character"),
    ({"X-A": "\x1bsecret"}, "'X-A': its value holds a control character"),
    ({"X-A": "\x7fsecret"}, "'X-A': its value holds a control character"),
    ({"X-A": b"secret\x0b"}, "'X-A': its value holds a control character"),
    ({"": "secret"}, "'' is malformed"),
    ({"X A": "secret"}, "'X' is malformed"),
    ({"X-A:": "secret"}, "'X-A' is malformed"),
    ({"X-A ": "secret"}, "'X-A' is malformed"),
    ({"X-A\r\nX-B": "secret"}, "is malformed"),
    ({":authority": "secret"}, "is malformed"),
    ({b"X-\xff": "secret"}, "is malformed"),
    ({"Content-Length ": "secret"}, "is malformed"),
    ({"Transfer-Encoding\t": "secret"}, "is malformed"),
    ([("Host", "a"), ("host", "secret")], "Host twice"),
    ("X-A: secret", "must be a mapping or"),
    (["X-A: secret"], "must be a mapping or"),
    ([("X-A", "secret", "3")], "must be a mapping or"),
    ([("X-A",)], "must be a mapping or"),
    (5, "must be a mapping or"),
    (True, "must be a mapping or"),
    ([None], "must be a mapping or"),
]


@pytest.mark.parametrize(("headers", "says"), MALFORMED_HEADERS)
def test_malformed_headers_are_a_request_error_that_names_the_field(headers: Any, says: str) -> None:
    request = Request(URL)
    for make in (lambda: Request(URL, headers=headers), lambda: request.encode(headers=headers)):
        with pytest.raises(RequestError, match=r"^header") as caught:
            make()
        assert says in str(caught.value)
        assert str(caught.value).isprintable()
        assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("headers", "says"), MALFORMED_HEADERS)
def test_not_even_what_a_malformed_header_error_is_chained_to_shows_the_value(headers: Any, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request(URL, headers=headers)
    assert says in str(caught.value)
    assert "secret" not in everything_an_error_shows(caught.value)


def test_a_pair_must_be_a_pair_and_no_text_of_two_letters() -> None:
    with pytest.raises(RequestError, match="must be a mapping or"):
        Request(URL, headers=["TE"])  # type: ignore[list-item]  # what a type checker refuses, too


# --- method --------------------------------------------------------------------------------------------------------

METHODS = [("POST", b"POST"), ("post", b"POST"), ("Put", b"PUT"), ("PATCH", b"PATCH"), ("m-search", b"M-SEARCH")]
METHODS += [("GET", b"GET"), ("HEAD", b"HEAD"), ("DELETE", b"DELETE"), ("!#$%&'*+-.^_`|~0", b"!#$%&'*+-.^_`|~0")]


@pytest.mark.parametrize(("method", "sent"), METHODS)
def test_a_method_is_sent_in_upper_case(method: str, sent: bytes) -> None:
    request = Request(URL, method=method)
    assert request.encode(b"x") == sent + whole(b"x")[len(b"POST") :]
    assert request.encode(iter([b"x"])) == sent + chunked(b"x")[len(b"POST") :]


MALFORMED_METHODS: list[Any] = [
    "",
    " ",
    "PO ST",
    "POST ",
    " POST",
    "POST\r\n",
    "POST / HTTP/1.1\r\nX: y\r\n\r\n",
    "PÖST",
]
MALFORMED_METHODS += ["POST:", "P/ST", "(POST)", "\0", "\ud800", "CONNECT", "connect", None, b"POST", 5, ["POST"]]
# upper() makes ASCII of these: "ß" becomes "SS", a long s "S", a ligature "FI", a dotless i "I"
MALFORMED_METHODS += ["ß", "po\u017ft", "\ufb01nd", "\u0131dle", "\ufb05"]


@pytest.mark.parametrize("method", MALFORMED_METHODS)
def test_a_malformed_method_is_a_request_error_that_names_it(method: Any) -> None:
    with pytest.raises(RequestError, match=r"^method ") as caught:
        Request(URL, method=method)
    assert str(caught.value).isprintable()


# --- credentials ---------------------------------------------------------------------------------------------------


def basic(credentials: bytes) -> list[bytes]:
    return [b"Basic " + base64.b64encode(credentials)]


AUTHS: list[tuple[Any, bytes]] = [
    (("user", "pw"), b"user:pw"),
    (["user", "pw"], b"user:pw"),
    ((b"user", "pw"), b"user:pw"),
    (("user", b"\xff\x80"), b"user:\xff\x80"),
    (("jürgen", "geheim€"), "jürgen:geheim€".encode()),
    (("", ""), b":"),
    (("user", ""), b"user:"),
    (("", "pw"), b":pw"),
    (("user", "p:w: "), b"user:p:w: "),
    (("u" * 100, "p" * 1000), b"u" * 100 + b":" + b"p" * 1000),
]


@pytest.mark.parametrize(("auth", "credentials"), AUTHS)
def test_auth_becomes_basic_authentication(auth: Any, credentials: bytes) -> None:
    wire = Request(URL, auth=auth).encode()
    assert values(wire, b"authorization") == basic(credentials)
    assert wire.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("http://user:pw@h/", b"user:pw"),
        ("http://user@h/", b"user:"),
        ("http://:pw@h/", b":pw"),
        ("http://us%65r:p%3Aw%40@h/", b"user:p:w@"),
        ("http://jürgen:%ff@h/", "jürgen".encode() + b":\xff"),
    ],
)
def test_userinfo_becomes_basic_authentication(url: str, credentials: bytes) -> None:
    wire = Request(url).encode()
    assert values(wire, b"authorization") == basic(credentials)
    assert values(wire, b"host") == [b"h"]
    assert received(wire)[0].target == b"/"


# (url, auth, headers, what the message says); every credential holds "secret"
MALFORMED_AUTHS: list[tuple[str, Any, Any, str]] = [
    (URL, ("us:er", "secret"), None, "':'"),
    (URL, ("secret:", "secret"), None, "':'"),
    (URL, (b"us:er", b"secret"), None, "':'"),
    (URL, ("user\n", "secret"), None, "control character"),
    (URL, ("user", "secret\r\nX: y"), None, "control character"),
    (URL, ("user", "secret\0"), None, "control character"),
    (URL, ("user", b"secret\x7f"), None, "control character"),
    (URL, ("user", "secret\t"), None, "control character"),
    (URL, ("secret\ud800", "pw"), None, "lone surrogate"),
    (URL, ("user", "secret\udfff"), None, "lone surrogate"),
    (URL, ("secret",), None, "(user, password)"),
    (URL, ("user", "secret", "x"), None, "(user, password)"),
    (URL, (), None, "(user, password)"),
    (URL, "user:secret", None, "(user, password)"),
    (URL, "us", None, "(user, password)"),
    (URL, b"secret", None, "(user, password)"),
    (URL, {"user": "secret"}, None, "(user, password)"),
    (URL, 5, None, "(user, password)"),
    (URL, ("user", None), None, "str or bytes"),
    (URL, (None, "secret"), None, "str or bytes"),
    (URL, (5, "secret"), None, "str or bytes"),
    (URL, ("user", bytearray(b"secret")), None, "str or bytes"),
    (URL, ("user", "secret"), {"Authorization": "secret"}, "Authorization beside"),
    (URL, ("user", "secret"), [(b"AUTHORIZATION", b"secret")], "Authorization beside"),
    ("http://user:secret@h/", ("user", "secret"), None, "beside credentials in the url"),
    ("http://secret@h/", ("", ""), None, "beside credentials in the url"),
    ("http://user:secret@h/", None, {"authorization": "secret"}, "Authorization beside"),
    ("http://us%3Aer:secret@h/", None, None, "':'"),
    ("http://user:secret%0d%0aX:%20y@h/", None, None, "control character"),
    ("http://user%00:secret@h/", None, None, "control character"),
    ("http://user:secret\n@h/", None, None, "control character"),
    ("http://user:secret\ud800@h/", None, None, "lone surrogate"),
    ("http://user:secret@h:99999/", None, None, "port"),
    ("http://user:secret@h:x/", None, None, "port"),
    ("http://user:secret@/", None, None, "no host"),
    ("http://user:secret@a b/", None, None, "host"),
    ("http://user:secret@[::g]/", None, None, "IPv6"),
    ("http://user:secret@[fe80::1%25]/", None, None, "zone"),
    ("http://user:secret@ü..x/", None, None, "IDNA"),
    ("http://user:se/cret-secret@h/", None, None, "host or port"),
    ("http://user:secret?x@h/", None, None, "host or port"),
    ("http://user:secret#x@h/", None, None, "host or port"),
    ("ftp://user:secret@h/", None, None, "scheme"),
    ("user:secret@h", None, None, "absolute"),
]


@pytest.mark.parametrize(("url", "auth", "headers", "says"), MALFORMED_AUTHS)
def test_malformed_credentials_are_a_request_error_that_does_not_show_them(
    url: str, auth: Any, headers: Any, says: str
) -> None:
    with pytest.raises(RequestError, match=r"^(auth|headers|url)\b") as caught:
        Request(url, auth=auth, headers=headers)
    assert says in str(caught.value)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("url", "auth", "headers", "says"), MALFORMED_AUTHS)
def test_not_even_what_an_error_is_chained_to_shows_credentials(url: str, auth: Any, headers: Any, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request(url, auth=auth, headers=headers)
    assert says in str(caught.value)
    assert "secret" not in everything_an_error_shows(caught.value)


# Named, so that no line of a traceback shows it.
URL_WITH_SECRETS = "http://user:secret@h/?key=secret"


@pytest.mark.parametrize(
    "malformed",
    [{"method": "a b"}, {"params": "\n"}, {"headers": {"X A": "1"}}, {"headers": {"X": None}}, {"headers": 5}],
)
def test_an_error_about_something_else_does_not_show_credentials_either(malformed: Any) -> None:
    with pytest.raises(RequestError) as caught:
        Request(URL_WITH_SECRETS, **malformed)
    assert "secret" not in everything_an_error_shows(caught.value)


def test_an_error_of_a_call_does_not_show_credentials() -> None:
    request = Request(URL_WITH_SECRETS)
    malformed: list[dict[str, Any]] = [
        {"data": 5},
        {"json": {1}},
        {"data": b"", "json": 1},
        {"params": 5},
        {"headers": {"TE": "x"}},
        {"path": "x"},
        {"data": iter([5])},
        {"data": iter([b"x", 5])},
    ]
    for arguments in malformed:
        with pytest.raises(RequestError) as caught:
            request.encode(**arguments)
        shown = everything_an_error_shows(caught.value)
        assert "secret" not in shown
        assert base64.b64encode(b"user:secret").decode() not in shown


# --- the Request itself --------------------------------------------------------------------------------------------


def test_the_repr_of_a_request_shows_neither_credentials_nor_query() -> None:
    request = Request(
        "https://user:secret@example.com:8443/a b?key=secret#secret",
        params={"token": "secret"},
        headers={"X-Key": "secret"},
        method="put",
    )
    assert repr(request) == "<rawfnf.Request PUT https://example.com:8443/a%20b>"
    assert repr(Request(URL, auth=("user", "secret"))) == "<rawfnf.Request POST http://h/p>"


def test_a_request_names_its_origin() -> None:
    assert Request("https://user:pw@Example.com/x").origin == rawfnf.Origin("https", "example.com", 443)
    assert Request("http://[::1]:81").origin == rawfnf.Origin("http", "::1", 81)


def test_a_request_can_be_used_again_and_remembers_nothing_of_a_call() -> None:
    request = Request(URL)
    for _ in range(2):
        assert request.encode() == whole(b"")
        assert request.encode(b"abc") == whole(b"abc")
        assert request.encode({"a": "1"}) == whole(b"a=1", FORM)
        assert request.encode(json=[1]) == whole(b"[1]", JSON)
        assert request.encode([b"x"]) == chunked(b"x")
        assert request.encode(io.BytesIO(b"abc")) == whole(b"abc")
        assert values(request.encode(headers={"Host": "other"}, path="/other"), b"host") == [b"other"]


def test_a_request_does_not_look_at_its_arguments_again() -> None:
    headers = {"X-A": "1"}
    params = {"a": "1"}
    request = Request(URL, headers=headers, params=params)
    before = request.encode()
    headers["X-A"] = "2\r\n"
    params["a"] = "2"
    assert request.encode() == before == request.encode()


def test_eight_threads_encode_on_one_request_and_each_gets_its_own_bytes() -> None:
    request = Request(URL)
    barrier = threading.Barrier(8)
    wrong: list[object] = []

    def encode_all(number: int) -> None:
        body = b"%d" % number * number
        barrier.wait()
        for _ in range(50):
            pairs = [
                (request.encode(body), whole(body)),
                (request.encode({"n": number}), whole(b"n=%d" % number, FORM)),
                (request.encode(json=number), whole(b"%d" % number, JSON)),
                (request.encode(iter([body, b"x"])), chunked(*filter(None, [body, b"x"]))),
                (request.encode(body, path=f"/{number}"), whole(body).replace(b"/p", b"/%d" % number, 1)),
            ]
            wrong.extend(pair for pair in pairs if pair[0] != pair[1])

    threads = [threading.Thread(target=encode_all, args=(number,)) for number in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


# --- h11 is the oracle ---------------------------------------------------------------------------------------------

TOKENS = st.text(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=12
)
NAMES = TOKENS.filter(lambda name: name.lower() not in {field.lower() for field in FRAMING} | {"host", "authorization"})
NAMES |= st.sampled_from(["User-Agent", "user-agent", "Content-Type", "X-A", "x-a", "Accept"])
VISIBLE = st.integers(0x21, 0x7E) | st.integers(0x80, 0xFF)
VALUES = st.just(b"") | st.builds(
    lambda first, inner, last: bytes([first, *inner, last]),
    VISIBLE,
    st.lists(VISIBLE | st.sampled_from([0x20, 0x09]), max_size=10),
    VISIBLE,
)
PAIRS = st.lists(st.tuples(NAMES.map(str.encode), VALUES), max_size=5)
SEGMENTS = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="?#"), max_size=10)
QUERIES = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="#"), max_size=10)
CREDENTIALS = st.none() | st.tuples(st.binary(max_size=8), st.binary(max_size=8)).map(
    lambda pair: (re.sub(rb"[\x00-\x1f\x7f:]", b"", pair[0]), re.sub(rb"[\x00-\x1f\x7f]", b"", pair[1]))
)
METHOD_NAMES = st.sampled_from(["POST", "put", "GET", "HEAD", "OPTIONS"]) | TOKENS.filter(
    lambda name: name.upper() != "CONNECT"
)


def without(fields: list[tuple[bytes, bytes]], given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    names = {name.lower() for name, _ in given}
    return [field for field in fields if field[0].lower() not in names]


def quoted(text: str, safe: str) -> str:
    return quote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text), safe="-._~%!$&'()*+,;=:@/" + safe)


def written_by_h11(method: str, target: str, fields: list[tuple[bytes, bytes]], chunks: list[bytes]) -> bytes:
    writer = h11.Connection(h11.CLIENT)
    events: list[h11.Event] = [h11.Request(method=method.upper(), target=target, headers=fields)]
    events += [h11.Data(data=chunk) for chunk in chunks]
    return b"".join(writer.send(event) or b"" for event in [*events, h11.EndOfMessage()])


@st.composite
def requests_made(draw: st.DrawFn) -> tuple[Request, dict[str, Any], str, str, list[tuple[bytes, bytes]]]:
    """Draw a Request and a call's arguments, and say which method, target and fields they mean, but the framing."""
    method, host, port = (
        draw(METHOD_NAMES),
        draw(st.sampled_from(["h", "[::1]", "a.example"])),
        draw(st.integers(1, 65535)),
    )
    path, query, added = draw(SEGMENTS), draw(QUERIES), draw(st.none() | QUERIES)
    given, credentials, in_url = draw(PAIRS), draw(CREDENTIALS), draw(st.booleans())
    call_path, call_fields = draw(st.none() | SEGMENTS), draw(st.none() | PAIRS)
    userinfo = ""
    if credentials is not None and in_url:
        userinfo = ":".join(quote(part, safe="") for part in credentials) + "@"
    request = Request(
        f"http://{userinfo}{host}:{port}/{path}?{query}#fragment",
        params=added,
        headers=given,
        auth=credentials if not in_url else None,
        method=method,
    )
    own = [(b"Host", (host if port == 80 else f"{host}:{port}").encode()), (b"User-Agent", UA[12:-2])]
    if credentials is not None:
        own.append((b"Authorization", b"Basic " + base64.b64encode(b":".join(credentials))))
    fields = [*without(own, given), *given, (b"Connection", b"close")]
    if call_fields is not None:
        fields = [*without(fields, call_fields), *call_fields]
    target = "/" + quoted(path if call_path is None else call_path, "") + "?"
    target += "&".join(filter(None, [quoted(query, "?"), quoted(added or "", "?")]))
    call = {"path": None if call_path is None else "/" + call_path, "headers": call_fields}
    return request, call, method, target, fields


@settings(max_examples=300, deadline=None)
@given(requests_made(), st.binary(max_size=64) | st.sampled_from([b"x" * 9, b"x" * 10, b"x" * 70_000]))
def test_a_body_of_known_length_goes_out_as_h11_writes_it(made: Any, body: bytes) -> None:
    request, call, method, target, fields = made
    wire = request.encode(body, **call)
    expected = [*fields, (b"Content-Length", b"%d" % len(body))]
    assert wire == written_by_h11(method, target, expected, [body])
    assert request.encode(io.BytesIO(body), **call) == wire
    assert request.encode(memoryview(bytearray(body)), **call) == wire
    seen, seen_body = received(wire)
    assert (seen.method, seen.target, seen_body) == (method.upper().encode(), target.encode(), body)
    assert sorted(seen.headers) == sorted((name.lower(), value) for name, value in expected)


@settings(max_examples=200, deadline=None)
@given(requests_made(), st.lists(st.binary(max_size=40), max_size=6))
def test_a_body_of_unknown_length_goes_out_as_h11_writes_it(made: Any, chunks: list[bytes]) -> None:
    request, call, method, target, fields = made
    wire = request.encode(iter(chunks), **call)
    expected = [*fields, (b"Transfer-Encoding", b"chunked")]
    assert wire == written_by_h11(method, target, expected, [chunk for chunk in chunks if chunk])
    seen, seen_body = received(wire)
    assert (seen.method, seen.target, seen_body) == (method.upper().encode(), target.encode(), b"".join(chunks))
    assert sorted(seen.headers) == sorted((name.lower(), value) for name, value in expected)


@settings(max_examples=200, deadline=None)
@given(requests_made(), st.dictionaries(st.text("ab", min_size=1), st.integers(), max_size=3))
def test_forms_and_json_go_out_as_h11_writes_them(made: Any, value: dict[str, int]) -> None:
    request, call, method, target, fields = made
    typed = any(name.lower() == b"content-type" for name, _ in fields)
    form = "&".join(f"{key}={number}" for key, number in value.items()).encode()
    text = json_module.dumps(value, separators=(",", ":")).encode()
    for wire, body, content_type in (
        (request.encode(value, **call), form, b"application/x-www-form-urlencoded" if value else None),
        (request.encode(json=value, **call), text, b"application/json"),
    ):
        own = [] if typed or content_type is None else [(b"Content-Type", content_type)]
        expected = [*fields, *own, (b"Content-Length", b"%d" % len(body))]
        assert wire == written_by_h11(method, target, expected, [body])


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=12) | st.binary(max_size=12), st.text(max_size=12) | st.binary(max_size=12))
@example("X", "1\r\nY: 2")
@example("Transfer-Encoding", "chunked")
def test_any_field_is_a_request_error_or_arrives_as_one_line(name: str | bytes, value: str | bytes) -> None:
    try:
        wire = Request(URL, headers=[(name, value)]).encode(b"body")
    except RequestError as error:
        message = str(error)
        assert message.isprintable()
        return
    name_octets = name.encode() if isinstance(name, str) else name
    value_octets = value.encode() if isinstance(value, str) else value
    assert values(wire, name_octets) == [value_octets]
    assert received(wire)[1] == b"body"
    assert wire.count(b"\n") == len(list(received(wire)[0].headers)) + 2


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=8))
def test_any_text_as_method_is_a_request_error_or_arrives_in_upper_case(method: str) -> None:
    try:
        wire = Request(URL, method=method).encode()
    except RequestError as error:
        message = str(error)
        assert message.isprintable()
        return
    assert method.isascii()
    assert received(wire)[0].method == method.upper().encode()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12), st.text(max_size=12))
def test_any_credentials_are_a_request_error_or_arrive_as_they_are(user: str, password: str) -> None:
    try:
        wire = Request(URL, auth=(user, password)).encode()
    except RequestError:
        assert re.search("[\x00-\x1f\x7f:\ud800-\udfff]", user + password)
        return
    assert values(wire, b"authorization") == basic(f"{user}:{password}".encode())


# --- requests is the oracle for forms and params -------------------------------------------------------------------

SENDABLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = SENDABLE | st.binary(max_size=8) | st.integers() | st.floats() | st.booleans() | st.none()
NESTED: st.SearchStrategy[object] = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.tuples(SCALARS),
    st.lists(st.lists(SCALARS, max_size=2), max_size=2),
    st.dictionaries(SENDABLE, SCALARS, max_size=2),
    st.binary(max_size=4).map(bytearray),
)
KEYS = SENDABLE | st.binary(max_size=8) | st.integers() | st.booleans() | st.floats(allow_nan=False)
FORMS = st.dictionaries(KEYS, NESTED, max_size=4) | st.lists(st.tuples(KEYS, NESTED), max_size=4)


@settings(max_examples=400, deadline=None)
@given(FORMS)
@example({"a": None})
@example({"a": []})
def test_a_form_is_encoded_as_requests_encodes_it(form: Any) -> None:
    prepared = requests.Request("POST", URL, data=form).prepare()
    wire = Request(URL).encode(form)
    oracle = prepared.body or b""
    assert received(wire)[1] == (oracle.encode() if isinstance(oracle, str) else oracle)
    content_type = prepared.headers.get("Content-Type")
    assert values(wire, b"content-type") == ([] if content_type is None else [content_type.encode()])


@settings(max_examples=400, deadline=None)
@given(FORMS, st.sampled_from(["http://h/p", "http://h/p?", "http://h/p?x=1", "http://h/p?x=1&y#f"]))
def test_params_are_encoded_as_requests_encodes_them(params: Any, url: str) -> None:
    prepared = requests.Request("POST", url, params=params).prepare()
    assert prepared.url is not None
    expected = urlsplit(prepared.url).query
    target = received(Request(url, params=params).encode())[0].target.decode()
    assert target.removeprefix("/p").removeprefix("?") == expected


JSON_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | SENDABLE,
    lambda inner: st.lists(inner | st.none(), max_size=4) | st.dictionaries(SENDABLE, inner | st.none(), max_size=4),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(JSON_VALUES)
def test_json_arrives_as_the_value_that_it_was(value: object) -> None:
    wire = Request(URL).encode(json=value)
    assert json_module.loads(received(wire)[1]) == value
    assert values(wire, b"content-type") == [b"application/json"]


def test_a_file_that_reads_more_than_it_is_asked_for_is_refused() -> None:
    # What runs over a Content-Length is another request to the server.
    class Generous(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:  # noqa: ARG002 - that is the point
            return super().read()

    file = Generous(b"0123456789POST /evil HTTP/1.1\r\n\r\n" * 10_000)
    with pytest.raises(RequestError, match="at most"):
        Request(URL).encode(file)
