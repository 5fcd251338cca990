"""What all pictures have in common: families' colours, letters that stay letters, small files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from .contenders import KNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.figure import Figure

    from .contenders import Family

DPI = 110
# Colours of a PNG: as many as a picture of few colours needs for smooth letters, and a third of the bytes.
PALETTE = 200
INK, GREY, VOID = "#222222", "#8a949c", "#b8b8b8"
# By lightness as well as by hue: told apart by those who do not see red or green (Okabe and Ito's, some darker).
COLOURS: Mapping[Family, str] = {
    "rawfnf": "#0072b2",
    "requests": "#d55e00",
    "http client": "#b88600",
    "socket": "#5b6470",
    "queue": "#a0508a",
}


def family(contender: str) -> Family:
    """Return what a contender is made with; one that this version does not know stands with the clients."""
    known = KNOWN.get(contender)
    return known.family if known else "http client"


def colour(contender: str) -> str:
    """Return its family's colour."""
    return COLOURS[family(contender)]


def by_family(contenders: list[str]) -> list[str]:
    """Return them family by family, in their own order otherwise."""
    families = list(COLOURS)
    return sorted(contenders, key=lambda name: families.index(family(name)))


def facts(metadata: Mapping[str, str]) -> str:
    """Return what a picture was made with, in one line."""
    versions = [f"{name} {metadata[name]}" for name in ("rawfnf", "requests") if name in metadata]
    found = [metadata.get("Python", ""), metadata.get("system", ""), *versions, metadata.get("date", "")[:10]]
    return " · ".join(filter(None, found))


def save(figure: Figure, path: Path) -> None:
    """Write it as SVG or PNG, by the extension."""
    if path.suffix.lower() != ".png":
        import matplotlib as mpl

        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):  # text stays text
            figure.savefig(path, metadata={"Date": None})
        return
    from PIL import Image  # matplotlib needs it as well

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(PALETTE, method=Image.Quantize.MAXCOVERAGE).save(
            path, optimize=True, dpi=(DPI, DPI)
        )
