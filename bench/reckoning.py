"""What became of a cell's posts: what handlers left, compared with what was sent; and why some are missing."""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from .formats import content
from .matrix import Cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from .contenders import Contender
    from .places import Spot
    from .poster import Planned, Posted
    from .servers.base import Running

# Seconds of nothing new until that is taken for all there will be, several times what the slowest handler works; and
# that a server may take for all.
QUIET, SETTLING = 0.5, 30.0
# Seconds that all get which arrived once, to arrive twice.
AGAIN = 0.15
POLL = 0.02
# Of a server's own line.
LINE_LENGTH = 600
# What servers say of connections that end too early.
BROKEN = re.compile(r"(?i)handshake|ssl|tls.*(error|eof)|disconnect|connection closed|reset by peer|canceled")
AT_ONCE, LATE = "at once", "late"
UNITS = ((1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


class Handled(NamedTuple):
    """What one handler had when it ran to its end."""

    length: int
    digest: str


class Sent(NamedTuple):
    """A cell whose posts are still to be looked for."""

    contender: Contender
    path: str  # request target; in the server's log
    planned: list[Planned]
    posted: Posted
    cut: int = 0  # handlers that ran meanwhile with less of a body than its number


class Arrivals:
    """What has arrived at one server so far: its handlers' lines, or what a collector says that it has."""

    def __init__(self, file: Path, running: Running) -> None:
        self.running = running
        self._file = file

    def handled(self) -> dict[int, list[Handled]]:
        """Return what handlers had, by the post's number; -1: less of a body than its number."""
        found: dict[int, list[Handled]] = defaultdict(list)
        for line in self._file.read_text(encoding="ascii").splitlines():
            number, length, digest = line.split()
            found[int(number)].append(Handled(int(length), digest))
        return found

    def counts(self) -> dict[int, int]:
        """Return how often each number has arrived."""
        if self.running.arrived:
            return self.running.arrived()
        return {number: len(times) for number, times in self.handled().items()}

    def right(self, post: Planned, form: str) -> bool:
        """Whether an ordinary post has arrived as it was sent, once."""
        if self.running.arrived:
            return self.counts().get(post.number) == 1
        body = content(post.number, post.size, form)
        return self.handled()[post.number] == [Handled(len(body), hashlib.sha256(body).hexdigest())]

    def settle(self, numbers: AbstractSet[int], quiet: float = QUIET, again: float = AGAIN) -> None:
        """Wait until nothing new has arrived for a while: for a shorter one, once all have."""
        limit = time.monotonic() + SETTLING
        changed, before = time.monotonic(), -1
        while time.monotonic() < min(limit, changed + quiet):
            counts = self.counts()
            if numbers <= counts.keys():
                quiet = min(quiet, again)
            if (now := sum(counts.values())) != before:
                changed, before = time.monotonic(), now
            time.sleep(POLL)

    def cut(self) -> int:
        """Return how many handlers have run with less of a body than its number."""
        return 0 if self.running.arrived else len(self.handled()[-1])

    def of(self, sent: Sent, form: str) -> dict[int, list[Handled]]:
        """Return what has arrived of a cell; a collector has a post, or it does not."""
        if not self.running.arrived:
            handled = self.handled()
            return {post.number: handled[post.number] for post in sent.planned if post.number in handled}
        counts = self.running.arrived()
        return {
            post.number: [expected(sent.contender, post, form)] * counts.get(post.number, 0) for post in sent.planned
        }


def expected(contender: Contender, post: Planned, form: str) -> Handled:
    """Return what the handler is to have."""
    body = contender.sized(post.number, post.size) if form == "sized" else content(post.number, post.size, form)
    return Handled(len(body), hashlib.sha256(body).hexdigest())


def part_of(post: Planned, form: str) -> str:
    """Name the size, and how the handler works; collectors work as they do."""
    size, unit = next((post.size // size, unit) for size, unit in UNITS if post.size >= size)
    return f"{size} {unit}" + (f", {LATE if post.number % 2 else AT_ONCE}" if form == "sized" else "")


def cell_of(spot: Spot, sent: Sent, handled: Mapping[int, Sequence[Handled]], log: Sequence[str]) -> Cell:
    """Compare what was sent with what was handled."""
    errors = sent.posted["errors"]
    good, truncated, twice = set[int](), sent.cut, 0
    parts: dict[str, list[int]] = {}
    for index, post in enumerate(sent.planned[: len(sent.posted["ns"])]):
        wanted = expected(sent.contender, post, spot.server.form) if handled.get(post.number) else None
        had = handled.get(post.number, ())
        whole = sum(each == wanted for each in had)
        truncated += len(had) - whole
        twice += whole > 1
        if str(index) in errors:
            continue
        if whole:
            good.add(post.number)
        part = parts.setdefault(part_of(post, spot.server.form), [0, 0])
        part[0] += bool(whole)
        part[1] += 1
    made = len(sent.posted["ns"]) - len(errors)
    answered = sent.posted["answered"]
    return Cell(
        server=spot.server.name,
        transport=spot.transport.name,
        contender=sent.contender.name,
        sent=made,
        delivered=len(good),
        truncated=truncated,
        twice=twice,
        promised=answered,
        broken_promises=max(0, answered - len(good)),
        errors=dict(Counter(errors.values())),
        parts={name: (delivered, tried) for name, (delivered, tried) in sorted(parts.items())},
        reason=reason(sent, log, shared=bool(spot.server.path)) if len(good) < made or truncated else "",
        note=sent.posted["note"],
        ns=sent.posted["ns"],
    )


class Log:
    """What a server has written since it was found to be in order."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._began = {path: path.stat().st_size if path.exists() else 0 for path in paths}

    def lines(self) -> list[str]:
        """Return them, file by file."""
        return [
            line
            for path, began in self._began.items()
            if path.exists()
            for line in path.read_bytes()[began:].decode(errors="replace").splitlines()
        ]


def reason(sent: Sent, log: Sequence[str], *, shared: bool = False) -> str:
    """Return the server's own words about a request that was lost: the line least like those of a good one.

    What failed before its request was read has no line with its request target, and a request target that all share
    tells nothing: then a line about a broken connection is quoted, and said to be about any.
    """
    mine = [] if shared else [line for line in log if names(line, sent.path)]
    bad = [line for line in mine if " 200 " not in line and '"status":200' not in line]
    if bad:
        return quoted(bad[0])
    said = (
        "its log names no request" if shared else f"its log has {len(mine)} lines for {len(sent.posted['ns'])} requests"
    )
    broken = next((line for line in log if BROKEN.search(line)), "")
    none = f"{said}, none of which tells of a loss" if mine else said
    return f"{none}; of some request: {quoted(broken)}" if broken else none


def quoted(line: str) -> str:
    """Return a line's beginning, without where things are on this machine."""
    for prefix in (sys.prefix, sys.base_prefix, tempfile.gettempdir()):
        line = line.replace(prefix, "…")
    return line.strip()[:LINE_LENGTH]


def names(line: str, path: str) -> bool:
    """Whether a line is about this request target, and not about one that begins like it."""
    _, found, rest = line.partition(path)
    return bool(found) and not rest[:1].isdigit()
