"""Compiles floor.c, the naive loop in C that every p50 is divided by, and that loop's bare send()."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from .contenders import KNOWN, request_head
from .payload import compact_json, form_encoded, payload

if TYPE_CHECKING:
    from .worker import Assignment

SOURCE = Path(__file__).with_name("floor.c")
COMPILERS = ("cc", "gcc", "clang")
# What floor.c replaces by the number of the post; as wide as the id in payload().
MARK = "#" * 10


class NoFloorError(Exception):
    """The C loop cannot be built here; the message says why."""


def compile_floor(folder: Path) -> Path:
    """Build the C loop in `folder`; raise NoFloorError when there is no compiler or it fails."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise NoFloorError(f"no C compiler found ({', '.join(COMPILERS)})")
    program = folder / "floor"
    built = subprocess.run(  # noqa: S603 - a compiler found on PATH, and our own source
        [compiler, "-O2", "-o", str(program), str(SOURCE)], capture_output=True, text=True, check=False
    )
    if built.returncode:
        raise NoFloorError(f"{Path(compiler).name} failed: {built.stderr.strip().splitlines()[-1]}")
    return program


def arguments(program: Path, assignment: Assignment) -> list[str]:
    """Return the command line that makes the C loop post the same bodies as the others."""
    content = payload(0) | {"id": MARK}
    if assignment.kind == "form":
        encoded, kind = form_encoded(content).replace(b"%23", b"#"), "application/x-www-form-urlencoded"
    else:
        encoded, kind = compact_json(content), "application/json"
    target = assignment.target
    request = request_head(target, kind, len(encoded)) + encoded
    # The C loop has no resolver; a host that cannot be resolved raises here, before anything is sent.
    address = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)[0][4][0]
    slots = [str(assignment.slot), str(assignment.asleep or 0)]
    mode = "open" if KNOWN[assignment.contender].held else "whole"
    how = [mode, str(target.burst)]
    return [str(program), str(address), str(target.port), assignment.counters, *slots, *how, request.decode()]
