"""post(): one request on one connection; waits until that is closed."""

from __future__ import annotations

import errno
import functools
import selectors
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from . import _tcp
from ._connection import Connection
from ._errors import ConnectError, not_prepared, reason
from ._request import Request
from ._route import checked_closing, checked_seconds, checked_timeout, default_route, route_to

if TYPE_CHECKING:
    import ssl
    from typing import Any

    from typing_extensions import Self

    from ._connection import Receipt, Wait
    from ._request import Auth, ConnectTo, Data, Fields, Message, Params
    from ._route import Closing, Route


# Seconds; advancing once more than needed does no harm.
LONGEST_WAIT = 3600.0


def post(
    url: str,
    data: Data | None = None,
    *,
    json: object = None,
    params: Params | None = None,
    headers: Fields | None = None,
    auth: Auth | None = None,
    method: str = "POST",
    timeout: float | None = 5.0,
    closing: Closing | None = None,
    linger: float = 5.0,
    ssl_context: ssl.SSLContext | None = None,
    connect_to: ConnectTo | None = None,
    source_address: tuple[str, int] | str | None = None,
) -> Receipt:
    """Send one request on a connection of its own, close without waiting for the answer, say what is known.

    Args:
        url, params, headers, auth, method: as for `Request`.
        data, json: as for `Request.encode`. Files and iterables are read while sending, in bounded memory.
        timeout: seconds for resolve + connect + handshake + send, one deadline; None: no limit. It cannot interrupt the
            system's resolver, nor an iterable: the call may overrun by their time, and raises then. An iterable's first
            item is read before the clock starts.
        closing: "now", "acked" or "answered": when to close, and so what is known. None: "now" on TCP and Unix sockets,
            "acked" over TLS, where tickets that reach a closed socket make our kernel drop what is on its way.
        linger: seconds that "acked" and "answered" may wait after the last byte was handed over. When they run out the
            connection is closed, and the receipt says the strongest thing that is known.
        ssl_context: None: the system's trust store, certificate and name checked, TLS 1.2 or newer, ALPN http/1.1.
        connect_to: (host, port), or the path of a Unix socket: where to connect, whatever the URL says.
        source_address: (IP address, port) to connect from, the port 0 for any; or the address alone.

    Returns:
        A Receipt, once the connection is closed.

    Raises:
        RequestError: malformed arguments. Nothing touched the network.
        ConnectError: no request byte left; sending again is safe. A file that can seek is back where it stood; an
            iterable has lost the item that was read before connecting.
        SendError: the server may have none, some or all of the request. It ended in RST if it is not whole, so that
            the server cannot take it for whole.

    """
    order = ordered(
        url,
        data,
        json,
        params,
        headers,
        auth,
        method,
        timeout,
        closing,
        linger,
        ssl_context,
        connect_to,
        source_address,
    )
    route, started = order.route, monotonic()
    deadline = order.deadline(started)
    try:
        return _closed(order.connection(route.known or resolved(route, deadline), started, deadline))
    except ConnectError:
        order.message.put_back()
        raise


class Order(NamedTuple):
    """One post, its arguments checked."""

    route: Route
    message: Message
    closing: Closing
    linger: float
    timeout: float | None

    def deadline(self, now: float) -> float | None:
        """Return when connecting and sending are to be done."""
        return None if self.timeout is None else now + self.timeout

    def connection(self, addresses: tuple[_tcp.Address, ...], started: float, deadline: float | None) -> Connection:
        """Return the connection that is to carry it; not a byte has left."""
        connection = Connection(self.route, addresses, started, deadline)
        connection.give(self.message, closing=self.closing, linger=self.linger)
        return connection


