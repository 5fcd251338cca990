"""The delivery matrix: what it counts is what handlers had, and what a server says of a loss is told."""

from __future__ import annotations

import hashlib
import os
import random
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from bench import deliver, delivery, options, places, reckoning
from bench.contenders import CONTENDERS, NOW, SENDER_THREAD
from bench.matrix import Cell, Matrix, Place
from bench.payload import sized
from bench.places import NEAR, Spot
from bench.poster import Planned, Posted
from bench.reckoning import Handled, Sent
from bench.results import FAILED, MISSED, OK
from bench.servers.base import Running, Server, Site, free_port, running
from bench.servers.catalogue import SERVERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.contenders import Contender

PLAIN, _, TLS13 = NEAR
SMALL = (delivery.Size(100, 10, 0.004), delivery.Size(1 << 20, 2, 0.01))


def server(name: str) -> Server:
    """Return a server of the matrix; in CI it has to be there."""
    (found,) = (known for known in SERVERS if known.name == name)
    if found.lacks:
        assert "CI" not in os.environ, found.lacks
        pytest.skip(found.lacks)
    return found


def measured(spots: Sequence[Spot], contenders: Sequence[Contender]) -> tuple[list[Place], list[Cell]]:
    """Run a campaign of few posts."""
    with ExitStack() as stack:
        campaign = delivery.open_campaign(contenders, SMALL, random.Random(5), stack)
        return delivery.measure(campaign, spots, lambda _: None)


def test_what_arrives_at_a_robust_server_is_counted_by_any_transport() -> None:
    found, cells = measured([Spot(server("http.server"), transport) for transport in (PLAIN, TLS13)], [SENDER_THREAD])
    assert [(place.name, place.note) for place in found] == [("http.server, plain", ""), ("http.server, TLS 1.3", "")]
    assert [(cell.sent, cell.delivered, cell.promised, cell.whole) for cell in cells] == [(12, 12, 12, True)] * 2
    assert cells[0].parts == {"1 MiB, at once": (1, 1), "1 MiB, late": (1, 1)} | {
        f"100 B, {when}": (5, 5) for when in ("at once", "late")
    }


def test_losses_behind_nginx_have_its_own_line_and_a_sender_has_none() -> None:
    (place,), (hasty, sender) = measured([Spot(server("nginx"), PLAIN)], [NOW, SENDER_THREAD])
    assert not place.note
    assert hasty.sent == 12  # nginx takes its FIN for a change of mind
    assert hasty.delivered < 12
    assert " 499 " in hasty.reason
    assert sender.whole


@contextmanager
def refusing(site: Site) -> Iterator[Running]:
    """Run `python -m http.server`, which knows no POST."""
    port = free_port()
    with running(site, [sys.executable, "-m", "http.server", str(port), "--bind", site.address], port) as started:
        yield started


@contextmanager
def crashing(site: Site) -> Iterator[Running]:
    """Run what ends before it listens."""
    with running(site, [sys.executable, "-c", "raise SystemExit('no such thing')"], free_port()) as started:
        yield started


def test_a_server_that_fails_at_ordinary_exchanges_or_to_start_is_told_and_not_measured() -> None:
    made = [Server(name, "", "application server", start) for name, start in (("r", refusing), ("c", crashing))]
    missing = Server("m", "", "proxy", refusing, programs=("no-such-program",), install="it somehow")
    found, cells = measured([Spot(each, PLAIN) for each in (*made, missing)], [NOW])
    assert cells == []
    assert [place.note for place in found] == [
        "failed: an ordinary request of 1048576 bytes was answered 501",
        "failed: server ended (1): no such thing",
        "missing: no-such-program not found (install it somehow)",
    ]


CUTTING = """
import hashlib, http.server, os, sys
class Application(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))[:50]
        with open(os.environ["HANDLED"], "a") as file:
            file.write(f"{int(body[:10])} {len(body)} {hashlib.sha256(body).hexdigest()}\\n")
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Application).serve_forever()
"""


@contextmanager
def cutting(site: Site) -> Iterator[Running]:
    """Run what hands on the beginning of each body, and answers 200."""
    port = free_port()
    with running(site, [sys.executable, "-c", CUTTING, str(port)], port) as started:
        yield started


def test_a_server_that_does_not_hand_on_what_is_sent_is_not_measured() -> None:
    (place,), cells = measured([Spot(Server("cutting", "", "application server", cutting), PLAIN)], [NOW])
    assert cells == []
    assert place.note == "failed: 2 of 2 ordinary requests were answered, and not handled as sent"


