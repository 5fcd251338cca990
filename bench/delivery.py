"""`python -m bench delivery`: what arrives at real servers, of posts by every contender.

Theory of operation. Each server is started afresh for each transport, and first has to pass ordinary exchanges: what
fails there says nothing about closing. Then the contenders post, one after the other in random order, bodies of all
sizes in random order, at a fixed rate as those of many users are: who is held up by one post does not spare the server
the next. Half of the posts are answered after some work, then half at once. When all have posted, and the server has
had the time to finish, the lines that its handlers left are compared with what was sent.

Each contender has one process for the whole run, see poster.py; nothing is pinned to a core.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import certificates, network
from .formats import content
from .payload import sized
from .places import End, ends
from .poster import Order, Planned, Posted
from .processes import LOOPBACK, ChildError, WorkerProcess, python
from .reckoning import Arrivals, Log, Sent, cell_of
from .servers.base import Site
from .ways import Target

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from typing_extensions import Self

    from .contenders import Contender
    from .matrix import Cell, Place
    from .places import Spot
    from .servers.base import Running

# Numbers of posts, one range a cell: every body of a run is another one.
RANGE = 1_000_000
# Seconds of an ordinary exchange.
EXCHANGE = 30.0
# Fewer than any server here has workers: one that gives each connection a worker must have some left, see the README.
POLITE_SPARES = 2
# Seconds of nothing new until the next contender posts: somewhat more than the slowest handler works.
BETWEEN = 0.15
# Seconds that a cell may take beyond the time in which its posts are due: a contender that waits, waits for some.
CELL = 60.0


class Size(NamedTuple):
    """Of a body, and how many posts of a cell have it."""

    bytes: int
    posts: int
    apart: float  # seconds until the next post is due


SIZES = (
    Size(100, 6, 0.003),
    Size(64 << 10, 2, 0.004),
    Size(1 << 20, 2, 0.01),
    Size(8 << 20, 2, 0.03),
)


class Campaign(NamedTuple):
    """What all places share."""

    contenders: Sequence[Contender]
    sizes: Sequence[Size]
    random: random.Random
    numbers: Iterator[int]  # the first number of each cell: multiples of RANGE
    folder: Path
    issued: certificates.Certificates

    def order(self, spot: Spot, running: Running, host: str) -> Order:
        """Return what a cell posts, and where to: its request target is its first number, to be found in a log."""
        first = next(self.numbers)
        tls = spot.transport.tls is not None
        path = spot.server.path or f"/{first}"
        url = f"{'https' if tls else 'http'}://{host}:{running.port}{path}"
        target = Target(url, host, running.port, path, tls, str(self.issued.authority), spares=POLITE_SPARES)
        return Order(target, spot.server.form, self.plan(spot, first))

    def plan(self, spot: Spot, first: int) -> list[Planned]:
        """Return the posts of a cell; even numbers are answered at once, odd ones late.

        In random order, but the late ones first: so the server has done with them soon after the last one.
        """
        allowed = spot.server.sizes
        wanted = [size for size in self.sizes if not allowed or size.bytes in allowed for _ in range(size.posts)]
        planned = [Planned(first + index, size.bytes, round(size.apart * 1e9)) for index, size in enumerate(wanted)]
        self.random.shuffle(planned)
        return sorted(planned, key=lambda post: post.number % 2 == 0)

    def may_post(self, contender: Contender, spot: Spot) -> bool:
        """Whether a contender can post there: over TLS, and what the server takes."""
        return (contender.speaks_tls or not spot.transport.tls) and (
            spot.server.form == "sized" or contender.sized is sized
        )


class Posters:
    """The contenders' processes, each started when it is first asked; as a context manager they are gone at the end."""

    def __init__(self, end: End) -> None:
        self._end = end
        self._started: dict[str, WorkerProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._started:
            self._started.popitem()[1].close()

    def post(self, contender: Contender, order: Order) -> Posted:
        """Carry out an order; a process that fails at it says why, and is a new one the next time."""
        try:
            poster = self._poster(contender.name)
            poster.tell(order.to_json())
            made: Posted = json.loads(poster.hear(CELL + sum(post.apart_ns for post in order.posts) / 1e9))
        except ChildError as error:
            if failed := self._started.pop(contender.name, None):
                failed.close()
            tried = [0] * len(order.posts)  # as far as anybody knows
            return Posted(ns=tried, errors={}, answered=0, note=f"its process failed: {error}")
        return made

    def _poster(self, name: str) -> WorkerProcess:
        if name not in self._started:
            started = self._started[name] = WorkerProcess(self._end.inside(python("poster", name)))
            started.hear()
        return self._started[name]


def campaign_folder(stack: ExitStack) -> Path:
    """Make a folder that servers may pass through which change their user, and that is gone at the end."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rawfnf-delivery-")))
    folder.chmod(0o755)
    return folder


def open_campaign(
    contenders: Sequence[Contender], sizes: Sequence[Size], chooser: random.Random, stack: ExitStack
) -> Campaign:
    """Issue certificates; nothing is left of it once the stack is closed."""
    folder = campaign_folder(stack)
    issued = certificates.issue(folder, LOOPBACK, network.SERVER)
    numbers = iter(range(RANGE, RANGE * RANGE, RANGE))
    return Campaign(contenders, sizes, chooser, numbers, folder, issued)


def measure(campaign: Campaign, spots: Sequence[Spot], tick: Callable[[Spot], None]) -> tuple[list[Place], list[Cell]]:
    """Return every place, and the cells of those that could be measured; `tick` is told what comes next."""
    places: list[Place] = []
    cells: list[Cell] = []
    with Posters(End()) as near:
        for spot in spots:
            tick(spot)
            try:
                cells += measure_spot(campaign, spot, near)
                places.append(spot.place(spot.lacks and f"missing: {spot.lacks}"))
            except (ChildError, OSError, subprocess.SubprocessError) as error:  # the others are measured all the same
                places.append(spot.place(f"failed: {error}"))
    return places, cells


def measure_spot(campaign: Campaign, spot: Spot, near: Posters) -> list[Cell]:
    """Start the server, let all contenders post there, and see what has arrived; ChildError where it fails."""
    if spot.lacks:
        return []
    with ExitStack() as stack:
        clients, server = stack.enter_context(ends(spot.transport))
        posters = stack.enter_context(Posters(clients)) if spot.transport.rtt else near
        site = new_site(campaign, spot, server)
        running = stack.enter_context(spot.server.start(site))
        arrivals = Arrivals(site.handled, running)
        validate(campaign, spot, arrivals, clients, server.address)
        log = Log(running.logs)
        sent = [
            send(posters, contender, campaign.order(spot, running, server.address), arrivals)
            for contender in in_random_order(campaign, spot)
        ]
        arrivals.settle({post.number for cell in sent for post in cell.planned})
        order = [contender.name for contender in campaign.contenders]
        sent.sort(key=lambda cell: order.index(cell.contender.name))
        return [cell_of(spot, cell, arrivals.of(cell, spot.server.form), log.lines()) for cell in sent]


def new_site(campaign: Campaign, spot: Spot, end: End) -> Site:
    """Make the server's folder."""
    folder = Path(tempfile.mkdtemp(dir=campaign.folder))
    folder.chmod(0o755)
    handled = folder / "handled"
    handled.touch()
    handled.chmod(0o666)  # some servers change their user
    return Site(folder, end.address, spot.transport.tls, campaign.issued, handled, end.inside, end.entered)


def in_random_order(campaign: Campaign, spot: Spot) -> list[Contender]:
    """Return who posts there."""
    who = [contender for contender in campaign.contenders if campaign.may_post(contender, spot)]
    campaign.random.shuffle(who)
    return who


def send(posters: Posters, contender: Contender, order: Order, arrivals: Arrivals) -> Sent:
    """Let one contender post, to a server that has done with those before."""
    before = arrivals.cut()
    posted = posters.post(contender, order)
    arrivals.settle({post.number for post in order.posts}, BETWEEN, again=0.0)
    return Sent(contender, order.target.path, order.posts, posted, arrivals.cut() - before)


def validate(campaign: Campaign, spot: Spot, arrivals: Arrivals, clients: End, host: str) -> None:
    """Carry out ordinary exchanges, one of each size: whoever fails at these is not measured."""
    single = campaign._replace(sizes=[size._replace(posts=1) for size in campaign.sizes])
    target, form, planned = single.order(spot, arrivals.running, host)
    for post in planned:
        status = exchange(target, content(post.number, post.size, form), clients)
        if status // 100 != 2:
            raise ChildError(f"an ordinary request of {post.size} bytes was answered {status}")
    numbers = {post.number for post in planned}
    arrivals.settle(numbers)
    if wrong := [post for post in planned if not arrivals.right(post, form)]:
        raise ChildError(f"{len(wrong)} of {len(planned)} ordinary requests were answered, and not handled as sent")


def exchange(target: Target, body: bytes, clients: End) -> int:
    """Post, and return the status of the answer; ChildError without one."""
    context = target.context()
    connection = (
        http.client.HTTPSConnection(target.host, target.port, timeout=EXCHANGE, context=context)
        if context
        else http.client.HTTPConnection(target.host, target.port, timeout=EXCHANGE)
    )
    try:
        with clients.entered():
            connection.connect()
        # Who refuses early may close while we send; its answer is there to be read all the same.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", target.path, body)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ChildError(f"an ordinary request of {len(body)} bytes failed: {error!r}") from error
    finally:
        connection.close()
    return answer.status
