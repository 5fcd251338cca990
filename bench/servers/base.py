"""What a server of the delivery matrix is, and how its processes are started, watched and ended.

Each server is started for one row of the matrix alone, in a folder of its own, on a port of its own, with its own
configuration: its defaults but for limits of body size and places for its files.

The applications behind all servers obey one rule: read the whole body; its first ten bytes are the post's number; when
that is odd, work for LATE seconds; then, as the very last thing before the answer, add a line to the file HANDLED:
number, length of the body, SHA-256 of the body, by one write() in append mode. So a line says that a handler ran to its
end, and what it was given. Where a framework tells its applications that the client is gone, they heed it as its own
documentation does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench.processes import LOOPBACK, PATIENCE, ChildError, environment, here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.certificates import Certificates
    from bench.scenarios import TLSVersion

APPLICATIONS = Path(__file__).parent / "applications"
LATE = 0.1  # seconds, see Site
# Where Debian and others keep servers: not on every user's PATH.
ELSEWHERE = ("/usr/sbin", "/usr/local/sbin")
POLL = 0.01
# Seconds in which a server is to end by itself.
GRACE = 0.5
# Below those that systems give to who asks for any port, or connects (Linux: from 32768, others: from 49152): one of
# these might be taken before the server that it is meant for has started.
PORTS, PORTS_TRIED = range(10_000, 32_000), 100

Group = Literal["application server", "proxy", "collector"]


class Site(NamedTuple):
    """Where a server is to be started, for one row."""

    folder: Path  # its own, empty; others may pass through it: some servers change their user
    address: str  # to listen at
    tls: TLSVersion | None  # None: plain TCP; else no other version
    certificates: Certificates
    handled: Path  # where handlers leave a line at their end
    inside: Callable[[list[str]], list[str]] = here  # what makes a command line run where the server is to be
    entered: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext  # and sockets be made there
    late: float = LATE  # seconds that an application works on a post with an odd number


class Running(NamedTuple):
    """A server that accepts connections."""

    port: int
    logs: tuple[Path, ...]  # its own: what it says of a request that was lost
    # What a collector has, asked of itself: numbers of the posts, and how often. None: see Site.handled.
    arrived: Callable[[], dict[int, int]] | None = None


class Server(NamedTuple):
    """One row of the matrix."""

    name: str
    title: str  # what it is, and how its configuration differs from its defaults
    group: Group
    start: Callable[[Site], AbstractContextManager[Running]]
    tls: bool = True  # can it take TLS itself?
    not_alone: tuple[TLSVersion, ...] = ()  # versions of TLS that nothing keeps it to
    programs: tuple[str, ...] = ()  # that it needs on PATH
    modules: tuple[str, ...] = ()  # that it needs importable
    install: str = ""  # Debian's or PyPI's packages with them
    version: Callable[[], str] = lambda: ""  # what it calls itself
    # Of collectors, which take nothing else:
    path: str = ""  # request target; empty: any, so that each cell has one of its own, to be found in the log
    form: str = "sized"  # of the body, see formats.py
    sizes: tuple[int, ...] = ()  # of bodies, in bytes; empty: all

    @property
    def lacks(self) -> str:
        """Say what is missing; empty when nothing is."""
        lacking = [name for name in self.programs if find(name) is None]
        lacking += [name for name in self.modules if importlib.util.find_spec(name) is None]
        return f"{', '.join(lacking)} not found (install {self.install})" if lacking else ""


def find(program: str) -> str | None:
    """Return the path of a program; None where there is none."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *ELSEWHERE]))


def path_of(program: str) -> str:
    """Return the path of a program; ChildError where there is none."""
    found = find(program)
    if found is None:
        raise ChildError(f"{program} is missing")
    return found


def free_port() -> int:
    """Return one of PORTS that was free a moment ago. Who loses the race for it does not start, and says so.

    In a network namespace of its own a server finds every port free. ChildError where none is free here.
    """
    for port in random.sample(PORTS, PORTS_TRIED):
        with contextlib.suppress(OSError), socket.create_server((LOOPBACK, port)):
            return port
    raise ChildError(f"{PORTS_TRIED} ports from {PORTS.start} to {PORTS.stop - 1} are in use")


def variables(site: Site) -> dict[str, str]:
    """Return the environment of an application."""
    return environment() | {"HANDLED": str(site.handled), "LATE": str(site.late)}


@contextmanager
def running(
    site: Site, command: list[str], port: int, name: str = "server", stop: signal.Signals = signal.SIGTERM
) -> Iterator[Running]:
    """Run a server for the length of the block; on entry its port accepts connections.

    What it writes to its standard output and error is in NAME.log. ChildError when it ends before it is told to.
    """
    log = site.folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command lines
            site.inside(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=site.folder,
            env=variables(site),
            start_new_session=True,
        )
    try:
        await_port(process, site, port, log)
        yield Running(port, (log,))
        if process.poll() is not None:
            raise ChildError(f"{name} ended by itself ({process.returncode}): {last_line(log)}")
    finally:
        end(process, stop)


def await_port(process: subprocess.Popen[bytes], site: Site, port: int, log: Path) -> None:
    """Wait until it accepts connections; ChildError when it ends before, or never does."""
    limit = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < limit:
        with contextlib.suppress(OSError), site.entered(), socket.create_connection((site.address, port), PATIENCE):
            return
        time.sleep(POLL)
    what = "does not listen" if process.poll() is None else f"ended ({process.returncode})"
    raise ChildError(f"{log.stem} {what}: {last_line(log)}")


def end(process: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    """Ask it to end, then its whole session; workers that outlive their master are ended as well."""
    try:
        if process.poll() is None:
            process.send_signal(stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
    finally:  # whoever is interrupted once more leaves nothing running either
        if sys.platform == "win32":
            process.kill()  # it knows no sessions
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_line(log: Path) -> str:
    """Return the last line that a server wrote."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
