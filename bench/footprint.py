"""What importing and one post cost a fresh interpreter: time, and peak memory.

All subjects read their bytecode from one cache of this run, which a first round fills. Otherwise rawfnf could be
compiled anew each time (a source tree that cannot be written to, PYTHONDONTWRITEBYTECODE) and be compared with an h11
that pip has compiled: that makes it seem to cost two to three times as much.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from .processes import ROOT, ChildError, environment
from .results import Footprint

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
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
    post: str = ""
    every: int = 1  # measured in every so-manieth round


BASELINE = Subject("h11, socket", "import h11, socket")
RAWFNF = Subject("rawfnf", "import rawfnf", "rawfnf.post(sys.argv[1], json={'id': '1'})")
SUBJECTS = (
    BASELINE,
    RAWFNF,
    Subject("requests", "import requests", "requests.post(sys.argv[1], json={'id': '1'})", every=RARELY),
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
        raise ChildError(f"import {subject.name}: {done.stderr.strip().splitlines()[-1]}")
    ns, peak = json.loads(done.stdout)
    return ns, peak


def measure(url: str, cache: Path, chooser: random.Random, tick: Callable[[], None]) -> list[Footprint]:
    """All subjects, interleaved in random order, after a round that only fills the caches of bytecode and files."""
    found = {subject: Footprint(subject.name, [], []) for subject in SUBJECTS}
    for number in range(-1, ROUNDS):
        due = [subject for subject in SUBJECTS if number < 0 or number % subject.every == 0]
        chooser.shuffle(due)
        for subject in due:
            ns, peak = fresh(subject, url, cache)
            if number >= 0:
                found[subject].import_ns.append(ns)
                found[subject].peak_kib.extend(peak)
        tick()
    return list(found.values())
