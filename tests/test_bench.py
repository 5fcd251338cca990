"""`python -m bench`, as a user runs it: what it prints, writes and exits with; how fast anything is, is not asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.report import broken_promises
from bench.results import Row, Table
from bench.scenarios import Scenario

if TYPE_CHECKING:
    from tests.peers import Recorder

ROOT = Path(__file__).parent.parent
SECONDS = 55
# Every contender that needs no compiler; the floor is there where one is found.
CONTENDERS = {
    "Python socket",
    "rawfnf now",
    "rawfnf acked",
    "rawfnf answered",
    "requests trick",
    "trick, Session",
    "C socket loop",
}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("picture", ["plot.png", "plot.svg"])
def test_a_short_run_counts_what_arrived_and_writes_samples_and_picture(tmp_path: Path, picture: str) -> None:
    out, plot = tmp_path / "samples.json", tmp_path / picture
    names = ["at-once", "tls1.3"] if picture.endswith("png") else ["after-200ms"]
    done = bench("--seconds", "2", *(f"--scenario={name}" for name in names), "--json", str(out), "--plot", str(plot))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "numbers to reach" in done.stdout
    run = json.loads(out.read_text())
    assert {"Python", "system", "OpenSSL", "h11", "requests", "urllib3", "urllib3's file"} <= run["metadata"].keys()
    assert [table["scenario"]["name"] for table in run["tables"]] == names
    assert {row["contender"] for row in run["tables"][0]["rows"]} == CONTENDERS
    for table in run["tables"]:
        for row in table["rows"]:
            if row["contender"].startswith("rawfnf"):
                assert row["sent"] == row["delivered"] > 0, row
                assert len(row["ns"]) == len(row["cpu_ns"]) > 0
                assert (row["threads"], row["descriptors"]) == (0, 0)
    assert plot.stat().st_size > 10_000


def test_memory_and_descriptors_are_watched_over_many_posts() -> None:
    done = bench("--flat", "2000")
    assert done.returncode in (0, 1), (
        done.stderr
    )  # 2,000 posts say nothing about flatness: that it looks, is asked here
    assert "descriptors" in done.stdout


def test_nothing_is_sent_to_a_users_endpoint_unless_they_agree(recorder: Recorder) -> None:
    done = bench("--url", recorder.url, "--posts", "2")
    assert done.returncode == 2
    assert "This sends" in done.stderr
    assert recorder.url in done.stderr
    assert recorder.talks == []


def test_an_agreed_comparison_posts_to_the_users_endpoint_and_claims_no_delivery(recorder: Recorder) -> None:
    done = bench("--url", recorder.url, "--posts", "2", "--yes")
    assert done.returncode == 0, done.stderr
    assert "unknown" in done.stdout
    assert sum(talk.whole for talk in recorder.talks) >= 2 * 4  # rawfnf's closings and the naive socket, at least


def test_a_promise_that_was_not_kept_is_named() -> None:
    kept = Row("kept", ns=[1], sent=10, delivered=10, promised=10)
    lost = Row("lost", ns=[1], sent=10, delivered=9, promised=0)
    broken = Row("broken", ns=[1], sent=10, delivered=9, promised=10, broken_promises=1)
    (line,) = broken_promises([Table(Scenario("s", "a scenario"), [kept, lost, broken])])
    assert line.startswith("broken in s: 1 of 10")
