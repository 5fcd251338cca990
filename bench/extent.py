"""How much `python -m bench caller` measures, and how long that takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .alone import able_alone
from .contenders import CONTENDERS, Contender
from .held import LONGEST
from .measure import LATE
from .scenarios import EVERY_SCENARIO, SUBSET, Scenario
from .ways import LINGER
from .wire import PLAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

# Seconds that the workers of one repetition take to start and to warm up, and their last answers, about.
STARTING, ENDING = 3.0, 0.5
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
        starting = sum(STARTING * scenario.repetitions for scenario in self.scenarios)
        return starting + sum(holding(scenario) + ending(scenario) for scenario in self.scenarios)


def extent(scenarios: Sequence[Scenario], seconds: float | None, *, full: bool, subset: bool) -> Extent:
    """Return how much is measured: everything, much more of it, or one scenario of each kind for a moment."""
    chosen, contenders, part = list(scenarios), list(CONTENDERS), 1.0
    if full:
        part = FULL
        chosen = [more(scenario) for scenario in scenarios]
    if subset:
        part = SUBSET_PART
        asked = len(scenarios) < len(EVERY_SCENARIO)  # then for each of them
        chosen = [brief(scenario) for scenario in scenarios if asked or scenario.name in SUBSET]
        contenders = [contender for contender in CONTENDERS if contender.core]
    usual = sum(scenario.weight for scenario in chosen) * part
    return Extent(chosen, able_alone(contenders, PLAIN), usual if seconds is None else seconds)


def more(scenario: Scenario) -> Scenario:
    """Return it with more posts and repetitions, if it is repeated at all."""
    if scenario.repetitions == 1:
        return scenario
    return scenario._replace(most=round(scenario.most * FULL), repetitions=FULL_REPETITIONS)


def brief(scenario: Scenario) -> Scenario:
    """Return it with few posts, once."""
    return scenario._replace(most=scenario.whole_bursts(min(scenario.most, SUBSET_MOST)), repetitions=1)


def holding(scenario: Scenario) -> float:
    """Return how many seconds it takes in the place of rounds, at most."""
    return LONGEST if scenario.holds else 0.0


def ending(scenario: Scenario) -> float:
    """Return how many seconds it takes after its rounds, about."""
    if scenario.reads:
        return LATE  # somebody's body will not be whole, and is waited for
    return (ENDING + scenario.delay + (0 if scenario.answers else LINGER)) * scenario.repetitions
