"""The picture: how long each post held its caller, one dot per post, on one logarithmic axis for all scenarios."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .contenders import OURS
from .figures import show_time, unit_of
from .report import show_delivered
from .stats import percentile

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from .results import Row, Run, Table

# Dots per row: more would only be blacker, and an SVG of tens of MB.
DOTS = 1000
WIDTH, ROW_HEIGHT, TITLE_HEIGHT = 10.0, 0.36, 0.9  # inches
HALF_STRIP = 0.3  # of a row
RAWFNF, REQUESTS, SOCKET, VOID = "#1f6fb4", "#c8553d", "#5b6470", "#b8b8b8"
DECADES = range(3, 11)  # nanoseconds: 1 µs to 10 s
LEFT = 8e2  # room for the fastest
OF_TASKS = "a task's maker is held for its making alone; what its post costs is in the tables, as CPU\n"


def draw(run: Run, path: Path) -> None:
    """Write the picture as SVG or PNG, by the extension."""
    # Taken in here, because it takes a while and only --plot needs it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.fonttype"] = "none"  # text stays text
    tables = [table for table in run.tables if any(row.ns for row in table.rows)]
    heights = [ROW_HEIGHT * len(measured(table)) + TITLE_HEIGHT for table in tables]
    figure = Figure(figsize=(WIDTH, sum(heights) + 1.2), layout="constrained")
    places = figure.subplots(len(tables), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for table, place in zip(tables, places, strict=True):
        draw_table(table, place)
    label_axis(places[-1])
    figure.suptitle("How long one POST holds its caller", fontsize=14, fontweight="bold")
    facts = run.metadata
    figure.supxlabel(
        "each dot a post, grey if void; black tick p50, grey ticks p99 and p99.9; on the right p50 and delivered/sent\n"
        f"{OF_TASKS if any(table.scenario.within == 'asyncio' for table in tables) else ''}"
        f"{facts['Python']} · {facts['system']} · "
        f"rawfnf {facts['rawfnf']} · requests {facts['requests']} · {facts['date'][:10]}",
        fontsize=8,
        color="#555555",
    )
    figure.savefig(path, dpi=150)


def measured(table: Table) -> list[Row]:
    """Return the rows that have samples."""
    return [row for row in table.rows if row.ns]


def colour(row: Row) -> str:
    """By family; a void row is grey."""
    if not row.whole:
        return VOID
    if row.contender in OURS:
        return RAWFNF
    return REQUESTS if "trick" in row.contender else SOCKET


def draw_table(table: Table, place: Axes) -> None:
    """One scenario: a strip per contender, labelled where it stands."""
    rows = measured(table)
    place.set_title(f"{table.scenario.name}: {table.scenario.title}", loc="left", fontsize=10, fontweight="bold")
    place.set_xscale("log")
    for height, row in enumerate(rows):
        draw_row(row, height, place)
    place.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
    place.set_yticks(range(len(rows)), [row.contender for row in rows], fontsize=9)
    place.tick_params(axis="y", length=0)
    place.tick_params(axis="x", labelbottom=True)  # the last axis is several screens away
    place.grid(visible=True, axis="x", color="#e2e2e2", linewidth=0.8)
    place.set_axisbelow(True)
    place.minorticks_off()
    for side in ("left", "right", "top"):
        place.spines[side].set_visible(False)


def draw_row(row: Row, height: int, place: Axes) -> None:
    """One contender's dots, its percentiles, and beside them its p50 and what was delivered."""
    jitter = random.Random(height)  # noqa: S311 - only spreads the dots
    dots = row.ns if len(row.ns) <= DOTS else jitter.sample(row.ns, DOTS)
    spread = [height + jitter.uniform(-HALF_STRIP, HALF_STRIP) for _ in dots]
    place.scatter(dots, spread, s=5, color=colour(row), alpha=0.35, linewidths=0, rasterized=True)
    for percent, shade, width in ((50, "black", 2.2), (99, "#666666", 1.4), (99.9, "#666666", 1.4)):
        value = percentile(row.ns, percent)
        if value is not None:
            place.vlines(value, height - HALF_STRIP - 0.1, height + HALF_STRIP + 0.1, color=shade, linewidth=width)
    place.annotate(
        f"{show_time(percentile(row.ns, 50))}   {show_delivered(row)}",
        (1.005, height),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8.5,
        color="#222222",
        annotation_clip=False,
    )


def label_axis(place: Axes) -> None:
    """Decades with their units, the same for all scenarios."""
    place.set_xlim(LEFT, 10 ** DECADES[-1])
    ticks = [10.0**power for power in DECADES]
    place.set_xticks(ticks, [show_decade(tick) for tick in ticks], fontsize=9)


def show_decade(ns: float) -> str:
    """Return a decade without decimals: 10 µs."""
    size, unit = unit_of(ns)
    return f"{ns / size:g} {unit}"
