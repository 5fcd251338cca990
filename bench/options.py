"""The command line's options, by the standard library alone: a missing package is to be reported, not raised."""

from __future__ import annotations

import argparse
import math
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .contenders import KNOWN, NOW
from .scenarios import EVERY_SCENARIO, SCENARIOS, Scenario

if TYPE_CHECKING:
    from collections.abc import Sequence

# Seconds of measuring; starting, warming up, imports and waiting for the last answers take some 25 more.
SECONDS = 68.0
URL_POSTS = 20
OPEN_LOOP_SECONDS = 30.0
FORMATS = (".svg", ".png")
# Options that measure one thing of their own, in place of the comparison.
OWN = ("flat", "open_loop", "syscalls", "url")
WITHOUT_FILES = ("flat", "syscalls")
# As many posts in each cell of the delivery matrix.
FULL = 10
COMMANDS = """\
commands:
  caller      what a post costs its caller: every contender, near and far, in good times and bad (15 minutes)
  delivery    what arrives at real servers, of posts by every contender (15 minutes)
  report      show what one of these found again, and redraw its pictures
`python -m bench COMMAND --help` has their options. Without a command: rawfnf, the requests trick and naive sockets,
and the numbers to reach (2 minutes).
"""
OF_DELIVERY = """\
It takes a quarter of an hour, and writes results/delivery-*.json and a heat map. For a start, in ten seconds:
  python -m bench delivery --server nginx --transport plain
Exit status: 0; 1: a Sender that waits for answers has lost something; 2: what was to be measured was not.
"""


class Amount(NamedTuple):
    """How much of what there is."""

    full: bool  # takes much longer
    subset: bool  # a little of everything


class CallerOptions(NamedTuple):
    """Of `python -m bench`, and of `python -m bench caller`."""

    every: bool  # every contender, in every scenario
    extent: Amount
    listing: bool
    scenarios: list[Scenario]
    seconds: float | None  # None: as many as it needs
    seed: int
    json: Path | None
    plot: Path | None
    flat: int | None
    contender: str
    open_loop: float | None
    syscalls: bool
    url: str | None
    posts: int
    yes: bool


class DeliveryOptions(NamedTuple):
    """Of `python -m bench delivery`."""

    extent: Amount
    listing: bool
    servers: list[str]  # empty: all
    contenders: list[str]  # empty: all
    transports: list[str]  # empty: all
    times: int  # how often the usual number of posts
    seed: int
    json: Path | None
    plot: Path | None


class ReportOptions(NamedTuple):
    """Of `python -m bench report`."""

    files: list[Path]
    out: Path | None
    readme: Path | None
    keep: Path | None


Options = CallerOptions | DeliveryOptions | ReportOptions


def parse(arguments: Sequence[str]) -> Options:
    """Return the options; end the program when there is something wrong with them."""
    command, *rest = arguments or [""]
    if command == "delivery":
        return delivery_options(rest)
    if command == "report":
        return report_options(rest)
    return caller_options(rest if command == "caller" else arguments, every=command == "caller")


def caller_options(arguments: Sequence[str], *, every: bool) -> CallerOptions:
    """Return the options of a comparison of what callers pay."""
    known = EVERY_SCENARIO if every else SCENARIOS
    parser = caller_parser(known, every=every)
    given = parser.parse_args(arguments)
    own = next((name for name in OWN if getattr(given, name)), None)
    if own and given.scenario:
        parser.error(f"--{own.replace('_', '-')} has a scenario of its own")
    if own in WITHOUT_FILES and (given.json or given.plot):
        parser.error(f"--{own} writes no file")
    if own == "open_loop" and given.plot:
        parser.error("--open-loop draws nothing")
    if given.contender and own != "flat":
        parser.error("--contender goes with --flat")
    return CallerOptions(
        every=every,
        extent=Amount(given.full, given.subset) if every else Amount(full=False, subset=False),
        listing=given.list,
        scenarios=[scenario for scenario in known if not given.scenario or scenario.name in given.scenario],
        seconds=given.seconds,
        seed=seed_of(given),
        json=given.json,
        plot=given.plot,
        flat=given.flat,
        contender=given.contender or NOW.name,
        open_loop=given.open_loop,
        syscalls=given.syscalls,
        url=given.url,
        posts=given.posts,
        yes=given.yes,
    )


