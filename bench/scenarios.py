"""What the receiver is like: how it is reached, and how long it works before it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from .payload import Kind

TLSVersion = Literal["1.2", "1.3"]
# What the posts come from, or go to, if it is not a plain caller and an HTTP server: an application's event loop, its
# loggers; a message broker.
Within = Literal["", "asyncio", "logging", "queues"]
# Why nothing arrives, or late: the port is closed; SYNs are dropped; the name server takes its time.
Trouble = Literal["", "refused", "black hole", "resolver"]


class Scenario(NamedTuple):
    """One table of the report."""

    name: str
    title: str
    delay: float = 0.0  # seconds between a whole request and its answer
    tls: TLSVersion | None = None
    kind: Kind = "json"
    rtt: float = 0.0  # seconds; 0: loopback
    weight: float = 1.0  # share of the time; TLS posts take the longest and need as many for a p99.9
    most: int = 5000  # posts per contender
    timed: bool = True  # False: nobody looks at latencies, so posts need not find the receiver asleep
    burst: int = 1  # posts made back to back; before each burst the receiver sleeps, and the contender gets ready
    apart: float = 0.0  # seconds between the beginnings of bursts, at least
    within: Within = ""  # its contenders compare with each other alone
    loss: float = 0.0  # fraction of packets lost, in each direction; only where there is a round trip
    rate: float = 0.0  # posts per second, each timed from when it was to begin; 0: one after the other
    answers: bool = True  # False: the receiver takes requests in, and never answers
    reads: float = 0.0  # bytes per second that the receiver takes from one connection; 0: all there is
    trouble: Trouble = ""
    arrives: bool = True  # False: nothing can; what counts is how long the caller is held, and what it is told
    together: int = 1  # contenders that post at the same time: where the network is what they wait for
    repetitions: int = 1  # each with fresh processes

    @property
    def busy(self) -> bool:
        """Whether the receiver works noticeably long before it answers, if it ever does."""
        return self.delay > 0 or not self.answers

    @property
    def far(self) -> bool:
        """Whether the receiver is at the other end of a simulated network, see network.py."""
        return self.rtt > 0

    @property
    def holds(self) -> bool:
        """Whether a caller can be held for seconds, or for ever: then all post at the same time, once or twice."""
        return self.trouble in {"black hole", "resolver"} or self.reads > 0

    def whole_bursts(self, posts: int) -> int:
        """Return so many posts, rounded up to whole bursts."""
        return -(-posts // self.burst) * self.burst


# 1200 posts give a p99.9; each of them holds a descriptor of the receiver until its answer is due.
MOST_WHILE_WORKING = 1200
# Posts back to back: so many that what the first pays for the receiver's wake-up is far from the median, and from p90.
BURST = 16

# Seconds from record to record: 50 a second, in which nobody runs short of connections.
BETWEEN_RECORDS = 0.02

# A post that comes alone pays for the receiver's wake-up; of a burst the first does, and whoever is slower than the
# receiver. Both are honest, and say different things. The slowest comes last: it leaves thousands of answers due, which
# would disturb whatever is measured meanwhile.
SCENARIOS = (
    Scenario("at-once", "plain TCP, 100-byte JSON, answered at once", weight=0.9),
    Scenario("burst", f"plain TCP, answered at once, {BURST} posts back to back", weight=0.6, burst=BURST),
    Scenario("tls1.3", "TLS 1.3, 100-byte JSON, answered at once", tls="1.3", weight=2.2),
    Scenario("burst-tls1.3", f"TLS 1.3, answered at once, {BURST} posts back to back", tls="1.3", burst=BURST),
    Scenario("tls1.2", "TLS 1.2, 100-byte JSON, answered at once", tls="1.2", weight=0.6),
    Scenario("far-tls1.3", "TLS 1.3 at 20 ms round trip, answered at once", tls="1.3", rtt=0.02),
    Scenario(
        "asyncio",
        "from a running event loop, plain TCP, answered at once",
        weight=0.5,
        within="asyncio",
    ),
    Scenario(
        "burst-asyncio",
        f"from a running event loop, {BURST} posts back to back",
        weight=0.5,
        burst=BURST,
        within="asyncio",
    ),
    Scenario(
        "logging",
        "what handlers add to logger.info(), 20 ms round trip, 50 a second",
        rtt=0.02,
        weight=0.8,
        apart=BETWEEN_RECORDS,
        within="logging",
    ),
    Scenario("after-200ms", "plain TCP, 100-byte JSON, answered after 200 ms", delay=0.2),
    Scenario(
        "burst-200ms",
        f"plain TCP, answered after 200 ms, {BURST} posts back to back",
        delay=0.2,
        weight=0.6,
        burst=BURST,
    ),
    Scenario(
        "works-5s",
        "plain TCP, form-encoded data={...}, answered after 5 s",
        delay=5.0,
        kind="form",
        weight=0.7,
        most=MOST_WHILE_WORKING,
    ),
)

# What `python -m bench caller` measures, with every contender; the weights are seconds, and make up its default.
REPETITIONS = 3
# Contenders that post at the same time where a round trip is what they wait for: few enough to leave the cores idle.
TOGETHER = 9
# A body of 8 MiB takes a slow reader two seconds.
SLOW_READER = 4.0 * (1 << 20)  # bytes per second
RATE = 100.0  # posts per second: far below what any contender can
# Posts that nobody answers keep their connections, or their threads.
MOST_UNANSWERED = 200
# Enough for a p99.9, without those to warm up and the first ones of each block.
MOST_OF_ALL = 1350
MIB = 1 << 20


def repeated(scenario: Scenario, seconds: float) -> Scenario:
    """Return the scenario as `caller` measures it."""
    return scenario._replace(weight=seconds, repetitions=REPETITIONS)


def repeated_by_name(name: str, seconds: float) -> Scenario:
    """Return one of the above."""
    return repeated(next(scenario for scenario in SCENARIOS if scenario.name == name), seconds)


def far(
    name: str, title: str, seconds: float, rtt: float, *, tls: TLSVersion | None = None, loss: float = 0.0
) -> Scenario:
    """Return a scenario at the other end of a network; several post at a time."""
    return repeated(Scenario(name, title, tls=tls, rtt=rtt, loss=loss, timed=False, together=TOGETHER), seconds)


EVERY_SCENARIO = (
    repeated_by_name("at-once", 30)._replace(most=MOST_OF_ALL),
    repeated_by_name("burst", 12),
    repeated_by_name("tls1.3", 72)._replace(most=MOST_OF_ALL),
    repeated_by_name("burst-tls1.3", 14),
    repeated_by_name("tls1.2", 14),
    repeated(Scenario("64KiB", "plain TCP, body of 64 KiB, answered at once", kind=64 << 10), 9),
    repeated(Scenario("1MiB", "plain TCP, body of 1 MiB, answered at once", kind=MIB), 12),
    repeated(Scenario("8MiB", "plain TCP, body of 8 MiB, answered at once", kind=8 * MIB), 18),
    far("far", "plain TCP at 20 ms round trip, answered at once", 15, 0.02),
    far("far-tls1.3", "TLS 1.3 at 20 ms round trip, answered at once", 21, 0.02, tls="1.3"),
    far("farther-tls1.3", "TLS 1.3 at 100 ms round trip, answered at once", 21, 0.1, tls="1.3"),
    far("lossy-tls1.3", "TLS 1.3 at 20 ms round trip, 1 % of packets lost", 24, 0.02, tls="1.3", loss=0.01),
    repeated_by_name("after-200ms", 15),
    repeated_by_name("burst-200ms", 9),
    repeated_by_name("works-5s", 9)._replace(most=400),
    repeated(Scenario("never", "plain TCP, never answered", answers=False, most=MOST_UNANSWERED), 6),
    repeated(Scenario("rate", f"plain TCP, {RATE:g} posts a second, answered at once", rate=RATE), 36),
    repeated(Scenario("rate-200ms", f"plain TCP, {RATE:g} posts a second, after 200 ms", delay=0.2, rate=RATE), 30),
    repeated_by_name("asyncio", 5),
    repeated_by_name("burst-asyncio", 5),
    repeated_by_name("logging", 12),
    repeated(Scenario("queues", "message queues on loopback; Kafka's broker is librdkafka's mock", within="queues"), 8),
    Scenario("refused", "a closed port", trouble="refused", arrives=False, weight=5.0, most=120),
    Scenario("black-hole", "SYNs are dropped; one post, a second if it was quick", trouble="black hole", arrives=False),
    Scenario("slow-reader", "plain TCP, body of 8 MiB, read at 4 MiB/s", kind=8 * MIB, reads=SLOW_READER),
    Scenario("resolver", "plain TCP, the name takes 2 s to resolve", trouble="resolver"),
)
# One of each kind.
SUBSET = frozenset(
    {
        "burst-tls1.3",
        "1MiB",
        "lossy-tls1.3",
        "never",
        "rate-200ms",
        "asyncio",
        "logging",
        "queues",
        "refused",
        "black-hole",
        "slow-reader",
        "resolver",
    }
)