@pytest.mark.parametrize(
    ("cell", "status"),
    [
        (Cell("s", "plain", "Sender, thread", sent=3, delivered=3), OK),
        (Cell("s", "plain", "Sender, thread", sent=3, delivered=2), MISSED),
        (Cell("s", "plain", "requests trick", sent=3, delivered=2), OK),
        (Cell("s", "plain", "requests trick", sent=3, delivered=3, note="TypeError: broken"), FAILED),
        (Cell("s", "plain", "requests trick", sent=3, delivered=2, promised=3, broken_promises=1), FAILED),
    ],
)
def test_the_exit_status_tells_what_was_lost_by_whom(cell: Cell, status: int) -> None:
    found = Matrix({}, [Place("s", "plain", "proxy", "")], [cell.contender], [cell], {})
    assert deliver.verdict(found) == status


def test_a_choice_that_leaves_nothing_to_measure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = options.parse(["delivery", "--server", "waitress", "--transport", "TLS 1.3"])
    assert isinstance(chosen, options.DeliveryOptions)
    assert deliver.deliver(chosen) == FAILED
    assert "nothing to measure" in capsys.readouterr().err


def sent(*errors: int) -> Sent:
    """Three posts of ten bytes each, some of which raised."""
    planned = [Planned(number, 12, 0) for number in (20, 21, 22)]
    posted = Posted(ns=[1, 2, 3], errors={str(index): "OSError: no" for index in errors}, answered=2, note="")
    return Sent(NOW, "/20", planned, posted)


def handled(number: int, size: int = 12) -> Handled:
    """Return what a handler has of a body of 12 bytes, if it gets so many of them."""
    return Handled(size, hashlib.sha256(sized(number, 12)[:size]).hexdigest())


@pytest.mark.parametrize(
    ("had", "errors", "counts"),
    [
        ({20: [handled(20)], 21: [handled(21)], 22: [handled(22)]}, (), (3, 3, 0, 0, 0)),
        ({20: [handled(20)], 21: [handled(21, 11)]}, (), (3, 1, 1, 0, 1)),  # cut short, and lost: one promise broken
        ({20: [handled(20)] * 2, 21: [handled(21)]}, (2,), (2, 2, 0, 1, 0)),
        ({22: [handled(22)]}, (2,), (2, 0, 0, 0, 2)),  # arrived although it raised: nobody may count on it
    ],
)
def test_a_cell_counts_whole_bodies_that_raised_nothing(
    had: dict[int, list[Handled]], errors: tuple[int, ...], counts: tuple[int, ...]
) -> None:
    spot = Spot(server("http.server"), PLAIN)
    cell = reckoning.cell_of(spot, sent(*errors), had, [])
    assert (cell.sent, cell.delivered, cell.truncated, cell.twice, cell.broken_promises) == counts
    assert cell.made == 3
    assert reckoning.cell_of(spot, sent(*errors)._replace(cut=1), had, []).truncated == cell.truncated + 1


def test_a_reason_is_the_servers_line_about_this_cell_and_no_other() -> None:
    log = ['"POST /200 HTTP/1.1" 499 0', '"POST /20 HTTP/1.1" 200 2', '"POST /20 HTTP/1.1" 499 0']
    assert reckoning.reason(sent(), log) == log[2]
    assert reckoning.reason(sent(), log[2:], shared=True) == "its log names no request"
    assert reckoning.reason(sent(), log[:2]) == "its log has 1 lines for 3 requests, none of which tells of a loss"
    assert reckoning.reason(sent(), [log[1], "SSL handshake failed"]).endswith("of some request: SSL handshake failed")


def test_places_are_chosen_by_name_and_unknown_names_are_refused() -> None:
    assert [spot.place().name for spot in places.chosen(["waitress"], [], subset=False)] == ["waitress, plain"]
    assert {spot.transport.name for spot in places.chosen([], ["TLS 1.3"], subset=False)} == {"TLS 1.3"}
    subset = places.chosen([], [], subset=True)
    assert not {spot.server.name for spot in subset} & places.OUTSIDE_CI
    assert places.OUTSIDE_CI | set(places.SUBSET) | set(places.ALSO_FAR) <= {known.name for known in SERVERS}
    with pytest.raises(ValueError, match=r"no server 'ngin'; there are: .*nginx"):
        places.chosen(["ngin"], [], subset=False)
    with pytest.raises(ValueError, match="no transport"):
        places.chosen([], ["tls"], subset=False)


def test_each_command_has_its_options() -> None:
    chosen = options.parse(["delivery", "--server", "nginx", "--server", "Node", "--full"])
    assert isinstance(chosen, options.DeliveryOptions)
    assert (chosen.servers, chosen.times) == (["nginx", "Node"], options.FULL)
    assert isinstance(options.parse(["caller", "--subset"]), options.CallerOptions)
    with pytest.raises(SystemExit, match="2"):
        options.parse(["report", "no-such-file"])
    with pytest.raises(SystemExit, match="2"):
        options.parse(["delivery", "--full", "--subset"])


def test_every_delivering_contender_can_be_told_from_the_others() -> None:
    names = [contender.name for contender in CONTENDERS if contender.delivers]
    assert len(names) == len(set(names)) > 15
