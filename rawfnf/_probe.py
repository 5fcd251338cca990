"""probe(): ask an endpoint, once and with real requests, which closing it needs.

Theory of operation. Fire-and-forget never sees an error, so somebody has to look beforehand. The given request is sent
in three ways, which differ only in when our end is sent:

    answered   only once the server has answered: a normal exchange
    now        together with the request's last byte
    acked      once the peer's kernel has acknowledged everything

and each time the answer is listened for. A server that takes an end for "gone" answers the first way only. What goes on
the wire is a Listener's business (_connection.py); what all this means, in words, is _advice.py's.

It is polite: where the first request is not accepted (2xx), no other is sent, since none could tell more. A way whose
attempt meets silence until `linger`, or a status that refuses it, ends there: that may be a limit, or a request that is
taken only once. Where that happens to a normal exchange, nothing more is asked. Idle connections, which some servers
give a worker each, are held only as long as a request beside them is answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from . import _advice, _tcp
from ._connection import Connection, Listener
from ._errors import ConnectError, RawfnfError, RequestError, SendError, not_prepared, reason
from ._origin import redacted
from ._post import Waiter, resolved
from ._request import Message, Request
from ._route import checked_seconds, checked_timeout, route_to

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from datetime import datetime

    from ._connection import Wait
    from ._request import Auth, ConnectTo, Data, Fields, Params
    from ._route import Closing, Route

# Idle connections held, as many as the recommendation has spares.
HELD = _advice.SPARES
# Seconds that a server may take to close behind its answer: FIN mostly comes in the same segment.
_UNTIL_END = 0.25
# A request beside idle connections is given up after so many times what the slowest took without them, and no sooner
# than this, in seconds: until then nobody else may be answered either. The kernel sends again what a full backlog has
# made it lose, a SYN or its answer, after exactly 1 s (RFC 6298 §2.1; linux: TCP_TIMEOUT_INIT): that is not waiting for
# a worker, and must be over by then.
_SLOWER, _SOONEST = 10, 2.0
_MOST_ATTEMPTS = 1000
_HTTP1 = b"HTTP/1."


class ProbedTls(NamedTuple):
    """What TLS agreed upon.

    Attributes:
        version: such as "TLSv1.3".
        alpn: the protocol that the server chose, such as "http/1.1"; None if it chose none.
        not_after: when its certificate expires, UTC; None if it was not verified.
        tickets: session tickets that came after the handshake, as far as was listened. One that reaches a closed socket
            makes our kernel send RST, which is why an explicit "now" over TLS 1.3 loses requests.

    """

    version: str
    alpn: str | None
    not_after: datetime | None
    tickets: int


class Way(NamedTuple):
    """How the request fared with one closing.

    Attributes:
        closing: "answered", "now" or "acked".
        posts: how often it was sent; fewer than `attempts` where more would tell nothing.
        answered: of these, how often a 2xx came.
        early: of `answered`, how often it came before our end had left, and so says nothing of what our end does.
        acked: how often the peer's kernel had acknowledged everything before our end left. None where that was not
            waited for, or this system does not tell.
        seconds: from the request's last byte to the head of the answer, the median of `answered`; None without one.
        statuses: how often each came.
        failures: how often each thing went wrong, in words.
        possible: whether this closing looked possible; True for "answered" where every exchange was accepted. None: not
            known.
        why: of `possible`, in words.

    """

    closing: Closing
    posts: int
    answered: int
    early: int
    acked: int | None
    seconds: float | None
    statuses: dict[int, int]
    failures: dict[str, int]
    possible: bool | None
    why: str


class Idle(NamedTuple):
    """What became of connections that were opened and not used, as a Sender's spares are.

    Attributes:
        held: how many there were.
        seconds: how long the first of them lived.
        closed: True: the server closed it then. False: it was open when we stopped looking.
        beside: whether a request was accepted (2xx) while they were open: no, where each holds a worker of the server.
            One that is refused, by a limit perhaps, is not accepted either.

    """

    held: int
    seconds: float
    closed: bool
    beside: bool


class Probe(NamedTuple):
    """What a probe found, and what it recommends. Nothing here shows a credential of the URL.

    Attributes:
        url: the URL, without credentials, and without its query, which often holds a key.
        addresses: (address, port) that the name has, or a Unix socket's path.
        address: the one that was used. No other was asked.
        round_trip: the shortest time that TCP took to connect, in seconds; None on a Unix socket.
        tls: what TLS agreed upon; None without.
        status: of the first answer; None if none came.
        location: where a redirect leads, absolute, and shown as `url` is; None without one.
        http2: whether the server speaks HTTP/2 only, or insists on it here.
        meaning: of the status for fire-and-forget, in words.
        closes: whether the server closes after its answer, as the request asks it to; None if that was not seen.
        answered, now, acked: how the request fared with each closing. The last two are None if they were not tried.
        idle: what became of idle connections; None if that was not tried, as where a status refused a request.
        code: a line of Python to paste that is safe here, as far as any is; None where rawfnf cannot send at all. The
            names `url`, `params`, `headers`, `auth`, `ssl_context` in it stand for what probe() was given, and may
            hold credentials; `url` for where it redirects to, if it does (303 is none: it says where the outcome is).
        faster: lines beside it that looked possible, the fastest first, for who knows what stands in `unseen`.
        unseen: what a client cannot see, in words.

    """

    url: str
    addresses: tuple[tuple[str, int] | str, ...]
    address: tuple[str, int] | str
    round_trip: float | None
    tls: ProbedTls | None
    status: int | None
    location: str | None
    http2: bool
    meaning: str
    closes: bool | None
    answered: Way
    now: Way | None
    acked: Way | None
    idle: Idle | None
    code: str | None
    faster: tuple[str, ...]
    unseen: tuple[str, ...]


def probe(
    url: str,
    data: Data | None = None,
    *,
    json: object = None,
    params: Params | None = None,
    headers: Fields | None = None,
    auth: Auth | None = None,
    method: str = "POST",
    timeout: float | None = 5.0,
    linger: float = 5.0,
    ssl_context: ssl.SSLContext | None = None,
    connect_to: ConnectTo | None = None,
    source_address: tuple[str, int] | str | None = None,
    attempts: int = 5,
    idle: float = 3.0,
) -> Probe:
    """Ask an endpoint which closing it needs. **It sends real requests**: `attempts` for each closing, and one more.

    The one more is sent beside idle connections. If the first of all is not accepted (2xx), it stays the only one; a
    closing whose request is refused later is not asked again. It blocks for their time, and `idle`.

    Args:
        url, params, headers, auth, method: as for `Request`.
        data, json: as for `Request.encode`. Files and iterables are read into memory, once.
        timeout, ssl_context, connect_to, source_address: as for `post`; `timeout` is for each request.
        linger: seconds to wait for each answer.
        attempts: requests for each closing.
        idle: seconds to watch whether idle connections stay open; 0: do not ask.

    Returns:
        A Probe. What fails only with a fast closing, or after a connection was made, is a finding and no exception.

    Raises:
        RequestError: malformed arguments. Nothing touched the network.
        ConnectError: the endpoint cannot be reached at all. No request byte left.

    """
    call = _advice.Call(url, params, headers, auth, method, timeout, linger, ssl_context, connect_to, source_address)
    return ask(call, data, json, attempts=attempts, idle=idle)


def ask(
    call: _advice.Call,
    data: Data | None,
    json: object = None,
    *,
    attempts: int,
    idle: float,
    tell: Callable[[str], object] = lambda _: None,
) -> Probe:
    """Do what probe() does; `tell` is called with what is asked next, in words."""
    linger, timeout = checked_seconds(call.linger, "linger"), checked_timeout(call.timeout)
    requests_sent(attempts, idle)
    # Fields are looked at twice: by the Request, and for the recommendation.
    headers = list(call.headers) if isinstance(call.headers, Iterator) else call.headers
    call = call._replace(linger=linger, timeout=timeout, headers=headers)
    try:
        request = Request(call.url, params=call.params, headers=headers, auth=call.auth, method=call.method)
        route = route_to(
            request.origin,
            ssl_context=call.ssl_context,
            connect_to=call.connect_to,
            source_address=call.source_address,
        )
        message = _in_memory(request, data, json)
    except (OSError, ImportError) as error:  # a module or certificate that is loaded on first use
        raise not_prepared(error) from error
    started = monotonic()
    addresses = route.known or resolved(route, None if timeout is None else started + timeout)
    return _Prober(route, addresses, message, timeout, linger, tell=tell).probe(call, attempts, idle)


def requests_sent(attempts: int, idle: float) -> int:
    """Return how many requests a probe sends at most; RequestError for what cannot be asked."""
    if type(attempts) is not int or not 1 <= attempts <= _MOST_ATTEMPTS:
        raise RequestError(f"attempts must be a whole number from 1 to {_MOST_ATTEMPTS}, not {attempts!r:.40}")
    beside = 1 if checked_seconds(idle, "idle") else 0
    return (3 if _tcp.TELLS_UNACKED else 2) * attempts + beside


def _in_memory(request: Request, data: Data | None, json: object) -> Message:
    """Return the request as a Message that can be sent more than once."""
    wire = request.encode(data, json=json)
    return Message(request.message().method, (wire,), None)


class _Attempt(NamedTuple):
    """What came of one request."""

    status: int | None
    seconds: float | None = None  # as in Way
    early: bool = False  # the answer came before our half-close
    acked: bool = False
    failure: str | None = None
    silent: bool = False  # neither an answer nor an end came until `linger`

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Tell whether a status said no: for a limit, or because the request is taken only once."""
        return self.status is not None and not self.accepted


