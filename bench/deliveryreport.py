"""The tables of `python -m bench delivery` on the terminal: what arrived where, and why the rest did not."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from .figures import NOTHING, plural, show_percent
from .layout import fitting, grid, left, section
from .overview import who
from .report import limits, shorten
from .tally import by_place, marks, ordered, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console, RenderableType
    from rich.table import Table as Grid

    from .matrix import Cell, Matrix, Place

TITLE = "delivered / tried, in percent"
# Numbers in a log's line that differ from request to request; those of three digits are statuses, and stay.
OTHER_NUMBERS = re.compile(r"(?<!\d)(\d{1,2}|\d{4,})(?!\d)")
LEGEND = (
    "Delivered: the server's application had the whole body, with the right SHA-256, and its handler ran to its end. "
    "·: every post was, once. †: a handler ran to its end with a body that nobody sent, a part of one: worse than a "
    "loss. ²: a body was handled twice. !: the contender said that a post had arrived which had not. -: not measured. "
    "raised: not delivered, and the caller was told by an error. silent: not delivered, and the call said nothing; a "
    "Sender's stats may have, later. not as promised: the contender said that it had arrived."
)
CANNOT_TELL = """\
- A server is measured with its defaults and one small application, on one day, in one version. Yours may be \
configured otherwise, and 100 % of a few dozen posts may still be 99 % of a million.
- Posts are made one after the other at a fixed rate, to a server that has nothing else to do. Under load, when \
listeners overflow or workers are restarted, others are lost.
- Nothing is said about posts that are lost when the caller's machine fails, or the server's. Who must not lose any \
needs a queue that writes to a disk, and a receiver that can tell a repetition.
- That a handler ran to its end is told by the handler. What it did then with a database is its own affair.
- Only where a round trip is named is there one. Over a long one, closings that race with the server lose more.
- What is handed to a message queue is still to be carried to an endpoint: that way is not measured here."""


# By what it is called in the report.
WORSE: dict[str, Callable[[Cell], int]] = {
    "Handlers ran with a body that nobody sent": lambda cell: cell.truncated,
    "Promised, and did not arrive": lambda cell: cell.broken_promises,
    "Handled more than once": lambda cell: cell.twice,
}


def show(matrix: Matrix, console: Console) -> None:
    """Print the whole report."""
    parts: list[RenderableType] = [totals(matrix), ""]
    parts += [*places_tables(matrix, console.width), section(LEGEND), ""]
    parts += [part for place in ordered(matrix.places) for part in losses(matrix, place)]
    parts += not_measured(matrix)
    parts += who(matrix.contenders, matrix.missing)
    console.print(Group(*parts, *limits(CANNOT_TELL, matrix.metadata)))


def totals(matrix: Matrix) -> Grid:
    """Return a row for each contender: in how many places everything arrived, and what became of all posts."""
    made = grid(
        "in how many places everything arrived",
        "contender",
        "places",
        "delivered/tried",
        "%",
        "raised",
        "silent",
        "truncated",
        "not as\npromised",
    )
    for name in matrix.contenders:
        sums = tally(cell for cell in matrix.cells if cell.contender == name)
        silent = sums.made - sums.delivered - sums.raised
        counts = (sums.raised, silent, sums.truncated, sums.broken_promises)
        made.add_row(
            name,
            f"{sums.whole}/{sums.places}",
            f"{sums.delivered}/{sums.made}",
            show_percent(sums.delivered, sums.made) or NOTHING,
            *(str(number) if number else "0" for number in counts),
            style="green" if sums.places and sums.whole == sums.places else "red",
        )
    return made


def places_tables(matrix: Matrix, width: int) -> list[RenderableType]:
    """Return a row for each place and a column for each contender, in as many tables as this width asks for."""
    cells, places = by_place(matrix), ordered(matrix.places)
    columns = [[show_cell(cells.get((*place[:2], name))) for place in places] for name in matrix.contenders]
    heads = [str(index + 1) for index in range(len(columns))]
    widths = [max(len(head), *map(len, column)) for head, column in zip(heads, columns, strict=True)]
    room = width - max((len(place.name) for place in places), default=0) - 1
    parts: list[RenderableType] = []
    for chosen in fitting(widths, room):
        made = grid("continued" if parts else TITLE, "place", *(heads[index] for index in chosen))
        made.columns[0].no_wrap = True
        for group, members in groupby(enumerate(places), key=lambda numbered: numbered[1].group):
            made.add_row(f"{plural(group)}:", style="bold")
            for number, place in members:
                made.add_row(place.name, *(columns[index][number] for index in chosen))
        parts += [made, section(key(matrix.contenders, chosen)), ""]
    return parts


def key(contenders: Sequence[str], chosen: range) -> str:
    """Return what the numbers of the columns stand for."""
    return "; ".join(f"{index + 1} {contenders[index]}" for index in chosen)


def show_cell(cell: Cell | None) -> Text:
    """Return what share arrived, quiet where everything did."""
    if cell is None or not cell.made:
        return Text(NOTHING, style="dim")
    if cell.whole:
        return Text("·", style="green")
    return Text(show_percent(cell.delivered, cell.made) + marks(cell), style="yellow" if cell.delivered else "red")


def losses(matrix: Matrix, place: Place) -> list[RenderableType]:
    """Return who lost what at a place, what is worse than that first, and the server's own words."""
    here = [cell for cell in matrix.cells if (cell.server, cell.transport) == place[:2] and cell.made]
    lost = sorted((cell for cell in here if not cell.whole), key=lambda cell: cell.delivered / cell.made)
    if not lost:
        return []
    version = f", {place.version}" if place.version else ""
    parts: list[RenderableType] = [Text(f"{place.name}: {place.title}{version}", style="bold")]
    for what, of in WORSE.items():
        worse = [f"{cell.contender} {of(cell)}" for cell in lost if of(cell)]
        parts += [Text(f"{what}: {'; '.join(worse)}.", style="bold red")] if worse else []
    whose = [f"{cell.contender} {cell.delivered}/{cell.made}" for cell in lost if cell.delivered < cell.made]
    parts += [section(f"Arrived of {'; '.join(whose)}. By size and handler: {by_part(lost)}.")] if whose else []
    parts += [section(f"{cell.contender}: {'; '.join(told)}.") for cell in lost if (told := told_by(cell))]
    parts += [section(f"Its log, of {names}: {reason}") for reason, names in reasons(lost).items()]
    return [*parts, ""]


