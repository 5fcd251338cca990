"""A name server that takes its time: `python -m bench.nameserver ADDRESS DELAY NAME ANSWER`.

It knows one NAME, which has the IPv4 address ANSWER and no other, and answers every question after DELAY seconds. It
says `ready`, and ends with standard input. The questions of different clients do not wait for each other.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import struct
import sys
import time
from typing import NamedTuple

PORT = 53  # resolv.conf(5) has no way to name another
LARGEST = 512  # bytes of a question: RFC 1035, section 4.2.1
# RFC 1035, section 4.1.1: id, flags, and how many questions, answers, authorities and additional records.
HEADER = struct.Struct("!6H")
RESPONSE, RECURSION_AVAILABLE, RECURSION_DESIRED, NAME_ERROR = 0x8000, 0x0080, 0x0100, 3
A, IN = 1, 1  # section 3.2.2: a host address; section 3.2.4: the Internet
# Section 4.1.3: the name is that at byte 12, by a pointer; type, class, seconds to live (nobody is to keep it), length.
RECORD = struct.pack("!HHHIH", 0xC000 | HEADER.size, A, IN, 0, 4)


class Question(NamedTuple):
    """The first question of a message."""

    name: str
    type: int
    end: int  # where it ends in the message


def question_of(message: bytes) -> Question:
    """Read it; IndexError or struct.error when it is none."""
    labels, at = [], HEADER.size
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("ascii", errors="replace"))
        at += 1 + length
    return Question(".".join(labels).lower(), struct.unpack_from("!H", message, at + 1)[0], at + 5)


def answer(message: bytes, name: str, address: str) -> bytes:
    """Return the answer: the address, or that there is none of this type, or no such name."""
    asked = question_of(message)
    number, flags = struct.unpack_from("!HH", message)
    flags = RESPONSE | RECURSION_AVAILABLE | (flags & RECURSION_DESIRED) | (0 if asked.name == name else NAME_ERROR)
    record = RECORD + socket.inet_aton(address) if (asked.name, asked.type) == (name, A) else b""
    return HEADER.pack(number, flags, 1, bool(record), 0, 0) + message[HEADER.size : asked.end] + record


def serve(server: socket.socket, delay: float, name: str, address: str) -> None:
    """Answer until standard input ends."""
    due: list[tuple[float, int, bytes, tuple[str, int]]] = []
    numbers = itertools.count()
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            ready = selector.select(max(0.0, due[0][0] - time.monotonic()) if due else None)
            for key, _ in ready:
                if key.fileobj is not server:
                    return
                question, client = server.recvfrom(LARGEST)
                heapq.heappush(due, (time.monotonic() + delay, next(numbers), question, client))
            while due and due[0][0] <= time.monotonic():
                _, _, question, client = heapq.heappop(due)
                server.sendto(answer(question, name, address), client)


def main() -> None:
    """Bind, say so, serve."""
    where, delay, name, address = sys.argv[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((where, PORT))
        print("ready", flush=True)
        serve(server, float(delay), name, address)


if __name__ == "__main__":
    main()
