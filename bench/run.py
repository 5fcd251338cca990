"""Carries out what the command line asks for."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from . import caller, checks, deliver, endpoint, export, metadata, plot, redraw, report
from .contenders import CONTENDERS
from .options import SECONDS, CallerOptions, DeliveryOptions
from .outcome import outcome
from .processes import ChildError
from .progress import bar
from .results import FAILED, OK, Run
from .scenarios import EVERY_SCENARIO, SCENARIOS
from .stage import built_floor, temporary_folder

if TYPE_CHECKING:
    from .options import Options


def run(options: Options) -> int:
    """Do what is asked; returns the exit status."""
    try:
        if isinstance(options, CallerOptions):
            return compare(options)
        if isinstance(options, DeliveryOptions):
            return deliver.deliver(options)
        return redraw.report_files(options.files, options.out, options.readme, options.keep)
    except ChildError as error:
        # A worker's failure is a note in its row; this one leaves nothing to compare.
        print(f"bench cannot go on: {error}", file=sys.stderr)
        return FAILED


def compare(options: CallerOptions) -> int:
    """Measure what callers pay, or the one thing that was asked for instead."""
    if options.listing:
        return show_list(every=options.every)
    if options.url is not None:
        return against_endpoint(options, options.url)
    if options.flat is not None:
        return checks.watch_flatness(options, options.flat)
    if options.open_loop is not None:
        return checks.watch_open_loop(options, options.open_loop)
    if options.syscalls:
        return checks.watch_system_calls(options)
    if not options.every:
        return finish(caller.compare(options.scenarios, options.seconds or SECONDS, options.seed), options)
    full, subset = options.extent
    found = caller.run(options.scenarios, options.seconds, options.seed, full=full, subset=subset)
    return finish(found, options)


def show_list(*, every: bool) -> int:
    """Name the scenarios of this command, and all contenders: --flat takes any of them."""
    console = Console()
    console.print("[bold]scenarios[/]")
    for scenario in EVERY_SCENARIO if every else SCENARIOS:
        console.print(f"  {scenario.name:16} {scenario.title}", highlight=False, soft_wrap=True)
    console.print("[bold]contenders[/]")
    for contender in CONTENDERS:
        lacks = f" (missing: {contender.lacks})" if contender.lacks else ""
        console.print(
            f"  {contender.name:22} {contender.code:18} {contender.says}{lacks}", highlight=False, soft_wrap=True
        )
    return OK


def against_endpoint(options: CallerOptions, url: str) -> int:
    """Compare against the user's own endpoint, if they agree."""
    try:
        target = endpoint.target_of(url)
    except ValueError as error:
        print(error, file=sys.stderr)
        return FAILED
    with temporary_folder() as folder:
        program = built_floor(folder)
        print(endpoint.plan(target, options.posts, program, every=options.every), file=sys.stderr)
        if not (options.yes or agreed()):
            print("Nothing was sent; --yes sends it.", file=sys.stderr)
            return FAILED
        chooser = random.Random(options.seed)  # noqa: S311 - the order of posts is no secret
        with bar(options.posts) as progress:
            progress.phase(target.host, options.posts)
            table = endpoint.measure(target, options.posts, program, chooser, progress.reach, every=options.every)
    return finish(Run(metadata.collect(options.seed), [table], [], [], missing=caller.missing([table])), options)


def agreed() -> bool:
    """Ask; without a terminal the answer is no."""
    return sys.stdin.isatty() and input("Send it? [y/N] ").strip().lower() in {"y", "yes"}


def finish(done: Run, options: CallerOptions) -> int:
    """Show and write the results; the exit status says whether promises were kept."""
    console = Console()
    path = options.json or (export.new_file("caller") if options.every else None)
    picture = options.plot or (path.with_suffix(".svg") if options.every and path else None)
    if path:
        export.write(done, path)
    report.show(done, console)
    for line in outcome(done, None) if options.every else []:
        console.print(line, highlight=False)
    if picture:
        plot.draw(done, picture)
    if options.every:
        console.print(f"All of it is in {path}, the picture in {picture}.", highlight=False)
    broken = report.broken_promises(done.tables)
    for line in broken:
        print(f"delivery was promised and not kept: {line}", file=sys.stderr)
    return FAILED if broken else OK
