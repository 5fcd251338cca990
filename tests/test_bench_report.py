"""What a run found out: written and read back, shown, drawn, and pasted into the README. Nothing is measured here."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from bench import export, metadata, options, readme, redraw, run
from bench.columns import OF_PLAIN, OF_TASK, fastest, leaders
from bench.contenders import AIOHTTP, CONTENDERS, FLOOR, FLOORS, KNOWN, NOW, OURS, SENDER, TRICK
from bench.figures import show_percent
from bench.matrix import Cell, Matrix, Place
from bench.results import FAILED, LOWER_BOUND, OK, Footprint, Goal, Row, Run, Table, Trace, Wire
from bench.scenarios import EVERY_SCENARIO, SCENARIOS, Scenario
from bench.stats import not_ranked

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
FACTS = {
    "date": "2026-11-22T18:00:00+00:00",
    "Python": "CPython 3.11.2",
    "system": "Linux 6.18",
    "rawfnf": "0.1.0",
    "requests": "2.34.2",
}
SERVERS = {
    "application server": (
        *("http.server", "waitress", "tornado", "hypercorn", "uvicorn", "aiohttp", "granian", "Node", "Puma"),
        *("FastAPI", "Django", "gunicorn", "Go"),
    ),
    "proxy": ["nginx", "nginx, ignore_client_abort", "Apache", "HAProxy", "HAProxy, abortonclose", "Caddy", "Envoy"],
    "collector": ["VictoriaMetrics", "Pushgateway"],
}
EAGER = {"Node", "uvicorn", "aiohttp", "granian", "Puma", "Go", "nginx", "HAProxy, abortonclose", "Envoy"}
TRANSPORTS = ("plain", "TLS 1.2", "TLS 1.3", "TLS 1.3, 20 ms")
LINE = '127.0.0.1 - - [22/Nov/2026:18:12:13 +0000] "POST /12000000 HTTP/1.1" 499 0 "-" "bench"'


def a_row(contender: str, chance: random.Random, middle: float, posts: int = 300) -> Row:
    """Return what a contender takes that is held so many nanoseconds, with a tail."""
    slower = (chance.choice((1, 1, 1, 1, 1, 1, 1, 1.5, 4)) for _ in range(posts))
    ns = [int(middle * math.exp(chance.gauss(0, 0.2)) * factor) for factor in slower]
    cpu = [int(each * chance.uniform(0.5, 1)) for each in ns]
    rounds = [number // 30 for number in range(posts)]
    row = Row(contender, ns=ns, cpu_ns=cpu, rounds=rounds, cold_ns=ns[:9], sent=posts, delivered=posts)
    return row._replace(threads=0, descriptors=1, memory_kib=12)


def a_table(scenario: Scenario, chance: random.Random, posts: int = 300) -> Table:
    """Return everybody's row: rawfnf's are quick, those who wait are not."""
    rows = []
    for known in CONTENDERS:
        if known.where(scenario) or known.able(scenario):
            own = 2e4 if known.name in FLOORS or "Sender" in known.name else 5e4 if known.name in OURS else 6e5
            if scenario.tls and not known.held and known.speaks_tls:
                own += 1.5e6
            if scenario.rtt and not known.held:
                own += scenario.rtt * 1e9
            if scenario.delay and known.waits:
                own += scenario.delay * 1e9
            rows.append(a_row(known.name, chance, own, posts))
    return Table(scenario, rows, 0.02)


def a_run(posts: int = 300, scenarios: tuple[Scenario, ...] = SCENARIOS) -> Run:
    """Return a run with something of everything."""
    chance = random.Random(5)
    tables = [a_table(scenario, chance, posts) for scenario in scenarios]
    return Run(
        metadata=dict(FACTS),
        tables=tables,
        footprints=[Footprint("rawfnf", [20_000_000], [20_000]), Footprint("requests", [120_000_000], [])],
        goals=[Goal("rawfnf now ÷ C socket loop", 1.5, 1.8, at_most=True, group="now and then")],
        wires=[Wire(NOW.name, "plain TCP", 20, 2.0, 2.0, 320.0, 240.0)],
        traces=[Trace(NOW.name, "plain TCP", ["socket", "connect", "sendto", "sendto", "close"])],
        missing={"pika": "pip install pika"},
    )


def share(server: str, transport: str, contender: str, chance: random.Random) -> float:
    """Return what part arrives: of those who close too early little, at servers that look for the end first."""
    safe = any(word in contender for word in ("Sender", "answered", "HTTPHandler")) and "now" not in contender
    if safe or (server not in EAGER and "1.3" not in transport):
        return 1.0
    if "trick" in contender:
        return chance.choice((0.5, 0.9, 1.0))
    return chance.choice((0.0, 0.02, 0.3, 0.8, 0.95))


def a_cell(place: Place, contender: str, chance: random.Random) -> Cell:
    """Return the posts of a contender at a place."""
    sent = 48
    delivered = int(sent * share(place.server, place.transport, contender, chance))
    lost = delivered < sent
    return Cell(
        place.server,
        place.transport,
        contender,
        sent=sent,
        delivered=delivered,
        truncated=2 if lost and place.server == "http.server" else 0,
        promised=delivered,
        parts={"100 B, at once": (min(delivered, 12), 12), "8 MiB, late": (max(0, delivered - 36), 12)},
        reason=LINE if lost else "",
        ns=[int(40_000 * math.exp(chance.gauss(0, 0.2))) for _ in range(sent)],
    )


def a_matrix(most: int = 99) -> Matrix:
    """Return a matrix with losses, a place and a contender that are missing; of each group so many servers."""
    chance = random.Random(6)
    places = [
        Place(server, transport, group, f"{server} with its defaults", "1.2.3")
        for group, servers in SERVERS.items()
        for server in servers[:most]
        for transport in TRANSPORTS
    ]
    contenders = [known.name for known in CONTENDERS if known.delivers]
    cells = [a_cell(place, contender, chance) for place in places for contender in contenders]
    lacking = Place("Varnish", "plain", "proxy", "Varnish", note="varnishd not found (install varnish)")
    return Matrix(dict(FACTS), [*places, lacking], contenders, cells, {"pycurl": "pip install pycurl"})


RUNS: dict[str, Callable[[], Run | Matrix]] = {
    "caller": lambda: a_run(60, SCENARIOS[:3]),
    "delivery": lambda: a_matrix(2),
}


@pytest.fixture(scope="module", autouse=True)
def _drawn_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Draw before any test: matplotlib keeps the files of its fonts open, and no test is to have left them behind."""
    folder = tmp_path_factory.mktemp("drawn")
    redraw.draw(a_matrix(1), folder, "first")
    redraw.draw(a_run(20, SCENARIOS[:1]), folder, "first")


