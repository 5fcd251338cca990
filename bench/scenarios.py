"""What the receiver is like: how it is reached, and how long it works before it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from .payload import Kind

TLSVersion = Literal["1.2", "1.3"]
# What the posts come from, if it is not a plain caller: an application's event loop, or its loggers.
Within = Literal["", "asyncio", "logging"]


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

    @property
    def busy(self) -> bool:
        """Whether the receiver works noticeably long before it answers."""
        return self.delay > 0

    @property
    def far(self) -> bool:
        """Whether the receiver is at the other end of a simulated network, see network.py."""
        return self.rtt > 0

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
