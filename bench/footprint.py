"""What importing a package costs a fresh interpreter: time, and peak memory, after one post where a line does that.

All subjects read their bytecode from one cache of this run, which a first round fills. Otherwise rawfnf could be
compiled anew each time (a source tree that cannot be written to, PYTHONDONTWRITEBYTECODE) and be compared with an h11
that pip has compiled: that makes it seem to cost two to three times as much.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from .processes import ROOT, ChildError, environment
from .results import Footprint

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence
    from pathlib import Path

# Interpreters per subject; and for the large ones, which are shown for orientation only, every so many rounds.
ROUNDS = 15
RARELY = 5

# VmHWM, not ru_maxrss: Linux lets the latter survive exec(), so it would be that of this process.
SCRIPT = """
import time
start = time.perf_counter_ns()
{imports}
ns = time.perf_counter_ns() - start
import sys
{post}
try:
    with open("/proc/self/status") as status:
        peak = [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
except OSError:
    peak = []
print([ns, peak])
"""


class Subject(NamedTuple):
    """What is imported, and then done."""

    name: str
    imports: str
    post: str = ""  # empty: one line does not do it, or it needs a broker
    every: int = 1  # measured in every so-manieth round
    needs: str = ""  # a module that not everybody has
    install: str = ""  # the package that has it, if it is not of that name

    @property
    def lacks(self) -> str:
        """Say what is missing; empty when nothing is."""
        if not self.needs or importlib.util.find_spec(self.needs):
            return ""
        return f"missing: pip install {self.install or self.needs}"

    @property
    def then(self) -> str:
        """What is done after the import, for the report."""
        return "one plain post" if self.post else ""


BASELINE = Subject("h11, socket", "import h11, socket")
RAWFNF = Subject("rawfnf", "import rawfnf", "rawfnf.post(sys.argv[1], json={'id': '1'})")
REQUESTS = Subject(
    "requests", "import requests", "requests.post(sys.argv[1], json={'id': '1'})", every=RARELY, needs="requests"
)
# What every run measures: two goals are about it.
FEW = (BASELINE, RAWFNF, REQUESTS)
# Every package that is compared. That of the baseline comes first: the report compares with it.
ALL = (
    BASELINE,
    RAWFNF,
    Subject(
        "rawfnf.aio",
        "import rawfnf.aio",
        "import asyncio; asyncio.run(rawfnf.aio.post(sys.argv[1], json={'id': '1'}))",
        every=RARELY,
    ),
    Subject(
        "rawfnf.handler",
        "import rawfnf.handler",
        "import logging; handler = rawfnf.handler.PostHandler(sys.argv[1]); "
        "handler.handle(logging.makeLogRecord({'msg': '1'})); handler.close()",
        every=RARELY,
    ),
    Subject(
        "http.client",
        "import http.client",
        "connection = http.client.HTTPConnection(sys.argv[1].split('/')[2]); "
        "connection.request('POST', '/', '1'); connection.getresponse()",
        every=RARELY,
    ),
    Subject(
        "urllib3", "import urllib3", "urllib3.request('POST', sys.argv[1], json={'id': '1'})", RARELY, needs="urllib3"
    ),
    REQUESTS,
    Subject("httpx", "import httpx", "httpx.post(sys.argv[1], json={'id': '1'})", RARELY, needs="httpx"),
    Subject("aiohttp", "import aiohttp", every=RARELY, needs="aiohttp"),
    Subject(
        "pycurl",
        "import pycurl",
        "curl = pycurl.Curl(); curl.setopt(curl.URL, sys.argv[1]); curl.setopt(curl.POSTFIELDS, '1'); curl.perform()",
        every=RARELY,
        needs="pycurl",
    ),
    Subject("pika", "import pika", every=RARELY, needs="pika"),
    Subject(
        "confluent_kafka",
        "import confluent_kafka",
        every=RARELY,
        needs="confluent_kafka",
        install="confluent-kafka",
    ),
)


def with_bytecode(cache: Path) -> dict[str, str]:
    """Return the environment of an interpreter that keeps its bytecode in `cache`."""
    return {name: value for name, value in environment().items() if name != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPYCACHEPREFIX": str(cache)
    }


def fresh(subject: Subject, url: str, cache: Path) -> tuple[int, list[int]]:
    """One fresh interpreter: nanoseconds of the import, and its peak in KiB if the system tells."""
    script = SCRIPT.format(imports=subject.imports, post=subject.post)
    done = subprocess.run(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-c", script, url],
        cwd=ROOT,
        env=with_bytecode(cache),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ChildError(f"{subject.imports}: {done.stderr.strip().splitlines()[-1]}")
    ns, peak = json.loads(done.stdout)
    return ns, peak


def measure(
    url: str, cache: Path, chooser: random.Random, tick: Callable[[], None], subjects: Sequence[Subject] = FEW
) -> list[Footprint]:
    """Measure them interleaved in random order, after a round that only fills the caches of bytecode and files.

    One tick per round, ROUNDS and the first. What is missing, or cannot be imported, has a note.
    """
    found = {each: Footprint(each.name, [], [], each.then, each.lacks) for each in subjects}
    for number in range(-1, ROUNDS):
        due = [each for each in subjects if not found[each].note and (number < 0 or number % each.every == 0)]
        chooser.shuffle(due)
        for subject in due:
            try:
                ns, peak = fresh(subject, url, cache)
            except ChildError as error:
                found[subject] = found[subject]._replace(note=str(error))
                continue
            if number >= 0:
                found[subject].import_ns.append(ns)
                found[subject].peak_kib.extend(peak)
        tick()
    return list(found.values())
