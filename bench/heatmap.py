"""The picture of the delivery matrix: a row for each place, a column for each contender, losses in strong colours.

What arrived whole stays pale, so that the eye goes to what did not. The colours run from light to dark, and the share
is printed in each cell: nobody has to tell red from green.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from .figures import plural, show_percent
from .pictures import COLOURS, GREY, INK, by_family, colour, facts, family, save
from .tally import by_place, marks, ordered, tally

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from .matrix import Cell, Matrix, Place

# Inches.
COLUMN, LINE, LEFT, TOP, BOTTOM, RIGHT = 0.42, 0.19, 3.1, 2.6, 0.25, 0.75
LETTER = 0.09  # of a group's name
WHOLE, GRID, LACKING = "#e8f0f6", "white", "#f7f7f7"
# Of the shares below all: from a yellow that is no WHOLE to nearly black (ColorBrewer's YlOrRd, its palest left out).
SHADES, PALEST, DARKEST = "YlOrRd", 0.22, 1.0
# Above this share of darkness letters are white.
DARK = 0.55
EXPLANATION = """\
Arrived: the application had the whole
body, its hash was right, and its
handler ran to its end.
Hatched: not measured.
† a handler ran with a part of a body;
² with the whole one twice.
! the sender said that it had arrived.
Above: in how many places
everything arrived."""
FACTS_LENGTH = 46  # letters
# What arrived, but twice, or beside a part of it: not to look like all.
ALMOST = 0.999
SCALE = (1.0, 0.99, 0.75, 0.5, 0.25, 0.0)


def draw(matrix: Matrix, path: Path) -> None:
    """Write the picture as SVG or PNG, by the extension."""
    # Taken in here, because it takes a while and only pictures need it.
    from matplotlib.figure import Figure

    places, contenders = ordered(matrix.places), by_family(matrix.contenders)
    rows, columns = len(places), len(contenders)
    width, height = LEFT + columns * COLUMN + RIGHT, TOP + rows * LINE + BOTTOM
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((LEFT / width, BOTTOM / height, columns * COLUMN / width, rows * LINE / height))
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)  # the first row on top
    fill(matrix, places, contenders, axes)
    name_columns(matrix, contenders, axes)
    name_rows(places, axes)
    part(places, contenders, axes)
    figure.text(
        0.12 / width, 1 - 0.25 / height, "What arrives, in percent", fontsize=14, fontweight="bold", va="center"
    )
    figure.text(0.12 / width, 1 - 0.45 / height, EXPLANATION, fontsize=8, color="#444444", va="top")
    made_with = "\n".join(textwrap.wrap(facts(matrix.metadata), FACTS_LENGTH))
    figure.text(0.12 / width, 1 - 1.76 / height, made_with, fontsize=6, color=GREY, va="top")
    scale = figure.add_axes((0.12 / width, 1 - 2.3 / height, len(SCALE) * COLUMN / width, LINE / height))
    draw_scale(scale)
    save(figure, path)


def draw_scale(axes: Axes) -> None:
    """Show what the colours mean."""
    axes.imshow([[shade(share) for share in SCALE]], extent=(0, len(SCALE), 1, 0), aspect="auto")
    axes.set_axis_off()
    for index, share in enumerate(SCALE):
        letters = GREY if share == 1 else "white" if darkness(share) > DARK else INK
        axes.text(index + 0.5, 0.52, f"{100 * share:.0f}", ha="center", va="center", fontsize=6.5, color=letters)


def darkness(share: float) -> float:
    """Return how dark what arrived in part is to be."""
    return PALEST + (DARKEST - PALEST) * (1 - share)


def shade(share: float | None) -> tuple[float, float, float, float]:
    """Return a share's colour; None: nothing was measured."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    if share is None or share == 1:
        return to_rgba(LACKING if share is None else WHOLE)
    red, green, blue, alpha = colormaps[SHADES](darkness(share))
    return red, green, blue, alpha


