"""How numbers are shown: short, with a unit, and never more digits than they have."""

from __future__ import annotations

import math

NOTHING = "-"
SMALLEST, LARGEST = 0.01, 9999
# Percent from which on a loss would vanish without a decimal.
ALMOST_ALL = 99
UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"))


def unit_of(ns: float) -> tuple[float, str]:
    """Return the unit to show a time in, and its size in nanoseconds."""
    return next((known for known in UNITS if ns >= known[0]), UNITS[-1])


def three_digits(value: float) -> str:
    """Return a number, not negative, with three digits, at most two of them decimals."""
    if not value:
        return "0"
    rounded = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(rounded))
    return f"{rounded:.{max(0, min(2, decimals))}f}" if rounded >= SMALLEST else f"<{SMALLEST}"


def show_time(ns: float | None) -> str:
    """Return a time with its unit."""
    if ns is None:
        return NOTHING
    size, unit = unit_of(ns)
    return three_digits(ns / size) + unit


def show_ratio(value: float | None) -> str:
    """Return a ratio, in five characters at most."""
    return NOTHING if value is None else three_digits(value) if value <= LARGEST else f">{LARGEST}"


def show_left(count: int | None) -> str:
    """Return a signed count; plain 0 is the good case."""
    return NOTHING if count is None else f"{count:+d}" if count else "0"


def show_memory(kib: int | None) -> str:
    """Return what was added to a process's memory, in MiB."""
    if kib is None:
        return NOTHING
    mib = round(kib / 1024, 1)
    return f"{mib:+.1f}M" if mib else "0"


def show_percent(part: int, of: int) -> str:
    """Return a share in percent: 100 only if that is all of it, 0 only if it is nothing; empty where there is none."""
    if not of:
        return ""
    percent = 100 * part / of
    if part == of or not part:
        return f"{percent:.0f}"
    if percent < 1:
        return "<1"
    return f"{int(percent)}" if percent < ALMOST_ALL else f"{math.floor(10 * percent) / 10:.1f}"


def plural(noun: str) -> str:
    """Return it for several: proxies, bodies, posts."""
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
