"""The command line's options, by the standard library alone: a missing package is to be reported, not raised."""

from __future__ import annotations

import argparse
import math
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .scenarios import SCENARIOS, Scenario

if TYPE_CHECKING:
    from collections.abc import Sequence

# Seconds of measuring; starting, warming up, imports and waiting for the last answers take some 15 more.
SECONDS = 36.0
URL_POSTS = 20
FORMATS = (".svg", ".png")


class Options(NamedTuple):
    """The command line."""

    listing: bool
    scenarios: list[Scenario]
    seconds: float
    seed: int
    json: Path | None
    plot: Path | None
    flat: int | None
    url: str | None
    posts: int
    yes: bool


def parse(arguments: Sequence[str]) -> Options:
    """Return the options; end the program when there is something wrong with them."""
    known_options = parser()
    given = known_options.parse_args(arguments)
    if given.flat and (given.url or given.scenario or given.json or given.plot):
        known_options.error("--flat goes with --seed alone: it has a scenario of its own and writes no file")
    if given.url and given.scenario:
        known_options.error("--url has a scenario of its own")
    return Options(
        listing=given.list,
        scenarios=[known for known in SCENARIOS if not given.scenario or known.name in given.scenario],
        seconds=given.seconds,
        seed=secrets.randbits(32) if given.seed is None else given.seed,
        json=given.json,
        plot=given.plot,
        flat=given.flat,
        url=given.url,
        posts=given.posts,
        yes=given.yes,
    )


def parser() -> argparse.ArgumentParser:
    """Every option."""
    made = argparse.ArgumentParser(prog="python -m bench", description="Compare ways of posting without waiting.")
    made.add_argument("--list", action="store_true", help="name the scenarios and contenders, and stop")
    made.add_argument(
        "--scenario",
        action="append",
        choices=[scenario.name for scenario in SCENARIOS],
        metavar="NAME",
        help="only this scenario (repeatable)",
    )
    made.add_argument("--seconds", type=positive, default=SECONDS, help="of measuring in all (default: %(default)g)")
    made.add_argument("--seed", type=int, default=None, help="of the random order (default: a new one)")
    made.add_argument("--json", type=output, metavar="FILE", help="write all samples and metadata")
    made.add_argument("--plot", type=picture, metavar="FILE", help="draw the latencies (.svg or .png)")
    made.add_argument("--flat", type=count, metavar="N", help="instead: post N times and watch memory and descriptors")
    made.add_argument("--url", help="instead: compare against this endpoint; asks before it sends anything")
    made.add_argument("--posts", type=count, default=URL_POSTS, help="per contender, with --url (default: %(default)s)")
    made.add_argument("--yes", action="store_true", help="do not ask, with --url")
    return made


def positive(text: str) -> float:
    """Return a number above zero."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def count(text: str) -> int:
    """Return a whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def output(text: str) -> Path:
    """Return a file name in a folder that exists: better refused now than after the run."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def picture(text: str) -> Path:
    """Return a file name with a format that can be drawn."""
    path = output(text)
    if path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text} does not end in {' or '.join(FORMATS)}")
    return path
