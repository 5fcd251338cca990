"""What crosses an interface: TCP segments, captured by AF_PACKET. Linux, and root."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.peers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

_ETH_P_ALL = 3  # linux/if_ether.h
_PACKET_OUTGOING = 4  # linux/if_packet.h; on loopback every packet is seen a second time, as incoming
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_TCP = 6
_FLAGS = {0x01: "FIN", 0x02: "SYN", 0x04: "RST"}


class Segment(NamedTuple):
    """A client's segment: those of its flags that open or end a connection, and the bytes it carries."""

    flags: tuple[str, ...]
    payload: bytes


class Capture:
    """Segments on their way to a port, as they leave."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def up_to_fin(self) -> list[Segment]:
        """Return the next connection's segments, from SYN to FIN or RST."""
        segments: list[Segment] = []
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            packet, (_, _, kind, *_) = self._socket.recvfrom(0x10000)
            segment = _segment(packet) if kind == _PACKET_OUTGOING else None
            if segment is not None:
                segments.append(segment)
                if {"FIN", "RST"} & set(segment.flags):
                    return segments
        pytest.fail(f"no FIN within {PATIENCE} s: {segments}")


def _segment(packet: bytes) -> Segment | None:
    """Read IPv4 or IPv6, then TCP (RFC 9293 §3.1)."""
    if packet[0] >> 4 == 4:
        protocol, size, length = packet[9], (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    else:
        protocol, size, length = packet[6], 40, 40 + int.from_bytes(packet[4:6], "big")
    if protocol != _TCP:
        return None
    tcp = packet[size:length]
    return Segment(tuple(name for bit, name in _FLAGS.items() if tcp[13] & bit), tcp[(tcp[12] >> 4) * 4 :])


def _to_port(port: int) -> list[tuple[int, int, int, int]]:
    """Return a classic BPF program (linux/filter.h: code, jt, jf, k) that takes only what goes to this port.

    Without it the traffic of others on this machine fills the socket's queue, and what is looked for is dropped.
    """
    return [
        (0x30, 0, 0, 0),  # ldb [0]: the version, and IPv4's header length, which is 20 without options
        (0x74, 0, 0, 4),  # rsh #4
        (0x15, 0, 2, 4),  # jeq #4, otherwise over two
        (0x28, 0, 0, 22),  # ldh [22]: the destination port behind IPv4's header
        (0x05, 0, 0, 1),  # ja over one
        (0x28, 0, 0, 42),  # ldh [42]: behind IPv6's
        (0x15, 0, 1, port),  # jeq #port, otherwise over one
        (0x06, 0, 0, 0x40000),  # ret: all of it
        (0x06, 0, 0, 0),  # ret: nothing
    ]


@contextlib.contextmanager
def captured(interface: str, port: int) -> Iterator[Capture]:
    """Capture for the length of the block, in the network namespace of the calling thread."""
    if sys.platform != "linux":
        pytest.skip("capturing packets needs Linux")
    else:
        try:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        except PermissionError:
            pytest.skip("capturing packets needs root (CAP_NET_RAW)")
        with sock:
            program = b"".join(struct.pack("HBBI", *step) for step in _to_port(port))
            buffer = ctypes.create_string_buffer(program)
            fprog = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
            sock.bind((interface, 0))
            sock.settimeout(PATIENCE)
            yield Capture(sock)
