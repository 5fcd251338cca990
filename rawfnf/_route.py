"""Where a connection goes and how it is to end: every driver's options, checked before anything touches the network."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, NamedTuple, cast

from . import _tcp
from ._errors import RequestError
from ._origin import Origin, host_name

if TYPE_CHECKING:
    import ssl
    from typing import Literal, TypeAlias

    from ._request import ConnectTo
    from ._tls import Tls

    Closing: TypeAlias = Literal["now", "acked", "answered"]

_MOST_SECONDS = 1e9  # 31 years: what is longer is a mistake, and would overflow somewhere
_CLOSINGS = ("now", "acked", "answered")
# sun_path of unix(7), with its terminating NUL. The BSDs and macOS have 104.
_UNIX_PATH_MAX = 107


class Route(NamedTuple):
    """Where to connect, from where, and by which TLS."""

    origin: Origin
    host: str  # to resolve, unless `address` is there
    port: int
    known: tuple[_tcp.Address, ...]  # an IP literal or Unix socket: no resolver is asked
    source: _tcp.Address | None
    ssl_context: ssl.SSLContext | None
    where: str  # for messages: host, port, and connect_to if given

    def start_tls(self) -> Tls:
        """Return the TLS of a new connection; there must be a context."""
        from ._tls import Tls  # loads ssl, 4 MB: for https only

        assert self.ssl_context is not None
        # Zone and final dot are the resolver's business: neither stands in a certificate or in SNI (RFC 6066 §3).
        return Tls(self.ssl_context, self.origin.host.partition("%")[0].rstrip("."))


def route_to(
    origin: Origin,
    *,
    ssl_context: ssl.SSLContext | None,
    connect_to: ConnectTo | None,
    source_address: tuple[str, int] | str | None,
) -> Route:
    """Check the options that say where and how to connect.

    Raises:
        RequestError: naming the option.

    """
    where = _shown(origin.host, origin.port)
    if connect_to is None:
        host, port = origin.host, origin.port
        address = _literal(host, port, "url")
    elif isinstance(connect_to, tuple):
        host, port = _host_and_port(connect_to, "connect_to")
        address = _literal(host, port, "connect_to")
        where += f" (connect_to {_shown(host, port)})"
    else:
        host, port = "", 0
        address = _unix_address(connect_to)
        where += f" (connect_to {address.sockaddr!r})"
    source = None if source_address is None else _source(source_address)
    if source is not None and address is not None and source.family != address.family:
        raise RequestError(
            f"source_address {source_address!r} cannot reach {where}: one is IPv4, the other IPv6 or a path"
        )
    context = _context(ssl_context) if origin.scheme == "https" or ssl_context is not None else None
    used = context if origin.scheme == "https" else None
    return Route(origin, host, port, () if address is None else (address,), source, used, where)


@functools.lru_cache(maxsize=64)
def default_route(origin: Origin) -> Route:
    """Return `route_to` without options, from a cache: checking them all again would cost more than a send()."""
    return route_to(origin, ssl_context=None, connect_to=None, source_address=None)


def checked_seconds(value: float, name: str) -> float:
    """Return a duration in seconds if it is one; NaN, infinities and bools are none."""
    if type(value) is float and 0 <= value <= _MOST_SECONDS:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST_SECONDS:
        raise RequestError(f"{name} must be a number of seconds, from 0 to {_MOST_SECONDS:.0e}, not {value!r:.40}")
    return value


def checked_timeout(timeout: float | None) -> float | None:
    """Return a timeout in seconds; None is no limit, and 0 is refused, since curl's 0 is no limit either."""
    if timeout is None:
        return None
    if timeout == 0:
        raise RequestError("timeout must be more than 0 seconds; None means no limit")
    return checked_seconds(timeout, "timeout")


def checked_closing(closing: str) -> Closing:
    """Return one of the three closings."""
    if closing in _CLOSINGS:
        return cast("Closing", closing)
    raise RequestError(f"closing must be one of {', '.join(map(repr, _CLOSINGS))}, not {closing!r}")


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _literal(host: str, port: int, name: str) -> _tcp.Address | None:
    try:
        return _tcp.literal_address(host, port)
    except OSError:
        raise RequestError(f"{name}: the zone of {host!r} is no network interface of this machine") from None


def _host_and_port(pair: tuple[str, int], name: str) -> tuple[str, int]:
    if len(pair) != 2 or not isinstance(pair[0], str) or type(pair[1]) is not int or not 0 < pair[1] < 65536:
        raise RequestError(f"{name} must be (host, port) with a port from 1 to 65535, or a path, not {pair!r}")
    host, port = pair
    if _literal(host, port, name) is None:
        host = host_name(host, f"{name} {pair!r}")
    return host, port


def _unix_address(path: str | os.PathLike[str]) -> _tcp.Address:
    try:
        text = os.fspath(path)
    except TypeError:
        raise RequestError(f"connect_to must be (host, port) or the path of a Unix socket, not {path!r}") from None
    if _tcp.AF_UNIX is None:
        raise RequestError("connect_to is a path, and this system has no Unix sockets: pass (host, port)")
    try:
        length = len(os.fsencode(text)) if isinstance(text, str) and "\0" not in text[1:] else 0
    except UnicodeEncodeError:
        length = 0
    if not length or not isinstance(text, str):
        raise RequestError(f"connect_to must be (host, port) or the path of a Unix socket, not {path!r}")
    if length > _UNIX_PATH_MAX:
        raise RequestError(f"connect_to {text!r} is too long for a Unix socket: {_UNIX_PATH_MAX} bytes at most")
    return _tcp.Address(_tcp.AF_UNIX, text)


def _source(source_address: tuple[str, int] | str) -> _tcp.Address:
    pair = (source_address, 0) if isinstance(source_address, str) else source_address
    if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int:
        address = _literal(pair[0], pair[1], "source_address")
        if address is not None and 0 <= pair[1] < 65536:
            return address
    raise RequestError(f"source_address must be (IP address, port), the port 0 for any, not {source_address!r}")


def _context(context: ssl.SSLContext | None) -> ssl.SSLContext:
    from . import _tls  # loads ssl, 4 MB: for https only

    return _tls.default_context() if context is None else _tls.checked_context(context)
