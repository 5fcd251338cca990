"""The application servers of the delivery matrix that are not written in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.servers.native import NATIVE
from bench.servers.programs import newest, version
from tests.peers import until
from tests.rows import check, started

if TYPE_CHECKING:
    from pathlib import Path

    from bench.scenarios import TLSVersion

pytestmark = pytest.mark.campaign

SERVERS = {server.name: server for server in NATIVE}
# TLS 1.2 of two stands for that of the others: by options of its own, and by OpenSSL's configuration.
PLACES: list[tuple[str, TLSVersion | None]] = [
    *((name, None) for name in SERVERS),
    *((name, "1.3") for name in SERVERS),
    ("Node", "1.2"),
    ("Puma", "1.2"),
]


@pytest.mark.parametrize(("name", "tls"), PLACES)
def test_it_handles_whole_bodies_and_leaves_no_process(name: str, tls: TLSVersion | None) -> None:
    check(SERVERS[name], tls)


def test_go_gives_up_a_late_handler_after_an_early_fin_if_it_honours_its_context() -> None:
    with started(SERVERS["Go, context honoured"]) as row:
        row.post_half_closed(3, "/early")
        assert row.said("context canceled", "/early")
        assert row.handled() == []


def test_go_finishes_a_late_handler_after_an_early_fin_if_it_ignores_its_context() -> None:
    with started(SERVERS["Go, context ignored"]) as row:
        row.post_half_closed(3, "/early")
        assert [line.split()[0] for line in row.handled()] == ["3"]


@pytest.mark.parametrize("name", ["Puma", "PHP-FPM"])
def test_its_log_has_the_request(name: str) -> None:
    with started(SERVERS[name]) as row:
        row.post(2, 100, "/readings")
        until(lambda: row.said("200", "/readings"), "there is a line about it")


def test_the_newest_of_several_programs_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("server8.2", "server8.10", "server7.4"):
        (tmp_path / name).touch(mode=0o755)
    (tmp_path / "server9").touch(mode=0o644)  # nobody may run it
    monkeypatch.setenv("PATH", str(tmp_path))
    assert newest("server") == str(tmp_path / "server8.10")
    assert newest("other") == "other"


def test_a_program_that_is_missing_has_no_version() -> None:
    assert version("rawfnf-no-such-program", "--version") == ""
