"""What a probe has found, in words and as code to paste. Pure: no socket, no clock.

Whoever reads this has an endpoint before them that they did not write, behind a proxy that nobody remembers.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

from ._origin import redacted

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator, Sequence

    from ._probe import Idle, Probe, ProbedTls, Way
    from ._request import Auth, ConnectTo, Fields, Params

# What is recommended where idle connections are kept: enough for posts that come one at a time, and polite.
SPARES = 2

# Seconds after which a Sender replaces a spare: what is open for so long serves for all of it (_pool.py).
_LIFE = 30.0

# An answer this much sooner than usual, in seconds, and in less than half the time: somebody gave up.
_SOONER = 0.005

_WIDTH, _LABEL = 80, 12

# Arguments that stand in the recommendation by name.
_GIVEN = ("url", "params", "headers", "auth", "ssl_context")
# Fields that hold no credential: they may stand in the recommendation.
_HARMLESS = {"accept", "content-type", "user-agent"}

_MEANINGS = {
    400: "refused: it does not like this request; look at the body and its Content-Type",
    401: "refused: it wants other credentials (auth=, on the command line -u, or a header)",
    403: "refused: these credentials, or this client, may not do this",
    404: "nothing is at this path: check the URL",
    405: "this path takes other methods, not this one",
    408: "it did not get the request in time",
    411: "it wants a Content-Length: pass bytes, or a file, and no iterable",
    413: "the body is too large for it, or for the proxy before it",
    415: "it does not take this Content-Type",
    422: "refused: it does not like what the body says",
    426: "it wants another protocol, HTTP/2 perhaps, which rawfnf does not speak",
    429: "too many requests: post less often, or ask for a higher limit",
    500: "the application failed on this request: look at its log",
    502: "the proxy got no answer from what is behind it",
    503: "nobody is there to serve it now",
    504: "what is behind the proxy was too slow for it",
    505: "it wants another version of HTTP, which rawfnf does not speak",
}
_CLASSES = {2: "accepted", 3: "a redirect that names no other URL", 4: "refused", 5: "the server failed"}
_CUT_SHORT = (
    "whether a handler ran to its end: an answer after our end does not prove it, since some servers cancel the "
    "handler, as Go does, and answer all the same; nor does silence prove that it did not, since uvicorn goes on "
    "and cannot answer"
)
_MAY_CHANGE = (
    "what changes it: load, a slower handler, a larger body, another machine behind a load balancer, a proxy that "
    "acknowledges for a server behind it"
)
_UNSEEN_LOSS = "Fire-and-forget would lose every post, and never tell"


class Call(NamedTuple):
    """The arguments that probe() was given, and that the recommendation has to repeat."""

    url: str
    params: Params | None
    headers: Fields | None
    auth: Auth | None
    method: str
    timeout: float | None
    linger: float
    ssl_context: ssl.SSLContext | None
    connect_to: ConnectTo | None
    source_address: tuple[str, int] | str | None


# --- the answer ----------------------------------------------------------------------------------------------------


def location(url: str, status: int | None, head: bytes) -> str | None:
    """Return where a redirect leads, absolute, without credentials or query; None for what is no redirect."""
    if status is None or not 300 <= status < 400:
        return None
    while re.match(rb"HTTP/1\.\d 1\d\d", head):  # 103 and the like stand before the final head
        head = head.partition(b"\r\n\r\n")[2]
    found = re.search(rb"(?im)^location:[ \t]*(\S[^\r\n]*?)[ \t]*\r?$", head.partition(b"\r\n\r\n")[0])
    if found is None:
        return None
    from urllib.parse import urljoin  # for redirects only

    text = found[1].decode("utf-8", "replace")
    try:
        absolute = urljoin(url, text)
    except ValueError:  # brackets that hold no address
        absolute = text
    return "".join(char if char.isprintable() else "." for char in redacted(absolute))


def meaning(status: int | None, location: str | None, failure: str | None, *, http2: bool) -> str:
    """Say what a normal exchange means for fire-and-forget."""
    if http2 and status is None:
        return "it speaks HTTP/2 only, and rawfnf HTTP/1.1: put a proxy between them that speaks both"
    if status is None:
        return f"no answer: {failure}. {_UNSEEN_LOSS}"
    if 200 <= status < 300:
        return _CLASSES[2]
    if location is not None and status == 303:  # RFC 9110 §15.4.4: an indirect response to the request
        return (
            f"it took the request, and shows what came of it at {location}: go on posting to the URL that was given; "
            "unless that is a page to log in (then it wants other credentials)"
        )
    if location is not None:
        return (
            f"a redirect, which is not followed: use {location}, unless that is a page to log in (then it wants other "
            f"credentials). {_UNSEEN_LOSS}"
        )
    return f"{_MEANINGS.get(status) or _CLASSES.get(status // 100, 'no status of HTTP')}. {_UNSEEN_LOSS}"


def silence(linger: float) -> str:
    """Say what it means that nothing came in so many seconds."""
    longer = f"{max(30.0, 2 * linger):g}"
    return f"no answer in {linger:g} s: whether it keeps what it got cannot be told; ask again with --linger {longer}"


# --- the closings --------------------------------------------------------------------------------------------------


def judged(found: Probe) -> Probe:
    """Fill in whether each closing looked possible, and why."""
    answered, now, acked = found.answered, found.now, found.acked
    possible, why = answered.answered == answered.posts, "the answer is waited for"
    if not possible:
        why = _refused(answered) or "not every normal exchange was accepted"
    tickets = 0 if found.tls is None else found.tls.tickets
    return found._replace(
        answered=answered._replace(possible=possible, why=why),
        now=now and _with(now, _now(now, answered, tickets)),
        acked=acked and _with(acked, _acked(acked, answered, now)),
    )


def _with(way: Way, verdict: tuple[bool | None, str]) -> Way:
    return way._replace(possible=verdict[0], why=verdict[1])


def _now(way: Way, answered: Way, tickets: int) -> tuple[bool | None, str]:
    if not way.failures and (why := _refused(way)):
        return None, f"{why}, and not for our end"
    if why := _lost(way, answered):
        return False, why
    if tickets:
        return False, (
            "answered only because the probe went on listening: session tickets that reach a closed socket make our "
            "kernel reset the connection"
        )
    return True, "answered each time after our end had come"


def _acked(way: Way, answered: Way, now: Way | None) -> tuple[bool | None, str]:
    if not way.failures and (why := _refused(way)):
        return None, f"{why}, and not for our end"
    if why := _lost(way, answered):
        return False, why
    if way.early and (now is None or _lost(now, answered)):
        return (
            None,
            "answered before our end had left, which says nothing of what our end does; at once it was too soon",
        )
    if way.acked != way.posts:
        return None, "answered each time, but the peer's kernel did not always acknowledge in time"
    return True, "answered each time after our end had come" if not way.early else "answered each time"


def _refused(way: Way) -> str:
    """Say what a status that refused the request may be for; nothing if none did. A way ends at its first."""
    refusals = (status for status in way.statuses if not 200 <= status < 300)
    return next((f"the {status} may be for a limit, or for a request that is taken once" for status in refusals), "")


def _lost(way: Way, answered: Way) -> str:
    """Say why answers to a half-closed connection speak against its closing; nothing if they do not."""
    if way.answered < way.posts:
        return (
            "our end is taken for a change of mind, as nginx, Envoy and Puma do; or only ends the answer, as uvicorn's"
        )
    usual = answered.seconds or 0.0
    sooner = way.seconds or 0.0
    if not way.early and sooner < usual / 2 and usual - sooner > _SOONER:
        return "answered much sooner than usual: the handler was cut short, as Go does where nobody waits"
    return ""


# --- the recommendation --------------------------------------------------------------------------------------------


def code(found: Probe, call: Call) -> str:
    """Return a line that is safe: it waits for the answer, and has spares only where idle connections are kept."""
    options = ['closing="answered"', *_options(found, call)]
    if _keeps(found.idle):
        options.append(f"spares={SPARES}")
    return f"sender = rawfnf.Sender({', '.join([_target(found, call), *options])})"


def faster(found: Probe, call: Call) -> tuple[str, ...]:
    """Return lines that looked possible beside it, the fastest first."""
    options = [_target(found, call), "data", *_options(found, call)]
    return tuple(
        f"rawfnf.post({', '.join([*options, f'closing={quoted(way.closing)}'])})"
        for way in (found.now, found.acked)
        if way is not None and way.possible
    )


def _keeps(idle: Idle | None) -> bool:
    return idle is not None and idle.beside and not idle.closed


def _moved(found: Probe) -> str | None:
    """Return where to post instead, as `location` shows it. A 303 tells no such thing (RFC 9110 §15.4.4)."""
    return None if found.status == 303 else found.location


def _target(found: Probe, call: Call) -> str:
    """Return the URL as code: a variable where it holds what may be a credential."""
    url = _moved(found) or call.url
    return "url" if redacted(url) != url or "***" in url else quoted(url)


def _options(found: Probe, call: Call) -> Iterator[str]:
    """Yield the arguments that are not the default: by name where they may hold a credential, or are no literals."""
    if call.params:
        yield "params=params"
    if call.headers:
        yield f"headers={_fields(call.headers)}"
    if call.auth is not None:
        yield "auth=auth"
    if call.method != "POST":
        yield f"method={quoted(call.method)}"
    if call.timeout != 5.0:
        yield f"timeout={call.timeout}"
    if call.linger != 5.0:
        yield f"linger={call.linger}"
    if call.ssl_context is not None:
        yield "ssl_context=ssl_context"
    for name in ("connect_to", "source_address"):
        value = getattr(call, name)
        if value is not None and _moved(found) is None:  # another URL may be elsewhere
            yield f"{name}={quoted(value)}"


def _fields(headers: Fields) -> str:
    given = cast(
        "Iterable[tuple[str | bytes, str | bytes]]", headers.items() if isinstance(headers, Mapping) else headers
    )
    pairs = [(_text(name), _text(value)) for name, value in given]
    if any(name.lower() not in _HARMLESS for name, _ in pairs):
        return "headers"
    return "{" + ", ".join(f"{quoted(name)}: {quoted(value)}" for name, value in pairs) + "}"


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def quoted(value: object) -> str:
    """Return a literal, with double quotes where that is possible: shells and people like them."""
    if isinstance(value, tuple):
        return f"({', '.join(map(quoted, value))})"
    shown = repr(value)
    if isinstance(value, str) and shown.startswith("'") and '"' not in shown:
        return f'"{shown[1:-1]}"'
    return shown


def unseen(found: Probe) -> tuple[str, ...]:
    """Return what a client cannot see, as far as it matters here."""
    notes = []
    if found.answered.answered:
        notes += [
            _CUT_SHORT,
            _MAY_CHANGE,
        ]
    notes += [_rare(way.posts) for way in (found.now, found.acked) if way is not None and way.possible][:1]
    if len(found.addresses) > 1:
        notes.append("the other addresses of this name, which were not asked")
    if found.idle is not None and _keeps(found.idle):
        if found.idle.seconds < _LIFE:
            notes.append(
                f"whether idle connections live longer than the {found.idle.seconds:.3g} s that were watched: a spare "
                f"may be {_LIFE:g} s old (--idle {_LIFE:g} tells)"
            )
        notes.append(
            f"how many connections the server serves at once: one that gives a worker to each connection loses "
            f"{SPARES} to every process with spares={SPARES}"
        )
    return tuple(notes)


def _rare(posts: int) -> str:
    """Say how much may be lost though all arrived: beyond that this would be seen in less than 1 of 20 probes."""
    shown = [f"{number}: {_most_lost(number)}" for number in (20, 100) if number > posts]
    others = f" ({', '.join(shown)})" if shown else ""
    return (
        f"what is rare: {posts} of {posts} does not exclude a loss of up to {_most_lost(posts)}{others}; "
        "more attempts (--attempts) exclude more"
    )


def _most_lost(posts: int) -> str:
    """Return the exact binomial bound of the share that is lost, at 95 %, if none of so many was."""
    return f"{100 * (1 - 0.05 ** (1 / posts)):.2g} %"


# --- the report ----------------------------------------------------------------------------------------------------


def report(found: Probe, ssl_context: Sequence[str] = ()) -> str:
    """Return all of it for people: 80 columns, but for the code.

    Args:
        found: all of it.
        ssl_context: lines of Python that make the one that was given, where anybody knows.

    """
    lines = [found.url, ""]
    for label, text in _rows(found):
        lines += _wrapped(text, label.ljust(_LABEL), " " * _LABEL)
    lines += ["", *_recommended(found, ssl_context)]
    if found.unseen:
        lines += ["", "What a client cannot see:"]
        for note in found.unseen:
            lines += _wrapped(f"{note}.", "  - ", "    ")
    return "\n".join(lines)


def _rows(found: Probe) -> Iterator[tuple[str, str]]:
    yield "address", _addresses(found)
    if found.round_trip is not None:
        yield "round trip", _time(found.round_trip)
    if found.tls is not None:
        yield "TLS", _tls(found.tls)
    yield "answer", found.meaning if found.status is None else f"{found.status}: {found.meaning}"
    if found.closes is not None:
        yield "then", "the server closes" if found.closes else "the server does not close, though it is asked to"
    if found.idle is not None:
        yield "idle", _idle(found.idle)
    yield "closing=", "its values, and how the request fared with each:"
    for way in (found.answered, found.now, found.acked):
        if way is not None:
            yield f"  {way.closing}", _way(way)


def _addresses(found: Probe) -> str:
    others = len(found.addresses) - 1
    shown = _address(found.address)
    return f"{shown} (and {others} more: {_list(found)})" if others else shown


def _list(found: Probe) -> str:
    return ", ".join(_address(address) for address in found.addresses if address != found.address)


def _address(address: tuple[str, int] | str) -> str:
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tls(tls: ProbedTls) -> str:
    ends = "was not verified" if tls.not_after is None else f"expires on {tls.not_after:%Y-%m-%d}"
    tickets = f"{tls.tickets} session ticket{'s' * (tls.tickets != 1)} after the handshake"
    return f"{tls.version}, ALPN {tls.alpn or 'not answered'}, {tickets}; the certificate {ends}"


def _idle(idle: Idle) -> str:
    lived = (
        f"closed by the server after {_time(idle.seconds)}"
        if idle.closed
        else f"kept for {_time(idle.seconds)} at least"
    )
    if idle.beside:
        return f"{idle.held} connections {lived}; a request beside them was accepted"
    return (
        f"beside {idle.held} idle connections no request was accepted: each may hold a worker of the server, or a "
        "limit was met"
    )


def _way(way: Way) -> str:
    verdict = {True: "Possible", False: "Not safe", None: "Not known"}[way.possible]
    took = "" if way.seconds is None else f" in {_time(way.seconds)}"
    text = f"accepted {way.answered} of {way.posts}{took}"
    if way.acked is not None:
        text += f", acknowledged {way.acked} of {way.posts}"
    otherwise = [f"{times} x {what}" for what, times in way.failures.items()]
    otherwise += [f"{times} x status {status}" for status, times in way.statuses.items() if not 200 <= status < 300]
    if otherwise:
        text += f" ({', '.join(otherwise)})"
    if way.closing != "answered":
        return f"{text}. {verdict}: {way.why}"
    return f"{text}: {way.why}" if 0 < way.answered < way.posts else text


def _recommended(found: Probe, ssl_context: Sequence[str]) -> Iterator[str]:
    if found.code is None:
        yield "rawfnf cannot send there."
        return
    yield _heading(found)
    names = [name for name in _GIVEN if f"({name}," in found.code or f"{name}={name}" in found.code]
    if "ssl_context" in names and ssl_context:
        names.remove("ssl_context")
        yield from (f"    {line}" for line in ssl_context)
    yield f"    {found.code}"
    if "url" in names and (moved := _moved(found)):
        names.remove("url")
        yield from _comment(f"url: where it redirects to, with its {'query' if '?***' in moved else 'credentials'}")
    if names:
        yield from _comment(f"{', '.join(names)}: what was given here; it may hold credentials, and is not shown")
    if found.faster:
        yield "Looked possible too (but read what a client cannot see):"
        yield from (f"    {line}" for line in found.faster)
        yield from _comment("data: the body of each post, as the one that was given here")
    elif found.answered.answered or found.status == 303:
        yield "Nothing faster looked possible." if found.now else "Nothing faster was tried."


def _heading(found: Probe) -> str:
    accepted, posts = found.answered.answered, found.answered.posts
    if accepted == posts:
        return "Safe:"
    if accepted:
        return f"Safe, as far as it answers 2xx (here to {accepted} of {posts} only):"
    if found.status == 303 and found.location:
        return "Safe, if that is no page to log in:"
    return "Safe, once it answers 2xx (probe again then):"


def _comment(text: str) -> list[str]:
    return _wrapped(text, "    # ", "    # ")


def _wrapped(text: str, first: str, others: str) -> list[str]:
    """Return lines that begin as told. What is to be copied, an option or a URL, stays in one piece; so does 45 %."""
    lines = textwrap.wrap(
        text.replace(" %", "\xa0%"),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\xa0", " ") for line in lines]


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
