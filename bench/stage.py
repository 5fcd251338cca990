"""What every measurement needs: certificates, the C floor, the receiver; here, or at the two ends of a network."""

from __future__ import annotations

import itertools
import random
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import brokers, certificates, counter, network, troubles
from .contenders import measured_in
from .floor import NoFloorError, compile_floor
from .processes import LOOPBACK, ReceiverProcess, choose_cores, here
from .servers.base import Site
from .ways import Target
from .worker import Assignment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .brokers import Broker, Kind
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
    every: bool = False  # is every contender measured, or those of `python -m bench` alone?
    only: frozenset[str] = frozenset()  # of these, the ones of these names; empty: all
    host: str = ""  # the receiver's name; empty: its address
    elsewhere: int | None = None  # a loopback port of nobody's, in place of the receiver's
    brokers: Mapping[Kind, Broker | str] = {}  # by kind; in the place of one that is not there, what is missing

    def contenders(self, scenario: Scenario) -> list[Contender]:
        """Return who is measured in a scenario."""
        return [each for each in measured_in(scenario, every=self.every) if not self.only or each.name in self.only]

    def assignment(self, contender: Contender, scenario: Scenario, slot: int) -> Assignment:
        """Open a listener for the contender, and say what its worker is to do."""
        # Whoever waits for a late answer posts alone: between the posts of a burst the others' callers do not wait.
        burst = 1 if contender.waits and scenario.busy else scenario.burst
        target = self.target(contender, scenario, slot)._replace(burst=burst, apart=scenario.apart)
        receiver = self.counts(contender)
        asleep = receiver.asleep if receiver and scenario.timed and scenario.together == 1 else None
        counters = "" if self.elsewhere else str(self.counters)
        beside, late = scenario.together > 1, scenario.busy
        return Assignment(contender.name, target, scenario.kind, counters, slot, asleep, beside, late)

    def broker(self, contender: Contender) -> Broker | str | None:
        """Return the broker that it needs, or what is missing; None: it posts by HTTP. Their names begin alike."""
        return next((broker for kind, broker in self.brokers.items() if contender.name.startswith(kind)), None)

    def counts(self, contender: Contender) -> ReceiverProcess | Broker | None:
        """Return who knows what arrives of it; None: nobody."""
        broker = self.broker(contender)
        if isinstance(broker, brokers.Broker):
            return broker
        return None if self.elsewhere else self.receiver

    def target(self, contender: Contender, scenario: Scenario, slot: int) -> Target:
        """Return where it posts to: a listener or a queue of its own, or nowhere."""
        broker = self.broker(contender)
        if isinstance(broker, brokers.Broker):
            return broker.listen(slot)
        tls = scenario.tls if contender.speaks_tls else None
        host = self.host or self.receiver.address
        port = self.elsewhere or self.receiver.listen(
            slot,
            delay=scenario.delay,
            tls=tls,
            held=contender.held,
            answers=scenario.answers,
            reads=scenario.reads,
        )
        url = f"{'https' if tls else 'http'}://{host}:{port}{PATH}"
        return Target(url, host, port, PATH, tls is not None, str(self.certificates.authority))


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
def at_the_ends_of_a_network(bench: Bench, rtt: float, loss: float = 0.0) -> Iterator[Bench]:
    """Start another receiver at one end of a simulated network; what it yields has its contenders at the other."""
    with network.network(rtt=rtt, loss=loss) as made, receiver_at(bench, made.server) as receiver:
        yield bench._replace(receiver=receiver, inside=made.client.command, beside=(made.relay,))


@contextmanager
def receiver_at(bench: Bench, end: network.End) -> Iterator[ReceiverProcess]:
    """Start another receiver at one end of a simulated network."""
    with ReceiverProcess(
        bench.counters,
        bench.certificates.server,
        bench.cores.receiver,
        next(bench.slots),
        address=end.address,
        inside=end.command,
    ) as receiver:
        yield receiver


@contextmanager
def with_a_slow_resolver(bench: Bench) -> Iterator[Bench]:
    """Start another receiver, whose name takes its time to resolve; what it yields has its contenders ask for that."""
    with (
        temporary_folder() as folder,
        network.network(rtt=0.0) as made,
        troubles.slow_resolver(made, folder) as inside,
        receiver_at(bench, made.server) as receiver,
    ):
        yield bench._replace(receiver=receiver, inside=inside, beside=(made.relay,), host=troubles.NAME)


@contextmanager
def scene(bench: Bench, scenario: Scenario) -> Iterator[Bench]:
    """Make what the scenario needs around its contenders; see `lacks`."""
    with ExitStack() as stack:
        if scenario.trouble == "refused":
            yield bench._replace(elsewhere=stack.enter_context(troubles.refused()))
        elif scenario.trouble == "black hole":
            yield bench._replace(elsewhere=stack.enter_context(troubles.black_hole()))
        elif scenario.trouble == "resolver":
            yield stack.enter_context(with_a_slow_resolver(bench))
        elif scenario.within == "queues":
            folder = stack.enter_context(temporary_folder())
            site = Site(folder, LOOPBACK, None, bench.certificates, folder / "handled")
            started = stack.enter_context(brokers.brokers(site, bench.counters, bench.cores.receiver))
            pids = tuple(pid for each in started.values() if isinstance(each, brokers.Broker) for pid in each.pids)
            yield bench._replace(brokers=started, beside=pids)
        elif scenario.far:
            yield stack.enter_context(at_the_ends_of_a_network(bench, scenario.rtt, scenario.loss))
        else:
            yield bench


def lacks(scenario: Scenario) -> str:
    """Say what this machine lacks for the scenario; empty when nothing is missing."""
    if scenario.trouble:
        return troubles.lacks(scenario.trouble)
    return (network.missing() or "") if scenario.far else ""
