"""What a figure cannot be understood without: versions, machine, date, command line, seed."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import ssl
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from rawfnf import __version__


def collect(seed: int) -> dict[str, str]:
    """Name and value of each fact, in the order of the report."""
    found = importlib.util.find_spec("urllib3")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command line": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "seed": str(seed),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{processor()}, {os.cpu_count()} visible",
        "OpenSSL": ssl.OPENSSL_VERSION,
        "rawfnf": __version__,  # of the source: it may run from a tree that is not installed
        **{name: version(name) for name in ("h11", "requests", "urllib3", "aiohttp", "uvloop")},
        # niquests puts urllib3-future in urllib3's place, and requests then runs on that.
        "urllib3's file": found.origin if found and found.origin else "missing",
    }


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