class _Prober:
    """Sends the request, again and again, and remembers what all connections have shown."""

    def __init__(
        self,
        route: Route,
        addresses: tuple[_tcp.Address, ...],
        message: Message,
        timeout: float | None,
        linger: float,
        *,
        tell: Callable[[str], object],
    ) -> None:
        self._tell = tell
        self._route, self._found, self._message = route, addresses, message
        self._timeout, self._linger = timeout, linger
        self._addresses = addresses  # the one that answered, once there is one
        self._connects: list[float] = []
        self._tickets = 0

    def probe(self, call: _advice.Call, attempts: int, idle: float) -> Probe:
        """Do all of it; ConnectError if there is no first connection."""
        self._tell(_asking("answered", 1, attempts))
        first = Listener(*self._where())
        refused = False
        try:
            attempt = self._send(first, "answered", self._linger, until_end=_UNTIL_END)
        except ConnectError as error:
            refused = _refused_http1(error)
            if not refused:
                raise
            self._note(first)
            attempt = _Attempt(None, failure="it refused HTTP/1.1 in the handshake (ALPN)")
        self._addresses = (first.address,)
        ways = answered, now, acked = [attempt], list[_Attempt](), list[_Attempt]()
        beside = None
        if attempt.accepted:
            self._go_on("answered", answered, attempts)
            if not answered[-1].refused:
                self._go_on("now", now, attempts)
                if _tcp.TELLS_UNACKED:
                    self._go_on("acked", acked, attempts)
            if idle and not any(way and way[-1].refused for way in ways):
                beside = self._idle(answered, idle)
        http2 = refused or (attempt.status is None and _insists_on_http2(first))
        return self._result(call, first, http2=http2, ways=ways, idle=beside)

    def _result(
        self,
        call: _advice.Call,
        first: Listener,
        *,
        http2: bool,
        ways: tuple[list[_Attempt], list[_Attempt], list[_Attempt]],
        idle: Idle | None,
    ) -> Probe:
        attempt = ways[0][0]
        answered, now, acked = _way("answered", ways[0]), _way("now", ways[1]), _way("acked", ways[2])
        assert answered is not None
        location = _advice.location(call.url, attempt.status, first.seen)
        found = Probe(
            url=redacted(call.url),
            addresses=tuple(map(_shown, self._found)),
            address=_shown(first.address),
            round_trip=None if first.address.family == _tcp.AF_UNIX else min(self._connects),
            tls=self._tls(first),
            status=attempt.status,
            location=location,
            http2=http2,
            meaning=_meaning(attempt, first.seen, location, self._linger, http2=http2),
            closes=first.peer_ended if first.complete else None,
            answered=answered,
            now=now,
            acked=acked,
            idle=idle,
            code=None,
            faster=(),
            unseen=(),
        )
        found = _advice.judged(found)
        speaks = not http2 and _may_be_http1(first.seen)
        return found._replace(
            code=_advice.code(found, call) if speaks else None,
            faster=_advice.faster(found, call),
            unseen=_advice.unseen(found),
        )

    # --- requests --------------------------------------------------------------------------------------------------

    def _go_on(self, closing: Closing, way: list[_Attempt], attempts: int) -> None:
        while len(way) < attempts and not (way and (way[-1].silent or way[-1].refused)):
            self._tell(_asking(closing, len(way) + 1, attempts))
            way.append(self._again(closing, self._linger))

    def _again(self, closing: Closing, linger: float) -> _Attempt:
        """Send on another connection; that there is none any more is a finding."""
        try:
            return self._send(Listener(*self._where()), closing, linger)
        except ConnectError as error:
            return _Attempt(None, failure=_told(error))

    def _send(self, connection: Listener, closing: Closing, linger: float, *, until_end: float = 0.0) -> _Attempt:
        failure, silent = None, False
        connection.give(self._message, closing=closing, linger=linger)
        try:
            _listen(connection, closing, until_end)
        except SendError as error:
            failure = _told(error)
        self._note(connection)
        if connection.status is None:
            silent = failure is None and not connection.peer_ended
            failure = _missing(connection, failure, linger)
        early = connection.status is not None and not connection.half_closed
        return _Attempt(connection.status, connection.answer_seconds, early, connection.acked, failure, silent)

    def _where(self) -> tuple[Route, tuple[_tcp.Address, ...], float, float | None]:
        started = monotonic()
        return self._route, self._addresses, started, None if self._timeout is None else started + self._timeout

    def _note(self, connection: Listener) -> None:
        self._connects.append(connection.connect_seconds)
        self._tickets = max(self._tickets, connection.tickets)

    def _tls(self, first: Listener) -> ProbedTls | None:
        if first.agreed is None:
            return None
        from datetime import datetime, timezone  # takes a while to load, and is for https only

        version, alpn, ends = first.agreed
        return ProbedTls(
            version, alpn, None if ends is None else datetime.fromtimestamp(ends, timezone.utc), self._tickets
        )

    # --- idle connections ------------------------------------------------------------------------------------------

    def _idle(self, usual: list[_Attempt], seconds: float) -> Idle:
        self._tell(f"{HELD} idle connections, for {seconds:g} s")
        spares: list[Connection] = []
        try:
            return self._hold(spares, usual, seconds)
        finally:
            _abort(spares)

    def _hold(self, spares: list[Connection], usual: list[_Attempt], seconds: float) -> Idle:
        try:
            for _ in range(HELD):
                spares.append(Connection(*self._where()))
                _open(spares[-1])
        except ConnectError:
            return Idle(len(spares) - 1, 0.0, closed=True, beside=False)
        slowest = max(attempt.seconds or 0.0 for attempt in usual)
        beside = self._again("answered", min(self._linger, max(_SOONEST, _SLOWER * slowest)))
        first = spares[0]
        if beside.accepted:
            _watch(first, first.ready_at + seconds)
        return Idle(HELD, monotonic() - first.ready_at, closed=first.state == "closed", beside=beside.accepted)


