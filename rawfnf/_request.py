"""Fields and body → wire bytes, by h11. Pure: no socket, no network.

h11 writes every head and every chunk. A head that differs only in its Content-Length is written once and kept: the
length is its last field, so the digits are spliced in. tests/test_request.py holds h11's own output against it.
"""

from __future__ import annotations

import binascii
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import h11

from ._errors import RequestError, reason
from ._origin import Origin, escaped, parse_path, parse_url, refuse_unsendable

if TYPE_CHECKING:
    import os
    from typing import BinaryIO, Protocol, TypeAlias

    class Buffer(Protocol):
        """What memoryview() takes (collections.abc.Buffer, from Python 3.12)."""

        def __buffer__(self, flags: int, /) -> memoryview: ...

    Scalar: TypeAlias = str | bytes | int | float
    FormValue: TypeAlias = Scalar | Iterable[Scalar | None] | None
    Pairs: TypeAlias = Mapping[str, FormValue] | Mapping[bytes, FormValue] | Iterable[tuple[str | bytes, FormValue]]
    Params: TypeAlias = Pairs | str
    Data: TypeAlias = Buffer | str | Pairs | BinaryIO | Iterable[Buffer]
    FieldText: TypeAlias = str | bytes
    Fields: TypeAlias = Mapping[str, FieldText] | Mapping[bytes, FieldText] | Iterable[tuple[FieldText, FieldText]]
    Auth: TypeAlias = tuple[FieldText, FieldText]
    ConnectTo: TypeAlias = tuple[str, int] | str | os.PathLike[str]

VERSION = "0.1.0"

# Read from files and joined with a head up to this size, in bytes: one send() of the usual 64 KiB chunk, and small
# beside the 2.5 MiB that a default Linux send buffer grows to (tcp_wmem).
PIECE = 64 * 1024

_FORM = b"application/x-www-form-urlencoded"
_JSON = b"application/json"
_USER_AGENT = b"rawfnf/" + VERSION.encode()

# They say where the message ends and what happens to the connection: rawfnf's own business. A caller who could set
# them could smuggle a second request behind the first (RFC 9112 §11.2).
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade", b"te", b"trailer"})

# h11 lets all but NUL, CR, LF, VT and FF pass; RFC 9110 §5.5 calls every control character but HTAB invalid.
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Message(NamedTuple):
    """One request as it goes on the wire: the pieces that are in memory, then what the stream still yields."""

    method: bytes
    pieces: tuple[bytes | memoryview, ...]
    stream: Iterator[bytes] | None  # what next() raises is a failure on our side, in the middle of the request
    rewind: Callable[[], object] | None = None  # puts a file back where it stood

    def put_back(self) -> None:
        """Put a file back where it stood: what has not left can be sent again."""
        if self.rewind is not None:
            self.rewind()


