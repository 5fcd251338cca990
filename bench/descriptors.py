"""How many descriptors a process may have: connections that wait for late answers need thousands."""

from __future__ import annotations

import sys


def allow_many_descriptors() -> int | None:
    """Raise the soft limit to the hard one and return it; None where there is no such limit."""
    if sys.platform == "win32":
        return None
    import resource  # exists on Unix only

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return None if hard == resource.RLIM_INFINITY else hard
