"""The proxies of the delivery matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.certificates import Certificates
from bench.processes import LOOPBACK, ChildError
from bench.servers.base import Site
from bench.servers.configuration import write
from bench.servers.nginx import nginx
from bench.servers.proxies import PROXIES
from tests.peers import until
from tests.rows import check, started

if TYPE_CHECKING:
    from pathlib import Path

    from bench.scenarios import TLSVersion

pytestmark = pytest.mark.campaign

SERVERS = {server.name: server for server in PROXIES}
# TLS 1.2 of two stands for that of the others.
PLACES: list[tuple[str, TLSVersion | None]] = [
    *((name, None) for name in SERVERS),
    *((server.name, "1.3") for server in PROXIES if server.tls),
    ("nginx", "1.2"),
    ("Caddy", "1.2"),
]


@pytest.mark.parametrize(("name", "tls"), PLACES)
def test_it_hands_on_whole_bodies_and_leaves_no_process(name: str, tls: TLSVersion | None) -> None:
    check(SERVERS[name], tls)


# What each writes by default for a request that was answered.
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("nginx", '" 200 '),
        ("Apache", '" 200 '),
        ("HAProxy", " 200 "),
        ("Caddy", '"status":200'),
        ("lighttpd", '" 200 '),
        ("Varnish", '" 200 '),
        ("Envoy", '" 200 '),
    ],
)
def test_its_log_has_the_request(name: str, word: str) -> None:
    with started(SERVERS[name]) as row:
        row.post(2, 100, "/readings")
        until(lambda: row.said(word, "/readings"), "there is a line about it")


def test_a_server_that_does_not_start_is_named_with_its_complaint() -> None:
    broken = SERVERS["nginx"]._replace(start=lambda site: nginx(site, "proxy", upstream="1; nonsense"))
    complaint = r'^nginx ended \(1\): .*unknown directive "nonsense"'
    with pytest.raises(ChildError, match=complaint), started(broken):
        pytest.fail("it started")


def test_nginx_says_that_it_gave_up_a_request_with_an_early_fin() -> None:
    with started(SERVERS["nginx"]) as row:
        row.post_half_closed(3, "/early")
        until(lambda: row.said('" 499 ', "/early"), "there is a line about it")


def test_nginx_that_is_told_to_ignore_aborts_hands_on_a_request_with_an_early_fin() -> None:
    with started(SERVERS["nginx, ignore_client_abort"]) as row:
        row.post_half_closed(3, "/early")
        assert [line.split()[0] for line in row.handled()] == ["3"]


def test_caddy_says_that_it_gave_up_a_request_with_an_early_fin_before_go() -> None:
    with started(SERVERS["Caddy before Go"]) as row:
        row.post_half_closed(3, "/early")
        until(lambda: row.said('"status":499', "/early"), "there is a line about it")
        until(lambda: row.said("context canceled", "/early"), "Go says why")
        assert row.handled() == []


@pytest.mark.parametrize(("tls", "chosen"), [(None, ()), ("1.3", ("abortonclose",))])
def test_a_configuration_has_the_chosen_lines_alone(
    tls: TLSVersion | None, chosen: tuple[str, ...], tmp_path: Path
) -> None:
    site = Site(tmp_path, LOOPBACK, tls, Certificates(tmp_path / "a", tmp_path / "b"), tmp_path / "c")
    lines = write(site, "haproxy.cfg", *chosen, port=1, upstream=2).read_text().splitlines()
    assert ("    bind 127.0.0.1:1" in lines) == (tls is None)
    assert any(line.startswith(f"    bind 127.0.0.1:1 ssl crt {tmp_path / 'b'} ") for line in lines) == bool(tls)
    assert ("    option abortonclose" in lines) == bool(chosen)