class Request:
    """An HTTP/1.1 request to one URL, validated once; reusable and thread-safe. It never touches the network.

    Args:
        url: http or https. Credentials in it become Basic auth, a fragment is not sent; characters that a URL may not
            hold are percent-encoded as UTF-8, escapes that are there are kept.
        params: added to the URL's query: mapping or pairs (encoded as a form is), or a str that is a query already.
        headers: mapping or pairs; str must be ASCII, bytes go as they are. A field given here replaces rawfnf's own
            (Host, User-Agent, Content-Type).
        auth: (user, password) for Basic authentication (RFC 7617), str as UTF-8.
        method: any token but CONNECT; sent in upper case.

    Raises:
        RequestError: whatever is malformed, with the argument's name and the remedy.

    """

    __slots__ = ("_fields", "_method", "_origin", "_path", "_prefixes", "_query")

    def __init__(
        self,
        url: str,
        *,
        params: Params | None = None,
        headers: Fields | None = None,
        auth: Auth | None = None,
        method: str = "POST",
    ) -> None:
        target = parse_url(url)
        self._origin = target.origin
        self._method = _checked_method(method)
        self._path = target.path
        self._query = _with_params(target.query, params)
        self._fields = _own_fields(target.origin, _checked_fields(headers), _credentials(target.userinfo, auth))
        self._prefixes: dict[bytes | None, bytes] = {}
        self._prefix(None)  # so that h11 has seen the whole head before anything is sent

    def __repr__(self) -> str:
        origin = self._origin  # neither credentials nor the query, which often holds a key
        return f"<rawfnf.Request {self._method.decode()} {origin.scheme}://{origin.authority}{self._path}>"

    @property
    def origin(self) -> Origin:
        """Scheme, host and port."""
        return self._origin

    def encode(
        self,
        data: Data | None = None,
        *,
        json: object = None,
        params: Params | None = None,
        headers: Fields | None = None,
        path: str | None = None,
    ) -> bytes:
        """Return the exact bytes that would be sent. Sends nothing; consumes a file or an iterable.

        Args:
            data: bytes-like or str (UTF-8): as it is, without a Content-Type. Mapping or pairs: a form, as requests
                encodes it. Binary file: from where it stands to its end, with its Content-Length. Other iterables of
                bytes-like: chunked (RFC 9112 §7.1), an item a chunk.
            json: serialised as compact UTF-8, NaN and infinities refused. None means no JSON.
            params, headers: added to the Request's own for this call; a same-named field replaces it.
            path: replaces the URL's path; the query stays.

        Raises:
            RequestError: malformed arguments; a file that cannot be read or shrinks; an iterable that raises.

        """
        message = self.message(data, json=json, params=params, headers=headers, path=path)
        try:
            return b"".join((*message.pieces, *(message.stream or ())))
        except Exception as error:
            raise RequestError(f"data failed while being read: {reason(error, remedies=False)}") from error

    def message(
        self,
        data: Data | None = None,
        *,
        json: object = None,
        params: Params | None = None,
        headers: Fields | None = None,
        path: str | None = None,
    ) -> Message:
        """Return what `encode` joins, in pieces: what the drivers send, in bounded memory. Same arguments and errors.

        The first piece of a file or iterable is read here, so that one which fails at once has touched no network.
        """
        whole = _whole(data, json)
        if whole is None:
            return self._stream(cast("BinaryIO | Iterable[Buffer]", data), params, headers, path)
        content_type, body = whole
        head = self._head(content_type, len(body), params, headers, path)
        return Message(self._method, (head + body,) if len(body) <= PIECE else (head, body), None)

    def _stream(
        self, data: BinaryIO | Iterable[Buffer], params: Params | None, headers: Fields | None, path: str | None
    ) -> Message:
        if hasattr(data, "read"):
            here, length, start, rest = _file(data)
            if length is not None:
                pieces = (self._head(None, length, params, headers, path) + start,)
                rewind = functools.partial(cast("BinaryIO", data).seek, here)
                return Message(self._method, pieces, rest if len(start) < length else None, rewind)
            items: Iterable[Buffer] = itertools.chain((start,), rest)
        else:
            items = data
        first, others = _started(_items(items))
        writer = h11.Connection(h11.CLIENT)
        target, fields = self._changed(params, headers, path)
        head = _h11_head(writer, self._method, target, (*fields, (b"Transfer-Encoding", b"chunked")))
        chunks = _chunks(writer, first, others)
        return Message(self._method, (head + next(chunks),), chunks)

    def _head(
        self,
        content_type: bytes | None,
        length: int,
        params: Params | None,
        headers: Fields | None,
        path: str | None,
    ) -> bytes:
        if params is None and headers is None and path is None:
            prefix = self._prefixes.get(content_type) or self._prefix(content_type)
        else:
            prefix = _length_prefix(self._method, *self._changed(params, headers, path), content_type)
        return b"%b%d\r\n\r\n" % (prefix, length)

    def _changed(self, params: Params | None, headers: Fields | None, path: str | None) -> tuple[str, _Fields]:
        """Return the request target and fields with this call's own."""
        target = (self._path if path is None else parse_path(path)) + _with_params(self._query, params)
        return target, _replaced(self._fields, _checked_fields(headers))

    def _prefix(self, content_type: bytes | None) -> bytes:
        prefix = _length_prefix(self._method, self._path + self._query, self._fields, content_type)
        self._prefixes[content_type] = prefix  # two threads may both write it, and write the same
        return prefix


# --- bodies in memory ----------------------------------------------------------------------------------------------


