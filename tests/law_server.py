"""A server that reads, and does everything else when it is told to, step by step.

Theory of operation. One thread waits in one selector: it accepts, shakes hands, reads. A test tells the server what to
do to which connection; that is done in the test's own thread, under `lock`, and so is done when the call returns. Every
connection is a Visit: peers.py's record of what came, and of what has been done to it, in order.

A body begins with its number, and with a letter for its size: that tells which post a connection carries, even when the
body is not whole. Bodies of all sizes but the smallest are left unread while the server is `frugal`.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import TYPE_CHECKING, Any

from tests.peers import PATIENCE, Talk

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Self

# What a test can have said on a connection. A number is a whole answer of that status.
SAYS = {
    "103": b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n",
    "202 begun": b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwa",
    "202 ended": b"it.",
    "413, reset": b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "garbage": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
}

_EMPTY = b"Content-Length: 0\r\nConnection: close\r\n"
_PREFIX = 9  # bytes of a body: its number, and the letter


class Visit(Talk):
    """One connection: what came in on it, and what has been done to it."""

    def __init__(self, sock: socket.socket, client: Any, context: ssl.SSLContext | None) -> None:
        super().__init__(sock, client, context, keep=True)
        sock.settimeout(0.0)
        self.did: list[str] = []
        self.starving = False  # it has more to say, and nobody reads
        self.fed = False  # it is read to its end, whatever the server's appetite
        self.early = False  # something was done to it while it was starving

    @property
    def tls(self) -> bool:
        return self._tls is not None

    @property
    def number(self) -> int | None:
        """Which post it carries; None while it carries none."""
        return int(self.body[: _PREFIX - 1]) if len(self.body) >= _PREFIX else None

    @property
    def long(self) -> bool:
        """Whether its body is one that a frugal server leaves unread."""
        return len(self.body) >= _PREFIX and self.body[_PREFIX - 1 : _PREFIX] != b"s" and not self.whole

    @property
    def arriving(self) -> bool:
        """Whether it is in the middle of a request, and reading."""
        return bool(self.body) and not (self.whole or self.starving or self.ended)

    @property
    def idle(self) -> bool:
        """Whether it is a spare that both ends believe in."""
        return self.handshaken and not (self.data or self.did or self.ended)


class LawServer:
    """Listens on 127.0.0.1. A context manager."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.lock = threading.RLock()
        self.visits: list[Visit] = []
        self.frugal = False  # long bodies are not read to their end
        self.generous = False  # whole requests are answered at once, by 204
        self._context = context
        self._error: BaseException | None = None
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        # Bound, and never listening: nobody else is given the port while the server is down.
        self._place = self._bound(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._place.getsockname()
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.address[1]}/"
        self._waiting, self._waking = socket.socketpair()
        self._selector.register(self._waiting, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        self.up()
        self._thread = threading.Thread(target=self._run, name="law server", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Reset whatever is open, and stop; raises what went wrong in the thread."""
        self._stopping = True
        self._waking.send(b"\0")
        self._thread.join(PATIENCE)
        self.down()
        for visit in self.visits:
            self._reads_no_more(visit)
            with contextlib.suppress(OSError):  # closed already
                visit.reset()
        self._selector.close()
        for sock in (self._place, self._waiting, self._waking):
            sock.close()
        if self._error is not None:
            raise self._error

    # --- what it knows

    def visit(self, number: int) -> Visit | None:
        """Return the connection that carries this post; there is never more than one."""
        with self.lock:
            found = [visit for visit in self.visits if visit.number == number]
        assert len(found) <= 1, f"post {number} came {len(found)} times"
        return found[0] if found else None

    def whole(self) -> list[int]:
        """Return the numbers of the requests that came whole, in their order; twice is twice."""
        with self.lock:
            return [visit.number for visit in self.visits if visit.whole and visit.number is not None]

    def idle(self) -> list[Visit]:
        """Return the connections that the client may take for spares."""
        with self.lock:
            return [visit for visit in self.visits if visit.idle]

    @property
    def listens(self) -> bool:
        """Whether it can be connected to."""
        return self._listener is not None

    # --- what it is told

    def tell(self, visit: Visit, deed: str) -> None:
        """Do this to a connection, and read on what it had left unread, unless the deed is one that leaves all open."""
        with self.lock:
            if visit.ended:
                return  # the client was faster
            if deed == "close" and visit.starving:
                deed = "reset"  # that is what our kernel makes of close() with unread bytes
            visit.did.append(deed)
            visit.early = visit.early or (visit.starving and deed not in {"103", "read"})
            if deed not in {"close", "reset"}:
                self._say(visit, deed)
            if deed in {"close", "reset", "413, reset"}:
                self._reads_no_more(visit)
                visit.starving = False
                (visit.close if deed == "close" else visit.reset)()
                return
            if deed not in {"103", "202 begun"}:
                self._read_on(visit)

    def down(self, *, reset: bool = False) -> None:
        """Stop listening; what is connected stays so, or is reset."""
        with self.lock:
            if self._listener is not None:
                self._accept(self._listener)  # it would be reset otherwise
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
            for visit in self.visits if reset else ():
                if not visit.ended:
                    self.tell(visit, "reset")

    def up(self) -> None:
        """Listen again, at the same address."""
        with self.lock:
            if self._listener is None:
                self._listener = self._bound(self.address)
                self._listener.listen(512)
                self._selector.register(self._listener, selectors.EVENT_READ)

    def relent(self) -> None:
        """Listen, read, and answer by 204 whatever is whole, and will be."""
        with self.lock:
            self.frugal, self.generous = False, True
            self.up()
            for visit in self.visits:
                if visit.starving:
                    self.tell(visit, "read")
                elif not visit.ended:
                    self._answer(visit)

    # --- inside

    def _bound(self, address: tuple[str, int]) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.settimeout(0.0)
        return sock

    def _say(self, visit: Visit, deed: str) -> None:
        if deed in {"FIN", "cut"}:
            with contextlib.suppress(OSError):  # the client was faster, and has reset it
                if deed == "FIN" and visit.tls:
                    visit.say_goodbye()
                visit.half_close()
        elif deed == "noise":  # beneath TLS, where there is any
            visit._send_raw(SAYS["garbage"])
        elif deed != "read":
            visit.send(SAYS[deed] if deed in SAYS else b"HTTP/1.1 %b Told\r\n%b\r\n" % (deed.encode(), _EMPTY))

    def _run(self) -> None:
        try:
            while not self._stopping:
                for key, _ in self._selector.select():
                    with self.lock:
                        self._serve(key)
        except BaseException as error:  # noqa: BLE001 - raised by close(), in the test's thread
            self._error = error

    def _serve(self, key: selectors.SelectorKey) -> None:
        if isinstance(key.data, Visit):
            if not key.data.ended:  # by a deed, since select() spoke of it
                self._read(key.data)
        elif self._listener is not None and key.fileobj is self._listener:
            self._accept(self._listener)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for sock, client in iter(listener.accept, None):
                visit = Visit(sock, client, self._context)
                self.visits.append(visit)
                self._selector.register(sock, selectors.EVENT_READ, visit)

    def _read(self, visit: Visit) -> None:
        with contextlib.suppress(BlockingIOError):
            visit.receive()
        if visit.ended:
            self._reads_no_more(visit)
            visit.socket.close()
        elif self.frugal and visit.long and not visit.fed:
            visit.starving = True
            self._reads_no_more(visit)
        else:
            self._answer(visit)

    def _answer(self, visit: Visit) -> None:
        if self.generous and visit.whole and not {*visit.did} - {"103", "read"}:
            self.tell(visit, "204")

    def _read_on(self, visit: Visit) -> None:
        visit.fed = True
        if visit.starving:
            visit.starving = False
            self._selector.register(visit.socket, selectors.EVENT_READ, visit)

    def _reads_no_more(self, visit: Visit) -> None:
        with contextlib.suppress(KeyError, ValueError):  # it starves, or is closed: it is not registered
            self._selector.unregister(visit.socket)
