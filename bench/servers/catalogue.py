"""All servers of the delivery matrix, in its order."""

from __future__ import annotations

from bench.servers.collectors import COLLECTORS
from bench.servers.native import NATIVE
from bench.servers.proxies import PROXIES
from bench.servers.python import PYTHON

__all__ = ["SERVERS"]

SERVERS = (*PYTHON, *NATIVE, *PROXIES, *COLLECTORS)