def shown(found: Run | Matrix, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    redraw.show(found, console)
    return console.export_text()


@pytest.mark.parametrize("kind", RUNS)
def test_what_was_written_is_read_back_exactly(kind: str, tmp_path: Path) -> None:
    found = RUNS[kind]()
    path = tmp_path / "run.json"
    export.write(found, path)
    assert json.loads(path.read_text(encoding="utf-8"))["kind"] == kind
    assert export.read(path) == found


@pytest.mark.parametrize("suffix", [".xz", ".bz2", ".gz"])
@pytest.mark.parametrize("kind", RUNS)
def test_an_archive_says_that_its_samples_are_rounded_and_has_everything_else(
    kind: str, suffix: str, tmp_path: Path
) -> None:
    found = RUNS[kind]()
    path = tmp_path / f"run.json{suffix}"
    export.archive(found, path)
    kept = export.read(path)
    assert "rounded" in kept.metadata["samples"]
    assert "samples" not in found.metadata
    written, read = export.to_json(found), export.to_json(kept)
    for one, other in zip(export.rows_of(written), export.rows_of(read), strict=True):
        assert {name: value for name, value in one.items() if name not in export.HELD | export.REST} == {
            name: value for name, value in other.items() if name not in export.HELD | export.REST
        }
        assert all(abs(was - now) <= was * 0.005 for was, now in zip(one["ns"], other["ns"], strict=True))


def test_the_runs_that_are_kept_take_less_than_a_mebibyte_with_their_pictures() -> None:
    assert 0 < sum(path.stat().st_size for path in (ROOT / "bench" / "results").iterdir()) < 1.1 * (1 << 20)
    assert sum(path.stat().st_size for path in (ROOT / "bench" / "results").glob("*.bz2")) < 1 << 20


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.json", b'{"kind": "caller", "tables": [{"scenario"'),
        ("cut.json.xz", lzma.compress(b'{"kind": "caller"}' * 99)[:60]),
        ("cut.json.bz2", bz2.compress(b'{"kind": "caller"}' * 99)[:40]),
        ("cut.json.gz", gzip.compress(b'{"kind": "caller"}' * 99, mtime=0)[:20]),
        ("no_gzip.json.gz", b'{"kind": "caller"}'),
        ("other.json", b'{"kind": "weather"}'),
        ("list.json", b"[]"),
        ("empty.json", b""),
        ("binary.json", b"\xff\xfe\x00"),
        ("without_rows.json", b'{"kind": "delivery", "places": [{}], "cells": []}'),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_broken_file_is_told_by_its_name_with_what_to_do(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert redraw.report_files([path], tmp_path) == FAILED
    said = capsys.readouterr().err
    assert str(path) in said
    assert "run it again" in said
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert redraw.report_files([tmp_path / "nowhere.json"], tmp_path) == FAILED
    assert "nowhere.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [("rounds", []), ("cpu_ns", []), ("ns", ["1"] * 40), ("cold_ns", [None]), ("claims", None), ("errors", "none")],
)
def test_a_row_whose_values_do_not_belong_together_is_told(name: str, content: object, tmp_path: Path) -> None:
    found = export.to_json(a_run(40, SCENARIOS[:1]))
    found["tables"][0]["rows"][0][name] = content
    path = tmp_path / "run.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(export.UnreadableError, match=r"run\.json"):
        export.read(path)


def test_an_unknown_kind_of_caller_and_empty_lists_are_shown_and_drawn(tmp_path: Path) -> None:
    found = export.to_json(a_run(40, SCENARIOS[:2]))
    found["tables"][0]["scenario"]["within"] = "weather"
    found["tables"][1]["rows"] = []
    found["footprints"][0]["import_ns"] = []
    path = tmp_path / "run.json"
    for first in range(3):
        path.write_text(json.dumps(found | {"tables": found["tables"][first:]}), encoding="utf-8")
        assert redraw.report_files([path], tmp_path) == OK


def test_samples_are_not_written_where_their_picture_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in RUNS:
        with pytest.raises(SystemExit):
            options.parse([command, "--json", str(tmp_path / "x.SVG")])
        assert "--plot" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "known"), [([], SCENARIOS), (["caller"], EVERY_SCENARIO)])
