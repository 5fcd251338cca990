"""The embedded receiver: takes requests in, counts and hashes their bodies, and answers after a delay.

It runs as a process of its own, `python -m bench.receiver COUNTERS CERTIFICATE ADDRESS SLOT`, and obeys lines of JSON
on standard input until that ends. Each contender of each scenario gets a listener of its own, so that a connection that
says nothing at all is still known to be that contender's.

It is a forgiving server: a FIN after the request does not make it drop the request, and a client that is gone does not
stop its work. Many servers are not like that (facts.md), which is why this receiver alone cannot show what arrives in
practice. It is one non-blocking loop without asyncio: on two cores a slow receiver would be what is measured, and
asyncio tells nothing of a TLS handshake that fails.

A body counts as arrived when the work on it is done: at once, or when the answer is due. Where no request is ever
answered, it counts when it is there.

A slow reader takes a connection's bytes at a chosen rate, through a small window, so that the rest waits with the
client.

A request that asks for it to be closed is accounted for once its client has ended the connection; another once it is
taken in, and so is one of a contender whose connections outlive its posts. Workers are told just before the loop
sleeps, and the counter SLOT, odd while it sleeps, tells them when it has slept for a while. So every post finds the
receiver in the same state, asleep. Otherwise a quick contender would meet it awake and be spared the wake-up that a
slow one pays.

The request is read by its Content-Length. h11 would take several times as long, and no contender sends chunks.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import heapq
import itertools
import json
import re
import selectors
import socket
import ssl
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from .counter import Counters
from .descriptors import allow_many_descriptors

if TYPE_CHECKING:
    from .scenarios import TLSVersion

BACKLOG = 4096
READ_BYTES = 65536
# A slow reader's receive buffer (the kernel doubles it, socket(7)): one read's worth, so that little waits in it.
SLOW_READER_BUFFER = 32768
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CONNECTION_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
ANSWER_AND_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
NOTHING_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Command(TypedDict, total=False):
    """`listen` opens a listener for a slot; the others ask about one."""

    listen: int
    tls: TLSVersion | None
    delay: float
    held: bool  # do its client's connections outlive the posts?
    answers: bool  # False: requests are taken in, and never answered
    reads: float  # bytes per second of each connection; 0: all there is
    forget: int  # close the slot's listener, and forget what arrived there
    due: int  # how many answers are not given yet?
    count: int  # how many bodies have arrived?
    report: int  # which?


class Report(TypedDict):
    """What arrived in one slot."""

    bodies: dict[str, int]  # SHA-256 of each whole body: how often
    broken: int  # connections that ended before a whole request


class Request:
    """What is read of one request: `take` returns its body once it is whole."""

    def __init__(self) -> None:
        self.read = bytearray()
        self.closes = False
        self._body: slice | None = None  # where it is in `read`, once the head is there

    def take(self) -> bytes | None:
        """Return the body of the first whole request read, which is then forgotten; None: not whole yet."""
        if self._body is None:
            end = self.read.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = bytes(self.read[:end])
            length = CONTENT_LENGTH.search(head)
            self.closes = CONNECTION_CLOSE.search(head) is not None
            self._body = slice(end + 4, end + 4 + (int(length[1]) if length else 0))
        if len(self.read) < self._body.stop:
            return None
        body = bytes(self.read[self._body])
        del self.read[: self._body.stop]
        self._body = None
        return body


class Listener:
    """One slot's listening socket, and what arrived through it."""

    def __init__(self, address: str, command: Command, context: ssl.SSLContext | None) -> None:
        self.slot = command["listen"]
        self.delay = command["delay"]
        self.held = command["held"]
        self.answers = command["answers"]
        self.reads = command["reads"]
        self.context = context
        self.bodies: Counter[str] = Counter()
        self.broken = 0
        self.due = 0
        self.socket = socket.create_server((address, 0), backlog=BACKLOG)
        if self.reads:  # every connection accepted from now on inherits it
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_READER_BUFFER)
        self.socket.settimeout(0)

    def wrap(self, taken: socket.socket) -> socket.socket:
        """Return an accepted socket, non-blocking, ready for its TLS handshake if there is to be one."""
        taken.settimeout(0)
        if self.context:
            return self.context.wrap_socket(taken, server_side=True, do_handshake_on_connect=False)
        return taken


