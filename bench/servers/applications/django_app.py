"""A Django application, in one file, whose middleware awaits something, as one that looks up a token does.

Django's ASGI handler has read the body before it calls any middleware; from then on it listens for http.disconnect, and
cancels the view, with its middleware, when that comes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from asgiref.sync import markcoroutinefunction
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import re_path

from bench.servers.applications.handled import handle_awaiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LOOK_UP = 0.002  # seconds


class TokenMiddleware:
    """Takes the time that a look-up takes."""

    async_capable = True
    sync_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> None:
        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(LOOK_UP)
        return await self.get_response(request)


async def readings(request: HttpRequest) -> HttpResponse:
    """Answer one post."""
    await handle_awaiting(request.body)
    return HttpResponse("ok")


urlpatterns = [re_path("", readings)]
settings.configure(
    ALLOWED_HOSTS=["*"],
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    MIDDLEWARE=[f"{__name__}.{TokenMiddleware.__name__}"],
    ROOT_URLCONF=__name__,
)
application = get_asgi_application()