def caller_parser(known: Sequence[Scenario], *, every: bool) -> argparse.ArgumentParser:
    """Every option of a comparison of what callers pay."""
    made = argparse.ArgumentParser(
        prog="python -m bench caller" if every else "python -m bench",
        description="What a post costs its caller." if every else "Compare ways of posting without waiting.",
        epilog=None if every else COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--list", action="store_true", help="name the scenarios and contenders, and stop")
    made.add_argument(
        "--scenario",
        action="append",
        choices=[scenario.name for scenario in known],
        metavar="NAME",
        help="only this scenario (repeatable)",
    )
    usual = None if every else SECONDS
    besides = "; imports, system calls and the wire take a minute more" if every else ""
    made.add_argument(
        "--seconds", type=positive, default=usual, help=f"of measuring in all{default_of(usual)}{besides}"
    )
    if every:
        add_extent(made, "some 45 minutes")
    add_common(made, "the latencies")
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
    instead.add_argument("--url", help="instead: compare against this endpoint; asks before it sends anything")
    made.add_argument(
        "--contender",
        choices=[name for name, contender in KNOWN.items() if contender.make],
        metavar="NAME",
        help=f"who posts, with --flat: a name from --list (default: {NOW.name})",
    )
    made.add_argument("--posts", type=count, default=URL_POSTS, help="per contender, with --url (default: %(default)s)")
    made.add_argument("--yes", action="store_true", help="do not ask, with --url")
    return made


def delivery_options(arguments: Sequence[str]) -> DeliveryOptions:
    """Return the options of the delivery matrix. Names are checked where the servers are known."""
    made = argparse.ArgumentParser(
        prog="python -m bench delivery",
        description="Count what arrives at real servers, of posts by every contender.",
        epilog=OF_DELIVERY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--list", action="store_true", help="name the servers and contenders, and stop")
    for name, what in (("server", "this server"), ("contender", "this contender"), ("transport", "this transport")):
        made.add_argument(f"--{name}", action="append", default=[], metavar="NAME", help=f"only {what} (repeatable)")
    add_extent(made, "some hours")
    add_common(made, "the heat map")
    given = made.parse_args(arguments)
    return DeliveryOptions(
        extent=Amount(given.full, given.subset),
        listing=given.list,
        servers=given.server,
        contenders=given.contender,
        transports=given.transport,
        times=FULL if given.full else 1,
        seed=seed_of(given),
        json=given.json,
        plot=given.plot,
    )


def report_options(arguments: Sequence[str]) -> ReportOptions:
    """Return the options of the report."""
    made = argparse.ArgumentParser(
        prog="python -m bench report", description="Show what a run found again, and redraw its pictures."
    )
    made.add_argument(
        "files", nargs="+", type=existing, metavar="FILE", help="results/*.json, or compressed (.bz2, .xz, .gz)"
    )
    made.add_argument("--out", type=folder, metavar="FOLDER", help="where the pictures go (default: beside FILE)")
    made.add_argument("--readme", type=existing, metavar="FILE", help="put the tables and pictures into this README")
    made.add_argument(
        "--keep", type=folder, metavar="FOLDER", help="keep the runs there, compressed, with their pictures"
    )
    given = made.parse_args(arguments)
    return ReportOptions(given.files, given.out, given.readme, given.keep)


def add_extent(parser: argparse.ArgumentParser, all_of_it: str) -> None:
    """Add how much of what there is, and how long all of it takes."""
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--full", action="store_true", help=f"many more posts; takes {all_of_it}")
    extent.add_argument("--subset", action="store_true", help="a little of everything, as CI runs it")


def add_common(parser: argparse.ArgumentParser, picture: str) -> None:
    """Add what both comparisons have."""
    parser.add_argument("--seed", type=int, default=None, help="of the random order (default: a new one)")
    parser.add_argument("--json", type=samples_file, metavar="FILE", help="write all samples and metadata")
    parser.add_argument("--plot", type=picture_file, metavar="FILE", help=f"draw {picture} (.svg or .png)")


def seed_of(given: argparse.Namespace) -> int:
    """Return the seed, a new one if none is given."""
    return secrets.randbits(32) if given.seed is None else int(given.seed)


def default_of(value: float | None) -> str:
    """Tell a default, if there is one."""
    return "" if value is None else f" (default: {value:g})"


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


def existing(text: str) -> Path:
    """Return the name of a file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def folder(text: str) -> Path:
    """Return a folder that is there."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path


def samples_file(text: str) -> Path:
    """Return a file name that no picture has: the picture of the same run would take its place."""
    path = output(text)
    if path.suffix.lower() in FORMATS:
        raise argparse.ArgumentTypeError(f"{text} is a picture's name: draw it with --plot")
    return path


def picture_file(text: str) -> Path:
    """Return a file name with a format that can be drawn."""
    path = output(text)
    if path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text} does not end in {' or '.join(FORMATS)}")
    return path
