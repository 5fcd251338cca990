"""The JSON file: every sample and all metadata, so that other figures can be drawn from the same run."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from .matrix import Cell, Matrix, Place
from .processes import ROOT
from .results import Footprint, Goal, Row, Run, Table, Trace, Wire
from .scenarios import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

# What json.loads() returns for an object. Its values are what was written, unless somebody changed the file.
Object: TypeAlias = "dict[str, Any]"
Made = TypeVar("Made")

PACK: Mapping[str, Callable[[bytes], bytes]] = {
    ".xz": lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
    ".bz2": bz2.compress,  # a tenth smaller than xz: digits repeat nothing that a dictionary finds
    ".gz": gzip.compress,
}
UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.decompress,
    ".bz2": bz2.decompress,
    ".gz": gzip.decompress,
}
# Significant digits of a sample in an archive: as many as any table shows.
DIGITS = 3
# What an archive gives up, step by step, until it is small enough: digits of what is beside the point, and all but one
# in so many of the samples of CPU, of which no table shows more than a median.
STEPS = ((DIGITS, 1), (2, 1), (2, 3))
RESULTS = ROOT / "results"
# Lists of nanoseconds. What is beside the point: in a Row all but how long callers were held, in a Cell that as well.
HELD, REST = {"ns"}, {"cpu_ns", "cold_ns", "aside_ns", "whole_cpu_ns", "ready_ns"}
# Bytes: both archives together take no more than 1 MiB.
ROOM = {"caller": 886 << 10, "delivery": 138 << 10}


class UnreadableError(ValueError):
    """A file that holds no run: its message names the file and what to do."""


def new_file(kind: str) -> Path:
    """Return where a run that ends now is written, unless its user says where; makes the folder."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{kind}-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}.json"


def write(found: Run | Matrix, path: Path) -> None:
    """Write one JSON object; times are nanoseconds, sizes KiB. OSError as from any writing."""
    path.write_text(json.dumps(to_json(found)) + "\n", encoding="utf-8")


def archive(found: Run | Matrix, path: Path) -> None:
    """Write the same for keeping: packed as the path's suffix says, each sample rounded to the digits that are shown.

    The metadata says so, and what else was given up for the sake of size. A ratio of two rounded figures can differ
    from the first one in its last digit.
    """
    for digits, one_in in STEPS:
        kept = to_json(found)
        packed = PACK[path.suffix](json.dumps(coarser(kept, digits, one_in), separators=(",", ":")).encode())
        if len(packed) <= ROOM[kept["kind"]]:
            break
    path.write_bytes(packed)


def coarser(found: Object, digits: int, one_in: int) -> Object:
    """Round all samples in place: how long a caller was held to DIGITS, where that is the point, others to `digits`."""
    exact = HELD if found["kind"] == "caller" else set()
    said = [f"ns rounded to {DIGITS} significant digits"] * bool(exact) + [f"other times rounded to {digits}"]
    found["metadata"]["samples"] = "; ".join(said + [f"one in {one_in} of cpu_ns kept"] * (one_in > 1))
    for row in rows_of(found):
        for name in (HELD | REST) & row.keys():
            every = one_in if name == "cpu_ns" else 1
            row[name] = [rounded(ns, DIGITS if name in exact else digits) for ns in row[name][::every]]
    return found


def rows_of(found: Object) -> list[Object]:
    """Return the objects with samples."""
    return found["cells"] if "cells" in found else [row for table in found["tables"] for row in table["rows"]]


def rounded(ns: int, digits: int) -> int:
    """Return it with so many significant digits."""
    return int(float(f"{ns:.{digits}g}"))


def to_json(found: Run | Matrix) -> Object:
    """Return what json.dumps() can write."""
    if isinstance(found, Matrix):
        plain = as_objects(found, "places", "cells") | {"metadata": dict(found.metadata)}
        return {"kind": "delivery"} | found._asdict() | plain
    tables = [
        table._asdict() | {"scenario": table.scenario._asdict(), "rows": [row._asdict() for row in table.rows]}
        for table in found.tables
    ]
    goals = [goal._asdict() | {"reached": goal.reached} for goal in found.goals]
    plain = as_objects(found, "footprints", "wires", "traces") | {"metadata": dict(found.metadata)}
    return {"kind": "caller"} | found._asdict() | plain | {"tables": tables, "goals": goals}


