"""What a post costs its caller: the short comparison of `python -m bench`, and `python -m bench caller`.

`caller` measures every contender in more scenarios, one after the other: each several times with fresh processes, of
which all samples make up one table. Then what posts cost besides time: imports, system calls, segments and bytes.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from . import footprint, goals, metadata, syscalls, wire
from .extent import STARTING, ending, extent, holding
from .measure import Measurement
from .processes import ChildError
from .progress import bar
from .repetitions import merged
from .results import Row, Run, Table
from .stage import lacks, open_bench, scene

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .contenders import Contender
    from .progress import Bar
    from .results import Footprint
    from .scenarios import Scenario
    from .stage import Bench

# Seconds that the bar reckons with for what is not limited by time.
STARTING_FEW, INTERPRETER, TRACE, WIRE = 1.5, 0.3, 0.6, 0.4
MISSING = "missing: "


def run(
    scenarios: Sequence[Scenario], seconds: float | None, seed: int, *, full: bool = False, subset: bool = False
) -> Run:
    """Measure every contender, `seconds` in all (None: as long as it needs)."""
    plan = extent(scenarios, seconds, full=full, subset=subset)
    traced, counted = (len(each.chosen(plan.contenders)) for each in (syscalls, wire))
    total = plan.seconds + plan.around + (footprint.ROUNDS + 1) * INTERPRETER + traced * TRACE + counted * WIRE
    with open_bench(seed, plan.seconds) as opened, bar(total) as progress:
        bench = opened._replace(every=True)
        footprints = measure_footprints(bench, progress, footprint.ALL)
        tables = [repeat(bench, scenario, plan.unit * scenario.weight, progress) for scenario in plan.scenarios]
        progress.phase("system calls", traced * TRACE)
        traces = syscalls.measure(bench, plan.contenders, lambda: progress.step(TRACE))
        progress.phase("segments and bytes", counted * WIRE)
        wires = wire.measure(bench, plan.contenders, lambda: progress.step(WIRE))
    found = goals.goals(tables, footprints)
    return Run(metadata.collect(seed), tables, footprints, found, wires, traces, missing(tables))


def repeat(bench: Bench, scenario: Scenario, seconds: float, progress: Bar) -> Table:
    """Measure one scenario as often as it says, each time with fresh processes."""
    if lack := lacks(scenario):
        progress.phase(scenario.name, 0.0)
        return cannot(scenario, bench.contenders(scenario), f"{MISSING}{lack}")
    part = seconds / scenario.repetitions
    share = scenario._replace(most=scenario.whole_bursts(-(-scenario.most // scenario.repetitions)))
    tables = []
    try:
        with scene(bench._replace(seconds=part), scenario) as there:
            for number in range(1, scenario.repetitions + 1):
                name = f"{scenario.name} {number}/{scenario.repetitions}"
                with Measurement(there, share) as measurement:
                    tables.append(measure(measurement, part, name, progress))
    except (ChildError, RuntimeError) as error:
        # A receiver, a network or a broker of this scenario alone: the others can be measured all the same.
        if not tables:
            return cannot(scenario, bench.contenders(scenario), f"not measured: {error}")
    return merged(scenario, tables)


def measure(measurement: Measurement, seconds: float, name: str, progress: Bar) -> Table:
    """One repetition of a scenario, and the waiting for its last answers."""
    scenario = measurement.scenario
    starting = STARTING if measurement.bench.every else STARTING_FEW
    progress.phase(name, starting + (holding(scenario) or seconds))
    measurement.run(seconds, lambda gone: progress.reach(starting + gone))
    progress.phase(f"{name}: last answers", ending(scenario) / scenario.repetitions)
    return measurement.finish(progress.step)


def cannot(scenario: Scenario, contenders: Sequence[Contender], why: str) -> Table:
    """Return the table of a scenario that cannot be measured here."""
    return Table(scenario, [Row(each.name, why, arrives=scenario.arrives) for each in contenders])


def missing(tables: Sequence[Table]) -> dict[str, str]:
    """Return who was measured nowhere, and what to install."""
    rows = [row for table in tables for row in table.rows]
    measured = {row.contender for row in rows if not row.note.startswith(MISSING)}
    return {row.contender: row.note.removeprefix(MISSING) for row in rows if row.contender not in measured}


def compare(scenarios: Sequence[Scenario], seconds: float, seed: int) -> Run:
    """Compare the few contenders of `python -m bench`, once in each scenario."""
    unit = seconds / sum(scenario.weight for scenario in scenarios)
    around = sum(STARTING_FEW + ending(scenario) for scenario in scenarios)
    total = seconds + around + (footprint.ROUNDS + 1) * INTERPRETER
    with open_bench(seed, seconds) as bench, bar(total) as progress, ExitStack() as stack:
        # What waits for late answers is under way from the start, and costs nothing while it waits.
        measurements = [open_scenario(bench, scenario, stack) for scenario in scenarios]
        footprints = measure_footprints(bench, progress, footprint.FEW)
        tables = [
            each
            if isinstance(each, Table)
            else measure(each, unit * each.scenario.weight, each.scenario.name, progress)
            for each in measurements
        ]
    return Run(metadata.collect(seed), tables, footprints, goals.goals(tables, footprints))


def open_scenario(bench: Bench, scenario: Scenario, stack: ExitStack) -> Measurement | Table:
    """Begin it; where it cannot be measured, the table that says why."""
    if lack := lacks(scenario):
        return cannot(scenario, bench.contenders(scenario), f"{MISSING}{lack}")
    there = stack.enter_context(scene(bench, scenario))
    return stack.enter_context(Measurement(there, scenario))


def measure_footprints(bench: Bench, progress: Bar, subjects: Sequence[footprint.Subject]) -> list[Footprint]:
    """Return what imports cost."""
    progress.phase("imports", (footprint.ROUNDS + 1) * INTERPRETER)
    port = bench.receiver.listen(next(bench.slots))
    cache = bench.counters.with_name("bytecode")
    url = f"http://{bench.receiver.address}:{port}/"
    return footprint.measure(url, cache, bench.random, lambda: progress.step(INTERPRETER), subjects)