def ordered(  # noqa: PLR0917  # every driver's post() has them all, and keywords take time
    url: str,
    data: Data | None,
    json: object,
    params: Params | None,
    headers: Fields | None,
    auth: Auth | None,
    method: str,
    timeout: float | None,
    closing: Closing | None,
    linger: float,
    ssl_context: ssl.SSLContext | None,
    connect_to: ConnectTo | None,
    source_address: tuple[str, int] | str | None,
) -> Order:
    """Check post()'s arguments, which are told of there."""
    linger = checked_seconds(linger, "linger")
    timeout = checked_timeout(timeout)
    if closing is not None:
        closing = checked_closing(closing)
    try:
        request = _request(url, params, headers, auth, method)
        origin = request.origin
        if ssl_context is None and connect_to is None and source_address is None:
            route = default_route(origin)
        else:
            route = route_to(origin, ssl_context=ssl_context, connect_to=connect_to, source_address=source_address)
        message = request.message(data, json=json)
    except (OSError, ImportError) as error:  # a module or certificate that is loaded on first use
        raise not_prepared(error) from error
    default: Closing = "now" if route.ssl_context is None else "acked"
    return Order(route, message, closing or default, linger, timeout)


def _request(url: str, params: Params | None, headers: Fields | None, auth: Auth | None, method: str) -> Request:
    """Return a Request, from the cache where its arguments can be a key.

    Params cannot: 1 and True are equal keys, and are encoded differently. All else is str or bytes, or refused; but a
    mapping of the caller's own class may be hashable and change, so only plain ones are taken.
    """
    if params is None and (headers is None or type(headers) is dict):
        try:
            return _cached_request(url, None if headers is None else tuple(headers.items()), auth, method)
        except TypeError:
            pass  # something that cannot be hashed, and that Request is to judge
    return Request(url, params=params, headers=headers, auth=auth, method=method)


@functools.lru_cache(maxsize=64)
def _cached_request(url: str, headers: tuple[Any, ...] | None, auth: Auth | None, method: str) -> Request:
    return Request(url, headers=headers, auth=auth, method=method)


def resolved(route: Route, deadline: float | None) -> tuple[_tcp.Address, ...]:
    """Ask the system's resolver; ConnectError if it does not know, or took longer than until `deadline`."""
    try:
        found = _tcp.resolve(route.host, route.port, route.source)
        if deadline is not None and monotonic() >= deadline:
            raise resolver_late()
    except OSError as error:
        raise unresolved(route, error) from error
    return found


def resolver_late() -> TimeoutError:
    """Return what is wrong when the deadline has passed."""
    return TimeoutError(errno.ETIMEDOUT, "the resolver took longer than timeout")


def unresolved(route: Route, error: OSError) -> ConnectError:
    """Translate what the resolver says."""
    return ConnectError(
        f"cannot resolve {route.where}: {reason(error)}",
        phase="resolve",
        host=route.origin.host,
        port=route.origin.port,
        errno=error.errno,
    )


def _closed(connection: Connection) -> Receipt:
    """Let the connection go on until it is closed. Whatever ends that ends the connection."""
    try:
        wait = connection.advance()
        if wait is not None:
            with Waiter(connection) as waiter:
                waiter.wait_until_closed(wait)
    except BaseException:  # an interrupt may come between any two lines
        connection.abort()
        raise
    return connection.receipt()


class Waiter:
    """Waits for what one connection waits for. A context manager: it has a selector of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        try:
            self._selector = selectors.DefaultSelector()  # looked up now, so that gevent's patch is seen
        except OSError as error:  # its descriptor was one too many
            connection.fail(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()

    def wait_until_closed(self, wait: Wait | None) -> None:
        """Wait, and let the connection go on, until there is nothing to wait for."""
        while wait is not None:
            self.wait(wait)
            wait = self._connection.advance()

    def wait(self, wait: Wait) -> None:
        """Wait for one of the events, or the time."""
        events = selectors.EVENT_READ * wait.readable | selectors.EVENT_WRITE * wait.writable
        descriptor = self._connection.fileno()
        if events:
            self._selector.register(descriptor, events)
        self._selector.select(seconds_until(wait.until))
        if events:
            # The next wait may be for another address's socket, under the same number.
            self._selector.unregister(descriptor)


def seconds_until(time: float | None) -> float:
    """Return a selector's timeout. epoll_wait() takes milliseconds in an int, 24 days: never quite that long."""
    return LONGEST_WAIT if time is None else min(max(0.0, time - monotonic()), LONGEST_WAIT)
