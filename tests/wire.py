"""What crosses an interface: TCP segments, captured by AF_PACKET. Linux, and root."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.peers import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

_ETH_P_ALL = 3  # linux/if_ether.h
_PACKET_OUTGOING = 4  # linux/if_packet.h; on loopback every packet is seen a second time, as incoming
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_TCP = 6
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10  # RFC 9293 §3.1
_SHOWN = {_FIN: "FIN", _SYN: "SYN", _RST: "RST"}


class Segment(NamedTuple):
    """A client's segment: those of its flags that open or end a connection, and the bytes it carries."""

    flags: tuple[str, ...]
    payload: bytes


class _Tcp(NamedTuple):
    """A segment as it was captured."""

    source: tuple[bytes, int]
    destination: tuple[bytes, int]
    flags: int
    payload: bytes


class Capture:
    """Segments on their way to an address, as they leave."""

    def __init__(self, sock: socket.socket, address: tuple[bytes, int]) -> None:
        self._socket = sock
        self._address = address

    def up_to_fin(self) -> list[Segment]:
        """Return the next connection's segments, from SYN to FIN or RST.

        Others may use the same port: this connection begins with the SYN to our address, and has one source.
        """
        source, segments = None, []
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            packet, (_, _, kind, *_) = self._socket.recvfrom(0x10000)
            tcp = _tcp(packet) if kind == _PACKET_OUTGOING else None
            if tcp is None or tcp.destination != self._address:
                continue
            if source is None and tcp.flags & (_SYN | _ACK) == _SYN:
                source = tcp.source
            if tcp.source == source:
                segments.append(Segment(tuple(name for bit, name in _SHOWN.items() if tcp.flags & bit), tcp.payload))
                if tcp.flags & (_FIN | _RST):
                    return segments
        pytest.fail(f"no FIN within {PATIENCE} s: {segments}")


def _tcp(packet: bytes) -> _Tcp | None:
    """Read IPv4 or IPv6, then TCP (RFC 9293 §3.1)."""
    if packet[0] >> 4 == 4:
        protocol, size, length = packet[9], (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        source, destination = packet[12:16], packet[16:20]
    else:
        protocol, size, length = packet[6], 40, 40 + int.from_bytes(packet[4:6], "big")
        source, destination = packet[8:24], packet[24:40]
    if protocol != _TCP:
        return None
    tcp = packet[size:length]
    source_port, destination_port = struct.unpack_from("!HH", tcp)
    return _Tcp((source, source_port), (destination, destination_port), tcp[13], tcp[(tcp[12] >> 4) * 4 :])


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
def captured(interface: str, address: tuple[Any, ...]) -> Iterator[Capture]:
    """Capture what goes to an address (a getsockname()), in the network namespace of the calling thread."""
    if sys.platform != "linux":
        pytest.skip("capturing packets needs Linux")
    else:
        try:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)  # captures nothing yet
        except PermissionError:
            pytest.skip("capturing packets needs root (CAP_NET_RAW)")
        with sock:
            host, port = address[:2]
            program = b"".join(struct.pack("HBBI", *step) for step in _to_port(port))
            buffer = ctypes.create_string_buffer(program)
            fprog = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
            sock.bind((interface, _ETH_P_ALL))
            sock.settimeout(PATIENCE)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            yield Capture(sock, (socket.inet_pton(family, host), port))
