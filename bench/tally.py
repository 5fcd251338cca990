"""Sums over the delivery matrix, by which its table, its heat map and the README's table agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .matrix import Cell, Matrix, Place


class Tally(NamedTuple):
    """What became of all posts in several cells."""

    made: int = 0  # posts that were tried
    delivered: int = 0
    raised: int = 0  # not delivered, and their callers were told
    truncated: int = 0  # handlers that ran with a body that nobody sent
    twice: int = 0
    broken_promises: int = 0
    places: int = 0  # cells with a post
    whole: int = 0  # of these: all of it arrived, once


def tally(cells: Iterable[Cell]) -> Tally:
    """Add them up."""
    tried = [cell for cell in cells if cell.made]
    return Tally(
        made=sum(cell.made for cell in tried),
        delivered=sum(cell.delivered for cell in tried),
        raised=sum(sum(cell.errors.values()) for cell in tried),
        truncated=sum(cell.truncated for cell in tried),
        twice=sum(cell.twice for cell in tried),
        broken_promises=sum(cell.broken_promises for cell in tried),
        places=len(tried),
        whole=sum(cell.whole for cell in tried),
    )


def marks(cell: Cell) -> str:
    """Return what is worse than a loss."""
    return "†" * bool(cell.truncated) + "²" * bool(cell.twice) + "!" * bool(cell.broken_promises)


def by_place(matrix: Matrix) -> dict[tuple[str, str, str], Cell]:
    """Return the cells by server, transport and contender."""
    return {(cell.server, cell.transport, cell.contender): cell for cell in matrix.cells}


def ordered(places: Sequence[Place]) -> list[Place]:
    """Return them group by group, in the order of the run otherwise."""
    groups = list(dict.fromkeys(place.group for place in places))
    return sorted(places, key=lambda place: groups.index(place.group))


def of_group(matrix: Matrix, contender: str, group: str) -> list[Cell]:
    """Return a contender's cells at servers of one group."""
    members = {(place.server, place.transport) for place in matrix.places if place.group == group}
    return [cell for cell in matrix.cells if cell.contender == contender and (cell.server, cell.transport) in members]
