"""The expected outcome, confirmed or refuted by a run: plain sentences with their numbers, and every exception named.

Expected was: a Sender that closes when the server has answered is the only contender with 100 % in every cell of the
delivery matrix, and in every scenario a Sender holds its caller the shortest, at the median and at p99.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .columns import OF_TASK
from .contenders import AIOHTTP, FLOORS, KNOWN, NO_POST
from .figures import show_time
from .stats import SIGNIFICANT, chance, percentile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from .matrix import Cell, Matrix
    from .results import Row, Run, Table

# Exceptions that are named in one sentence; of more it says how many there are.
NAMED = 6
PERCENTILES = (50, 99)


def is_sender(name: str) -> bool:
    """Whether it posts by a Sender, of whatever kind."""
    return name in KNOWN and KNOWN[name].sender_closes != ""


def waits_for_answers(name: str) -> bool:
    """Whether it is a Sender that closes when the server has answered, which is what a Sender does by default."""
    return name in KNOWN and KNOWN[name].sender_closes == "answered"


def outcome(run: Run | None, matrix: Matrix | None) -> list[str]:
    """Say what became of the expected outcome, as far as this run and this matrix tell."""
    return (of_matrix(matrix) if matrix else []) + (of_run(run) if run else [])


def listed(names: Iterable[str]) -> str:
    """Name some, and count the others."""
    every = list(names)
    more = len(every) - NAMED
    return "; ".join([*every[:NAMED], *([f"and {more} more"] if more > 0 else [])])


def of_matrix(matrix: Matrix) -> list[str]:
    """Say who had 100 % in every cell."""
    cells = {
        name: [cell for cell in matrix.cells if cell.contender == name and cell.made] for name in matrix.contenders
    }
    senders = [name for name in matrix.contenders if waits_for_answers(name) and cells[name]]
    if not senders:
        return ["Whether a Sender that waits for the answer has 100 % in every cell was not measured."]
    said = [in_every_cell(name, cells[name]) for name in senders]
    if empty := [f"{each.contender} at {each.server}, {each.transport}" for each in matrix.cells if not each.made]:
        said.append(f"Not measured: {listed(empty)}.")
    others = [name for name in matrix.contenders if name not in senders and cells[name]]
    whole = [f"{name} ({len(cells[name])})" for name in others if all(cell.whole for cell in cells[name])]
    if whole:
        said.append(f"Refuted that only a Sender has: 100 % in every cell, too (of how many): {'; '.join(whole)}.")
    elif others:
        said.append(f"Confirmed that only a Sender has: none of the {len(others)} others had 100 % in every cell.")
    return said


def in_every_cell(name: str, cells: Sequence[Cell]) -> str:
    """Say whether it lost anything anywhere."""
    losses = [cell for cell in cells if not cell.whole]
    count = (
        f"{name}: 100 % in {len(cells) - len(losses)} of {len(cells)} cells, {sum(each.made for each in cells)} posts"
    )
    if not losses:
        return f"Confirmed. {count}."
    return f"Refuted. {count}; not in {listed(map(shortfall, losses))}."


def shortfall(cell: Cell) -> str:
    """Say what is wrong with a cell."""
    said = [f"{cell.delivered}/{cell.made}"]
    said += [f"{cell.truncated} cut short"] if cell.truncated else []
    said += [f"{cell.twice} handled twice"] if cell.twice else []
    return f"{cell.server}, {cell.transport} ({', '.join(said)})"


class Standing(NamedTuple):
    """The best Sender of one scenario, compared with the best of the others."""

    scenario: str
    percent: int
    sender: Row
    other: Row | None  # None: nobody else was measured there, and lost nothing
    by_chance: bool  # could chance alone have ordered these two?

    @property
    def first(self) -> bool:
        """Whether the Sender holds its caller no longer than the other."""
        return self.other is None or held(self.sender, self.percent) <= held(self.other, self.percent)

    @property
    def shown(self) -> str:
        """Who is compared with whom."""
        if self.other is None:
            return self.scenario
        both = (f"{row.contender} {show_time(held(row, self.percent))}" for row in (self.other, self.sender))
        return f"{self.scenario} ({', '.join(both)})"


def held(row: Row, percent: int) -> float:
    """Return for how many nanoseconds its caller was held; endless, where there are too few posts to say."""
    found = percentile(row.ns, percent)
    return float("inf") if found is None else found


def standing(table: Table, percent: int, aside: Collection[str] = ()) -> Standing | None:
    """Compare within one scenario, among those that lost nothing; None where no Sender made enough posts for that.

    The programs in C are no contenders: they know nothing of HTTP. Those `aside` are left out as well.
    """
    rows = [row for row in table.rows if row.ranked and row.contender not in {*FLOORS, NO_POST.name, *aside}]
    rows = sorted((row for row in rows if percentile(row.ns, percent) is not None), key=lambda row: held(row, percent))
    sender = next((row for row in rows if is_sender(row.contender)), None)
    other = next((row for row in rows if not is_sender(row.contender)), None)
    if sender is None:
        return None
    by_chance = chance(sender, other) if other and percent == 50 else None
    return Standing(table.scenario.name, percent, sender, other, by_chance is not None and by_chance > SIGNIFICANT)


def of_run(run: Run) -> list[str]:
    """Say where a Sender held its caller the shortest, and of whose posts that went nowhere nothing was said.

    Message queues are measured among themselves: there is no Sender. Where nobody counted, nobody can be first.
    """
    tables = [table for table in run.tables if table.scenario.arrives and table.scenario.within != "queues"]
    said = [text for percent in PERCENTILES if (text := shortest(tables, percent))]
    if any(AIOHTTP.name in text for text in said):
        said.append(OF_TASK)
        rest = (shortest(tables, percent, (AIOHTTP.name,)) for percent in PERCENTILES)
        said += [f"Without {AIOHTTP.name}: {text[0].lower()}{text[1:]}" for text in rest if text]
    silent = [
        f"{row.contender} in {table.scenario.name} ({row.silent} of {row.made})"
        for table in run.tables
        for row in table.rows
        if row.silent
    ]
    return said + ([f"Lost, and neither the call nor any books said so: {listed(silent)}."] if silent else [])


def shortest(tables: Sequence[Table], percent: int, aside: Collection[str] = ()) -> str:
    """Say in which scenarios a Sender was first; nothing where that is unknown in all of them."""
    standings = {table.scenario.name: standing(table, percent, aside) for table in tables}
    known = [each for each in standings.values() if each]
    if not known:
        return ""
    behind = [each for each in known if not each.first]
    close = [each for each in known if each.first and each.by_chance]
    what = (
        f"a Sender held its caller the shortest at p{percent} in {len(known) - len(behind)} of {len(known)} scenarios"
    )
    said = [f"{'Refuted' if behind else 'Confirmed'}: {what}"]
    said += [f"not in {listed(each.shown for each in behind)}"] if behind else []
    said += [f"too close, or too few rounds, to be sure in {listed(each.shown for each in close)}"] if close else []
    unknown = [name for name, each in standings.items() if each is None]
    said += [f"unknown, for want of a Sender or of posts, in {listed(unknown)}"] if unknown else []
    return "; ".join(said) + "."