def as_objects(found: Run | Matrix, *names: str) -> Object:
    """Return these fields, lists of named tuples, as lists of objects."""
    return {name: [each._asdict() for each in getattr(found, name)] for name in names}


def read(path: Path) -> Run | Matrix:
    """Return what was written there, plain or packed; UnreadableError, and OSError if the file cannot be opened."""
    try:
        content = path.read_bytes()
        found = json.loads(UNPACK.get(path.suffix, bytes)(content))
        return READERS[found["kind"]](found)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        message = (
            f"{path} is not a whole result of `python -m bench caller` or `delivery` ({describe(error)}): "
            "name a file that one of them wrote, or run it again"
        )
        raise UnreadableError(message) from error


def describe(error: Exception) -> str:
    """Return what is wrong, in few words."""
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def known(make: Callable[..., Made], fields: Collection[str], found: Object) -> Made:
    """Make one of an object. Fields that are not known here are left out: the file may be of another version."""
    return make(**{name: value for name, value in found.items() if name in fields})


def read_run(found: Object) -> Run:
    """Return what `caller` wrote."""
    lists: Object = {
        "metadata": dict(found["metadata"]),
        "tables": [read_table(table) for table in found["tables"]],
        "footprints": [known(Footprint, Footprint._fields, each) for each in found["footprints"]],
        "goals": [known(Goal, Goal._fields, each) for each in found["goals"]],
        "wires": [known(Wire, Wire._fields, each) for each in found.get("wires", [])],
        "traces": [known(Trace, Trace._fields, each) for each in found.get("traces", [])],
    }
    return known(Run, Run._fields, found | lists)


def read_table(found: Object) -> Table:
    """Return one scenario's rows."""
    rows = [read_row(row) for row in found["rows"]]
    return known(
        Table, Table._fields, found | {"scenario": known(Scenario, Scenario._fields, found["scenario"]), "rows": rows}
    )


def read_row(found: Object) -> Row:
    """Return one contender's samples; ValueError or TypeError where these are none, or not of the same posts."""
    row = known(Row, Row._fields, found | {name: dict(found.get(name, {})) for name in ("claims", "errors")})
    for name in sorted(HELD | REST | {"rounds"}):
        if not all(isinstance(each, int) for each in getattr(row, name)):
            raise ValueError(f"{row.contender}: {name} are not all whole numbers")
    if len(row.rounds) != len(row.ns):
        raise ValueError(f"{row.contender}: {len(row.rounds)} rounds of {len(row.ns)} posts")
    # An archive may have kept a part of them.
    if len(row.cpu_ns) > len(row.ns) or (row.ns and not row.cpu_ns):
        raise ValueError(f"{row.contender}: {len(row.cpu_ns)} times of CPU of {len(row.ns)} posts")
    return row


def read_matrix(found: Object) -> Matrix:
    """Return what `delivery` wrote."""
    if not (found["places"] and found["contenders"]):
        raise ValueError("no place, or no contender")
    lists: Object = {
        "metadata": dict(found["metadata"]),
        "places": [known(Place, Place._fields, place) for place in found["places"]],
        "cells": [read_cell(cell) for cell in found["cells"]],
    }
    return known(Matrix, Matrix._fields, found | lists)


def read_cell(found: Object) -> Cell:
    """Return one contender's posts to one place; JSON knows no pairs."""
    parts = {name: (delivered, sent) for name, (delivered, sent) in found.get("parts", {}).items()}
    return known(Cell, Cell._fields, found | {"parts": parts})


READERS: Mapping[str, Callable[[Object], Run | Matrix]] = {"caller": read_run, "delivery": read_matrix}
