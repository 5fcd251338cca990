"""The progress bar on standard error."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Iterator


class Bar:
    """Phases that each make up a share of the total; drawn only when told to, never while a post is timed."""

    def __init__(self, progress: Progress, total: float) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=total)
        self._start = 0.0  # of this phase
        self._share = 0.0
        self._done = 0.0  # of this phase

    def phase(self, name: str, share: float) -> None:
        """Begin what makes up so much of the total."""
        self._start += self._share
        self._share, self._done = share, 0.0
        self._progress.update(self._task, description=name)
        self.reach(0.0)

    def reach(self, part: float) -> None:
        """So much of this phase is done."""
        self._done = min(part, self._share)
        self._progress.update(self._task, completed=self._start + self._done)
        self._progress.refresh()

    def step(self, part: float = 0.0) -> None:
        """So much more of this phase is done."""
        self.reach(self._done + part)


@contextmanager
def bar(total: float) -> Iterator[Bar]:
    """Show a bar that is gone at the end. It has no thread of its own: that would redraw it while posts are timed."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:26}"),
        BarColumn(None),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
        yield Bar(progress, total)
