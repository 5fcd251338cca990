"""Behind an nginx that is configured as most are: what a Sender hands over arrives, whole, every time.

nginx takes a client's FIN for a change of mind, and throws the request away (README, "Which closing do I need?"). So
this fails with any closing but "answered", and with an "answered" that does not wait for the answer. The bench's table
of what arrives behind nginx shows how much the others lose; here nothing may be lost.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from bench import nginx, payload
from tests.awaited import SENDERS, senders
from tests.peers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

# Bytes of a body, and how many posts.
SIZES = {100: 50, 64 << 10: 50, 1 << 20: 10, 8 << 20: 4}


@pytest.fixture(scope="module")
def proxy() -> Iterator[nginx.Proxy]:
    """An nginx of our own, before an upstream that loses nothing."""
    if nginx.program() is None:
        missing = "nginx is missing (Debian's package nginx-light)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with nginx.proxy() as made:
        yield made


@pytest.fixture(params=["plain", "TLS1.3"])
def options(request: pytest.FixtureRequest, proxy: nginx.Proxy) -> dict[str, Any]:
    """Return what a Sender needs to reach nginx."""
    if request.param == "plain":
        return {"url": proxy.url}
    return {"url": proxy.tls_url, "ssl_context": ssl.create_default_context(cafile=proxy.cafile)}


def bodies() -> Iterator[bytes]:
    """Yield bodies of all sizes, no two of them alike."""
    number = 0
    for size, posts in SIZES.items():
        for _ in range(posts):
            number += 1
            yield payload.sized(number, size)


@pytest.mark.parametrize("way", SENDERS)
@pytest.mark.parametrize(("spares", "background"), [(0, False), (4, True)], ids=["no spares", "spares and background"])
def test_every_body_arrives_whole(
    proxy: nginx.Proxy, options: dict[str, Any], spares: int, way: str, *, background: bool
) -> None:
    before = Counter(proxy.delivered())
    options |= {"spares": spares, "background": background, "timeout": PATIENCE, "linger": PATIENCE}
    with senders(way) as make, make(**options) as sender:
        sender.warm()
        sent: Counter[str] = Counter()
        for body in bodies():
            assert sender.post(body)
            sent[hashlib.sha256(body).hexdigest()] += 1
        assert sender.flush(PATIENCE)
        stats = sender.stats
    assert Counter(proxy.delivered()) - before == sent
    assert stats._replace(spares=0) == (sent.total(), {200: sent.total()}, 0, 0, 0, 0, 0, 0, 0, 0)
