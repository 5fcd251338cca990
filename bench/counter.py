"""Counters in a shared file, through which the receiver tells each worker what it has dealt with.

A slow receiver must never become a full listen backlog: the SYN retransmissions would be measured as the contender's.
So a worker waits, outside the timed part, until its last post is accounted for. Shared memory is used because a reply
over a pipe would cost system calls and a wake-up on both sides of every post.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

# Each contender of each repetition of each scenario has one; `python -m bench caller` has some 2,500 of them.
SLOTS = 8192
SLOT_BYTES = 8


def create(path: Path) -> None:
    """Make the file with all counters at zero."""
    path.write_bytes(bytes(SLOTS * SLOT_BYTES))


class Counters:
    """One unsigned 64-bit counter per slot; each slot has one writer, and a native 8-byte store is not torn."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SLOTS * SLOT_BYTES)
        self._view = memoryview(self._map).cast("Q")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.release()
        self._map.close()

    def __getitem__(self, slot: int) -> int:
        return self._view[slot]

    def add_one(self, slot: int) -> None:
        """Account for one more post."""
        self._view[slot] += 1
