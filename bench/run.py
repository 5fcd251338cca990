"""Carries out what the command line asks for."""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from . import certificates, counter, endpoint, export, flat, footprint, goals, metadata, plot, report
from .contenders import CONTENDERS
from .floor import NoFloorError, compile_floor
from .measure import Bench, Measurement
from .processes import ChildError, ReceiverProcess, choose_cores
from .progress import Bar, bar
from .results import Run, Table
from .scenarios import SCENARIOS, Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .options import Options
    from .results import Footprint

OK, NOT_FLAT, FAILED = 0, 1, 2
# Seconds that the bar reckons with for what is not limited by time.
STARTING, ENDING, INTERPRETER = 1.5, 0.5, 0.3


def run(options: Options) -> int:
    """Do what is asked; returns the exit status."""
    try:
        if options.listing:
            return show_list()
        if options.url is not None:
            return against_endpoint(options, options.url)
        if options.flat is not None:
            return watch_flatness(options, options.flat)
        return compare(options)
    except ChildError as error:
        # A worker's failure is a note in its row; this one leaves nothing to compare.
        print(f"bench cannot go on: {error}", file=sys.stderr)
        return FAILED


def show_list() -> int:
    """Name what there is."""
    console = Console()
    console.print("[bold]scenarios[/]")
    for scenario in SCENARIOS:
        console.print(f"  {scenario.name:12} {scenario.title}", highlight=False, soft_wrap=True)
    console.print("[bold]contenders[/] (bench/contenders.py has their code)")
    for contender in CONTENDERS:
        says = (contender.make.__doc__ or "").splitlines()[0] if contender.make else "The same in C: the floor."
        console.print(f"  {contender.name:16} {says}", highlight=False, soft_wrap=True)
    return OK


def built_floor(folder: Path) -> Path | str:
    """Return the C loop, or why there is none."""
    try:
        return compile_floor(folder)
    except NoFloorError as error:
        return str(error)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="rawfnf-bench-") as name:
        yield Path(name)


@contextmanager
def open_bench(options: Options) -> Iterator[Bench]:
    """Compile the C loop, issue certificates, start the receiver; nothing of it is left at the end."""
    with temporary_folder() as folder:
        counters = folder / "counters"
        counter.create(counters)
        issued = certificates.issue(folder)
        cores = choose_cores()
        with ReceiverProcess(counters, issued.server, cores.receiver) as receiver:
            yield Bench(
                receiver=receiver,
                counters=counters,
                certificates=issued,
                floor=built_floor(folder),
                core=cores.contenders,
                seconds=options.seconds,
                random=random.Random(options.seed),  # noqa: S311 - the order of blocks is no secret
                slots=itertools.count(),
            )


def compare(options: Options) -> int:
    """Compare against the embedded receiver."""
    unit = options.seconds / sum(scenario.weight for scenario in options.scenarios)
    around = sum(STARTING + ENDING + scenario.delay for scenario in options.scenarios)
    total = options.seconds + around + footprint.ROUNDS * INTERPRETER
    with open_bench(options) as bench, bar(total) as progress, ExitStack() as stack:
        # What waits for late answers is under way from the start, and costs nothing while it waits.
        measurements = [stack.enter_context(Measurement(bench, scenario)) for scenario in options.scenarios]
        footprints = measure_footprints(bench, progress)
        tables = [measure_scenario(measurement, unit, progress) for measurement in measurements]
    done = Run(metadata.collect(options.seed), tables, footprints, goals.goals(tables, footprints))
    return finish(done, options)


def measure_footprints(bench: Bench, progress: Bar) -> list[Footprint]:
    """Return what imports cost."""
    progress.phase("imports", footprint.ROUNDS * INTERPRETER)
    port = bench.receiver.listen(next(bench.slots), Scenario("imports", "the one post of a fresh interpreter"))
    cache = bench.counters.with_name("bytecode")
    return footprint.measure(f"http://127.0.0.1:{port}/", cache, bench.random, lambda: progress.step(INTERPRETER))


def measure_scenario(measurement: Measurement, unit: float, progress: Bar) -> Table:
    """One scenario, and the waiting for its last answers."""
    scenario = measurement.scenario
    progress.phase(scenario.name, STARTING + unit * scenario.weight)
    measurement.run(unit * scenario.weight, lambda gone: progress.reach(STARTING + gone))
    progress.phase(f"{scenario.name}: last answers", ENDING + scenario.delay)
    return measurement.finish(progress.step)


def against_endpoint(options: Options, url: str) -> int:
    """Compare against the user's own endpoint, if they agree."""
    try:
        target = endpoint.target_of(url)
    except ValueError as error:
        print(error, file=sys.stderr)
        return FAILED
    with temporary_folder() as folder:
        program = built_floor(folder)
        print(endpoint.plan(target, options.posts, program), file=sys.stderr)
        if not (options.yes or agreed()):
            print("Nothing was sent; --yes sends it.", file=sys.stderr)
            return FAILED
        chooser = random.Random(options.seed)  # noqa: S311 - the order of posts is no secret
        with bar(options.posts) as progress:
            progress.phase(target.host, options.posts)
            table = endpoint.measure(target, options.posts, program, chooser, progress.reach)
    return finish(Run(metadata.collect(options.seed), [table], [], []), options)


def agreed() -> bool:
    """Ask; without a terminal the answer is no."""
    return sys.stdin.isatty() and input("Send it? [y/N] ").strip().lower() in {"y", "yes"}


def watch_flatness(options: Options, posts: int) -> int:
    """Very many posts in one process."""
    with open_bench(options) as bench, bar(flat.SETTLING_POSTS + posts) as progress:
        progress.phase("posting", flat.SETTLING_POSTS + posts)
        flatness = flat.measure(bench, posts, progress.reach)
    Console().print(report.flat_table(flatness), report.flat_verdict(flatness))
    return OK if flatness.flat else NOT_FLAT


def finish(done: Run, options: Options) -> int:
    """Show and write the results; the exit status says whether promises were kept."""
    if options.json:
        export.write(done, options.json)
    report.show(done, Console())
    if options.plot:
        plot.draw(done, options.plot)
    broken = report.broken_promises(done.tables)
    for line in broken:
        print(f"delivery was promised and not kept: {line}", file=sys.stderr)
    return FAILED if broken else OK
