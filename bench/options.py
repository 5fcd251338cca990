"""The command line's options, by the standard library alone: a missing package is to be reported, not raised."""

from __future__ import annotations

import argparse
import math
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .contenders import KNOWN, NOW
from .scenarios import SCENARIOS, Scenario

if TYPE_CHECKING:
    from collections.abc import Sequence

# Seconds of measuring; starting, warming up, imports and waiting for the last answers take some 25 more.
SECONDS = 68.0
URL_POSTS = 20
OPEN_LOOP_SECONDS = 30.0
FORMATS = (".svg", ".png")
# Options that measure one thing of their own, in place of the comparison.
OWN = ("flat", "open_loop", "syscalls", "nginx", "url")
WITHOUT_FILES = ("flat", "syscalls", "nginx")


class Options(NamedTuple):
    """The command line."""

    listing: bool
    scenarios: list[Scenario]
    seconds: float
    seed: int
    json: Path | None
    plot: Path | None
    flat: int | None
    contender: str
    open_loop: float | None
    syscalls: bool
    nginx: bool
    url: str | None
    posts: int
    yes: bool


def parse(arguments: Sequence[str]) -> Options:
    """Return the options; end the program when there is something wrong with them."""
    known_options = parser()
    given = known_options.parse_args(arguments)
    own = next((name for name in OWN if getattr(given, name)), None)
    if own and given.scenario:
        known_options.error(f"--{own.replace('_', '-')} has a scenario of its own")
    if own in WITHOUT_FILES and (given.json or given.plot):
        known_options.error(f"--{own} writes no file")
    if own == "open_loop" and given.plot:
        known_options.error("--open-loop draws nothing")
    if given.contender and own != "flat":
        known_options.error("--contender goes with --flat")
    return Options(
        listing=given.list,
        scenarios=[known for known in SCENARIOS if not given.scenario or known.name in given.scenario],
        seconds=given.seconds,
        seed=secrets.randbits(32) if given.seed is None else given.seed,
        json=given.json,
        plot=given.plot,
        flat=given.flat,
        contender=given.contender or NOW.name,
        open_loop=given.open_loop,
        syscalls=given.syscalls,
        nginx=given.nginx,
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
    instead = made.add_mutually_exclusive_group()
    instead.add_argument("--flat", type=count, metavar="N", help="instead: post N times, watch memory and descriptors")
    instead.add_argument(
        "--open-loop",
        type=positive,
        nargs="?",
        const=OPEN_LOOP_SECONDS,
        metavar="SECONDS",
        help="instead: 1,000 posts a second by a Sender, for so long (default: %(const)g)",
    )
    instead.add_argument("--syscalls", action="store_true", help="instead: the system calls of one post, by strace")
    instead.add_argument("--nginx", action="store_true", help="instead: count what arrives behind nginx")
    instead.add_argument("--url", help="instead: compare against this endpoint; asks before it sends anything")
    made.add_argument(
        "--contender",
        choices=[name for name, known in KNOWN.items() if known.make],
        metavar="NAME",
        help=f"who posts, with --flat: %(choices)s (default: {NOW.name})",
    )
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
