"""The picture: how long each post held its caller, one dot per post, on logarithmic axes.

A row for each contender and a column for each scenario, so that a contender is followed from left to right. More
scenarios than fit one band go into bands below.
"""

from __future__ import annotations

import random
import textwrap
from typing import TYPE_CHECKING

from .columns import caveats
from .figures import show_percent, show_time, unit_of
from .pictures import COLOURS, GREY, INK, VOID, by_family, colour, facts, family, save
from .stats import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .results import Row, Run, Table

# Dots per row: more would only be blacker, and a picture of many MB.
DOTS = 300
# Inches.
COLUMN, ROW, LEFT, RIGHT, TOP, BETWEEN, AXIS, LINE = 2.6, 0.24, 2.05, 0.15, 1.0, 0.95, 0.3, 0.125
HALF_STRIP = 0.3  # of a row
ABREAST = 5  # scenarios in a band
DECADES = range(3, 12)  # nanoseconds: 1 µs to 100 s
MARGIN = 1.6  # beside the fastest and the slowest, times
FIGURES = 0.34  # of the dots' width, for the figures beside them
TITLE_LENGTH = 42
MOST_TICKS = 4
LETTERS = 17  # of the explanation, in an inch
EXPLANATION = (
    "Each dot a post; black tick p50, with its figure; grey ticks p99 and p99.9, where there are posts enough for "
    "them. Grey dots and ✗: void, as some were lost, doubled, altered or raised, or the contender failed; beside it "
    "what arrived. Where nothing can arrive, how long the caller was held, and ✗ where neither the call nor any books "
    "said so."
)


def draw(run: Run, path: Path, names: Sequence[str] = ()) -> None:
    """Write the picture as SVG or PNG, by the extension: of the scenarios of these names, or, if none is, of all."""
    # Taken in here, because it takes a while and only pictures need it.
    from matplotlib.figure import Figure

    every = [table for table in run.tables if measured(table)]
    tables = [table for table in every if table.scenario.name in names] or every
    bands = [tables[start : start + ABREAST] for start in range(0, len(tables), ABREAST)]
    heights = [ROW * len(contenders(band)) for band in bands]
    width = LEFT + COLUMN * min(ABREAST, max(len(tables), 1)) + RIGHT
    said = explanation(run, tables, width)
    below = max(BETWEEN, AXIS + LINE * len(said) + 0.1)
    height = TOP + sum(heights) + BETWEEN * (len(bands) - 1) + below
    figure = Figure(figsize=(width, height))
    top = height - TOP
    for band, tall in zip(bands, heights, strict=True):
        for index, table in enumerate(band):
            box = ((LEFT + index * COLUMN) / width, (top - tall) / height, (COLUMN - 0.12) / width, tall / height)
            axes = figure.add_axes(box)
            draw_table(table, contenders(band), axes, labelled=index == 0)
            label_axis(tables, axes)
        top -= tall + BETWEEN
    caption(figure, said)
    save(figure, path)


def explanation(run: Run, tables: Sequence[Table], width: float) -> list[str]:
    """Return the lines below the bands, which have so many inches."""
    said = " ".join([EXPLANATION, *caveats(tables)])
    return [*textwrap.wrap(said, int(width * LETTERS)), facts(run.metadata)]


def caption(figure: Figure, said: Sequence[str]) -> None:
    """Write above and below the bands what they show."""
    width, height = figure.get_size_inches()
    left = 0.1 / width
    title = "How long one POST holds its caller"
    figure.text(left, 1 - 0.22 / height, title, fontsize=14, fontweight="bold", va="center")
    figure.text(left, 0.1 / height, "\n".join(said), fontsize=7.5, color="#555555")


def measured(table: Table) -> list[Row]:
    """Return the rows that have samples."""
    return [row for row in table.rows if row.ns]


def contenders(tables: Sequence[Table]) -> list[str]:
    """Return whoever was measured in one of these, family by family."""
    return by_family(list(dict.fromkeys(row.contender for table in tables for row in measured(table))))


