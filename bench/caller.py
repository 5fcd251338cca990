"""What a post costs its caller: the short comparison of `python -m bench`, and `python -m bench caller`.

`caller` measures every contender in more scenarios, one after the other: each several times with fresh processes, of
which all samples make up one table. Then what posts cost besides time: imports, system calls, segments and bytes.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from . import footprint, goals, metadata, syscalls, wire
from .alone import able_alone
from .contenders import CONTENDERS
from .held import LONGEST
from .measure import Measurement
from .progress import bar
from .results import Row, Run, Table
from .scenarios import SUBSET, Scenario
from .stage import lacks, open_bench, scene
from .ways import LINGER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .contenders import Contender
    from .progress import Bar
    from .results import Footprint
    from .stage import Bench

# Seconds that the bar reckons with for what is not limited by time.
STARTING, ENDING, INTERPRETER = 1.5, 0.5, 0.3
STARTING_ALL, TRACE, WIRE = 3.0, 0.6, 0.4
MISSING = "missing: "
# Of the usual seconds and posts.
FULL = 5.0
FULL_REPETITIONS = 5
# Of the usual seconds; and posts of each contender, with those to warm up.
SUBSET_PART = 0.03
SUBSET_MOST = 40


class Extent(NamedTuple):
    """How much `caller` measures."""

    scenarios: list[Scenario]
    contenders: list[Contender]  # whose system calls and segments are counted
    seconds: float  # of measuring, in all scenarios together

    @property
    def unit(self) -> float:
        """Seconds of measuring per weight."""
        return self.seconds / sum(scenario.weight for scenario in self.scenarios)

    @property
    def around(self) -> float:
        """Seconds that all scenarios take besides, about."""
        return sum(ending(scenario) + STARTING_ALL * scenario.repetitions for scenario in self.scenarios)


def extent(scenarios: Sequence[Scenario], seconds: float | None, *, full: bool, subset: bool) -> Extent:
    """Return how much is measured: everything, much more of it, or one scenario of each kind for a moment."""
    chosen, contenders, part = list(scenarios), list(CONTENDERS), 1.0
    if full:
        part = FULL
        chosen = [more(scenario) for scenario in scenarios]
    if subset:
        part = SUBSET_PART
        chosen = [brief(scenario) for scenario in scenarios if scenario.name in SUBSET]
        contenders = [contender for contender in CONTENDERS if contender.core]
    usual = sum(scenario.weight for scenario in chosen) * part
    return Extent(chosen, able_alone(contenders, wire.PLAIN), usual if seconds is None else seconds)


def more(scenario: Scenario) -> Scenario:
    """Return it with more posts and repetitions, if it is repeated at all."""
    if scenario.repetitions == 1:
        return scenario
    return scenario._replace(most=round(scenario.most * FULL), repetitions=FULL_REPETITIONS)


def brief(scenario: Scenario) -> Scenario:
    """Return it with few posts, once."""
    return scenario._replace(most=scenario.whole_bursts(min(scenario.most, SUBSET_MOST)), repetitions=1)


def ending(scenario: Scenario) -> float:
    """Return how many seconds it takes after its rounds, about."""
    if scenario.holds:
        return LONGEST
    return (ENDING + scenario.delay + (0 if scenario.answers else LINGER)) * scenario.repetitions


def run(
    scenarios: Sequence[Scenario], seconds: float | None, seed: int, *, full: bool = False, subset: bool = False
) -> Run:
    """Measure every contender, `seconds` in all (None: as long as it needs)."""
    plan = extent(scenarios, seconds, full=full, subset=subset)
    total = plan.seconds + plan.around + (footprint.ROUNDS + 1) * INTERPRETER + len(plan.contenders) * (TRACE + WIRE)
    with open_bench(seed, plan.seconds) as opened, bar(total) as progress:
        bench = opened._replace(every=True)
        footprints = measure_footprints(bench, progress, footprint.ALL)
        tables = [repeat(bench, scenario, plan.unit * scenario.weight, progress) for scenario in plan.scenarios]
        progress.phase("system calls", len(plan.contenders) * TRACE)
        traces = syscalls.measure(bench, plan.contenders, lambda: progress.step(TRACE))
        progress.phase("segments and bytes", len(plan.contenders) * WIRE)
        wires = wire.measure(bench, plan.contenders, lambda: progress.step(WIRE))
    found = goals.goals(tables, footprints)
    return Run(metadata.collect(seed), tables, footprints, found, wires, traces, missing(tables))


def repeat(bench: Bench, scenario: Scenario, seconds: float, progress: Bar) -> Table:
    """Measure one scenario as often as it says, each time with fresh processes."""
    if lack := lacks(scenario):
        progress.phase(scenario.name, 0.0)
        return cannot(scenario, bench.contenders(scenario), lack)
    part = seconds / scenario.repetitions
    share = scenario._replace(most=scenario.whole_bursts(-(-scenario.most // scenario.repetitions)))
    tables = []
    with scene(bench._replace(seconds=part), scenario) as there:
        for number in range(1, scenario.repetitions + 1):
            name = f"{scenario.name} {number}/{scenario.repetitions}"
            with Measurement(there, share) as measurement:
                tables.append(measure(measurement, part, name, progress))
    return merged(scenario, tables)


def measure(measurement: Measurement, seconds: float, name: str, progress: Bar) -> Table:
    """One repetition of a scenario, and the waiting for its last answers."""
    scenario = measurement.scenario
    starting = STARTING_ALL if measurement.bench.every else STARTING
    progress.phase(name, starting + seconds)
    measurement.run(seconds, lambda gone: progress.reach(starting + gone))
    progress.phase(f"{name}: last answers", ending(scenario) / scenario.repetitions)
    return measurement.finish(progress.step)


def cannot(scenario: Scenario, contenders: Sequence[Contender], lack: str) -> Table:
    """Return the table of a scenario that cannot be measured here."""
    return Table(scenario, [Row(each.name, f"{MISSING}{lack}", arrives=scenario.arrives) for each in contenders])


def merged(scenario: Scenario, tables: Sequence[Table]) -> Table:
    """Return one table of all repetitions: their rounds follow one another, so that rows are ranked by all of them."""
    first, rows = 0, dict[str, list[Row]]()
    for table in tables:
        for row in table.rows:
            numbers = [number + first if number >= 0 else number for number in row.rounds]
            rows.setdefault(row.contender, []).append(row._replace(rounds=numbers))
        first += max((number + 1 for row in table.rows for number in row.rounds), default=0)
    others = [table.others for table in tables if table.others is not None]
    whole = [of_all(each) for each in rows.values()]
    return Table(scenario, whole, sum(others) / len(others) if len(others) == len(tables) else None)


def of_all(rows: Sequence[Row]) -> Row:
    """Return one row of all repetitions; what a process left behind is that of the one which left the most."""
    delivered = [row.delivered for row in rows if row.delivered is not None]
    return rows[0]._replace(
        note="; ".join(dict.fromkeys(row.note for row in rows if row.note)),
        ns=[ns for row in rows for ns in row.ns],
        cpu_ns=[ns for row in rows for ns in row.cpu_ns],
        rounds=[number for row in rows for number in row.rounds],
        cold_ns=[ns for row in rows for ns in row.cold_ns],
        aside_ns=[ns for row in rows for ns in row.aside_ns],
        whole_cpu_ns=[ns for row in rows for ns in row.whole_cpu_ns],
        sent=sum(row.sent for row in rows),
        delivered=sum(delivered) if delivered else None,
        twice=sum(row.twice for row in rows),
        strange=sum(row.strange for row in rows),
        promised=sum(row.promised for row in rows),
        broken_promises=sum(row.broken_promises for row in rows),
        claims=dict(sum((Counter(row.claims) for row in rows), Counter[str]())),
        errors=dict(sum((Counter(row.errors) for row in rows), Counter[str]())),
        unpaced=sum(row.unpaced for row in rows),
        threads=most(row.threads for row in rows),
        descriptors=most(row.descriptors for row in rows),
        memory_kib=most(row.memory_kib for row in rows),
    )


def most(left: Iterable[int | None]) -> int | None:
    """Return the largest; None where nobody looked."""
    return max((each for each in left if each is not None), default=None)


def missing(tables: Sequence[Table]) -> dict[str, str]:
    """Return who was measured nowhere, and what to install."""
    rows = [row for table in tables for row in table.rows]
    measured = {row.contender for row in rows if not row.note.startswith(MISSING)}
    return {row.contender: row.note.removeprefix(MISSING) for row in rows if row.contender not in measured}


def compare(scenarios: Sequence[Scenario], seconds: float, seed: int) -> Run:
    """Compare the few contenders of `python -m bench`, once in each scenario."""
    unit = seconds / sum(scenario.weight for scenario in scenarios)
    around = sum(STARTING + ending(scenario) for scenario in scenarios)
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
        return cannot(scenario, bench.contenders(scenario), lack)
    there = stack.enter_context(scene(bench, scenario))
    return stack.enter_context(Measurement(there, scenario))


def measure_footprints(bench: Bench, progress: Bar, subjects: Sequence[footprint.Subject]) -> list[Footprint]:
    """Return what imports cost."""
    progress.phase("imports", (footprint.ROUNDS + 1) * INTERPRETER)
    port = bench.receiver.listen(next(bench.slots))
    cache = bench.counters.with_name("bytecode")
    url = f"http://{bench.receiver.address}:{port}/"
    return footprint.measure(url, cache, bench.random, lambda: progress.step(INTERPRETER), subjects)
