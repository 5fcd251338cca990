"""What one post puts on the wire: segments and bytes, out and in, counted by the kernel at the client's end.

Each contender posts alone at its end of a simulated network, whose packets are what crosses an Ethernet: nothing is
offloaded, 1500 bytes at most. A post counts from quiet to quiet: when the receiver has dealt with it, the contender has
read what was answered and closed what it closes, no connection is on its way up or down, and no segment has come or
gone for longer than an acknowledgement can be delayed. So a Sender's post has the opening of a connection in it: that
of the spare which takes the place of the one it used.

The counters are those of the client's namespace, of TCP and IPv4, not the interface's: that has IPv6's own multicasts
in it as well.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from .alone import able_alone
from .measure import Measurement
from .processes import ChildError
from .results import Wire
from .scenarios import Scenario
from .stage import at_the_ends_of_a_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .contenders import Contender
    from .lanes import Lane
    from .receiver import Report
    from .stage import Bench

RTT = 0.005
PLAIN = Scenario("wire", "plain TCP", rtt=RTT, timed=False)
TLS = Scenario("wire-tls1.3", "TLS 1.3", rtt=RTT, tls="1.3", timed=False)
# The first ones open what is kept, load modules and fill caches.
FIRST_POSTS, POSTS = 2, 5
# Seconds that a post may take its caller.
LIMIT = 10.0
# Linux delays an acknowledgement by 200 ms at most (TCP_DELACK_MAX); a round trip and a margin.
QUIET = 0.2 + RTT + 0.025
# Seconds until a network that is not quiet is given up.
PATIENCE = 10.0
POLL = 0.01
# Networks at the same time. Nearly all of a post is waiting for quiet.
AT_A_TIME = 8
# include/net/tcp_states.h: connections that will not change by themselves (FIN_WAIT2 will, by the peer's FIN).
AT_REST = {"01", "06", "07", "08", "0A"}  # ESTABLISHED, TIME_WAIT, CLOSE, CLOSE_WAIT, LISTEN


class Counts(NamedTuple):
    """What a network namespace has counted so far."""

    segments_out: int
    segments_in: int
    bytes_out: int
    bytes_in: int

    def since(self, before: Counts) -> Counts:
        """Return what was counted since."""
        return Counts(*(now - then for now, then in zip(self, before, strict=True)))


def numbers(table: str, protocol: str) -> dict[str, int]:
    """Return one protocol's counters of /proc/net/snmp or netstat: two lines, of names and of values."""
    names, values = (line.split()[1:] for line in table.splitlines() if line.startswith(f"{protocol}:"))
    return dict(zip(names, map(int, values), strict=True))


def counted(pid: int) -> Counts:
    """Return the counts of the namespace that the process is in; OSError when it is gone."""
    folder = Path(f"/proc/{pid}/net")
    tcp = numbers((folder / "snmp").read_text(), "Tcp")
    ip = numbers((folder / "netstat").read_text(), "IpExt")
    # OutSegs has everything that was not sent before, resets included (RFC 4022).
    return Counts(tcp["OutSegs"] + tcp["RetransSegs"], tcp["InSegs"], ip["OutOctets"], ip["InOctets"])


def at_rest(pid: int) -> bool:
    """Whether no connection of the namespace is being opened or closed, or has bytes that are not acknowledged."""
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, _, _, state, waiting, *_ = line.split()
        if state not in AT_REST or not waiting.startswith("00000000:"):
            return False
    return True


def when_quiet(pid: int) -> Counts:
    """Wait until nothing has come or gone for QUIET seconds; returns the counts. ChildError if it never is."""
    limit = time.monotonic() + PATIENCE
    counts, since = counted(pid), time.monotonic()
    while (now := time.monotonic()) < limit:
        if (seen := counted(pid)) != counts or not at_rest(pid):
            counts, since = seen, now
        elif now - since >= QUIET:
            return counts
        time.sleep(POLL)
    raise ChildError(f"its network was not quiet within {PATIENCE:g} s")


def post_alone(lane: Lane) -> Counts:
    """Make one post, and return what was counted by the time all is quiet again."""
    lane.post(0, 1, LIMIT)
    lane.leave()
    if lane.failure:
        raise ChildError(lane.failure)
    return when_quiet(lane.worker.pid)


def counts_of_posts(lane: Lane) -> Iterator[Counts]:
    """Yield what each post put on the wire, but for the first ones."""
    for _ in range(FIRST_POSTS):
        before = post_alone(lane)
    for _ in range(POSTS):
        after = post_alone(lane)
        yield after.since(before)
        before = after


def measured(bench: Bench, contender: Contender, scenario: Scenario) -> Wire:
    """Count one contender's posts; what goes wrong is its note."""
    nothing = Wire(contender.name, scenario.title)
    try:
        with Measurement(bench, scenario) as measurement:
            lanes = measurement.open([contender])
            if not lanes:
                return nothing._replace(note=measurement.missing[contender.name].note)
            ((slot, lane),) = lanes.items()
            counts = list(counts_of_posts(lane))
            note = complaint(lane, bench.receiver.report(slot))
    except (ChildError, OSError) as error:
        return nothing._replace(note=str(error))
    medians = map(median, zip(*counts, strict=True))
    return Wire(contender.name, scenario.title, POSTS, *medians)._replace(note=note)


def complaint(lane: Lane, report: Report) -> str:
    """Say what was wrong with the posts whose segments were counted; nothing, if they all arrived."""
    errors = [error for _, block in lane.blocks for error in block["errors"].values()]
    arrived = sum(lane.expected(number) in report["bodies"] for number in range(lane.next))
    lost = f"{lane.next - arrived} of {lane.next} did not arrive" if arrived < lane.next else ""
    return "; ".join(filter(None, [*dict.fromkeys(errors), lost]))


def chosen(contenders: Sequence[Contender]) -> list[tuple[Contender, Scenario]]:
    """Return what is counted: everybody over plain TCP, and those who speak TLS over that as well."""
    return [(contender, scenario) for scenario in (PLAIN, TLS) for contender in able_alone(contenders, scenario)]


def measure(bench: Bench, contenders: Sequence[Contender], tick: Callable[[], None]) -> list[Wire]:
    """Count what each contender's posts put on the wire; one tick each. Where no network can be made, notes say so."""
    jobs = chosen(contenders)
    try:
        return in_networks(bench, jobs, tick)
    except RuntimeError as error:  # a network cannot be made, or its relay died: then nothing of this counts
        return [Wire(contender.name, scenario.title, note=str(error)) for contender, scenario in jobs]


def in_networks(bench: Bench, jobs: Sequence[tuple[Contender, Scenario]], tick: Callable[[], None]) -> list[Wire]:
    """Do it, in several networks at the same time; RuntimeError as network() raises it."""
    networks: SimpleQueue[Bench] = SimpleQueue()

    def work(job: tuple[Contender, Scenario]) -> Wire:
        there = networks.get()
        try:
            return measured(there, *job)
        finally:
            networks.put(there)

    found = []
    with ExitStack() as stack:
        for _ in range(min(AT_A_TIME, len(jobs))):
            networks.put(stack.enter_context(at_the_ends_of_a_network(bench, RTT)))
        pool = ThreadPoolExecutor(AT_A_TIME)
        stack.callback(pool.shutdown, cancel_futures=True)  # Ctrl-C waits for those that are running alone
        for wire in pool.map(work, jobs):
            found.append(wire)
            tick()
    return found
