# ruff: noqa: S603, S607 - starts `ip`, this file and a test's own commands: nothing comes from outside
"""A network with a chosen round-trip time and packet loss, on one Linux machine without netem.

Theory of operation::

    client namespace                   relay process                   server namespace
    kernel TCP <-> tun0 == read, hold for rtt/2, write ========== tun0 <-> kernel TCP
    10.82.0.1                                                         10.82.0.2

A TUN device hands the packets which its kernel transmits to whoever holds its descriptor, and takes what is written
there as received. Each of two network namespaces has one, and no other way out. The relay holds both descriptors: it
reads a packet, keeps it for half a round trip and writes it to the other side, or forgets it. Handshake, windows,
retransmissions and resets are real kernel TCP, not a model. Packets pass unchanged: as nothing was offloaded (no
TUNSETOFFLOAD), the kernel segments and checksums them before it hands them over, and verifies those it takes.

The relay is this file run as a script. It makes the namespaces and removes them once its standard input ends: ordered
by its parent, or because that died. PR_SET_PDEATHSIG is the way not taken: it fires when the *thread* that forked
ends, and a relay killed by a signal could not remove the names.

Bandwidth is not limited: the relay carries what this machine's Python can copy.
"""

import contextlib
import ctypes
import math
import os
import random
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl

__all__ = ["End", "Network", "missing", "network"]

NAMES = Path("/run/netns")  # where `ip netns` keeps namespaces alive, as bind mounts (ip-netns(8))
TUN = "/dev/net/tun"
CLIENT, SERVER = "10.82.0.1", "10.82.0.2"  # the same in every network: namespaces do not see each other's addresses
MTU = 1500  # bytes, Ethernet's
IPV4 = 4  # RFC 791, the version in a packet's first four bits
# Packets, per direction, held by the relay and again by the device. TCP's largest default window is 6 MiB (tcp_rmem),
# some 4,200 packets: the device's default of 500 would add losses which nobody asked for.
QUEUE = 20_000
BURST = 64  # packets read from one side before the other has its turn
PATIENCE = 20.0  # seconds for the relay to start or stop, commonly 0.1: a bound for a broken machine, not a delay
READY = b"+\n"

CLONE_NEWNET = 0x40000000  # linux/sched.h
TUNSETIFF = 0x400454CA  # linux/if_tun.h: _IOW('T', 202, int), the same on x86 and Arm
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000  # linux/if_tun.h: IP packets, without four bytes of flags before each
CAPABILITIES = 1 << 12 | 1 << 21  # linux/capability.h: CAP_NET_ADMIN for devices, CAP_SYS_ADMIN for namespaces


def missing() -> str | None:
    """Say what this machine lacks to make a network, as the reason of a skip; None when nothing is missing."""
    if sys.platform != "linux":
        return "a simulated network needs Linux"
    lacks = []
    # Not the user id: root in a container is often not allowed to make namespaces.
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    if int(status.partition("CapEff:")[2].split()[0], 16) & CAPABILITIES != CAPABILITIES:
        lacks.append("root (CAP_NET_ADMIN and CAP_SYS_ADMIN)")
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError as error:
        lacks.append(f"{TUN} ({error.strerror})")
    if shutil.which("ip") is None:
        lacks.append("the command ip (iproute2)")
    return f"a simulated network needs {', '.join(lacks)}" if lacks else None


