"""A Tornado application, run by its own server.

python -m bench.servers.applications.tornado_app ADDRESS PORT [TLS-VERSION CERTIFICATE]
"""

from __future__ import annotations

import asyncio
import logging
import sys

from tornado.web import Application, RequestHandler

from bench.servers.applications.handled import handle_awaiting
from bench.servers.applications.tls import from_arguments


class Readings(RequestHandler):
    """Takes POST."""

    async def post(self) -> None:
        """Answer one post; Tornado has read its body before."""
        await handle_awaiting(self.request.body)
        self.write("ok")


async def main() -> None:
    """Serve until killed."""
    address, port, *tls = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)  # its access log is written to the log "tornado.access"
    application = Application([(r"/.*", Readings)])
    application.listen(int(port), address, ssl_options=from_arguments(tls))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
