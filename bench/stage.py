"""What every measurement needs: certificates, the C floor, the receiver; here, or at the two ends of a network."""

from __future__ import annotations

import itertools
import random
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import certificates, counter, network
from .floor import NoFloorError, compile_floor
from .processes import LOOPBACK, ReceiverProcess, choose_cores, here
from .ways import Target
from .worker import Assignment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .certificates import Certificates
    from .contenders import Contender
    from .processes import Cores
    from .scenarios import Scenario

PATH = "/readings"


class Bench(NamedTuple):
    """What all scenarios share."""

    receiver: ReceiverProcess
    counters: Path
    certificates: Certificates
    floor: Path | str  # the C loop, or why it is missing
    cores: Cores
    seconds: float  # of measuring, in all scenarios together
    random: random.Random
    slots: Iterator[int]
    inside: Callable[[list[str]], list[str]] = here  # what makes a command line run where the contenders are
    beside: tuple[int, ...] = ()  # processes that measure as well

    def assignment(self, contender: Contender, scenario: Scenario, slot: int) -> Assignment:
        """Open a listener for the contender, and say what its worker is to do."""
        tls = scenario.tls if contender.speaks_tls else None
        host = self.receiver.address
        port = self.receiver.listen(slot, delay=scenario.delay, tls=tls, held=contender.held)
        url = f"{'https' if tls else 'http'}://{host}:{port}{PATH}"
        # Whoever waits for a late answer posts alone: between the posts of a burst the others' callers do not wait.
        burst = 1 if contender.waits and scenario.busy else scenario.burst
        target = Target(url, host, port, PATH, tls is not None, str(self.certificates.authority), burst, scenario.apart)
        asleep = self.receiver.asleep if scenario.timed else None
        return Assignment(contender.name, target, scenario.kind, str(self.counters), slot, asleep)


def built_floor(folder: Path) -> Path | str:
    """Return the C loop, or why there is none."""
    try:
        return compile_floor(folder)
    except NoFloorError as error:
        return str(error)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="rawfnf-bench-") as name:
        yield Path(name)


@contextmanager
def open_bench(seed: int, seconds: float = 0.0) -> Iterator[Bench]:
    """Compile the C loop, issue certificates, start the receiver; nothing of it is left at the end."""
    with temporary_folder() as folder:
        counters = folder / "counters"
        counter.create(counters)
        issued = certificates.issue(folder, LOOPBACK, network.SERVER)
        cores = choose_cores()
        slots = itertools.count()
        with ReceiverProcess(counters, issued.server, cores.receiver, next(slots)) as receiver:
            yield Bench(
                receiver=receiver,
                counters=counters,
                certificates=issued,
                floor=built_floor(folder),
                cores=cores,
                seconds=seconds,
                random=random.Random(seed),  # noqa: S311 - the order of blocks is no secret
                slots=slots,
            )


@contextmanager
def at_the_ends_of_a_network(bench: Bench, rtt: float) -> Iterator[Bench]:
    """Start another receiver at one end of a simulated network; what it yields has its contenders at the other."""
    with (
        network.network(rtt=rtt) as made,
        ReceiverProcess(
            bench.counters,
            bench.certificates.server,
            bench.cores.receiver,
            next(bench.slots),
            address=made.server.address,
            inside=made.server.command,
        ) as receiver,
    ):
        yield bench._replace(receiver=receiver, inside=made.client.command, beside=(made.relay,))
