"""The collectors of the delivery matrix: what they are posted, and what they say that they have."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from bench import certificates
from bench.delivery import SIZES, exchange
from bench.formats import FORMS, content
from bench.places import End
from bench.processes import LOOPBACK, ChildError
from bench.servers.base import Site
from bench.servers.collectors import COLLECTORS, ask
from bench.ways import Target
from tests.peers import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.scenarios import TLSVersion
    from bench.servers.base import Running, Server

pytestmark = pytest.mark.campaign

VERSIONS: tuple[TLSVersion | None, ...] = (None, "1.2", "1.3")
PLACES = [(server, tls) for server in COLLECTORS for tls in VERSIONS if server.tls or tls is None]


class Collector(NamedTuple):
    """One that runs."""

    server: Server
    site: Site
    running: Running
    target: Target

    def post(self, body: bytes) -> int:
        return exchange(self.target, body, End())

    def arrived(self, numbers: range) -> dict[int, int]:
        assert self.running.arrived is not None
        return {number: times for number, times in self.running.arrived().items() if number in numbers}


@pytest.fixture(scope="module", params=PLACES, ids=[f"{server.name}-{tls or 'plain'}" for server, tls in PLACES])
def collector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    server, tls = request.param
    if server.lacks:
        pytest.skip(server.lacks)  # in CI as well: they are not installed there
    folder = tmp_path_factory.mktemp("collector")
    issued = certificates.issue(folder, LOOPBACK)
    site = Site(folder, LOOPBACK, tls, issued, folder / "handled")
    with server.start(site) as running:
        target = Target("", LOOPBACK, running.port, server.path, tls is not None, str(issued.authority))
        yield Collector(server, site, running, target)


def test_a_collector_has_what_it_was_posted_in_every_size_and_nothing_of_which_lines_are_missing(
    collector: Collector,
) -> None:
    form, numbers = collector.server.form, range(1_000_000, 1_000_010)
    for number, size in zip(numbers, collector.server.sizes, strict=False):
        assert collector.post(content(number, size, form)) // 100 == 2
    if lines := content(numbers[-1], max(collector.server.sizes), form).splitlines(keepends=True)[:-1]:
        assert collector.post(b"".join(lines)) // 100 == 2
    expected = dict.fromkeys(numbers[: len(collector.server.sizes)], 1)
    until(lambda: collector.arrived(numbers) == expected, "all are there")


def test_what_comes_twice_is_counted_twice_where_it_does_not_replace_itself(collector: Collector) -> None:
    numbers = range(2_000_000, 2_000_001)
    for _ in range(2):
        collector.post(content(numbers[0], 5000, collector.server.form))
    times = 1 if collector.server.name == "Pushgateway" else 2
    until(lambda: collector.arrived(numbers) == {numbers[0]: times}, "both are there")
    assert collector.server.version()


def test_a_collector_that_cannot_be_asked_is_no_collector_that_has_nothing(collector: Collector) -> None:
    with pytest.raises(ChildError, match="GET /nothing was answered 4"):
        ask(collector.site, collector.running.port, "/nothing")
    elsewhere = collector.site._replace(address="127.0.0.2")
    with pytest.raises(ChildError, match=r"GET /metrics failed: ConnectionRefusedError"):
        ask(elsewhere, collector.running.port, "/metrics")


@pytest.mark.parametrize("form", FORMS)
def test_a_body_has_exactly_its_size_and_no_other_number_has_the_same(form: str) -> None:
    for size in (100, 1500, *(size.bytes for size in SIZES)):
        body = content(1_000_000, size, form)
        assert len(body) == size
        assert body != content(1_000_001, size, form)
        assert body == content(1_000_000, size, form)