class Connection:
    """One accepted connection; over TLS, reading it carries out the handshake."""

    def __init__(self, sock: socket.socket, listener: Listener) -> None:
        self.socket = sock
        self.listener = listener
        self.request = Request()
        self.requests = 0
        self.unanswered = 0
        self.ended = False  # has the client ended its side?

    def answer(self, digest: str) -> None:
        """Be done with one body, and answer unless nobody ever gets an answer.

        Half-close if it asked for that, and leave the close to the client's EOF: a plain close() with bytes unread,
        such as a close_notify, would send RST and could destroy the answer.
        """
        self.listener.bodies[digest] += 1
        self.unanswered -= 1
        if not self.listener.answers:
            return
        with contextlib.suppress(OSError):  # the client may be gone: it did not want the answer
            self.socket.send(ANSWER_AND_CLOSE if self.request.closes else ANSWER)
            if self.request.closes:
                # SSLSocket.shutdown() would also forget its TLS state, and read what follows as if it were plain.
                socket.socket.shutdown(self.socket, socket.SHUT_WR)

    @property
    def broken(self) -> bool:
        """Did it end before a whole request? A connection that is merely reused no more, or a spare, is not broken."""
        return bool(self.request.read) or not (self.requests or self.listener.held)

    @property
    def settles_at_end(self) -> bool:
        """Whether its request is accounted for when it ends, not when it is taken in."""
        return self.request.closes and not self.listener.held


