"""What arrives behind nginx: bodies of several sizes by each contender, counted by the upstream if they came whole.

Posts are made at a fixed rate, as those of many users are: a contender that is held up by one does not spare nginx the
next. nginx's own log says what it made of those that did not arrive.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from .contenders import NOW, SENDER_THREAD, SENDER_WITHOUT_SPARES, TRICK, Contender
from .lanes import Lane, row_of
from .payload import sized
from .processes import ChildError, WorkerProcess, python
from .receiver import Report
from .results import Goal
from .ways import Target
from .worker import Assignment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .nginx import Proxy
    from .results import Row

CONTENDERS = (SENDER_THREAD, SENDER_WITHOUT_SPARES, NOW, TRICK)
TO_ARRIVE = (SENDER_THREAD, SENDER_WITHOUT_SPARES)
# Numbers of posts, one range a cell: every body of a run is another one.
RANGE = 1_000_000
# Seconds of an ordinary exchange, and of nothing new in nginx's log until that is taken for complete: a request that
# was never read to the end of its head has no line.
EXCHANGE, QUIET = 30.0, 1.0
POLL = 0.02


class Size(NamedTuple):
    """A column of the table."""

    name: str
    bytes: int
    posts: int
    rate: int  # posts per second


SIZES = (
    Size("100 B", 100, 100, 200),
    Size("64 KiB", 64 << 10, 100, 200),
    Size("1 MiB", 1 << 20, 40, 50),
    Size("8 MiB", 8 << 20, 12, 10),
)


class Cell(NamedTuple):
    """One contender's posts of one size, by one transport."""

    contender: Contender
    transport: str
    size: Size
    row: Row
    log: list[str]  # nginx's lines about it

    @property
    def statuses(self) -> dict[str, int]:
        """How often nginx logged each status; 499 is its own for a client that it takes for gone."""
        return dict(Counter(line.split('" ')[1].split()[0] for line in self.log))

    @property
    def example(self) -> str:
        """A line about a request that was lost."""
        return next((line for line in self.log if '" 499 ' in line), self.log[0] if self.log else "")


class Posted(NamedTuple):
    """A cell whose bodies are still to be counted."""

    lane: Lane
    transport: str
    size: Size
    first: int  # number of the first post
    log: list[str]


class Transport(NamedTuple):
    """A row's group of the table."""

    name: str
    url: str
    cafile: str | None  # None: plain


def transports(proxy: Proxy) -> tuple[Transport, ...]:
    """Return both ways to nginx."""
    return Transport("plain", proxy.url, None), Transport("TLS 1.3", proxy.tls_url, str(proxy.cafile))


def validate(proxy: Proxy, transport: Transport, size: Size, number: int) -> None:
    """Carry out an ordinary exchange: what that loses says nothing about closing."""
    to = urlsplit(transport.url)
    context = ssl.create_default_context(cafile=transport.cafile) if transport.cafile else None
    connection: http.client.HTTPConnection = (
        http.client.HTTPSConnection(to.netloc, timeout=EXCHANGE, context=context)
        if context
        else http.client.HTTPConnection(to.netloc, timeout=EXCHANGE)
    )
    arrived = sum(proxy.delivered().values())
    try:
        connection.request("POST", "/validation", sized(number, size.bytes))
        status = connection.getresponse().status
    except OSError as error:
        raise ChildError(f"nginx does not answer an ordinary request: {error}") from error
    finally:
        connection.close()
    if status != http.client.OK or sum(proxy.delivered().values()) != arrived + 1:
        raise ChildError(f"nginx or its upstream is not in order: {size.name}, {transport.name}, answered {status}")


def measure(proxy: Proxy, tick: Callable[[], None], sizes: Sequence[Size] = SIZES) -> list[Cell]:
    """Return every cell."""
    groups = []
    first = 0
    for transport in transports(proxy):
        for size in sizes:
            validate(proxy, transport, size, first)
            for contender in CONTENDERS:
                first += RANGE
                groups.append(post(proxy, contender, transport, size, first))
                tick()
    return count(proxy, groups)


def post(proxy: Proxy, contender: Contender, transport: Transport, size: Size, first: int) -> Posted:
    """Post, and wait until nginx and its upstream are done with it."""
    to, path = urlsplit(transport.url), f"/{first}"
    target = Target(
        transport.url + path, str(to.hostname), to.port or 0, path, transport.cafile is not None, transport.cafile
    )
    with WorkerProcess(python("worker", Assignment(contender.name, target, size.bytes).to_json())) as worker:
        lane = Lane(contender, worker, size.bytes)
        lane.next = first
        lane.is_ready()
        lane.post_at_rate(size.posts, 1 / size.rate)
        lane.leave()
        return Posted(lane, transport.name, size, first, settled_log(proxy, path, size.posts))


def count(proxy: Proxy, groups: Sequence[Posted]) -> list[Cell]:
    """See what arrived of each group: all at the end, as a body may come later than nginx's word that it gave it up."""
    delivered = proxy.delivered()
    cells = []
    for lane, transport, size, first, log in groups:
        arrived = {digest: delivered.get(digest, 0) for digest in map(lane.expected, range(first, lane.next))}
        report = Report(bodies={digest: times for digest, times in arrived.items() if times}, broken=0)
        cells.append(Cell(lane.contender, transport, size, row_of(lane, report, cold_posts=0), log))
    return cells


def settled_log(proxy: Proxy, path: str, posts: int) -> list[str]:
    """Wait until nginx has logged every post, or nothing new for a while, and the upstream is done; return the log."""
    mark = f'"POST {path} '
    found: list[str] = []
    changed = time.monotonic()
    while (len(found) < posts and time.monotonic() < changed + QUIET) or proxy.working():
        time.sleep(POLL)
        lines = [line for line in proxy.log() if mark in line]
        if len(lines) > len(found):
            found, changed = lines, time.monotonic()
    return found


def goals(cells: Sequence[Cell]) -> list[Goal]:
    """Return the numbers to reach."""
    found = []
    for contender in TO_ARRIVE:
        rows = [cell.row for cell in cells if cell.contender is contender]
        made = sum(row.sent + sum(row.errors.values()) for row in rows)
        value = 100 * sum(row.delivered or 0 for row in rows) / made if made else 0.0
        found.append(Goal(f"delivered behind nginx, in %: {contender.name}", value, 100, at_most=False))
    return found
