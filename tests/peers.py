"""The real peers: they take a connection, follow a script, and record what the client did.

Theory of operation. A Recorder accepts connections; each gets a thread that runs the recorder's script, a function of
one Talk, and afterwards reads on until the client has ended. The Talk is the record: the bytes, the request that h11 as
a server made of them, and how the client ended. That is "FIN" if recv() returned nothing and "RST" if it raised
ECONNRESET; these two only look alike to recv() when the RST follows a FIN (see Talk.reset_after_fin).

TLS is done over memory buffers, so that the bytes on the wire are recorded as well as what they carried, a TLS failure
does not hide how TCP ended, and no ending is ever missed because a library closed a socket behind our back.

Every wait has a bound, PATIENCE: what has not come by then does not come. Nothing here sleeps for a fact.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import queue
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import h11

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

AF_UNIX: int = getattr(socket, "AF_UNIX", -1)  # Windows has it, its Python has not

PATIENCE = 20.0  # seconds; far beyond what a loaded machine takes, well below pytest's timeout

NO_CONTENT = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

# The kernel takes this much at once on loopback, and a peer with a receive buffer of NARROW cannot acknowledge it.
UNACKED = bytes(300_000)
NARROW = 8192
# No kernel buffers take this much (tcp_wmem + tcp_rmem): its sender waits for its reader.
ENDLESS = bytes(128 << 20)

_RST_ON_CLOSE = struct.pack("ii", 1, 0) if sys.platform != "win32" else struct.pack("HH", 1, 0)
_READ = 64 * 1024

End: TypeAlias = Literal["FIN", "RST"]


def until(fact: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for a fact that announces itself to nobody."""
    end = time.monotonic() + patience
    while not fact():
        assert time.monotonic() < end, f"{what}: not within {patience} s"
        time.sleep(0.001)


def let_pass(seconds: float) -> None:
    """Let time pass: to see that nothing happens in it, or because time itself is what is asked about."""
    time.sleep(seconds)


