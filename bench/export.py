"""The JSON file: every sample and all metadata, so that other figures can be drawn from the same run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .results import Run


def write(run: Run, path: Path) -> None:
    """Write one JSON object; times are nanoseconds, sizes KiB."""
    found = {
        "metadata": run.metadata,
        "tables": [
            {
                "scenario": table.scenario._asdict(),
                "others": table.others,
                "rows": [row._asdict() for row in table.rows],
            }
            for table in run.tables
        ],
        "footprints": [footprint._asdict() for footprint in run.footprints],
        "goals": [goal._asdict() | {"reached": goal.reached} for goal in run.goals],
    }
    path.write_text(json.dumps(found) + "\n", encoding="utf-8")