class End:
    """One end of a network: the namespace `name` with its own loopback, and `address` on its side of the link."""

    def __init__(self, name: str, address: str) -> None:
        """Only name it; the relay makes it."""
        self.name = name
        self.address = address
        self._started: list[subprocess.Popen[bytes]] = []

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move the calling thread, and no other, into the namespace for the length of the block.

        A socket belongs for life to the namespace in which it was made: make it inside, use it anywhere. Threads and
        processes started inside stay there. Do not `await` inside: the event loop's other tasks run in this thread too.
        """
        with open("/proc/thread-self/ns/net", "rb") as home, (NAMES / self.name).open("rb") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line which runs `argv` in the namespace, for whoever starts processes in another way."""
        return ["ip", "netns", "exec", self.name, *argv]

    def popen(self, argv: Sequence[str], *, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Start `argv` in the namespace, as the leader of a process group which the network's exit kills."""
        with self.inside():  # a child begins where the thread is that forks it
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout, start_new_session=True)
        self._started.append(process)
        return process

    def kill(self) -> None:
        """Kill what popen() started and wait for it. A test that wants a graceful end asks for it before."""
        if sys.platform == "win32":
            raise NotImplementedError
        while self._started:
            with self._started.pop() as process:  # its exit closes the pipe and waits
                if process.returncode is None:  # not reaped yet, so this number is still its group's
                    os.killpg(process.pid, signal.SIGKILL)


class Network(NamedTuple):
    """Two ends, joined by a link which delays, and may lose, every packet."""

    client: End
    server: End
    relay: int  # process id


@contextlib.contextmanager
def network(*, rtt: float, loss: float = 0.0, seed: int = 1) -> Iterator[Network]:
    """Make a network for the length of the block; on entry both interfaces are up and the relay is reading.

    `rtt` is the round-trip time in seconds, half of it in each direction; `loss` the fraction of packets lost, in each
    direction independently. With the same `seed` the n-th packet of a direction meets the same fate in every run; which
    packet is the n-th is up to TCP's timing.

    Raises RuntimeError on entry when the network cannot be made (see `missing`), and on exit when the relay died
    meanwhile: what was measured then was no network.
    """
    if not 0 <= rtt < math.inf or not 0 <= loss < 1:
        message = f"rtt must be seconds, 0 or more, and loss a fraction below 1: rtt={rtt}, loss={loss}"
        raise ValueError(message)
    if lack := missing():
        raise RuntimeError(lack)
    prefix = f"rawfnf-{os.getpid()}-{secrets.token_hex(4)}"  # a process may have several, and process ids come again
    client, server = End(f"{prefix}-client", CLIENT), End(f"{prefix}-server", SERVER)
    # -I: no directory of ours on sys.path, where a module may have the name of a standard one.
    command = [sys.executable, "-I", __file__, client.name, server.name, f"{rtt}", f"{loss}", f"{seed}"]
    heard = bytearray()
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    with ours:
        with theirs:
            fd = theirs.fileno()
            # A session of its own: a terminal's Ctrl-C is for the tests, which then end the relay.
            relay = subprocess.Popen(command, stdin=fd, stdout=fd, stderr=fd, start_new_session=True)
        try:
            if _hear(ours, heard):
                yield Network(client, server, relay.pid)
        finally:
            try:
                client.kill()
                server.kill()
            finally:
                _stop(relay, ours, heard, (client.name, server.name))


def _hear(control: socket.socket, heard: bytearray) -> bool:
    """Collect in `heard` what the relay says; True once it says that all is up, False when it has ended."""
    while more := control.recv(4096):
        heard += more
        if heard.endswith(READY):
            heard.clear()
            return True
    return False


def _stop(relay: subprocess.Popen[bytes], control: socket.socket, heard: bytearray, names: Sequence[str]) -> None:
    """End the relay and both namespaces; raise RuntimeError with its complaint if it had not lived until now."""
    try:
        control.shutdown(socket.SHUT_WR)  # not close(): a forked child of ours may hold a copy
        _hear(control, heard)
    except TimeoutError:
        heard += b"hung, and was killed"
        relay.kill()
    status = relay.wait()
    for name in names:
        _remove(name)  # left there only by a relay that was killed
    if status != 0:
        message = f"the relay failed ({status}): {heard.decode(errors='replace')}"
        raise RuntimeError(message)