class Talk:
    """One accepted connection: what a script talks through, and the record of it."""

    def __init__(self, sock: socket.socket, client: Any, context: ssl.SSLContext | None, *, keep: bool) -> None:
        sock.settimeout(PATIENCE)
        if isinstance(sock.getsockname(), tuple):  # as servers do: an answer must not wait for session tickets' ACK
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.client = client  # the client's address as accept() told it
        self.raw = bytearray()  # as it came over TCP
        self.raw_length = 0
        self.data = bytearray()  # decrypted
        self.end: End | None = None
        # What h11 as a server understood.
        self.request: h11.Request | None = None
        self.body = bytearray()
        self.body_length = 0
        self.body_hash = hashlib.sha256()
        self.whole = False
        # TLS
        self.handshaken = context is None
        self.close_notify = False  # and it came before the end
        self.tls_error: ssl.SSLError | None = None
        self.tls_version: str | None = None
        # The recorder's.
        self.turn = 0  # in the order of accept(): the threads of two connections may overtake each other
        self.error: BaseException | None = None  # what the script raised
        self.done = threading.Event()
        self._keep = keep
        self._closed = False
        self._was_reset = False
        self._reader = h11.Connection(h11.SERVER)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = None if context is None else context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def header(self, name: str) -> str | None:
        assert self.request is not None
        return next((value.decode() for key, value in self.request.headers if key.decode() == name.lower()), None)

    @property
    def ended(self) -> bool:
        return self.end is not None or self._closed

    # --- reading

    def receive(self, size: int = _READ) -> bool:
        """Take in what comes next; False if it was the client's end."""
        if self.ended:
            return False
        try:
            chunk = self.socket.recv(size)
        except ConnectionResetError:
            self.end = "RST"
            return False
        if not chunk:
            self.end = "RST" if self._was_reset else "FIN"
        self.raw_length += len(chunk)
        if self._keep:
            self.raw += chunk
        if self._tls is None:
            self._take(chunk)
        else:
            self._decrypt(self._tls, chunk)
        return bool(chunk)

    def receive_head(self) -> None:
        while self.request is None and self.receive():
            pass

    def receive_request(self) -> None:
        """Until the request is whole, or the client has ended."""
        while not self.whole and self.receive():
            pass

    def receive_to_end(self) -> None:
        while self.receive():
            pass

    def ends_within(self, seconds: float) -> bool:
        """Whether the client ends within that time, to show that it does not."""
        self.socket.settimeout(seconds)
        try:
            self.receive_to_end()
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(PATIENCE)
        return True

    def shake_hands(self) -> None:
        while not self.handshaken and self.tls_error is None and self.receive():
            pass

    def _decrypt(self, tls: ssl.SSLObject, chunk: bytes) -> None:
        if chunk:
            self._incoming.write(chunk)
        else:
            self._incoming.write_eof()
        try:
            if not self.handshaken:
                tls.do_handshake()
                self.tls_version = tls.version()
                self._flush()
                self.handshaken = True  # behind its tickets: who waits for it finds them in its own kernel
            while plain := tls.read(_READ):
                self._take(plain)
            self.close_notify = True
        except (ssl.SSLWantReadError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            pass
        except ssl.SSLError as error:
            self.tls_error = self.tls_error or error
        self._flush()

    def _take(self, data: bytes) -> None:
        if self._keep:
            self.data += data
        if self.whole:
            return
        try:
            self._reader.receive_data(data)
            while (event := self._reader.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Request):
                    self.request = event
                elif isinstance(event, h11.Data):
                    self.body_length += len(event.data)
                    self.body_hash.update(event.data)
                    if self._keep:
                        self.body += event.data
                else:  # EndOfMessage, or ConnectionClosed before any request
                    self.whole = isinstance(event, h11.EndOfMessage)
                    return
        except h11.RemoteProtocolError:  # cut off, or no HTTP: not whole is what the record says
            return

    # --- writing

    def send(self, data: bytes) -> bool:
        """Send all of it; False if the client is gone."""
        if self._tls is None:
            return self._send_raw(data)
        self.shake_hands()
        if not self.handshaken:  # the client has ended first
            return False
        try:
            self._tls.write(data)
        except ssl.SSLEOFError:  # behind an end without close_notify OpenSSL writes nothing more
            return False
        return self._flush()

    def _flush(self) -> bool:
        return self._send_raw(self._outgoing.read())

    def _send_raw(self, data: bytes) -> bool:
        if not data:  # even an empty send() would take the socket's error away from recv()
            return True
        try:
            self.socket.sendall(data)
        except ConnectionResetError:  # told once; what recv() says from now on looks like a FIN
            self._was_reset = True
            return False
        except BrokenPipeError:
            return False
        return True

    # --- ending

    def dawdle(self, seconds: float) -> None:
        """Be slow: a peer's habit, and nothing that is waited for."""
        let_pass(seconds)

    def half_close(self) -> None:
        """Send FIN; a client whose RST came first has ended it all."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise

    def say_goodbye(self) -> None:
        """Send close_notify, and no FIN."""
        assert self._tls is not None
        with contextlib.suppress(ssl.SSLWantReadError):  # the client's own has not come
            self._tls.unwrap()
        self._flush()

    def close(self) -> None:
        self._closed = True
        self.socket.close()

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self.close()

    def reset_after_fin(self) -> bool:
        """Whether an RST has followed the FIN: recv() keeps silent about it, SO_ERROR does not."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


Script: TypeAlias = Callable[[Talk], None]


def answer_at_once(talk: Talk) -> None:
    """Read a whole request, answer 204."""
    answers(NO_CONTENT)(talk)


def answers(answer: bytes) -> Script:
    """Read a whole request, send these bytes."""

    def script(talk: Talk) -> None:
        talk.receive_request()
        if talk.whole:
            talk.send(answer)

    return script


def never_answers(talk: Talk) -> None:
    """Read to the client's end."""


def closes_without_answer(talk: Talk) -> None:
    """Read a whole request, and close."""
    talk.receive_request()
    talk.half_close()


class Recorder:
    """A listening peer. Set `script` before anything connects; `next()` returns the connections as they end."""

    def __init__(
        self,
        *,
        script: Script = answer_at_once,
        address: Any = ("127.0.0.1", 0),
        family: int = socket.AF_INET,
        context: ssl.SSLContext | None = None,
        name: str | None = None,
        options: dict[str, Any] | None = None,
        keep: bool = True,
        receive_buffer: int | None = None,
        within: AbstractContextManager[object] | None = None,
    ) -> None:
        """Listen. `options` are post()'s, to reach it; `within` is entered while the socket is made (End.inside())."""
        self.script = script
        self.options: dict[str, Any] = {} if options is None else options
        self.talks: list[Talk] = []
        self.sni: list[str | None] = []  # in the order of the handshakes
        self._context, self._keep = context, keep
        self._accepted: queue.Queue[Talk] = queue.Queue()
        self._ended: queue.Queue[Talk] = queue.Queue()
        self._threads: list[threading.Thread] = []
        if context is not None:
            context.sni_callback = lambda _object, server_name, _context: self.sni.append(server_name)
        with within or contextlib.nullcontext():
            self._listener = socket.socket(family)
        if family != AF_UNIX:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer is not None:  # before listen(): the window is agreed upon in the handshake
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(address)
        self._listener.listen(512)
        self.address: Any = self._listener.getsockname()
        self.host, self.port = self.address[:2] if isinstance(self.address, tuple) else ("localhost", 80)
        shown = name or (f"[{self.host}]" if family == socket.AF_INET6 else self.host)
        self.url = f"{'http' if context is None else 'https'}://{shown}:{self.port}/"
        self._start(self._accept)

    def accepted(self) -> Talk:
        """Wait for the next connection to be there."""
        return self._get(self._accepted)

    def next(self) -> Talk:
        """Wait for the next connection to have ended; raises what its script raised."""
        talk = self._get(self._ended)
        error, talk.error = talk.error, None
        if error is not None:
            raise error
        return talk

    def _get(self, from_queue: queue.Queue[Talk]) -> Talk:
        try:
            return from_queue.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"no connection within {PATIENCE} s") from None

    def close(self) -> None:
        """Stop; raises what scripts raised that nobody has asked for."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._threads[0].join(PATIENCE)
        for talk in self.talks:
            with contextlib.suppress(OSError):
                talk.socket.shutdown(socket.SHUT_RDWR)  # wakes recv()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a peer's script does not end"
        self._listener.close()
        for talk in self.talks:
            talk.socket.close()
        for talk in self.talks:
            if talk.error is not None:
                raise talk.error

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="recorder", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, client = self._listener.accept()
            except OSError as error:
                if error.errno == errno.EMFILE:  # a test lowers the limit for a moment, just as our thread begins
                    continue
                return
            talk = Talk(sock, client, self._context, keep=self._keep)
            talk.turn = len(self.talks)
            self.talks.append(talk)
            self._accepted.put(talk)
            self._start(self._follow, talk)

    def _follow(self, talk: Talk) -> None:
        try:
            self.script(talk)
            talk.receive_to_end()
        except BaseException as error:  # noqa: BLE001 - raised by next() or close(), in the test's thread
            talk.error = error
        talk.done.set()
        self._ended.put(talk)


@contextlib.contextmanager
def recording(**options: Any) -> Iterator[Recorder]:
    """Make a recorder for the length of the block."""
    recorder = Recorder(**options)
    try:
        yield recorder
    finally:
        recorder.close()


# --- TLS -----------------------------------------------------------------------------------------------------------


def server_context(authority: Any, version: ssl.TLSVersion, *names: str) -> ssl.SSLContext:
    """Make a context for a server of exactly one version of TLS; TLS 1.3 sends two session tickets, as is its habit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    authority.issue_cert(*(names or ("localhost", "127.0.0.1", "::1", "rawfnf.test"))).configure_cert(context)
    return context


