"""Child processes that are asked by lines on a pipe: the receiver, the workers, the C loop.

They end when the pipe does, however this process ends. They are in a session of their own, so that Ctrl-C reaches this
process alone, which then closes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from .receiver import Command, Report
    from .scenarios import TLSVersion
    from .worker import Block

ROOT = Path(__file__).parent.parent
# Seconds that a child gets to start, to answer beyond what it was asked to take, and to end.
PATIENCE = 30.0
READ_BYTES = 1 << 16
LOOPBACK = "127.0.0.1"
# requests would obey these, rawfnf does not: all contenders are to talk to the same endpoint.
PROXY_VARIABLES = frozenset({"http_proxy", "https_proxy", "all_proxy"})
# With it, print() loses the rest of a line when a signal, be it SIGSTOP and SIGCONT, interrupts a write to a full pipe:
# write() has taken a part then, and nobody looks how much.
UNBUFFERED = "pythonunbuffered"


class Cores(NamedTuple):
    """Where processes run; None: wherever the scheduler puts them."""

    contenders: int | None
    receiver: int | None


def choose_cores() -> Cores:
    """Return a core for the contenders and another for the receiver, as a server elsewhere would have its own.

    Left to itself the scheduler moves the receiver between the two: on the caller's core its wake-up costs the caller
    half as much, and which rows enjoy that is luck. The first and the last core are the least likely to be siblings.
    """
    if sys.platform == "linux":
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) > 1:
            return Cores(usable[0], usable[-1])
    return Cores(None, None)


class ChildError(Exception):
    """A child has ended or does not answer; the message has the last line it wrote to standard error."""


def python(module: str, *arguments: str) -> list[str]:
    """Return the command line of a module of this package."""
    return [sys.executable, "-m", f"bench.{module}", *arguments]


def environment() -> dict[str, str]:
    """Return the environment of every child: this one without what would change what is compared, or lose answers."""
    left_out = {*PROXY_VARIABLES, UNBUFFERED}
    return {name: value for name, value in os.environ.items() if name.lower() not in left_out}


class Child:
    """A child process, asked and answering by lines; as a context manager it is gone at the end."""

    def __init__(self, command: list[str], core: int | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close(), with the process
        self._process = subprocess.Popen(  # noqa: S603 - our own command lines
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env=environment(),
            start_new_session=True,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("Popen was asked for pipes")
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._read = bytearray()
        self.pid = self._process.pid
        self.pin(core)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def pin(self, core: int | None) -> None:
        """Have it run on this core alone, all its threads, and those that they start; None: where it likes."""
        if sys.platform == "linux" and core is not None:
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.sched_setaffinity(int(thread.name), {core})

    def tell(self, line: str) -> None:
        """Write one line; its answer is read by `hear`."""
        try:
            self._stdin.write(line.encode() + b"\n")
            self._stdin.flush()
        except OSError as error:
            raise self._failure("has ended") from error

    def hear(self, seconds: float = 0.0) -> str:
        """Return the next line it writes, which may take `seconds` and some patience; ChildError without one."""
        limit = time.monotonic() + seconds + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._read:
                if not selector.select(limit - time.monotonic()):
                    raise self._failure("does not answer")
                read = os.read(self._stdout.fileno(), READ_BYTES)
                if not read:
                    raise self._failure("has ended")
                self._read += read
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def speaks_within(self, seconds: float) -> bool:
        """Whether there is something to hear, or will be so soon."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            return bool(self._read or selector.select(seconds))

    def ask(self, line: str) -> str:
        """Tell and hear."""
        self.tell(line)
        return self.hear()

    def _failure(self, what: str) -> ChildError:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return ChildError(f"the process {what}" + (f": {lines[-1]}" if lines else ""))

    def close(self) -> None:
        """End it: by the end of its standard input, or by force while it is busy or deaf."""
        with contextlib.suppress(OSError):  # it may have ended with something unread
            self._stdin.close()
        # A worker in the middle of a block would finish it first.
        self._process.kill()
        self._process.wait(PATIENCE)
        self._stdout.close()
        self._errors.close()


class WorkerProcess(Child):
    """One contender, in Python or in C."""

    def start_block(self, first: int, posts: int, seconds: float) -> None:
        """Ask for posts, which `finish_block` collects."""
        self.tell(f"block {first} {posts} {int(seconds * 1e9)}")

    def start_pace(self, first: int, posts: int, interval: float, *, ready: bool = False) -> None:
        """Ask for a post every so many seconds, which `finish_block` collects; getting ready in between, or not."""
        self.tell(f"{'rate' if ready else 'pace'} {first} {posts} {int(interval * 1e9)}")

    def finish_block(self, seconds: float) -> Block:
        """Return what came of the posts that were asked for, and that may take so long."""
        block: Block = json.loads(self.hear(seconds))
        return block

    def settle(self, seconds: float) -> Ledger | None:
        """Let it read the answers that are there, for so long, and get ready; returns its books, if it keeps any."""
        self.tell("settle")
        return self.finish_books(seconds)

    def start_books(self) -> None:
        """Let it read the answers that are there, and no more; `finish_books` has the books."""
        self.tell("books")

    def finish_books(self, seconds: float) -> Ledger | None:
        """Return the books of one that keeps any."""
        return Ledger.from_json(self.hear(seconds))


def here(command: list[str]) -> list[str]:
    """Return the command line as it is: the process is to run where this one does."""
    return command


class ReceiverProcess(Child):
    """The embedded receiver. `asleep` is the slot that tells whether it sleeps."""

    def __init__(
        self,
        counters: Path,
        certificate: Path,
        core: int | None,
        asleep: int,
        *,
        address: str = LOOPBACK,
        inside: Callable[[list[str]], list[str]] = here,
    ) -> None:
        super().__init__(inside(python("receiver", str(counters), str(certificate), address, str(asleep))), core)
        self.address = address
        self.asleep = asleep
        self.descriptors: int | None = json.loads(self.hear())

    def listen(
        self,
        slot: int,
        *,
        delay: float = 0.0,
        tls: TLSVersion | None = None,
        held: bool = False,
        answers: bool = True,
        reads: float = 0.0,
    ) -> int:
        """Open a listener that answers so many seconds late, if ever, and may read slowly; returns its port."""
        command: Command = {
            "listen": slot,
            "delay": delay,
            "tls": tls,
            "held": held,
            "answers": answers,
            "reads": reads,
        }
        port: int = json.loads(self._obey(command))
        return port

    def forget(self, slot: int) -> None:
        """Close its listener: nothing more is posted there, and nobody asks what arrived."""
        self._obey({"forget": slot})

    def count(self, slot: int) -> int:
        """How many bodies have arrived."""
        count: int = json.loads(self._obey({"count": slot}))
        return count

    def due(self, slot: int) -> int:
        """How many answers are not given yet."""
        due: int = json.loads(self._obey({"due": slot}))
        return due

    def report(self, slot: int) -> Report:
        """Return what has arrived in the slot so far."""
        report: Report = json.loads(self._obey({"report": slot}))
        return report

    def _obey(self, command: Command) -> str:
        return self.ask(json.dumps(command))