def _whole(data: Data | None, json: object) -> tuple[bytes | None, bytes | memoryview] | None:
    """Return Content-Type and body of what is in memory, None for a stream; the most frequent forms first."""
    if json is not None:
        if data is not None:
            raise RequestError("data and json are both given: pass one of them")
        return _JSON, _encode_json(json)
    if data is None:
        return None, b""
    if isinstance(data, bytes):
        return None, data
    if isinstance(data, str):
        return None, _utf8(data, "data")
    view = _octets(data)
    if view is not None:
        return None, view
    if isinstance(data, Mapping) or _is_pairs(data):
        return (_FORM if data else None), _urlencode(data, "data").encode("ascii")
    if hasattr(data, "read") or isinstance(data, Iterable):
        return None
    raise RequestError(
        f"data cannot be {type(data).__name__}: pass bytes, str, a mapping, pairs, a binary file, an iterable of bytes"
    )


def _octets(data: object) -> memoryview | None:
    try:
        view = memoryview(data)  # type: ignore[arg-type]  # asking is the only way to know before Python 3.12
    except TypeError:
        return None
    try:
        return view.cast("B")
    except TypeError:
        raise RequestError("data is a buffer that is not contiguous: pass bytes(data)") from None


def _is_pairs(data: object) -> bool:
    """Pairs are a list or tuple of 2-tuples or 2-lists; other iterables are streams, of which no item may be lost."""
    if not isinstance(data, (list, tuple)):
        return False
    return all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in data)


def _urlencode(pairs: object, name: str) -> str:
    """Encode as requests does: a value may be a list, which repeats its key; None is left out."""
    from urllib.parse import urlencode  # loaded for forms and params only: it is 0.5 MB

    flat: list[tuple[Any, Any]] = []
    try:
        for key, value in _pairs(pairs):
            several = hasattr(value, "__iter__") and not isinstance(value, (str, bytes))
            flat += [(key, item) for item in (value if several else (value,)) if item is not None]
        return urlencode(flat, doseq=True)
    except UnicodeEncodeError:
        pass  # and raise outside: it carries the text along, which may be a password
    except (TypeError, ValueError) as error:
        raise RequestError(f"{name} cannot be form-encoded ({error}): pass a mapping or (key, value) pairs") from error
    raise RequestError(f"{name} cannot be form-encoded: it holds a lone surrogate, which UTF-8 cannot encode")


def _pairs(given: Any) -> list[tuple[Any, Any]]:
    """Return the pairs of a mapping, or those given; TypeError for anything else, "ab" among it."""
    pairs = list(given.items() if isinstance(given, Mapping) else given)
    if not _is_pairs(pairs):
        raise TypeError("not all of it are pairs")
    return pairs


@functools.cache
def json_encode() -> Callable[[object], str]:
    """Return compact json.dumps(), with NaN and infinities refused.

    JSONEncoder.encode() makes the C encoder anew for each call, which takes longer than a small object's encoding. That
    encoder is no documented name: where there is none, or it is not as known, the documented one serves.
    """
    from json import JSONEncoder, encoder  # loaded on first use: import rawfnf must stay small

    plain = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        iterencode = encoder.c_make_encoder(  # type: ignore[attr-defined]  # see above
            markers=None,  # no look-out for circular values: they end in RecursionError
            default=plain.default,
            encoder=encoder.encode_basestring,
            indent=None,
            key_separator=":",
            item_separator=",",
            sort_keys=False,
            skipkeys=False,
            allow_nan=False,
        )
        if "".join(iterencode(["\u00fc", {"a": None}], 0)) == '["\u00fc",{"a":null}]':
            return lambda value: "".join(iterencode(value, 0))
    except (AttributeError, TypeError):
        pass
    return plain.encode


def _encode_json(value: object) -> bytes:
    try:
        text: str = json_encode()(value)
    except RecursionError as error:
        raise RequestError(
            "json cannot be serialised: it holds itself, or is nested beyond the recursion limit"
        ) from error
    except (TypeError, ValueError) as error:
        raise RequestError(f"json cannot be serialised: {error}") from error
    return _utf8(text, "json")


