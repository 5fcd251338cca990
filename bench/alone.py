"""Who can be watched while it posts alone, whatever it posts from: for what a post costs besides time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .contenders import Contender
    from .scenarios import Scenario, Within

# Those that hand over to a message broker have no receiver of ours to post to.
ANYWHERE: tuple[Within, ...] = ("", "asyncio", "logging")


def able_alone(contenders: Sequence[Contender], scenario: Scenario) -> list[Contender]:
    """Return those that can post to the scenario's receiver, from a plain caller, an event loop or a logger."""
    return [
        contender
        for contender in contenders
        if (contender.speaks_tls or not scenario.tls)
        and any(contender.able(scenario._replace(within=within)) for within in ANYWHERE)
    ]