def by_part(lost: Sequence[Cell]) -> str:
    """Return what share arrived of each size, by how long the handler works."""
    sums: dict[str, list[int]] = {}
    for cell in lost:
        for part, (delivered, sent) in cell.parts.items():
            found = sums.setdefault(part, [0, 0])
            found[0] += delivered
            found[1] += sent
    return "; ".join(f"{part} {show_percent(*found)} %" for part, found in sums.items() if found[1])


def told_by(cell: Cell) -> list[str]:
    """Return what the contender's user was told."""
    said = [f"{times} raised {shorten(error)}" for error, times in cell.errors.items()]
    return said + ([cell.note] if cell.note else [])


def reasons(lost: Sequence[Cell]) -> dict[str, str]:
    """Return the server's lines, and whose requests they are about; of lines that say the same the first."""
    found: dict[str, list[Cell]] = {}
    for cell in lost:
        if cell.reason:
            found.setdefault(OTHER_NUMBERS.sub("0", cell.reason), []).append(cell)
    return {cells[0].reason: "; ".join(cell.contender for cell in cells) for cells in found.values()}


def not_measured(matrix: Matrix) -> list[RenderableType]:
    """Return the places and cells in which nothing was measured, and why."""
    made = left(grid("not measured", "place", "why"), 1)
    for place in matrix.places:
        if place.note:
            made.add_row(place.name, place.note)
    for cell in matrix.cells:
        if not cell.made and cell.note:
            made.add_row(f"{cell.contender} at {cell.server}, {cell.transport}", cell.note)
    return [made, ""] if made.rows else []