# --- waiting -------------------------------------------------------------------------------------------------------


def _listen(connection: Listener, closing: Closing, until_end: float) -> None:
    """Let it go on until the answer is complete, and `until_end` seconds more for the peer's end; then close.

    An answer that comes before our half-close does not keep that from being waited for.
    """
    try:
        wait = connection.advance()
        if wait is not None:
            with Waiter(connection) as waiter:
                _listen_on(connection, closing, waiter, wait, until_end)
    finally:
        connection.abort()


def _listen_on(connection: Listener, closing: Closing, waiter: Waiter, wait: Wait | None, until_end: float) -> None:
    end = None
    while wait is not None:
        if connection.complete and (closing == "answered" or connection.state == "listening"):
            end = end or monotonic() + until_end
            if monotonic() >= end:
                return
            wait = wait._replace(until=end if wait.until is None else min(end, wait.until))
        waiter.wait(wait)
        wait = connection.advance()


def _open(connection: Connection) -> None:
    """Wait until it is ready, or closed again."""
    wait = connection.advance()
    if wait is not None and connection.state != "ready":
        with Waiter(connection) as waiter:
            _open_on(connection, waiter, wait)


def _open_on(connection: Connection, waiter: Waiter, wait: Wait | None) -> None:
    while wait is not None and connection.state != "ready":
        waiter.wait(wait)
        wait = connection.advance()


