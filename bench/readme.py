"""The README's tables, made from a run's file: pasted by a command, never typed.

Each block stands between two marker lines, `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .columns import caveats, leaders
from .contenders import KNOWN
from .figures import NOTHING, plural, show_percent, show_time
from .matrix import Matrix
from .outcome import outcome
from .overview import TELLING
from .pictures import by_family
from .report import disturbed
from .stats import percentile
from .tally import by_place, of_group, tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .matrix import Cell
    from .results import Row, Run, Table
    from .tally import Tally

# Heads of the columns: scenarios by their names, as short as a README wants them.
HEADS: Mapping[str, str] = {
    "at-once": "loopback",
    "after-200ms": "answered after 200 ms",
    "tls1.3": "TLS 1.3",
    "far-tls1.3": "TLS 1.3 at 20 ms",
    "1MiB": "1 MiB",
    "queues": "loopback",
}
QUEUES = "queues"
CALLER, DELIVERY, CLOSINGS = "caller", "delivery", "closings"
# Of rawfnf.post, by contender.
CLOSING: Mapping[str, str] = {"rawfnf now": '`"now"`', "rawfnf acked": '`"acked"`', "rawfnf answered": '`"answered"`'}


class NoMarkersError(ValueError):
    """A README that has no place for a block: the message says which lines to add."""


def name_of(found: Run | Matrix) -> str:
    """Return the name of a run's block."""
    return DELIVERY if isinstance(found, Matrix) else CALLER


def blocks(found: Run | Matrix, picture: str) -> dict[str, str]:
    """Return what stands between which markers; `picture` is the picture's path, seen from the README."""
    if isinstance(found, Matrix):
        return {DELIVERY: delivery_block(found, picture), CLOSINGS: closings_block(found)}
    return {CALLER: caller_block(found, picture)}


def marked(name: str, text: str) -> str:
    """Return a block with its markers."""
    return f"<!-- bench:{name} -->\n{text}\n<!-- /bench:{name} -->"


def replaced(readme: str, name: str, text: str) -> str:
    """Return the README with this block in place of the old one; NoMarkersError where there is none."""
    before, begin, rest = readme.partition(f"<!-- bench:{name} -->")
    _, end, after = rest.partition(f"<!-- /bench:{name} -->")
    if not (begin and end):
        lines = f"<!-- bench:{name} --> and <!-- /bench:{name} -->"
        raise NoMarkersError(f"there are no lines {lines}: put both where the block is to be")
    return before + marked(name, text) + after


def caller_block(run: Run, picture: str) -> str:
    """Return what posts cost their caller in the most telling scenarios."""
    telling = [table for name in TELLING for table in run.tables if table.scenario.name == name]
    queues = [table for table in run.tables if table.scenario.name == QUEUES]
    parts = [f"![How long one POST holds its caller, by contender]({picture})", caller_table(telling or run.tables)]
    if telling and queues:
        parts.append(f"Message queues, for comparison; the broker is not the endpoint:\n\n{caller_table(queues)}")
    note = (
        "p50 / p99 of how long the caller is held; -: too few posts for it, or not measured there. **Bold**: the "
        "lowest p50 of those that lost nothing, the C programs aside, and whatever this run cannot tell from it. ✗: "
        "void, something was lost or raised, or went wrong; beside it how much arrived."
    )
    noisy = [table.scenario.name for table in (*telling, *queues) if disturbed(table)]
    warning = [f"The machine was disturbed in {', '.join(noisy)}: these figures do not count."] if noisy else []
    said = "\n".join(f"- {line}" for line in outcome(run, None))
    beside = " ".join([note, *caveats([*(telling or run.tables), *queues]), made_with(run.metadata)])
    return "\n\n".join([*parts, *warning, beside, said])


def caller_table(tables: Sequence[Table]) -> str:
    """Return a row for each contender, a column for each scenario."""
    names = by_family(list(dict.fromkeys(row.contender for table in tables for row in table.rows if row.ns)))
    heads = ["contender", *(HEADS.get(table.scenario.name, table.scenario.name) for table in tables), "delivered"]
    best = [leaders(table.rows) for table in tables]
    lines = []
    for name in names:
        rows = [next((row for row in table.rows if row.contender == name), None) for table in tables]
        held = [show_held(row, best=name in leading) for row, leading in zip(rows, best, strict=True)]
        lines.append([linked(name), *held, arrived(row for row in rows if row is not None)])
    return markdown(heads, lines)


