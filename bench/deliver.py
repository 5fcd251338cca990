"""Carries out `python -m bench delivery`."""

from __future__ import annotations

import os
import random
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rich.console import Console

from . import delivery, deliveryreport, export, heatmap, metadata
from .matrix import Matrix
from .outcome import outcome
from .places import FAR, NEAR, chosen, deliverers
from .progress import bar
from .results import FAILED, MISSED, OK
from .servers.catalogue import SERVERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .contenders import Contender
    from .matrix import Place
    from .options import DeliveryOptions
    from .places import Spot

# A few posts of each kind: CI looks whether all of it works.
SUBSET_SIZES = tuple(size._replace(posts=2) for size in delivery.SIZES)
# Who is to lose nothing, anywhere.
TO_ARRIVE = ("rawfnf answered", "Sender, thread", "Sender, no spares", "aio.Sender")


def deliver(options: DeliveryOptions) -> int:
    """Measure the matrix, or what was chosen of it; returns the exit status."""
    if options.listing:
        return show_list()
    try:
        spots = chosen(options.servers, options.transports, subset=options.extent.subset)
        contenders = deliverers(options.contenders, subset=options.extent.subset)
    except ValueError as error:
        print(error, file=sys.stderr)
        return FAILED
    if not spots or all(contender.lacks for contender in contenders):
        print(
            "nothing to measure: no server takes what was chosen, or no contender is installed (--list)",
            file=sys.stderr,
        )
        return FAILED
    found = measure(options, spots, contenders)
    path = options.json or export.new_file("delivery")
    export.write(found, path)
    picture = options.plot or path.with_suffix(".svg")
    heatmap.draw(found, picture)
    console = Console()
    deliveryreport.show(found, console)
    console.print(
        *outcome(None, found), f"All of it is in {path}, the heat map in {picture}.", sep="\n", highlight=False
    )
    return verdict(found)


def show_list() -> int:
    """Name what there is."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print("servers")
    for server in SERVERS:
        console.print(f"  {server.name:28} {f'missing: {server.lacks}' if server.lacks else server.title}")
    console.print("transports: " + "; ".join(transport.name for transport in (*NEAR, *FAR)))
    console.print("contenders")
    for contender in deliverers([], subset=False):
        console.print(f"  {contender.name:28} {contender.code:18} {contender.lacks or contender.says}")
    return OK


def measure(options: DeliveryOptions, spots: Sequence[Spot], contenders: Sequence[Contender]) -> Matrix:
    """Return the matrix."""
    sizes = SUBSET_SIZES if options.extent.subset else delivery.SIZES
    sizes = tuple(size._replace(posts=size.posts * options.times) for size in sizes)
    there = [contender for contender in contenders if not contender.lacks]
    with ExitStack() as stack:
        campaign = delivery.open_campaign(there, sizes, random.Random(options.seed), stack)  # noqa: S311 - no secret
        progress = stack.enter_context(bar(len(spots)))
        places, cells = delivery.measure(
            campaign, spots, lambda spot: progress.phase(f"{spot.server.name}, {spot.transport.name}", 1)
        )
    return Matrix(
        metadata=metadata.collect(options.seed),
        places=places,
        contenders=[contender.name for contender in there],
        cells=cells,
        missing={contender.name: contender.lacks for contender in contenders if contender.lacks},
    )


def verdict(found: Matrix) -> int:
    """Return the exit status: whether all that was to be measured was, and what was to arrive did."""
    troubles = [f"{place.name}: {place.note}" for place in found.places if is_trouble(place)]
    troubles += [
        f"{cell.contender} at {cell.server}, {cell.transport}: {cell.note}" for cell in found.cells if cell.note
    ]
    troubles += broken_promises(found)
    if "CI" in os.environ:
        troubles += [f"{name}: {why}" for name, why in found.missing.items()]
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    if troubles:
        return FAILED
    return OK if all(cell.whole for cell in found.cells if cell.contender in TO_ARRIVE) else MISSED


def is_trouble(place: Place) -> bool:
    """Whether it should have been measured, and was not: in CI no server may be missing."""
    return bool(place.note) and (place.note.startswith("failed") or "CI" in os.environ)


def broken_promises(found: Matrix) -> list[str]:
    """Say who was answered, and lost something."""
    return [
        f"{cell.contender} at {cell.server}, {cell.transport}: {cell.broken_promises} of {cell.promised} posts that "
        "were answered were not handled to the end"
        for cell in found.cells
        if cell.broken_promises
    ]