class _Line:
    """One direction of the link: a packet read from the TUN device `source` is due at `sink` `delay` seconds later."""

    def __init__(self, source: int, sink: int, *, delay: float, loss: float, seed: str) -> None:
        self.source = source
        self.sink = sink
        self.delay = delay
        self.loss = loss
        self.fate = random.Random(seed)  # noqa: S311 - loses packets, guards no secret
        self.held: deque[tuple[float, bytes]] = deque()  # one delay for all: first in, first due

    def take(self) -> None:
        """Read up to BURST of the packets which the kernel has transmitted."""
        with contextlib.suppress(BlockingIOError):  # there are no more
            for _ in range(BURST):
                packet = os.read(self.source, MTU)
                # The kernel's own IPv6 multicasts are not ours, and must not use up draws of the seeded sequence.
                if packet[0] >> 4 == IPV4 and self.fate.random() >= self.loss and len(self.held) < QUEUE:
                    self.held.append((monotonic() + self.delay, packet))

    def deliver(self) -> None:
        """Hand over what is due; the receiving kernel's TCP runs within the write."""
        while self.held and self.held[0][0] <= monotonic():
            os.write(self.sink, self.held.popleft()[1])


def _relay(there: _Line, back: _Line) -> None:
    """Relay until standard input ends."""
    stop = sys.stdin.fileno()
    while True:
        due = [line.held[0][0] for line in (there, back) if line.held]
        wait = max(0.0, min(due) - monotonic()) if due else None
        # Not poll or epoll: these round up to whole milliseconds.
        readable, _, _ = select.select([there.source, back.source, stop], [], [], wait)
        if stop in readable:
            return
        for line in (there, back):
            line.deliver()
            if line.source in readable:
                line.take()


def _open_tun() -> int:
    """Make tun0 in the namespace of the calling thread and return its descriptor; the device goes when this closes."""
    if sys.platform != "win32":
        device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))  # struct ifreq
        return device
    raise NotImplementedError


def _build(end: End) -> int:
    """Make the namespace with a loopback and a TUN device, both up, and return the device's descriptor."""
    _ip("netns", "add", end.name)
    with end.inside():
        device = _open_tun()
        _ip("link", "set", "lo", "up")
        _ip("address", "add", f"{end.address}/24", "dev", "tun0")
        # Returns with the interface up, and an IPv4 address is never tentative: there is nothing to wait for.
        _ip("link", "set", "tun0", "mtu", f"{MTU}", "txqueuelen", f"{QUEUE}", "up")
    return device


def _main(client: str, server: str, rtt: str, loss: str, seed: str) -> None:
    """Be the relay: build, say so, relay, remove."""
    if sys.platform == "win32":
        raise NotImplementedError
    try:
        left, right = _build(End(client, CLIENT)), _build(End(server, SERVER))
        delay, lost = float(rtt) / 2, float(loss)
        there = _Line(left, right, delay=delay, loss=lost, seed=f"{seed} there")
        back = _Line(right, left, delay=delay, loss=lost, seed=f"{seed} back")
        with contextlib.suppress(PermissionError):  # without CAP_SYS_NICE: a less steady round trip, not a wrong one
            os.nice(-10)  # a round trip is to show the delay, not how busy the machine is
        os.write(sys.stdout.fileno(), READY)
        _relay(there, back)
    finally:
        _remove(client)
        _remove(server)


def _setns(namespace: int) -> None:
    """Move the calling thread into the network namespace of this descriptor."""
    # os.setns exists from Python 3.12 on; one way for all versions is one way to test.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _ip(*words: str) -> None:
    """Run iproute2's `ip`; what it complains of goes to our standard error."""
    subprocess.run(["ip", *words], check=True, stdin=subprocess.DEVNULL)


def _remove(name: str) -> None:
    if (NAMES / name).exists():
        _ip("netns", "delete", name)


if __name__ == "__main__":
    _main(*sys.argv[1:])