def test_only_the_scenarios_of_a_command_are_listed(
    command: list[str], known: tuple[Scenario, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.run(options.parse([*command, "--list"])) == OK
    named = capsys.readouterr().out.partition("contenders\n")[0].splitlines()[1:]
    assert [line.split()[0] for line in named] == [scenario.name for scenario in known]


def test_a_file_of_another_version_is_read_without_what_is_not_known_here(tmp_path: Path) -> None:
    found = export.to_json(a_run(40, SCENARIOS[:1]))
    found["tables"][0]["scenario"]["weather"] = "fair"
    del found["tables"][0]["rows"][0]["memory_kib"], found["wires"], found["missing"]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    read = export.read(path)
    assert isinstance(read, Run)
    assert read.tables[0].rows[0].memory_kib is None


def lossy(table: Table, contender: str) -> Table:
    """Return it with a contender that is by far the quickest, and loses one post."""
    rows = [row for row in table.rows if row.contender != contender]
    quickest = a_row(contender, random.Random(3), 1e3)
    return table._replace(rows=[*rows, quickest._replace(delivered=quickest.sent - 1)])


def test_who_loses_a_single_post_is_marked_and_is_never_the_fastest() -> None:
    whole = a_table(SCENARIOS[0], random.Random(4))
    table = lossy(whole, TRICK.name)
    assert fastest(table.rows) == fastest(whole.rows) != TRICK.name
    assert TRICK.name not in leaders(table.rows)
    run = a_run(60)._replace(tables=[table, whole])
    text = shown(run)
    assert f"{TRICK.name}: 1 of 300 lost" in text
    line = next(line for line in readme.blocks(run, "x.png")["caller"].splitlines() if f"[{TRICK.name}]" in line)
    assert "✗" in line
    assert "**" not in line


def test_rows_that_cannot_be_told_apart_lead_together() -> None:
    rows = [a_row(name, random.Random(number), 1e4) for number, name in enumerate((NOW.name, SENDER.name))]
    slow = a_row(TRICK.name, random.Random(9), 1e7)
    assert leaders([*rows, slow]) == {NOW.name, SENDER.name}


def test_who_failed_is_void_and_a_lower_bound_is_not_but_neither_leads_nor_does_who_was_not_counted() -> None:
    slow = a_row(SENDER.name, random.Random(1), 1e6)
    quick = a_row(NOW.name, random.Random(2), 1e3)
    failed, bound = (quick._replace(note=note) for note in ("exited with 1", f"held for 12 s: {LOWER_BOUND}"))
    assert (failed.void, bound.void) == (True, False)
    for row in (failed, bound, quick._replace(delivered=None)):
        assert leaders([row, slow]) == {SENDER.name}
        assert leaders([row]) == set()
    assert not_ranked([failed, quick._replace(contender=TRICK.name)]) == []


def test_what_a_caller_spends_around_its_posts_and_what_a_task_is_are_told() -> None:
    rows = [a_row(name, random.Random(1), 1e6, 60) for name in (SENDER.name, AIOHTTP.name, NOW.name)]
    rows[0], rows[2] = rows[0]._replace(ready_ns=[2_000_000] * 3), rows[2]._replace(ready_ns=[0, 0, 9])
    run = a_run(20, ())._replace(tables=[Table(SCENARIOS[0], rows)])
    text = " ".join(shown(run).split())
    assert "around each burst, by pump(), warm() and the like, p50, from 10 µs on: Sender 2.00ms." in text
    assert OF_TASK in text
    assert OF_TASK in readme.blocks(run, "x.png")["caller"]


def test_that_the_programs_in_c_speak_no_tls_is_told_wherever_they_stand_beside_it() -> None:
    rows = [a_row(name, random.Random(1), 1e6, 60) for name in (FLOOR.name, NOW.name)]
    said = OF_PLAIN.format(names=FLOOR.name)
    for scenario, times in ((SCENARIOS[0], 0), (next(each for each in SCENARIOS if each.tls), 2)):
        run = a_run(20, ())._replace(tables=[Table(scenario, rows)] * 2)  # of one there is no overview
        text = " ".join(shown(run).split())
        assert text.count(said) == (times and times + 1)
        assert readme.blocks(run, "x.png")["caller"].count(said) == bool(times)


def nowhere() -> Table:
    """Return a scenario in which nothing can arrive: one raises, one has books, one is told nothing."""
    scenario = Scenario("black-hole", "SYNs are dropped", arrives=False)
    ns, rounds = [2_000_000_000] * 5, [0] * 5
    told = Row(TRICK.name, ns=ns, cpu_ns=ns, rounds=rounds, errors={"ConnectTimeout": 5}, delivered=0, arrives=False)
    books = Row(
        SENDER.name, ns=ns, cpu_ns=ns, rounds=rounds, sent=5, delivered=0, claims={"unanswered": 5}, arrives=False
    )
    silent = Row(NOW.name, ns=ns, cpu_ns=ns, rounds=rounds, sent=5, delivered=0, claims={"sent": 5}, arrives=False)
    return Table(scenario, [told, books, silent])


def test_where_nothing_can_arrive_it_is_shown_who_was_told_and_after_how_long() -> None:
    table = nowhere()
    assert fastest(table.rows) == ""
    text = shown(a_run(20, ())._replace(tables=[table, table]))
    assert f"{NOW.name}: 5 of 5 went nowhere, and neither the call nor any books said so" in text
    assert f"{TRICK.name}: 5 raised ConnectTimeout" in text
    rows = [line.split() for line in text.splitlines() if line.startswith((NOW.name, SENDER.name, TRICK.name))]
    assert ["rawfnf", "now", "5", "0", "0", "5✗", "2.00s", "-", "2.00s"] in rows
    assert ["requests", "trick", "5", "5", "0", "0", "2.00s", "-", "2.00s"] in rows
    assert ["Sender", "5", "0", "5", "0", "2.00s", "-", "2.00s"] in rows


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("kind", RUNS)
def test_no_line_of_a_report_is_broken_by_a_narrow_terminal(kind: str, width: int) -> None:
    text = shown(RUNS[kind](), width)
    assert max(map(len, map(str.rstrip, text.splitlines()))) <= width


def test_a_wide_terminal_gets_p90_and_memory_as_well() -> None:
    heads = [shown(a_run(120, SCENARIOS[:1]), width).splitlines()[1].split() for width in (80, 100)]
    assert [name for name in heads[1] if name not in heads[0]] == ["p90", "memory"]


@pytest.mark.parametrize("kind", RUNS)
def test_the_report_has_everybodys_code_and_who_is_missing_and_what_it_cannot_tell(kind: str) -> None:
    found = RUNS[kind]()
    text = shown(found)
    names = found.contenders if isinstance(found, Matrix) else [row.contender for row in found.tables[0].rows]
    assert all(KNOWN[name].code in text for name in names)
    assert all(name in text and why in text for name, why in found.missing.items())
    assert "cannot tell" in text


def test_losses_come_with_the_servers_own_words_and_short_bodies_first() -> None:
    text = " ".join(shown(a_matrix(2), 160).split())
    assert "Handlers ran with a body that nobody sent" in text
    assert LINE in text
    assert "varnishd not found (install varnish)" in text


def test_a_share_is_100_only_if_it_is_all_and_0_only_if_it_is_nothing() -> None:
    assert [show_percent(part, 1000) for part in (1000, 999, 990, 500, 1, 0)] == [
        "100",
        "99.9",
        "99.0",
        "50",
        "<1",
        "0",
    ]


def test_files_are_reported_again_with_pictures_and_the_readmes_blocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"{kind}.json" for kind in RUNS]
    for path, make in zip(paths, RUNS.values(), strict=True):
        export.write(make(), path)
    assert redraw.report_files(paths, None) == OK
    text = capsys.readouterr().out
    assert all(f"<!-- bench:{kind} -->" in text for kind in RUNS)
    for name in ("caller.png", "caller.svg", "delivery.png", "caller-all.png"):
        assert 10_000 < (tmp_path / name).stat().st_size < 300 << 10, name
    assert (tmp_path / "delivery.svg").stat().st_size > 10_000


def filled(found: Run | Matrix, picture: str) -> str:
    return "".join(f"{readme.marked(name, text)}\n" for name, text in readme.blocks(found, picture).items())


def empty(found: Run | Matrix) -> str:
    return "".join(f"{readme.marked(name, 'old')}\n" for name in readme.blocks(found, ""))


def test_a_readmes_blocks_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    target, path = tmp_path / "README.md", tmp_path / "bench" / "delivery.json"
    path.parent.mkdir()
    found = a_matrix(1)
    export.write(found, path)
    target.write_text(f"before\n{empty(found)}after\n", encoding="utf-8")
    assert redraw.report_files([path], None, target) == OK
    text = target.read_text(encoding="utf-8")
    assert text == f"before\n{filled(found, 'bench/delivery.png')}after\n"


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_is_kept_with_the_picture_and_the_block_that_are_made_of_what_is_kept(kind: str, tmp_path: Path) -> None:
    target, path, folder = tmp_path / "README.md", tmp_path / "raw.json", tmp_path / "kept"
    folder.mkdir()
    found = RUNS[kind]()
    export.write(found, path)
    target.write_text(empty(found), encoding="utf-8")
    assert redraw.report_files([path], None, target, folder) == OK
    assert {each.name for each in folder.iterdir()} == {f"{kind}.json.bz2", f"{kind}.png"}
    kept = export.read(folder / f"{kind}.json.bz2")
    assert target.read_text(encoding="utf-8") == filled(kept, f"kept/{kind}.png")


def test_a_readme_without_a_place_for_a_block_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, path = tmp_path / "README.md", tmp_path / "delivery.json"
    export.write(a_matrix(1), path)
    target.write_text("nothing here\n", encoding="utf-8")
    assert redraw.report_files([path], None, target) == FAILED
    assert "<!-- bench:delivery -->" in capsys.readouterr().err
    assert target.read_text(encoding="utf-8") == "nothing here\n"


@pytest.mark.parametrize("kind", RUNS)
def test_the_readmes_tables_are_those_of_the_run_that_is_kept(kind: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (path,) = (ROOT / "bench" / "results").glob(f"{kind}.json.*")
    for name, block in readme.blocks(export.read(path), f"bench/results/{kind}.png").items():
        assert readme.marked(name, block) in text, (
            f"python -m bench report {path} --keep {path.parent} --readme README.md"
        )


def test_the_command_line_is_told_without_the_places_of_its_files() -> None:
    given = ["caller", "--json", "here.json", "--scenario", "rate", "--plot=there.svg"]
    assert metadata.telling(given) == ["caller", "--scenario", "rate"]
