"""The places of the delivery matrix: each server by each transport that it takes, near, and a few of them far away."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from . import network
from .contenders import KNOWN
from .matrix import Place
from .processes import LOOPBACK, ChildError, here
from .servers.catalogue import SERVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from .contenders import Contender
    from .scenarios import TLSVersion
    from .servers.base import Server


class Transport(NamedTuple):
    """How a place is reached."""

    name: str
    tls: TLSVersion | None = None
    rtt: float = 0.0  # seconds; 0: loopback


NEAR = (Transport("plain"), Transport("TLS 1.2", "1.2"), Transport("TLS 1.3", "1.3"))
FAR = (Transport("plain, 20 ms", None, 0.02), Transport("TLS 1.3, 20 ms", "1.3", 0.02))
# A round trip takes its time in every post: a few servers stand for the others.
ALSO_FAR = {"nginx": FAR, "Node": FAR[1:]}

# What CI has not: Debian's packages that are not worth their time there.
OUTSIDE_CI = frozenset(
    {"Apache", "lighttpd", "Varnish", "PHP-FPM", "PHP-FPM, TCP", "VictoriaMetrics", "Pushgateway", "RabbitMQ HTTP"}
)
# Of these CI measures more than plain TCP.
SUBSET = {
    "uvicorn h11": ("plain", "TLS 1.3"),
    "nginx": ("plain", "TLS 1.2", "TLS 1.3", "TLS 1.3, 20 ms"),
    "Node": ("plain", "TLS 1.3"),
}
# One of each kind: by hand, by rawfnf in all its closings, in a loop, and by the libraries that people use.
SUBSET_OF_CONTENDERS = frozenset(
    {
        "Python socket",
        "rawfnf now",
        "rawfnf acked",
        "rawfnf answered",
        "Sender, thread",
        "aio.Sender",
        "requests trick",
        "urllib3 trick",
        "aiohttp, task",
        "HTTPHandler",
    }
)


class Spot(NamedTuple):
    """One place to be measured."""

    server: Server
    transport: Transport

    def place(self, note: str = "") -> Place:
        """Return how it is told."""
        server = self.server
        return Place(
            server.name, self.transport.name, server.group, server.title, "" if self.lacks else server.version(), note
        )

    @property
    def lacks(self) -> str:
        """Say what is missing; empty when nothing is."""
        return self.server.lacks or (network.missing() or "" if self.transport.rtt else "")


class End(NamedTuple):
    """Where a server or its clients are: here, or at one end of a network."""

    address: str = LOOPBACK
    inside: Callable[[list[str]], list[str]] = here
    entered: Callable[[], AbstractContextManager[object]] = nullcontext


@contextmanager
def ends(transport: Transport) -> Iterator[tuple[End, End]]:
    """Yield where the clients are, and where the server is."""
    if not transport.rtt:
        yield End(), End()
        return
    try:
        with network.network(rtt=transport.rtt) as made:
            client, server = (End(end.address, end.command, end.inside) for end in (made.client, made.server))
            yield client, server
    except RuntimeError as error:
        raise ChildError(str(error)) from error


def chosen(servers: Sequence[str], transports: Sequence[str], *, subset: bool) -> list[Spot]:
    """Return the places of these names (none: all), in the order of the matrix; ValueError for an unknown name."""
    check(servers, [server.name for server in SERVERS], "server")
    check(transports, [transport.name for transport in (*NEAR, *FAR)], "transport")
    return [
        spot
        for spot in spots()
        if (not servers or spot.server.name in servers)
        and (not transports or spot.transport.name in transports)
        and (not subset or in_subset(spot))
    ]


def check(names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raise ValueError for a name that is not known."""
    for name in names:
        if name not in known:
            raise ValueError(f"there is no {what} {name!r}; there are: {'; '.join(known)}")


def deliverers(names: Sequence[str], *, subset: bool) -> list[Contender]:
    """Return the contenders of these names (none: all), in their order; ValueError for an unknown name."""
    known = [contender for contender in KNOWN.values() if contender.delivers]
    check(names, [contender.name for contender in known], "contender")
    return [
        contender
        for contender in known
        if (not names or contender.name in names) and (not subset or contender.name in SUBSET_OF_CONTENDERS)
    ]


def in_subset(spot: Spot) -> bool:
    """Whether CI measures it: it has the servers from PyPI, nginx, Node, HAProxy, Puma and Go."""
    name, transport = spot.server.name, spot.transport.name
    return name not in OUTSIDE_CI and transport in SUBSET.get(name, ("plain",))


def spots() -> list[Spot]:
    """Return all places, in the order of the matrix."""
    return [
        Spot(server, transport)
        for server in SERVERS
        for transport in (*NEAR, *ALSO_FAR.get(server.name, ()))
        if transport.tls is None or (server.tls and transport.tls not in server.not_alone)
    ]