def draw_table(table: Table, names: Sequence[str], axes: Axes, *, labelled: bool) -> None:
    """One scenario: a strip per contender."""
    title = textwrap.wrap(table.scenario.title, TITLE_LENGTH)
    axes.set_title("\n".join(title), loc="left", fontsize=7.5, color=INK)
    above = (0, 6 + 10 * len(title))  # points
    heading = axes.annotate(table.scenario.name, (0, 1), above, "axes fraction", "offset points")
    heading.set(fontsize=9.5, fontweight="bold")
    axes.set_xscale("log")
    for row in measured(table):
        draw_row(row, names.index(row.contender), axes)
    axes.set_ylim(len(names) - 0.5, -0.5)  # the first row on top
    axes.set_yticks(range(len(names)), names if labelled else [""] * len(names), fontsize=8.5)
    for label, name in zip(axes.yaxis.get_ticklabels(), names, strict=True):
        label.set_color(colour(name))
    families = [family(name) for name in names]
    for index in range(1, len(names)):
        if families[index] != families[index - 1]:
            axes.axhline(index - 0.5, color="#cccccc", linewidth=0.8)
    for each in dict.fromkeys(families if labelled else []):
        middle = families.index(each) + (families.count(each) - 1) / 2
        beside = axes.annotate(each, (0.08 - LEFT / COLUMN, middle), xycoords=("axes fraction", "data"))
        fits = families.count(each) * ROW * LETTERS * 0.7 > len(each)
        beside.set(rotation=90 if fits else 0, va="center", ha="center", fontsize=8, color=COLOURS[each])


def draw_row(row: Row, height: int, axes: Axes) -> None:
    """One contender's dots, its percentiles, and on the right its p50."""
    jitter = random.Random(height)  # noqa: S311 - only spreads the dots
    dots = row.ns if len(row.ns) <= DOTS else jitter.sample(row.ns, DOTS)
    spread = [height + jitter.uniform(-HALF_STRIP, HALF_STRIP) for _ in dots]
    shade = VOID if row.marked else colour(row.contender)
    axes.scatter(dots, spread, s=3, color=shade, alpha=0.45, linewidths=0, rasterized=True)
    for percent, ink, width in ((50, "black", 1.8), (99, "#777777", 1.0), (99.9, "#777777", 1.0)):
        value = percentile(row.ns, percent)
        if value is not None:
            axes.vlines(value, height - HALF_STRIP - 0.08, height + HALF_STRIP + 0.08, color=ink, linewidth=width)
    said = show_time(percentile(row.ns, 50))
    if row.marked:
        share = f" {show_percent(row.delivered, row.made)} %" if row.arrives and row.delivered is not None else ""
        said = f"✗{share} {said}"
    at = (0.995, height)
    made = axes.annotate(said, at, xycoords=("axes fraction", "data"), va="center", ha="right", fontsize=7)
    made.set_color(GREY if row.marked else INK)


def label_axis(tables: Sequence[Table], axes: Axes) -> None:
    """Decades with their units, as far as the dots of any scenario go; on the right room for figures."""
    ns = [max(1, each) for table in tables for row in measured(table) for each in (min(row.ns), max(row.ns))]
    low, high = min(ns) / MARGIN, max(ns) * MARGIN
    axes.set_xlim(low, high * (high / low) ** FIGURES)
    ticks = [10.0**power for power in DECADES if low <= 10.0**power <= high]
    apart = 1 if len(ticks) <= MOST_TICKS else 2
    labels = [show_decade(tick) if not index % apart else "" for index, tick in enumerate(ticks)]
    axes.set_xticks(ticks, labels, fontsize=7)
    axes.minorticks_off()
    axes.tick_params(length=0)
    axes.grid(visible=True, axis="x", color="#e2e2e2", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["left", "right", "top"]].set_visible(False)


def show_decade(ns: float) -> str:
    """Return a decade without decimals: 10 µs."""
    size, unit = unit_of(ns)
    return f"{ns / size:g} {unit}"
