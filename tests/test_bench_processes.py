"""Children of the bench, which answer by lines on a pipe."""

from __future__ import annotations

import sys

import psutil
import pytest

from bench.processes import Child
from tests.peers import until

LONG = 2_000_000  # bytes; no pipe takes so many by default (linux: 16 pages, of 64 KiB at most)


def test_a_child_that_is_stopped_in_the_middle_of_an_answer_gives_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python is told not to buffer, as in most containers."""
    if sys.platform != "linux":
        pytest.skip("looks into a pipe as Linux does")
    import fcntl
    import termios

    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    with Child([sys.executable, "-c", f"print('x' * {LONG})"]) as child:
        pipe = child._stdout.fileno()
        full = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
        until(lambda: fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4) == full.to_bytes(4, sys.byteorder), "a full pipe")
        process = psutil.Process(child.pid)
        process.suspend()
        until(lambda: process.status() == psutil.STATUS_STOPPED, "it has stopped")
        process.resume()
        assert len(child.hear()) == LONG
