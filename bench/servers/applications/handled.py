"""What every Python application does with a body: see the rule in base.py."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time

LATE = float(os.environ["LATE"])
# Opened before the first request: that is no part of a handler's work. One write() in append mode is one line, whatever
# other processes and threads write.
HANDLED = os.open(os.environ["HANDLED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
NUMBER_BYTES = 10
NO_NUMBER = -1


def handle(body: bytes) -> None:
    """Work on a body in this thread, and tell that the handler has run to its end."""
    if seconds := _work(body):
        time.sleep(seconds)
    _tell(body)


async def handle_awaiting(body: bytes) -> None:
    """As `handle`, in an event loop; a body with an even number does not wait for its next turn."""
    if seconds := _work(body):
        await asyncio.sleep(seconds)
    _tell(body)


def _number(body: bytes) -> int:
    """Return the number of the post; NO_NUMBER when the body was cut within it."""
    digits = body[:NUMBER_BYTES]
    return int(digits) if len(digits) == NUMBER_BYTES and digits.isdigit() else NO_NUMBER


def _work(body: bytes) -> float:
    """Return how many seconds are to be worked on this body."""
    number = _number(body)
    return LATE if number != NO_NUMBER and number % 2 else 0.0


def _tell(body: bytes) -> None:
    line = f"{_number(body)} {len(body)} {hashlib.sha256(body).hexdigest()}\n"
    os.write(HANDLED, line.encode())
