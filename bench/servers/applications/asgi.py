"""An ASGI application; it reads the body as uvicorn's documentation shows.

There the message http.disconnect, which has no body, ends the body like its last part: what came before is taken for
the whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, TypedDict

from bench.servers.applications.handled import handle_awaiting


class Received(TypedDict, total=False):
    """A message from the server."""

    type: str
    body: bytes
    more_body: bool


Receive: TypeAlias = Callable[[], Awaitable[Received]]
Send: TypeAlias = Callable[[dict[str, object]], Awaitable[None]]


async def read_body(receive: Receive) -> bytes:
    """Return the body, from all the messages that carry it."""
    body = bytearray()
    more_body = True
    while more_body:
        message = await receive()
        body += message.get("body", b"")
        more_body = message.get("more_body", False)
    return bytes(body)


async def application(scope: Mapping[str, object], receive: Receive, send: Send) -> None:
    """Answer one request."""
    # Good practice, says the same page: so a server learns that there is nothing to start or stop (scope "lifespan").
    assert scope["type"] == "http"
    await handle_awaiting(await read_body(receive))
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})
