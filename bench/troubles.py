"""Ports and name servers that give trouble, made without touching the machine's own.

- A refused port: bound by a socket that does not listen, so that nobody else gets it meanwhile.
- A black hole: a listener whose queue of connections is full. Linux drops every further SYN (`tcp_conn_request`: the
  accept queue is full), and answers nothing. A firewall's DROP looks the same, and would need root.
- A slow resolver: a name server of ours behind a simulated network, and a resolv.conf of ours bound over the machine's
  in the mount namespace that `ip netns exec` makes for each process: it is gone with the process.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from typing import TYPE_CHECKING

from . import network
from .processes import LOOPBACK, Child, python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "receiver.rawfnf.test"  # RFC 6761, section 6.2: no name server but ours has it
RESOLVING = 2.0  # seconds
# Seconds in which a connection on loopback is there, if it will ever be; it takes some 0.1 ms.
PATIENCE = 0.25
# Connections that a queue of length 0 takes: one. A kernel that takes more than so many has no such queue.
MOST_QUEUED = 16


@contextlib.contextmanager
def refused() -> Iterator[int]:
    """Yield a loopback port that refuses connections."""
    with socket.socket() as bound:
        bound.bind((LOOPBACK, 0))
        port: int = bound.getsockname()[1]
        yield port


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """Yield a loopback port from which nothing ever comes; RuntimeError where it still accepts."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=0))
        address = listener.getsockname()
        for _ in range(MOST_QUEUED):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                filler.connect(address)
            if not select.select([], [filler], [], PATIENCE)[1]:
                port: int = address[1]
                yield port
                return
        raise RuntimeError(f"a listener without a queue took {MOST_QUEUED} connections")


@contextlib.contextmanager
def slow_resolver(made: network.Network, folder: Path) -> Iterator[Callable[[list[str]], list[str]]]:
    """Start the name server at the server's end; yield what makes a command line run at the client's, and ask it."""
    resolv = folder / "resolv.conf"
    # One question at a time is answered in time: the default of five seconds is longer than it takes.
    resolv.write_text(f"nameserver {made.server.address}\n", encoding="ascii")
    command = python("nameserver", made.server.address, str(RESOLVING), NAME, made.server.address)
    with Child(made.server.command(command)) as server:
        server.hear()
        over = ["sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(resolv)]
        yield lambda command: made.client.command([*over, *command])


def lacks(trouble: str) -> str:
    """Say what this machine lacks to make it; empty when nothing is missing."""
    if trouble == "black hole" and sys.platform != "linux":
        return "a black hole needs Linux"
    return (network.missing() or "") if trouble == "resolver" else ""
