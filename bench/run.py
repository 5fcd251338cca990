"""Carries out what the command line asks for."""

from __future__ import annotations

import random
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rich.console import Console

from . import checks, endpoint, export, footprint, goals, metadata, network, plot, report
from .contenders import CONTENDERS
from .measure import Measurement
from .processes import ChildError
from .progress import Bar, bar
from .results import FAILED, OK, Row, Run, Table
from .scenarios import SCENARIOS, Scenario
from .stage import at_the_ends_of_a_network, built_floor, open_bench, temporary_folder

if TYPE_CHECKING:
    from .options import Options
    from .results import Footprint
    from .stage import Bench

# Seconds that the bar reckons with for what is not limited by time.
STARTING, ENDING, INTERPRETER = 1.5, 0.5, 0.3

# What the programs in C do, by whether their connection outlives the post.
IN_C = {False: "The same in C: the floor.", True: "send() alone in C, on an open connection: the floor of a Sender."}


def run(options: Options) -> int:
    """Do what is asked; returns the exit status."""
    try:
        if options.listing:
            return show_list()
        if options.url is not None:
            return against_endpoint(options, options.url)
        if options.flat is not None:
            return checks.watch_flatness(options, options.flat)
        if options.open_loop is not None:
            return checks.watch_open_loop(options, options.open_loop)
        if options.syscalls:
            return checks.watch_system_calls(options)
        if options.nginx:
            return checks.watch_delivery()
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
        says = (contender.make.__doc__ or "").splitlines()[0] if contender.make else IN_C[contender.held]
        console.print(f"  {contender.name:16} {says}", highlight=False, soft_wrap=True)
    return OK


def compare(options: Options) -> int:
    """Compare against the embedded receiver."""
    unit = options.seconds / sum(scenario.weight for scenario in options.scenarios)
    around = sum(STARTING + ENDING + scenario.delay for scenario in options.scenarios)
    total = options.seconds + around + footprint.ROUNDS * INTERPRETER
    with open_bench(options.seed, options.seconds) as bench, bar(total) as progress, ExitStack() as stack:
        # What waits for late answers is under way from the start, and costs nothing while it waits.
        measurements = [open_scenario(bench, scenario, stack) for scenario in options.scenarios]
        footprints = measure_footprints(bench, progress)
        tables = [
            measured if isinstance(measured, Table) else measure_scenario(measured, unit, progress)
            for measured in measurements
        ]
    done = Run(metadata.collect(options.seed), tables, footprints, goals.goals(tables, footprints))
    return finish(done, options)


def open_scenario(bench: Bench, scenario: Scenario, stack: ExitStack) -> Measurement | Table:
    """Begin it; where it cannot be measured, the table that says why."""
    if scenario.far:
        if lack := network.missing():
            return Table(scenario, [Row(each.name, f"missing: {lack}") for each in CONTENDERS if each.where(scenario)])
        bench = stack.enter_context(at_the_ends_of_a_network(bench, scenario.rtt))
    return stack.enter_context(Measurement(bench, scenario))


def measure_footprints(bench: Bench, progress: Bar) -> list[Footprint]:
    """Return what imports cost."""
    progress.phase("imports", footprint.ROUNDS * INTERPRETER)
    port = bench.receiver.listen(next(bench.slots))
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
