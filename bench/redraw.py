"""`python -m bench report`: shows runs from their files, redraws their pictures, and makes the README's tables."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from . import deliveryreport, export, heatmap, plot, readme, report
from .matrix import Matrix
from .outcome import outcome
from .overview import TELLING
from .processes import ROOT
from .results import FAILED, OK, Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Kind = TypeVar("Kind", Run, Matrix)


def report_files(paths: Sequence[Path], out: Path | None, into: Path | None = None, keep: Path | None = None) -> int:
    """Show each run and draw its pictures into `out`, or beside its file; then print the README's blocks.

    With `into`, a README, its blocks are replaced instead. With `keep`, a folder, each run is first archived there by
    its kind, and all that follows is made of the archive. Returns the exit status: a file that cannot be read, or a
    README without the place for a block, is told and fails, and nothing is drawn or written.
    """
    try:
        runs = [(path, export.read(path)) for path in paths]
        text = into.read_text(encoding="utf-8") if into else ""
        for name in [name for _, found in runs if into for name in readme.blocks(found, "")]:
            readme.replaced(text, name, "")
    except readme.NoMarkersError as error:
        return fail(f"{into}: {error}")
    except (OSError, export.UnreadableError) as error:
        return fail(str(error))
    if keep:
        runs = [kept(found, keep) for _, found in runs]
    console = Console()
    blocks: dict[str, str] = {}
    for path, found in runs:
        show(found, console)
        picture = draw(found, out or path.parent, path.name.partition(".json")[0], also=not keep)
        seen_as = os.path.relpath(picture, into.parent if into else ROOT).replace(os.sep, "/")
        blocks |= readme.blocks(found, seen_as)
    for line in outcome(last(Run, runs), last(Matrix, runs)):
        console.print(f"- {line}", highlight=False)
    for name, block in blocks.items():
        text = readme.replaced(text, name, block) if into else f"{text}\n{readme.marked(name, block)}\n"
    if into:
        into.write_text(text, encoding="utf-8")
    else:
        print(text)
    return OK


def kept(found: Run | Matrix, folder: Path) -> tuple[Path, Run | Matrix]:
    """Archive a run, and return it as it is now."""
    path = folder / f"{readme.name_of(found)}.json.bz2"
    export.archive(found, path)
    return path, export.read(path)


def last(kind: type[Kind], runs: Sequence[tuple[Path, Run | Matrix]]) -> Kind | None:
    """Return the last run of a kind; None where there is none."""
    return next((found for _, found in reversed(runs) if isinstance(found, kind)), None)


def fail(why: str) -> int:
    """Say why."""
    print(why, file=sys.stderr)
    return FAILED


def show(found: Run | Matrix, console: Console) -> None:
    """Print its tables."""
    if isinstance(found, Matrix):
        deliveryreport.show(found, console)
    else:
        report.show(found, console)


def draw(found: Run | Matrix, folder: Path, name: str, *, also: bool = True) -> Path:
    """Draw NAME.png, of a caller's run with the most telling scenarios; return its path.

    `also` as NAME.svg, and a caller's run with all its scenarios as NAME-all.png.
    """
    made = folder / f"{name}.png"
    for path in (made, made.with_suffix(".svg")) if also else (made,):
        if isinstance(found, Matrix):
            heatmap.draw(found, path)
        else:
            plot.draw(found, path, TELLING)
    if also and isinstance(found, Run):
        plot.draw(found, folder / f"{name}-all.png")
    return made