def show_held(row: Row | None, *, best: bool) -> str:
    """Return p50 / p99 of one cell."""
    if row is None or not row.ns:
        return NOTHING
    p50, p99 = (show_time(percentile(row.ns, percent)) for percent in (50, 99))
    if row.marked:
        share = "" if row.delivered is None else f"{show_percent(row.delivered, row.made)} %"
        return f"✗ {share} {p50}".replace("  ", " ")
    return f"**{p50}** / {p99}" if best else f"{p50} / {p99}"


def arrived(rows: Iterable[Row]) -> str:
    """Return what arrived in all of these scenarios together."""
    counted = [row for row in rows if row.ns and row.delivered is not None]
    delivered, made = sum(row.delivered or 0 for row in counted), sum(row.made for row in counted)
    return f"{delivered}/{made}{'' if delivered == made else ' ✗'}" if counted else "unknown"


def delivery_block(matrix: Matrix, picture: str) -> str:
    """Return in how many places everything arrived, group by group, and the heat map."""
    groups = list(dict.fromkeys(place.group for place in matrix.places))
    lines = []
    for name in by_family(matrix.contenders):
        sums = tally(cell for cell in matrix.cells if cell.contender == name)
        silent = sums.made - sums.delivered - sums.raised
        share = f"{show_percent(sums.delivered, sums.made) or NOTHING} %"
        counts = [places(of) for of in (tally(of_group(matrix, name, group)) for group in groups)]
        lines.append([linked(name), *counts, places(sums), share, str(silent), str(sums.truncated)])
    heads = [
        "contender",
        *map(plural, groups),
        "all places",
        "of all posts",
        "lost, and the call did not say so",
        "truncated",
    ]
    note = (
        "In how many places, each a server by one transport, every post arrived; **bold**: in all of them. Arrived: "
        "the application had the whole body, its hash was right, and its handler ran to its end. Truncated: a handler "
        "ran to its end with a part of a body."
    )
    image = f"![What arrives, by server and contender]({picture})"
    said = "\n".join(f"- {line}" for line in outcome(None, matrix))
    return "\n\n".join([image, markdown(heads, lines), f"{note} {made_with(matrix.metadata)}", said])


def closings_block(matrix: Matrix) -> str:
    """Return which closing loses what, server by server; those that lost nothing by any closing are named below."""
    cells = by_place(matrix)
    closings = [name for name in CLOSING if name in matrix.contenders]
    lines, robust = [], []
    for server in dict.fromkeys(place.server for place in matrix.places):
        transports = [place.transport for place in matrix.places if place.server == server]
        found = {
            (transport, name): cell
            for transport in transports
            for name in closings
            if (cell := cells.get((server, transport, name))) and cell.made
        }
        if found and all(cell.whole for cell in found.values()):
            robust.append(f"{server} ({', '.join(dict.fromkeys(transport for transport, _ in found))})")
        elif found:
            lines.append([server, *(closing_shares(found, transports, name) for name in closings)])
    heads = ["server", *(CLOSING[name] for name in closings)]
    table = markdown(heads, lines)
    return (
        f"{table}\n\nPercent of the posts that arrived whole and were handled to the end, by transport; "
        "†: some were handled cut short. "
        f"Nothing was lost by any closing at: {'; '.join(robust) or 'none'}. {made_with(matrix.metadata)}"
    )


def closing_shares(found: Mapping[tuple[str, str], Cell], transports: Sequence[str], name: str) -> str:
    """Return what arrived by one closing: 100, or the percentage by each transport, † for handled in part."""
    shares = {
        transport: f"{show_percent(cell.delivered, cell.made)}{'†' if cell.truncated else ''}"
        for transport in transports
        if (cell := found.get((transport, name)))
    }
    alike = set(shares.values())
    return alike.pop() if len(alike) == 1 else "; ".join(f"{transport} {share}" for transport, share in shares.items())


def places(sums: Tally) -> str:
    """Return in how many places everything arrived."""
    text = f"{sums.whole}/{sums.places}"
    return NOTHING if not sums.places else f"**{text}**" if sums.whole == sums.places else text


def linked(contender: str) -> str:
    """Return a contender's name, with a link to its code."""
    known = KNOWN.get(contender)
    return f"[{contender}](bench/{known.code.partition(':')[0]})" if known else contender


def made_with(metadata: Mapping[str, str]) -> str:
    """Return what a figure cannot be understood without."""
    facts = [metadata[name] for name in ("Python", "system", "processor") if name in metadata]
    versions = [f"{name} {metadata[name]}" for name in ("rawfnf", "commit", "requests") if name in metadata]
    command = f"`{metadata['command line']}`, " if "command line" in metadata else ""
    return f"({command}{', '.join([*facts, *versions, metadata.get('date', '')[:10]])}.)"


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table: the first column left, the others right."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))
