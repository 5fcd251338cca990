"""One table of all repetitions of a scenario, each of which had fresh processes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .results import Row, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .scenarios import Scenario


def merged(scenario: Scenario, tables: Sequence[Table]) -> Table:
    """Return one table of all repetitions: their rounds follow one another, so that rows are ranked by all of them."""
    first, rows = 0, dict[str, list[Row]]()
    for table in tables:
        for row in table.rows:
            numbers = [number + first if number >= 0 else number for number in row.rounds]
            rows.setdefault(row.contender, []).append(row._replace(rounds=numbers))
        first += max((number + 1 for row in table.rows for number in row.rounds), default=0)
    others = [table.others for table in tables if table.others is not None]
    whole = [of_all(each) for each in rows.values()]
    return Table(scenario, whole, max(others) if len(others) == len(tables) else None)


def of_all(rows: Sequence[Row]) -> Row:
    """Return one row of all repetitions; what a process left behind is that of the one which left the most."""
    delivered = [row.delivered for row in rows if row.delivered is not None]
    return rows[0]._replace(
        note="; ".join(dict.fromkeys(row.note for row in rows if row.note)),
        ns=[ns for row in rows for ns in row.ns],
        cpu_ns=[ns for row in rows for ns in row.cpu_ns],
        rounds=[number for row in rows for number in row.rounds],
        cold_ns=[ns for row in rows for ns in row.cold_ns],
        aside_ns=[ns for row in rows for ns in row.aside_ns],
        ready_ns=[ns for row in rows for ns in row.ready_ns],
        whole_cpu_ns=[ns for row in rows for ns in row.whole_cpu_ns],
        sent=sum(row.sent for row in rows),
        delivered=sum(delivered) if delivered else None,
        twice=sum(row.twice for row in rows),
        strange=sum(row.strange for row in rows),
        promised=sum(row.promised for row in rows),
        broken_promises=sum(row.broken_promises for row in rows),
        claims=dict(sum((Counter(row.claims) for row in rows), Counter[str]())),
        errors=dict(sum((Counter(row.errors) for row in rows), Counter[str]())),
        unpaced=sum(row.unpaced for row in rows),
        threads=most(row.threads for row in rows),
        descriptors=most(row.descriptors for row in rows),
        memory_kib=most(row.memory_kib for row in rows),
    )


def most(left: Iterable[int | None]) -> int | None:
    """Return the largest; None where nobody looked."""
    return max((each for each in left if each is not None), default=None)