def share_of(cell: Cell | None) -> float | None:
    """Return what share arrived: 1 only if it was all, once; None when nothing was measured."""
    if cell is None or not cell.made:
        return None
    return 1.0 if cell.whole else min(cell.delivered / cell.made, ALMOST)


def fill(matrix: Matrix, places: list[Place], contenders: list[str], axes: Axes) -> None:
    """Colour all cells, and write into them."""
    cells = by_place(matrix)
    found = [[cells.get((*place[:2], contender)) for contender in contenders] for place in places]
    # A raster of one dot a cell: a thousand rectangles would make a large SVG.
    extent = (0, len(contenders), len(places), 0)
    colours = [[shade(share_of(cell)) for cell in line] for line in found]
    axes.imshow(colours, extent=extent, aspect="auto", interpolation="nearest", zorder=0)
    for row, line in enumerate(found):
        for column, cell in enumerate(line):
            write(cell, column, row, axes)


def write(cell: Cell | None, column: int, row: int, axes: Axes) -> None:
    """Write a cell's share and marks, or hatch it."""
    share = share_of(cell)
    if cell is None or share is None:
        from matplotlib.patches import Rectangle

        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, hatch="////", edgecolor="#c8c8c8", linewidth=0))
        return
    letters = GREY if share == 1 else "white" if darkness(share) > DARK else INK
    shown = show_percent(cell.delivered, cell.made) + marks(cell)
    axes.text(column + 0.5, row + 0.52, shown, ha="center", va="center", fontsize=6.5, color=letters)


def name_columns(matrix: Matrix, contenders: list[str], axes: Axes) -> None:
    """Name the contenders, in how many places everything of theirs arrived; bold if that was everywhere."""
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=8, pad=2)
    names, whole = [], []
    for name in contenders:
        sums = tally(cell for cell in matrix.cells if cell.contender == name)
        names.append(f"{name}  {sums.whole}/{sums.places}")
        whole.append(bool(sums.places) and sums.whole == sums.places)
    middles = [index + 0.5 for index in range(len(contenders))]
    axes.set_xticks(middles, names, rotation=60, ha="left", rotation_mode="anchor")
    families = [family(name) for name in contenders]
    for each in dict.fromkeys(families):
        middle = families.index(each) + families.count(each) / 2
        below = axes.annotate(each, (middle, 0), (0, -4), ("data", "axes fraction"), "offset points")
        below.set(ha="center", va="top", fontsize=8, color=COLOURS[each])
    for label, name, bold in zip(axes.xaxis.get_ticklabels(), contenders, whole, strict=True):
        label.set_color(colour(name))
        label.set_fontweight("bold" if bold else "normal")


def name_rows(places: list[Place], axes: Axes) -> None:
    """Name the servers, each once, with its transports, and beside them their groups."""
    names = [
        place.transport if index and places[index - 1].server == place.server else place.name
        for index, place in enumerate(places)
    ]
    axes.set_yticks([index + 0.5 for index in range(len(places))], names)
    groups = [place.group for place in places]
    for group in dict.fromkeys(groups):
        middle = groups.index(group) + groups.count(group) / 2
        fits = groups.count(group) * LINE > len(plural(group)) * LETTER
        at = (0.35 - LEFT / COLUMN if fits else 0.12 - LEFT / COLUMN, middle)
        beside = axes.annotate(plural(group), at, annotation_clip=False, va="center", fontsize=9, fontweight="bold")
        beside.set(rotation=90 if fits else 0, ha="center" if fits else "left")


def part(places: list[Place], contenders: list[str], axes: Axes) -> None:
    """Draw lines between families, servers and groups: the stronger the more they part."""
    for index in range(1, len(contenders)):
        other = family(contenders[index]) != family(contenders[index - 1])
        axes.axvline(index, color=GRID, linewidth=3 if other else 0.8)
    for index in range(1, len(places)):
        one, other_place = places[index - 1], places[index]
        new_group = one.group != other_place.group
        width = 1.4 if new_group else 1.2 if one.server != other_place.server else 0.3
        axes.axhline(index, color=INK if new_group else GRID, linewidth=width)
    axes.spines[:].set_visible(False)
