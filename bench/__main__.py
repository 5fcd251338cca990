"""`python -m bench`: see that all packages are there, then run."""

from __future__ import annotations

import importlib.util
import signal
import sys
from typing import TYPE_CHECKING

from .options import CallerOptions, Options, parse

if TYPE_CHECKING:
    from types import FrameType

NEEDED = ("h11", "psutil", "requests", "rich", "trustme")
NEEDED_TO_PLOT = ("matplotlib",)
# Exit status, besides those of run.py.
BAD_START, INTERRUPTED, TERMINATED = 2, 130, 143
# Ctrl-C, kill, and a terminal that is closed.
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def missing(options: Options) -> list[str]:
    """Return packages that this run needs and that are not installed."""
    plots = not isinstance(options, CallerOptions) or options.every or options.plot
    needed = NEEDED + (NEEDED_TO_PLOT if plots else ())
    return [package for package in needed if importlib.util.find_spec(package) is None]


def unwind(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a signal handler
    """Unwind, so that children and temporary files are cleared away; whoever asks again is not heard."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(TERMINATED)


def main() -> int:
    """Return the exit status: 0, 1 (a number to reach was missed by --flat and the like), or 2 (see results.py)."""
    options = parse(sys.argv[1:])
    if packages := missing(options):
        print(f"bench needs {', '.join(packages)}: pip install -e '.[bench]'", file=sys.stderr)
        return BAD_START
    from .run import run  # imports the packages looked for above

    for each in ENDING:
        signal.signal(each, unwind)
    try:
        return run(options)
    except KeyboardInterrupt:
        print("interrupted; nothing is left running", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
