"""What a run found out: plain values, which report, plot and the JSON file read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .scenarios import Scenario

# Exit statuses: a number to reach was missed; a bad start, or a promise of delivery that was broken.
OK, MISSED, FAILED = 0, 1, 2
# Receipt.delivery values that promise that the server has the request.
PROMISES = frozenset({"acked", "answered"})


class Row(NamedTuple):
    """One contender in one scenario. The lists have one entry per timed post that raised nothing."""

    contender: str
    note: str = ""  # why nothing was measured, or what went wrong
    ns: list[int] = []  # noqa: RUF012 - an immutable default in effect: nobody appends to a Row's list
    cpu_ns: list[int] = []  # noqa: RUF012 - as above
    rounds: list[int] = []  # noqa: RUF012 - as above; -1: not interleaved, made alongside the others
    cold_ns: list[int] = []  # noqa: RUF012 - as above; the first post of each round
    aside_ns: list[int] = []  # noqa: RUF012 - as above; CPU per post, outside of the call, of one that works there
    whole_cpu_ns: list[int] = []  # noqa: RUF012 - as above; CPU per post in the call and outside of it, one per round
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

    @property
    def lost(self) -> int:
        """Posts that raised nothing and did not arrive; 0 where nobody counted."""
        return 0 if self.delivered is None else self.sent - self.delivered

    @property
    def whole(self) -> bool:
        """May its latency be compared? Only with nothing lost, doubled, altered or raised."""
        return bool(self.ns) and not (self.lost or self.twice or self.strange or self.errors)


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
