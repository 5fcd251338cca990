"""Tables and paragraphs of the terminal: narrow, so that several fit a screen and all of them a README."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table as Grid
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

# Columns of a terminal from which on the tables have everything.
WIDE = 100


def grid(title: str, *columns: str) -> Grid:
    """Return an empty table that fits 80 columns: the first column left, the others right."""
    made = Grid(box=box.SIMPLE_HEAD, show_edge=False, padding=0, title=title, title_justify="left")
    made.title_style = "bold"
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left", no_wrap=bool(index))
    return made


def left(made: Grid, *indices: int) -> Grid:
    """Let these columns hold text: from the left, over several lines if need be."""
    for index in indices:
        made.columns[index].justify, made.columns[index].no_wrap = "left", False
    made.padding = (0, 1, 0, 0)
    return made


def section(text: str) -> Text:
    """Return a paragraph in the lighter voice of notes."""
    return Text(text, style="dim")


def fitting(widths: Sequence[int], room: int) -> list[range]:
    """Split columns of these widths, one space between them, into as few tables of so many characters as it takes."""
    parts, start, used = [], 0, 0
    for index, width in enumerate(widths):
        if used + width > room and index > start:
            parts.append(range(start, index))
            start, used = index, 0
        used += width + 1
    return [*parts, range(start, len(widths))]
