"""Gunicorn's configuration over TLS: its hook for the version that the variable TLS_VERSION names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.servers.applications.tls import restrict

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


def ssl_context(_configuration: object, default_ssl_context_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return Gunicorn's own context, restricted."""
    return restrict(default_ssl_context_factory(), os.environ["TLS_VERSION"])