# --- peers that are not there ---------------------------------------------------------------------------------------


_silent: list[socket.socket] = []


def refusing_port() -> int:
    """Return a port of 127.0.0.1 where nothing listens, and which the kernel gives to nobody until the test's end.

    It is bound, and does not listen: one that was closed again may be the next that some other test listens on. Who
    asks for this very port, with SO_REUSEADDR, gets it all the same on Linux.
    """
    sock = socket.socket()
    _silent.append(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    return port


def release_ports() -> None:
    """Give refusing_port()'s back."""
    while _silent:
        _silent.pop().close()


@contextlib.contextmanager
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that drops every SYN: a listener whose queue is full (Linux: tcp_conn_request())."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        while True:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.1)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                host, port = listener.getsockname()
                yield host, port
                return


# --- http.server ---------------------------------------------------------------------------------------------------


class Served(NamedTuple):
    """What an application behind http.server was given."""

    path: str
    headers: dict[str, str]
    body: bytes
    length: int  # Content-Length


class HttpServer(http.server.ThreadingHTTPServer):
    """http.server, with an application that takes what it is given."""

    daemon_threads = False  # server_close() is to join them

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Application)
        self.served: queue.Queue[Served] = queue.Queue()
        self.failed: queue.Queue[BaseException] = queue.Queue()
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def next(self) -> Served:
        return self.served.get(timeout=PATIENCE)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - socketserver's to name
        error = sys.exc_info()[1]
        assert error is not None
        self.failed.put(error)


class _Application(http.server.BaseHTTPRequestHandler):
    timeout = PATIENCE

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"] or 0)
        body = self.rfile.read(length)
        assert isinstance(self.server, HttpServer)
        self.server.served.put(Served(self.path, dict(self.headers.items()), body, length))
        with contextlib.suppress(ConnectionError):  # the client need not be there any more
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's to name
        pass
