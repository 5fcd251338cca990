"""What `python -m bench delivery` found out: plain values, which the report, the heat map and the JSON file read."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """One row of the matrix: a server, by one transport."""

    server: str
    transport: str  # plain, TLS 1.2 or TLS 1.3; with its round trip, if there is one
    group: str
    title: str
    version: str = ""
    note: str = ""  # why nothing was measured there

    @property
    def name(self) -> str:
        """As the report calls it."""
        return f"{self.server}, {self.transport}"


class Cell(NamedTuple):
    """One contender's posts to one place."""

    server: str
    transport: str
    contender: str
    sent: int = 0  # posts that raised nothing
    delivered: int = 0  # of these: the handler had the whole body, hash equal, and ran to its end
    truncated: int = 0  # handlers that ran to their end with a body that nobody sent
    twice: int = 0  # bodies that were handled more than once
    promised: int = 0  # posts of which the contender said that they had arrived
    broken_promises: int = 0  # of these, not delivered; at least
    errors: dict[str, int] = {}  # noqa: RUF012 - an immutable default in effect: nobody adds to a Cell's dict
    parts: dict[str, tuple[int, int]] = {}  # noqa: RUF012 - as above; "100 B, at once": (delivered, sent)
    reason: str = ""  # the server's own line about a request that was lost
    note: str = ""  # why nothing was measured, or what went wrong
    ns: list[int] = []  # noqa: RUF012 - as above; how long each post held its caller, in the order of sending

    @property
    def made(self) -> int:
        """Posts that were tried."""
        return self.sent + sum(self.errors.values())

    @property
    def whole(self) -> bool:
        """Whether every post was tried and arrived, once."""
        return bool(self.made) and self.delivered == self.made and not (self.truncated or self.twice)


class Matrix(NamedTuple):
    """Everything."""

    metadata: dict[str, str]
    places: list[Place]
    contenders: list[str]
    cells: list[Cell]
    missing: dict[str, str]  # contenders that were not measured: why
