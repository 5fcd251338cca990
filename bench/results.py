"""What a run found out: plain values, which report, plot and the JSON file read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .scenarios import Scenario

# Exit statuses: a number to reach was missed; a bad start, or a promise of delivery that was broken.
OK, MISSED, FAILED = 0, 1, 2
# Receipt.delivery values that promise that the server has the request.
PROMISES = frozenset({"acked", "answered"})
# What the books of a Sender call posts of which they do not say that they arrived. "closed_now" is not among these: it
# is what a caller asked for who does not want to know.
DOUBTS = ("unanswered", "reset", "held")
# How the note of a row ends whose caller was held for longer than anybody waited: its time is true, but too short.
LOWER_BOUND = "its time is a lower bound"


class Row(NamedTuple):
    """One contender in one scenario.

    The lists have one entry per timed post that raised nothing. Where nothing can arrive they have one per timed post,
    also of those that raised: there the question is how long a caller is held until it is told.
    """

    contender: str
    note: str = ""  # why nothing was measured, or what went wrong
    ns: list[int] = []  # noqa: RUF012 - an immutable default in effect: nobody appends to a Row's list
    cpu_ns: list[int] = []  # noqa: RUF012 - as above
    rounds: list[int] = []  # noqa: RUF012 - as above; -1: not interleaved, made alongside the others
    cold_ns: list[int] = []  # noqa: RUF012 - as above; the first post of each round
    aside_ns: list[int] = []  # noqa: RUF012 - as above; CPU per post, outside of the call, of one that works there
    whole_cpu_ns: list[int] = []  # noqa: RUF012 - as above; CPU per post in the call and outside of it, one per round
    ready_ns: list[int] = []  # noqa: RUF012 - as above; wall time that the caller spends around each burst, not timed
    sent: int = 0  # posts that raised nothing: timed, cold, and to warm up
    delivered: int | None = None  # of these, whole at the receiver with the right hash; None: nobody counted
    twice: int = 0  # bodies that arrived more than once
    strange: int = 0  # bodies that nobody sent
    promised: int = 0  # posts whose receipt said acked or answered
    broken_promises: int = 0  # of these, not delivered
    claims: dict[str, int] = {}  # noqa: RUF012 - as above
    errors: dict[str, int] = {}  # noqa: RUF012 - as above
    unpaced: int = 0  # posts that the receiver did not account for in time
    threads: int | None = None  # left behind
    descriptors: int | None = None  # left behind
    memory_kib: int | None = None  # left behind, resident: after the last post, minus after the first ones
    arrives: bool = True  # False: the scenario's server takes nothing in, so that nothing can arrive

    @property
    def lost(self) -> int:
        """Posts that raised nothing and did not arrive; 0 where nobody counted, or where nothing can arrive."""
        return 0 if self.delivered is None or not self.arrives else self.sent - self.delivered

    @property
    def faulty(self) -> bool:
        """Whether anything was lost, doubled, altered or raised."""
        return bool(self.lost or self.twice or self.strange or self.errors)

    @property
    def whole(self) -> bool:
        """May its latency be compared? With no fault and no note, and only where posts can arrive."""
        return self.arrives and bool(self.ns) and not (self.faulty or self.note)

    @property
    def ranked(self) -> bool:
        """May it lead? Only if what arrived was counted, too."""
        return self.whole and self.delivered is not None

    @property
    def void(self) -> bool:
        """Whether its latency says nothing. Where nothing can arrive it says how long the caller was held.

        A lower bound says something, though it cannot be compared.
        """
        return self.arrives and not self.whole and (self.faulty or not self.note.endswith(LOWER_BOUND))

    @property
    def marked(self) -> bool:
        """Whether it gets a ✗: void, or, where nothing can arrive, posts of which nobody was told, or even promised."""
        return self.void or (not self.arrives and bool(self.silent or self.broken_promises))

    @property
    def made(self) -> int:
        """Posts that were tried."""
        return self.sent + sum(self.errors.values())

    @property
    def doubted(self) -> int:
        """Posts that raised nothing, and of which the books say later that they may not have arrived."""
        return sum(self.claims.get(name, 0) for name in DOUBTS)

    @property
    def silent(self) -> int:
        """Posts that raised nothing, did not arrive, and are not doubted by any books: lost, and no call says so.

        The books do not say which posts they doubt. Each of these is taken for one that did not arrive: at least.
        """
        missing = self.sent if not self.arrives else self.lost
        return max(0, missing - self.doubted)


class Table(NamedTuple):
    """One scenario's rows."""

    scenario: Scenario
    rows: list[Row]
    others: float | None = None  # cores that other processes kept busy meanwhile; None: not looked at

    def row(self, contender: str) -> Row | None:
        """Return the row of a contender that was measured; None otherwise."""
        return next((row for row in self.rows if row.contender == contender and row.ns), None)


class Footprint(NamedTuple):
    """What importing costs, per fresh interpreter."""

    what: str
    import_ns: list[int]
    peak_kib: list[int]  # VmHWM; empty where the system does not tell
    then: str = ""  # what was done after the import, before the peak was read
    note: str = ""  # why nothing was measured


class Wire(NamedTuple):
    """What one post puts on the wire, from quiet to quiet: medians over some posts, each alone.

    A connection that the post left open is in it only as far as it was used. What is opened ahead for the next post
    stands for what was opened ahead for this one.
    """

    contender: str
    scenario: str  # its title
    posts: int = 0
    segments_out: float = 0.0  # of the client; each that was sent again counts again
    segments_in: float = 0.0
    bytes_out: float = 0.0  # with IP and TCP headers, without Ethernet's
    bytes_in: float = 0.0
    note: str = ""  # why nothing was measured, or what went wrong


class Trace(NamedTuple):
    """The system calls that most posts make, in the thread that posts, while its caller is held."""

    contender: str
    scenario: str  # its title
    calls: list[str]
    in_all: float | None = None  # of all threads, until the answer is dealt with and the next post can be made; median
    note: str = ""  # why nothing was measured


class Goal(NamedTuple):
    """One of the numbers to reach; `value` is None when this run did not measure it."""

    what: str
    value: float | None
    bound: float
    at_most: bool
    group: str = ""  # heading that it stands under

    @property
    def reached(self) -> bool | None:
        """None: not measured."""
        if self.value is None:
            return None
        return self.value <= self.bound if self.at_most else self.value >= self.bound


class Run(NamedTuple):
    """Everything."""

    metadata: dict[str, str]
    tables: list[Table]
    footprints: list[Footprint]
    goals: list[Goal]
    wires: list[Wire] = []  # noqa: RUF012 - as above
    traces: list[Trace] = []  # noqa: RUF012 - as above
    missing: dict[str, str] = {}  # noqa: RUF012 - as above; contenders that could not be measured: what to install
