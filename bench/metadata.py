"""What a figure cannot be understood without: versions, machine, date, command line, seed."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import ssl
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rawfnf import __version__

from .contenders import CONTENDERS
from .processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

# Options that name a file.
WHERE_TO = ("--json", "--plot")
# Whatever a contender needs, and what these stand on.
PACKAGES = sorted(
    {"h11", "requests", "urllib3", "certifi"}
    | {module.replace("_", "-") for contender in CONTENDERS for module in contender.needs}
)


def collect(seed: int) -> dict[str, str]:
    """Name and value of each fact, in the order of the report."""
    found = importlib.util.find_spec("urllib3")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command line": shlex.join(["python", "-m", "bench", *telling(sys.argv[1:])]),
        "seed": str(seed),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{processor()}, {os.cpu_count()} visible",
        "OpenSSL": ssl.OPENSSL_VERSION,
        "rawfnf": __version__,  # of the source: it may run from a tree that is not installed
        "commit": commit(),
        **{name: version(name) for name in PACKAGES},
        # niquests puts urllib3-future in urllib3's place, and requests then runs on that.
        "urllib3's file": within(found.origin) if found and found.origin else "missing",
    }


def telling(arguments: Sequence[str]) -> list[str]:
    """Return them without those that say where the results go: that is nobody else's affair."""
    kept = list(arguments)
    for option in WHERE_TO:
        while option in kept:
            place = kept.index(option)
            del kept[place : place + 2]
    return [each for each in kept if not each.startswith(tuple(f"{option}=" for option in WHERE_TO))]


def within(file: str) -> str:
    """Return where a module is within this environment; what lies elsewhere in full."""
    path = Path(file)
    return str(path.relative_to(sys.prefix)) if path.is_relative_to(sys.prefix) else file


def commit() -> str:
    """Return the commit that this tree is at, and whether it has been changed since; empty outside of a clone."""
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run(  # noqa: S603 - found on PATH
        [git, "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def version(package: str) -> str:
    """Return the installed version, or `missing`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def processor() -> str:
    """Return the model of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
