"""How much of the machine others used while something was measured.

A busy bystander does not only slow things down: it keeps the receiver's core from sleeping, which spares the callers
the wake-up and flatters the short posts. So a disturbed run may look better than a quiet one, and has to be named.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable


class Usage(NamedTuple):
    """Seconds since some moment: on the clock, of CPU by everybody, of CPU by the given processes."""

    clock: float
    everybody: float
    ours: float


def usage(pids: Iterable[int]) -> Usage:
    """Return what was used so far by the machine, and by this process with `pids`."""
    machine = psutil.cpu_times()
    ours = 0.0
    for process in (psutil.Process(), *map(psutil.Process, pids)):
        times = process.cpu_times()
        ours += times.user + times.system
    everybody = machine.user + machine.system
    if sys.platform != "win32":
        everybody += machine.nice
    return Usage(time.monotonic(), everybody, ours)


def cores_used_by_others(start: Usage, end: Usage) -> float:
    """Cores that others kept busy on average. Coarse: the kernel counts much of it in ticks of 1 to 10 ms."""
    others = (end.everybody - start.everybody) - (end.ours - start.ours)
    return max(0.0, others / (end.clock - start.clock))
