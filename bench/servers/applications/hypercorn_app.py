"""Hypercorn with the ASGI application, by its API: no option of its command line says which TLS it takes.

python -m bench.servers.applications.hypercorn_app ADDRESS PORT [TLS-VERSION CERTIFICATE]
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, cast

from hypercorn.asyncio import serve
from hypercorn.config import Config

from bench.servers.applications.asgi import application
from bench.servers.applications.tls import restrict

if TYPE_CHECKING:
    import ssl

    from hypercorn.typing import ASGIFramework


class OneVersion(Config):
    """Takes one version of TLS, if any."""

    tls_version = ""

    def create_ssl_context(self) -> ssl.SSLContext | None:
        """Return Hypercorn's own context, restricted."""
        context = super().create_ssl_context()
        return restrict(context, self.tls_version) if context else None


def main() -> None:
    """Serve until told to end."""
    address, port, *tls = sys.argv[1:]
    config = OneVersion()
    config.bind = [f"{address}:{port}"]
    config.accesslog = "-"
    if tls:
        config.tls_version, certificate = tls
        config.certfile = config.keyfile = certificate
    asyncio.run(serve(cast("ASGIFramework", application), config))


if __name__ == "__main__":
    main()
