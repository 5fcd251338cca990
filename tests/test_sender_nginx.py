"""Behind an nginx that is configured as most are: what a Sender hands over arrives, whole, every time.

nginx takes a client's FIN for a change of mind, and throws the request away (README, "Which closing do I need?"). So
this fails with any closing but "answered", and with an "answered" that does not wait for the answer. The bench's table
of what arrives behind nginx shows how much the others lose; here nothing may be lost.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from bench import payload
from bench.servers.proxies import PROXIES
from tests.awaited import SENDERS, senders
from tests.peers import PATIENCE
from tests.rows import Row, line, started

if TYPE_CHECKING:
    from collections.abc import Iterator

(NGINX,) = (server for server in PROXIES if server.name == "nginx")
# Bytes of a body, and how many posts.
SIZES = {100: 50, 64 << 10: 50, 1 << 20: 10, 8 << 20: 4}


@pytest.fixture(scope="module", params=[None, "1.3"], ids=["plain", "TLS1.3"])
def nginx(request: pytest.FixtureRequest) -> Iterator[Row]:
    """An nginx of our own, before an upstream that loses nothing."""
    with started(NGINX, request.param) as row:
        yield row


def bodies() -> Iterator[bytes]:
    """Yield bodies of all sizes, no two of them alike; every other is worked on for a while."""
    number = 0
    for size, posts in SIZES.items():
        for _ in range(posts):
            number += 1
            yield payload.sized(number, size)


@pytest.mark.parametrize("way", SENDERS)
@pytest.mark.parametrize(("spares", "background"), [(0, False), (4, True)], ids=["no spares", "spares and background"])
def test_every_body_arrives_whole(nginx: Row, spares: int, way: str, *, background: bool) -> None:
    before = Counter(nginx.handled())
    options = {"spares": spares, "background": background, "timeout": PATIENCE, "linger": PATIENCE}
    with senders(way) as make, make(nginx.url, ssl_context=nginx.context, **options) as sender:
        sender.warm()
        sent: Counter[str] = Counter()
        for body in bodies():
            assert sender.post(body)
            sent[line(body)] += 1
        assert sender.flush(PATIENCE)
        stats = sender.stats
    assert Counter(nginx.handled()) - before == sent
    assert stats._replace(spares=0) == (sent.total(), {200: sent.total()}, 0, 0, 0, 0, 0, 0, 0, 0)