def _utf8(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        position = error.start
    # Not while it is being handled: it carries the text along, which may be a password.
    raise RequestError(f"{name} holds a lone surrogate at {position}, which UTF-8 cannot encode")


# --- streams -------------------------------------------------------------------------------------------------------


def _file(file: Any) -> tuple[int, int | None, bytes, Iterator[bytes]]:
    """Return where a file stands, its length from there (None: unknown), its first piece, and the others."""
    try:
        here, length = _remaining(file)
        if length is None:
            # Not read1(), which would not wait until a buffered pipe has a whole piece: of a non-blocking file that
            # has nothing now it says b"", as at the end.
            return here, None, _read(file, PIECE), iter(functools.partial(_read, file, PIECE), b"")
        wanted = min(PIECE, length or 1)
        first = b"".join(_up_to(file, wanted))
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(f"data is a file that cannot be read: {reason(error, remedies=False)}") from error
    if length == 0 and first:  # a file of /proc, which claims to be empty
        return here, None, first, iter(functools.partial(_read, file, PIECE), b"")
    if len(first) < wanted:  # a file of /sys, which claims to be a page long: nothing has been promised yet
        length = len(first)
    return here, length, first, _rest_of(file, length - len(first), length)


def _up_to(file: Any, size: int) -> Iterator[bytes]:
    """Read that many bytes, unless the file ends before; one read() may return less than is there."""
    while size and (piece := _read(file, size)):
        size -= len(piece)
        yield piece


def _remaining(file: Any) -> tuple[int, int | None]:
    """Return a file's position, and the bytes from there to its end: None if it cannot tell (a pipe, a gzip file)."""
    try:
        here: int = file.tell()
        end: int = file.seek(0, 2)
        file.seek(here)
    except (AttributeError, OSError, ValueError):
        return 0, None
    return here, max(0, end - here)


def _read(file: Any, size: int) -> bytes:
    piece = file.read(size)
    if isinstance(piece, str):
        raise RequestError("data is a text file: open it in binary mode ('rb')")
    if piece is None:
        raise RequestError("data is a non-blocking file that has nothing to read now: pass a blocking one")
    if not isinstance(piece, bytes):
        raise RequestError(f"data is a file whose read() returns {type(piece).__name__}: it must return bytes")
    if len(piece) > size:  # it would run over its Content-Length, into what a server takes for another request
        raise RequestError(
            f"data is a file whose read({size}) returns {len(piece)} bytes: it must return {size} at most"
        )
    return piece


def _rest_of(file: Any, missing: int, length: int) -> Iterator[bytes]:
    while missing:
        piece = _read(file, min(PIECE, missing))
        if not piece:
            raise EOFError(f"the file shrank while being sent: {missing} of its {length} bytes are gone")
        missing -= len(piece)
        yield piece


def _items(items: Iterable[Buffer]) -> Iterator[bytes]:
    for item in items:
        octets = item if isinstance(item, bytes) else _copied(item)
        if octets:  # an empty chunk would end the message
            yield octets


def _copied(item: object) -> bytes:
    """Return an item's bytes. Copied, since whoever yields a buffer may fill it anew before the next."""
    view = _octets(item)
    if view is None:
        raise RequestError(f"data yields {type(item).__name__}: an iterable must yield bytes")
    return bytes(view)


def _started(items: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    try:
        return next(items, b""), items
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(f"data failed before its first item: {reason(error, remedies=False)}") from error


def _chunks(writer: h11.Connection, first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in itertools.chain((first,) if first else (), rest):
        yield writer.send(h11.Data(data=chunk)) or b""
    yield writer.send(h11.EndOfMessage()) or b""


# --- heads ---------------------------------------------------------------------------------------------------------

if TYPE_CHECKING:
    _Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]


@functools.lru_cache(maxsize=64)  # the same fields are given with every call, often: h11 takes 25 µs
def _length_prefix(method: bytes, target: str, fields: _Fields, content_type: bytes | None) -> bytes:
    """Return h11's head up to the digits of Content-Length, which is its last field."""
    if content_type is not None and all(name.lower() != b"content-type" for name, _ in fields):
        fields = (*fields, (b"Content-Type", content_type))
    head = _h11_head(h11.Connection(h11.CLIENT), method, target, (*fields, (b"Content-Length", b"0")))
    return head[: -len(b"0\r\n\r\n")]


def _h11_head(writer: h11.Connection, method: bytes, target: str, fields: _Fields) -> bytes:
    request = h11.Request(method=method, target=target.encode("ascii"), headers=list(fields))
    return writer.send(request) or b""


def _checked_method(method: str) -> bytes:
    if not isinstance(method, str):
        raise RequestError(f"method must be a str, not {type(method).__name__}")
    name = method.upper() if method.isascii() else ""  # "ß".upper() is "SS"
    if name == "CONNECT":
        raise RequestError("method CONNECT opens a tunnel, which rawfnf does not")
    try:
        h11.Request(method=name, target=b"/", headers=[(b"Host", b"")])
    except h11.LocalProtocolError as error:
        raise RequestError(f"method {method!r} is not a token of letters, digits and !#$%&'*+-.^_`|~") from error
    return name.encode()


def _own_fields(origin: Origin, given: _Fields, credentials: bytes | None) -> _Fields:
    own = [(b"Host", origin.authority.encode()), (b"User-Agent", _USER_AGENT)]
    if credentials is not None:
        if any(name.lower() == b"authorization" for name, _ in given):
            raise RequestError("headers hold Authorization beside credentials (auth, or in the url): pass one of them")
        own.append((b"Authorization", credentials))
    return (*_replaced(tuple(own), given), (b"Connection", b"close"))


def _replaced(own: _Fields, given: _Fields) -> _Fields:
    """Return `own` without the fields that `given` names, then `given`."""
    if not given:
        return own
    names = {name.lower() for name, _ in given}
    return (*(field for field in own if field[0].lower() not in names), *given)


def _checked_fields(headers: Fields | None) -> _Fields:
    """Return the fields as bytes. An error names the field, never the value, which may be a credential."""
    if headers is None:
        return ()
    try:
        pairs = _pairs(headers)
    except TypeError as error:
        raise RequestError("headers must be a mapping or (name, value) pairs") from error
    fields = tuple((_field_text(name, name, "name"), _field_text(value, name, "value")) for name, value in pairs)
    for name, value in fields:
        _check_field(name, value)
    if sum(name.lower() == b"host" for name, _ in fields) > 1:
        raise RequestError("headers hold Host twice: a request has one (RFC 9112 §3.2)")
    return fields


def _field_text(text: object, name: object, what: str) -> bytes:
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise RequestError(f"header {name!r}: its {what} must be str or bytes, not {type(text).__name__}")
    if not text.isascii():  # asked for first: an UnicodeEncodeError would carry the value along
        raise RequestError(f"header {name!r}: its {what} is not ASCII: pass bytes, in the encoding you mean")
    return text.encode()


def _check_field(name: bytes, value: bytes) -> None:
    if name.lower() in _FRAMING:
        raise RequestError(f"header {name.decode()!r} is rawfnf's own to set: leave it out")
    shown = name.decode("latin-1").partition(":")[0].partition(" ")[0]  # a value that got in here may be a credential
    if _CONTROL.search(value):
        raise RequestError(f"header {shown!r}: its value holds a control character, such as a line end: remove it")
    if not _is_field(b"Accept" if name.lower() == b"host" else name, value):  # h11 wants one Host, and only one
        raise RequestError(
            f"header {shown!r} is malformed: a name is a token, a value neither begins nor ends with a space"
        )


def _is_field(name: bytes, value: bytes) -> bool:
    """Ask h11. Its own error shows the value, so nothing may be raised while it is being handled."""
    try:
        h11.Request(method=b"POST", target=b"/", headers=[(b"Host", b""), (name, value)])
    except h11.LocalProtocolError:
        return False
    return True


def _credentials(userinfo: tuple[bytes, bytes] | None, auth: Auth | None) -> bytes | None:
    """Return the Authorization field's value: Basic, RFC 7617 §2."""
    if auth is None:
        if userinfo is None:
            return None
        user, password = userinfo
    else:
        if userinfo is not None:
            raise RequestError("auth is given beside credentials in the url: pass one of them")
        user, password = _checked_auth(auth)
    if b":" in user:
        raise RequestError("auth: the user name holds a ':', which Basic authentication cannot carry")
    if any(octet < 0x20 or octet == 0x7F for octet in user + password):
        raise RequestError("auth: user name or password holds a control character, such as a line end: remove it")
    return b"Basic " + binascii.b2a_base64(b"%b:%b" % (user, password), newline=False)


def _checked_auth(auth: Auth) -> tuple[bytes, bytes]:
    if not isinstance(auth, (tuple, list)) or len(auth) != 2:
        raise RequestError("auth must be (user, password): for anything else set Authorization in headers")
    if not all(isinstance(part, (str, bytes)) for part in auth):
        raise RequestError("auth: user name and password must be str or bytes")
    user, password = (_utf8(part, "auth: user name or password") if isinstance(part, str) else part for part in auth)
    return user, password


def _with_params(query: str, params: Params | None) -> str:
    if params is None:
        return query
    if isinstance(params, str):
        refuse_unsendable(params, "params")
        added = escaped(params)
    else:
        added = _urlencode(params, "params")
    if not added:
        return query
    return f"{query}&{added}" if len(query) > 1 else f"?{added}"