class Receiver:
    """The loop: accepts, reads, and answers when an answer is due."""

    def __init__(self, counters: Counters, certificate: Path, address: str, slot: int) -> None:
        self.counters = counters
        self.certificate = certificate
        self.address = address
        self.slot = slot
        self.selector = selectors.DefaultSelector()
        self.listeners: dict[int, Listener] = {}
        self.contexts: dict[TLSVersion, ssl.SSLContext] = {}
        # A heap by time due; the number keeps the order total.
        self.answers: list[tuple[float, int, Connection, str]] = []
        self.resting: list[tuple[float, int, Connection]] = []  # slow readers' connections, until when: another heap
        self.numbers = itertools.count()
        self.settled: list[int] = []  # slots of what is accounted for, but not told yet
        self.selector.register(sys.stdin.buffer, selectors.EVENT_READ, None)

    def run(self) -> None:
        """Serve until standard input ends."""
        while True:
            wait = self.until_due()
            self.tell_settled()
            self.counters.add_one(self.slot)  # asleep
            ready = self.selector.select(wait)
            self.counters.add_one(self.slot)  # awake
            for key, _ in ready:
                if isinstance(key.data, Listener):
                    self.accept(key.data)
                elif isinstance(key.data, Connection):
                    self.receive(key.data)
                elif not self.obey():
                    return
            self.answer_due()
            self.read_on()

    def until_due(self) -> float | None:
        """Seconds until there is something to do without being asked; None: there is nothing."""
        due = [heap[0][0] for heap in (self.answers, self.resting) if heap]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def tell_settled(self) -> None:
        """Let the workers go on."""
        for slot in self.settled:
            self.counters.add_one(slot)
        self.settled.clear()

    def obey(self) -> bool:
        """Carry out one command line; False at the end of input."""
        line = sys.stdin.buffer.readline()
        if not line:
            return False
        command: Command = json.loads(line)
        reply: object
        if "listen" in command:
            reply = self.listen(command)
        elif "forget" in command:
            self.forget(command["forget"])
            reply = None
        elif "due" in command:
            reply = self.listeners[command["due"]].due
        elif "count" in command:
            reply = self.listeners[command["count"]].bodies.total()
        else:
            listener = self.listeners[command["report"]]
            reply = Report(bodies=listener.bodies, broken=listener.broken)
        print(json.dumps(reply), flush=True)
        return True

    def listen(self, command: Command) -> int:
        """Open a listener; returns its port."""
        tls = command["tls"]
        listener = Listener(self.address, command, self.context(tls) if tls else None)
        self.listeners[listener.slot] = listener
        self.selector.register(listener.socket, selectors.EVENT_READ, listener)
        port: int = listener.socket.getsockname()[1]
        return port

    def forget(self, slot: int) -> None:
        """Close a listener: its contender posts no more. Connections that it has left end when they do."""
        listener = self.listeners.pop(slot)
        self.selector.unregister(listener.socket)
        listener.socket.close()
        listener.bodies.clear()

    def context(self, version: TLSVersion) -> ssl.SSLContext:
        """Return a server context for exactly one version of TLS."""
        if version not in self.contexts:
            context = self.contexts[version] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = context.maximum_version = VERSIONS[version]
            context.load_cert_chain(self.certificate)
        return self.contexts[version]

    def accept(self, listener: Listener) -> None:
        """Take in every connection that waits, and read at once: the request is mostly there already."""
        while True:
            try:
                taken, _ = listener.socket.accept()
            except BlockingIOError:
                return
            try:
                connection = Connection(listener.wrap(taken), listener)
            except OSError:
                # Reset while it waited to be accepted: a TLS socket cannot be made of it.
                if not listener.held:
                    self.count_broken(listener)
                continue
            self.selector.register(connection.socket, selectors.EVENT_READ, connection)
            self.receive(connection)

    def receive(self, connection: Connection) -> None:
        """Read what there is, and take in each request that is whole."""
        try:
            while read := connection.socket.recv(READ_BYTES):
                connection.request.read += read
                while (body := connection.request.take()) is not None:
                    self.take_in(connection, body)
                if connection.listener.reads:
                    self.rest(connection, len(read))
                    return
        except NOTHING_YET:
            return
        except OSError:
            # Reset, or a TLS failure: nothing more will come, which is all that counts here.
            pass
        self.end(connection)

    def rest(self, connection: Connection, read: int) -> None:
        """Read no more of it for as long as a slow reader takes for so many bytes."""
        self.selector.unregister(connection.socket)
        until = time.monotonic() + read / connection.listener.reads
        heapq.heappush(self.resting, (until, next(self.numbers), connection))

    def read_on(self) -> None:
        """Read what has rested for long enough."""
        now = time.monotonic()
        while self.resting and self.resting[0][0] <= now:
            _, _, connection = heapq.heappop(self.resting)
            self.selector.register(connection.socket, selectors.EVENT_READ, connection)
            self.receive(connection)

    def take_in(self, connection: Connection, body: bytes) -> None:
        """Hash one body, and answer it now or later."""
        listener = connection.listener
        digest = hashlib.sha256(body).hexdigest()
        connection.requests += 1
        connection.unanswered += 1
        if listener.delay:
            listener.due += 1
            heapq.heappush(self.answers, (time.monotonic() + listener.delay, next(self.numbers), connection, digest))
        else:
            connection.answer(digest)
        if not connection.settles_at_end:
            self.settled.append(listener.slot)

    def end(self, connection: Connection) -> None:
        """Close, unless an answer is still due: the client has ended its side."""
        self.selector.unregister(connection.socket)
        connection.ended = True
        if connection.requests and connection.settles_at_end:
            self.settled.append(connection.listener.slot)
        elif connection.broken:
            self.count_broken(connection.listener)
        if not connection.unanswered:
            connection.socket.close()

    def count_broken(self, listener: Listener) -> None:
        """Account for a connection that has ended before a whole request."""
        listener.broken += 1
        self.settled.append(listener.slot)

    def answer_due(self) -> None:
        """Give the answers whose time has come."""
        now = time.monotonic()
        while self.answers and self.answers[0][0] <= now:
            _, _, connection, digest = heapq.heappop(self.answers)
            connection.listener.due -= 1
            connection.answer(digest)
            if connection.ended and not connection.unanswered:
                connection.socket.close()


def main() -> None:
    """Say how many descriptors there are, then serve."""
    counters, certificate, address, slot = sys.argv[1:]
    # A pause of the collector would be measured as somebody's tail. Reference counts free what is made here.
    gc.freeze()
    gc.disable()
    with Counters(Path(counters)) as shared:
        receiver = Receiver(shared, Path(certificate), address, int(slot))
        print(json.dumps(allow_many_descriptors()), flush=True)
        receiver.run()


if __name__ == "__main__":
    main()
