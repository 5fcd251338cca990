"""The life around a post: gevent, want of descriptors, hostile and absent peers, the second try."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import rawfnf
from tests.peers import PATIENCE, Recorder, refusing_port, release_ports

ROOT = Path(__file__).parent.parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="what is tested is Linux's")


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


GEVENT = """
import sys, time
from gevent import monkey
monkey.patch_all()
import gevent, rawfnf
others = []
def other():
    while True:
        others.append(time.monotonic())
        gevent.sleep(0.01)
gevent.spawn(other)
port, closing = int(sys.argv[1]), sys.argv[2]
started = time.monotonic()
receipt = rawfnf.post(f"http://127.0.0.1:{port}/", b"x", closing=closing, linger=0.3)
took = time.monotonic() - started
print(receipt.delivery, took < 5, len(others) > 5)
"""


@pytest.mark.parametrize(("closing", "said"), [("now", "sent True False"), ("answered", "acked True True")])
def test_under_gevent_linger_holds_and_others_run_meanwhile(closing: str, said: str) -> None:
    pytest.importorskip("gevent", reason="gevent has no wheel for this Python")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = python(GEVENT, str(silent.getsockname()[1]), closing)
    assert (done.stdout.strip(), done.returncode) == (said, 0), done.stderr


TRUST = """
import resource, ssl
import rawfnf
from rawfnf import _tls
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
try:
    rawfnf.post("https://127.0.0.1:9/")
except rawfnf.ConnectError as error:
    print(error.errno, error.bytes_sent)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(_tls.default_context().cert_store_stats() == ssl.create_default_context().cert_store_stats())
"""


@linux
def test_want_of_descriptors_leaves_no_empty_trust_store_behind() -> None:
    done = python(TRUST)
    assert (done.stdout.split(), done.returncode) == (["24", "0", "True"], 0), done.stderr


def test_a_peer_that_goes_on_and_on_cannot_outlast_the_deadline_of_a_handshake() -> None:
    hello_request = bytes.fromhex("16 03 01 00 04 00 00 00 00")  # RFC 5246 §7.4.1.1: to be ignored in a handshake
    over = threading.Event()

    def chatter(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(PATIENCE)
            with contextlib.suppress(OSError):  # the other side has had enough
                while not over.is_set():
                    peer.sendall(hello_request * 100)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=chatter, args=(listener,))
        thread.start()
        started = time.monotonic()
        try:
            with pytest.raises(rawfnf.ConnectError) as caught:
                rawfnf.post(f"https://127.0.0.1:{listener.getsockname()[1]}/", timeout=0.3)
            took = time.monotonic() - started
        finally:
            over.set()
            thread.join()
    assert (caught.value.phase, caught.value.bytes_sent) == ("handshake", 0)
    assert took < PATIENCE / 2


@linux
def test_nobody_is_connected_with_himself() -> None:
    """Where nothing listens, a port that the kernel gives to clients can be given to this very client."""
    port = refusing_port()
    release_ports()
    # Given by hand here; left to itself the kernel comes round to it once in some 28,000 connections.
    with pytest.raises(rawfnf.ConnectError, match="nothing listens there"):
        rawfnf.post(f"http://127.0.0.1:{port}/", closing="acked", source_address=("127.0.0.1", port))


def test_a_file_is_back_where_it_stood_when_nothing_could_be_sent(recorder: Recorder) -> None:
    content = os.urandom(200_000)
    file = io.BytesIO(content)
    file.seek(1000)
    for _ in range(2):
        with pytest.raises(rawfnf.ConnectError):
            rawfnf.post(f"http://127.0.0.1:{refusing_port()}/", file)
        with pytest.raises(rawfnf.RequestError):
            rawfnf.post(recorder.url, file, linger=-1)
    rawfnf.post(recorder.url, file, closing="answered")
    assert bytes(recorder.next().body) == content[1000:]


def test_a_month_is_no_too_long_linger_or_timeout(recorder: Recorder) -> None:
    receipt = rawfnf.post(recorder.url, b"x", closing="answered", linger=3e6, timeout=3e6)
    assert receipt.delivery == "answered"