def _watch(connection: Connection, until: float) -> None:
    """Wait until the server has closed an idle connection; `until` at most."""
    with Waiter(connection) as waiter:
        _watch_on(connection, waiter, until)


def _watch_on(connection: Connection, waiter: Waiter, until: float) -> None:
    wait = connection.advance()
    while wait is not None and monotonic() < until:
        waiter.wait(wait._replace(until=until))
        wait = connection.advance()


def _abort(connections: list[Connection]) -> None:
    for connection in connections:
        connection.abort()


# --- what was seen -------------------------------------------------------------------------------------------------


def _way(closing: Closing, attempts: list[_Attempt]) -> Way | None:
    if not attempts:
        return None
    accepted = [attempt for attempt in attempts if attempt.accepted]
    seconds = sorted(attempt.seconds or 0.0 for attempt in accepted)
    return Way(
        closing,
        posts=len(attempts),
        answered=len(accepted),
        early=sum(attempt.early for attempt in accepted),
        acked=sum(attempt.acked for attempt in attempts) if closing == "acked" else None,
        seconds=seconds[len(seconds) // 2] if seconds else None,
        statuses=dict(Counter(attempt.status for attempt in attempts if attempt.status is not None)),
        failures=dict(Counter(attempt.failure for attempt in attempts if attempt.failure is not None)),
        possible=None,
        why="",
    )


def _asking(closing: Closing, number: int, attempts: int) -> str:
    return f'closing="{closing}", request {number} of {attempts}'


def _meaning(attempt: _Attempt, seen: bytes, location: str | None, linger: float, *, http2: bool) -> str:
    if attempt.silent and not http2 and _may_be_http1(seen):
        return _advice.silence(linger)
    return _advice.meaning(attempt.status, location, attempt.failure, http2=http2)


def _missing(connection: Listener, failure: str | None, linger: float) -> str:
    """Say what came where an answer should have come."""
    if not _may_be_http1(connection.seen):
        return "it sent what is no HTTP/1 response"
    if failure is not None:
        return failure
    if connection.failure is not None:
        return reason(connection.failure, remedies=False)
    return "it closed without an answer" if connection.peer_ended else f"no answer in {linger:g} s"


def _may_be_http1(seen: bytes) -> bool:
    """Tell whether it begins as a status line does (RFC 9112 §4), as far as it goes."""
    return seen[: len(_HTTP1)] == _HTTP1[: len(seen)]


def _told(error: RawfnfError) -> str:
    return reason(error.__cause__ or error, remedies=False)


def _refused_http1(error: ConnectError) -> bool:
    """Tell whether the handshake failed because the server takes no protocol that we offer (RFC 7301 §3.2)."""
    # Its number, 120, is younger than the names that ssl has for alerts: only the text tells, in either spelling.
    return "no application protocol" in str(error.__cause__).lower().replace("_", " ")


def _insists_on_http2(connection: Listener) -> bool:
    """Tell whether HTTP/2 was agreed upon, or the server began with one of its frames (RFC 9113 §4.1).

    That is SETTINGS (4), its preface, or GOAWAY (7), both on stream 0.
    """
    seen = connection.seen
    frame = len(seen) >= 9 and seen[3] in {4, 7} and seen[5:9] == bytes(4)
    return frame or (connection.agreed is not None and connection.agreed.alpn == "h2")


def _shown(address: _tcp.Address) -> tuple[str, int] | str:
    return address.sockaddr if isinstance(address.sockaddr, str) else address.sockaddr[:2]
