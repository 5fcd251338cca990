"""A FastAPI application whose dependency awaits something before the body is read, as one that looks up a token does.

The body is raw bytes, so it is read from the Request, by the function that needs it. (FastAPI reads a body that is
declared as a parameter before it calls any dependency.)
"""

from __future__ import annotations

import asyncio

from fastapi import Depends, FastAPI, Request

from bench.servers.applications.handled import handle_awaiting

LOOK_UP = 0.002  # seconds


async def verify_token() -> None:
    """Take the time that a look-up takes."""
    await asyncio.sleep(LOOK_UP)


application = FastAPI(dependencies=[Depends(verify_token)])


@application.post("/{anything:path}")
async def readings(request: Request) -> str:
    """Answer one post."""
    await handle_awaiting(await request.body())
    return "ok"
