"""The same comparison against the user's own endpoint, where nobody counts what arrives."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from . import floor
from .contenders import HTTP_HANDLER, Contender, measured_in
from .lanes import Lane, row_of
from .payload import payload
from .processes import WorkerProcess, python
from .results import Row, Table
from .scenarios import Scenario
from .ways import LINGER, Target
from .worker import Assignment

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

# Posts per second, all contenders together: a comparison, not a load test.
RATE = 50
# By their defaults.
REDIRECTS = (
    "requests, urllib3 and aiohttp follow a redirect whose answer comes in time, by further requests to wherever it "
    "points; nobody else does."
)


def target_of(url: str) -> Target:
    """Return what the workers need to know of a URL; ValueError says what is wrong with it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--url needs http://… or https://…, not {url!r}")
    if parts.username is not None:
        raise ValueError("--url: leave the credentials out, not every contender would send them")
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(url, parts.hostname, parts.port or (443 if tls else 80), path, tls, None)


def scenario_of(target: Target, posts: int) -> Scenario:
    """Return the scenario; the version of TLS is between the endpoint and each contender."""
    return Scenario("url", target.url, tls="1.3" if target.tls else None, most=posts)


def asked_for(target: Target, *, every: bool) -> list[Contender]:
    """Who is to post there, whether they can or not."""
    known = measured_in(scenario_of(target, 0), every=every)
    return [contender for contender in known if contender.speaks_tls or not target.tls]


def lack(contender: Contender, floor_program: Path | str) -> str:
    """Say why it cannot post; empty when it can."""
    if contender.make is None and isinstance(floor_program, str):
        return floor_program
    return contender.lacks


def contenders_for(target: Target, floor_program: Path | str, *, every: bool = False) -> list[Contender]:
    """Who can post there."""
    return [contender for contender in asked_for(target, every=every) if not lack(contender, floor_program)]


def plan(target: Target, posts: int, floor_program: Path | str, *, every: bool = False) -> str:
    """Exactly what would be sent."""
    known = contenders_for(target, floor_program, every=every)
    names = "; ".join(contender.name for contender in known)
    waiting = "; ".join(contender.name for contender in known if contender.waits)
    form = f" {HTTP_HANDLER.name}'s is a form, with the attributes of a log record." if HTTP_HANDLER in known else ""
    lacking = {each.name: lack(each, floor_program) for each in asked_for(target, every=every)}
    missing = "".join(f" Left out: {name} (missing: {why})." for name, why in lacking.items() if why)
    return (
        f"This sends {posts * len(known)} POST requests to {target.url}: {posts} by each of: {names}. In "
        f"random order, at most {RATE} a second. Each body is JSON, with a number of its own as id: "
        f"{json.dumps(payload(0))}.{form} These wait for each answer, rawfnf for up to {LINGER:g} s: {waiting}. The "
        "others end their connections early, or leave the answer to a thread, a task or a later call. Each Sender "
        f"with a thread keeps up to {target.spares} more connections open meanwhile, any other at most {target.burst}. "
        f"{REDIRECTS} What arrives is not known here.{missing}"
    )


def measure(
    target: Target,
    posts: int,
    floor_program: Path | str,
    chooser: random.Random,
    tick: Callable[[int], None],
    *,
    every: bool = False,
) -> Table:
    """Post so many times with each contender, one post at a time."""
    with ExitStack() as stack:
        lanes = []
        for contender in contenders_for(target, floor_program, every=every):
            assignment = Assignment(contender.name, target, "json")
            command = (
                python(contender.worker, assignment.to_json())
                if isinstance(floor_program, str) or contender.make
                else floor.arguments(floor_program, assignment)
            )
            lanes.append(Lane(contender, stack.enter_context(WorkerProcess(command))))
        for lane in lanes:
            lane.is_ready()
        post_all(lanes, posts, chooser, tick)
        for lane in lanes:
            lane.leave()
        rows = {lane.contender.name: row_of(lane, None, cold_posts=0) for lane in lanes}
    asked = asked_for(target, every=every)
    missing = {each.name: Row(each.name, f"missing: {lack(each, floor_program)}") for each in asked}
    return Table(scenario_of(target, posts), [(missing | rows)[each.name] for each in asked])


def post_all(lanes: list[Lane], posts: int, chooser: random.Random, tick: Callable[[int], None]) -> None:
    """Every lane posts once a round, in random order, no faster than RATE."""
    order = list(lanes)
    due = time.monotonic()
    for number in range(posts):
        chooser.shuffle(order)
        for lane in order:
            time.sleep(max(0.0, due - time.monotonic()))
            due = time.monotonic() + 1 / RATE
            lane.post(number, 1)
        tick(number + 1)
