"""Carries out the options that measure one thing of their own, each with its verdict as exit status."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console, Group

from . import export, flat, metadata, openloop, syscalls, verdicts
from .contenders import CONTENDERS, KNOWN
from .progress import bar
from .results import FAILED, MISSED, OK, Goal, Run
from .stage import open_bench

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from .options import CallerOptions


def watch_flatness(options: CallerOptions, posts: int) -> int:
    """Very many posts in one process."""
    with open_bench(options.seed) as bench, bar(flat.SETTLING_POSTS + posts) as progress:
        progress.phase("posting", flat.SETTLING_POSTS + posts)
        found = flat.measure(bench, KNOWN[options.contender], posts, progress.reach)
    show([verdicts.flat_table(found), verdicts.flat_verdict(found)])
    return OK if found.flat and found.true else MISSED


def watch_open_loop(options: CallerOptions, seconds: float) -> int:
    """Post at a fixed rate."""
    with open_bench(options.seed) as bench, bar(seconds) as progress:
        progress.phase(f"posting for {seconds:g} s", seconds)
        found = openloop.measure(bench, seconds)
    if options.json:
        export.write(Run(metadata.collect(options.seed), list(found), [], found.goals), options.json)
    show(verdicts.open_loop_report(found))
    return verdict(found.goals)


def watch_system_calls(options: CallerOptions) -> int:
    """One post under strace."""
    if lack := syscalls.missing():
        print(lack, file=sys.stderr)
        return FAILED
    total = len(syscalls.chosen(CONTENDERS))
    with open_bench(options.seed) as bench, bar(total) as progress:
        progress.phase("tracing", total)
        traces = syscalls.measure(bench, CONTENDERS, lambda: progress.step(1))
    found = syscalls.goals(traces)
    show(verdicts.syscall_report(traces, found))
    return verdict(found)


def show(parts: list[RenderableType]) -> None:
    """Print one below the other."""
    Console().print(Group(*parts))


def verdict(goals: Sequence[Goal]) -> int:
    """Return the exit status."""
    return OK if all(goal.reached for goal in goals) else MISSED
