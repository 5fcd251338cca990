"""What the receiver is like: how it is reached, and how long it works before it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from .payload import Kind

TLSVersion = Literal["1.2", "1.3"]


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

    @property
    def busy(self) -> bool:
        """Whether the receiver works noticeably long before it answers."""
        return self.delay > 0

    @property
    def far(self) -> bool:
        """Whether the receiver is at the other end of a simulated network, see network.py."""
        return self.rtt > 0


# 1200 posts give a p99.9; each of them holds a descriptor of the receiver until its answer is due.
MOST_WHILE_WORKING = 1200

# The slowest comes last: it leaves thousands of answers due, which would disturb whatever is measured meanwhile.
SCENARIOS = (
    Scenario("at-once", "plain TCP, 100-byte JSON, answered at once", weight=0.7),
    Scenario("tls1.3", "TLS 1.3, 100-byte JSON, answered at once", tls="1.3", weight=2.0),
    Scenario("tls1.2", "TLS 1.2, 100-byte JSON, answered at once", tls="1.2"),
    Scenario("far-tls1.3", "TLS 1.3 at 20 ms round trip, answered at once", tls="1.3", rtt=0.02),
    Scenario("after-200ms", "plain TCP, 100-byte JSON, answered after 200 ms", delay=0.2),
    Scenario(
        "works-5s",
        "plain TCP, form-encoded data={...}, answered after 5 s",
        delay=5.0,
        kind="form",
        weight=0.8,
        most=MOST_WHILE_WORKING,
    ),
)
