"""An aiohttp application, run by its own server.

python -m bench.servers.applications.aiohttp_app ADDRESS PORT [TLS-VERSION CERTIFICATE]
"""

from __future__ import annotations

import logging
import sys

from aiohttp import web

from bench.servers.applications.handled import handle_awaiting
from bench.servers.applications.tls import from_arguments

# aiohttp's own limit is 1 MiB.
MOST_BYTES = 64 << 20


async def readings(request: web.Request) -> web.Response:
    """Answer one post."""
    await handle_awaiting(await request.read())
    return web.Response(text="ok")


def main() -> None:
    """Serve until told to end."""
    address, port, *tls = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)  # its access log is written to the log "aiohttp.access"
    application = web.Application(client_max_size=MOST_BYTES)
    application.add_routes([web.post("/{anything:.*}", readings)])
    web.run_app(application, host=address, port=int(port), ssl_context=from_arguments(tls))


if __name__ == "__main__":
    main()
