"""Where the programs of the servers are, and what they call themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

from bench.processes import PATIENCE
from bench.servers.base import ELSEWHERE, find

NUMBER = re.compile(r"\d+(?:\.\d+)+")


def from_wheel(program: str) -> str:
    """Return the path of a program that a wheel put beside this Python; its bare name, to be looked for, if none did.

    A virtual environment need not be activated, so PATH may not lead there.
    """
    return shutil.which(program, path=sysconfig.get_path("scripts")) or program


def newest(program: str) -> str:
    """Return the path of the newest PROGRAM, which has its version in its name; its bare name when there is none."""
    folders = [*os.get_exec_path(), *ELSEWHERE]
    found = [path for folder in folders for path in Path(folder).glob(f"{program}[0-9]*") if os.access(path, os.X_OK)]
    return str(max(found, key=lambda path: numbers(path.name))) if found else program


def numbers(text: str) -> list[int]:
    """Return the numbers in a text."""
    return [int(digits) for digits in re.findall(r"\d+", text)]


def versions(**commands: tuple[str, ...]) -> str:
    """Return "NAME VERSION, ...", asked of each program by its own command line; of those that are there."""
    told = {name: version(*command) for name, command in commands.items()}
    return ", ".join(f"{name} {number}" for name, number in told.items() if number)


def version(program: str, *arguments: str) -> str:
    """Return the first number with a dot that the program writes; empty when there is no such program."""
    path = find(program)
    if path is None:
        return ""
    command = [path, *arguments]
    said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603 - ours
    found = NUMBER.search(said.stdout + said.stderr)
    return found[0] if found else ""
