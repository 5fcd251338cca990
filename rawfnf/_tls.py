"""TLS over ssl.MemoryBIO: flights in, flights out. Pure: no socket.

Theory of operation. OpenSSL never sees a socket here. It reads from one memory buffer and writes to another; whoever
owns the socket moves bytes between the buffers and the network:

    socket → receive() → [incoming] → OpenSSL → [outgoing] → flight() → socket

Every operation either completes, or raises SSLWantReadError: it needs bytes that have not come. It may have written to
`outgoing` all the same (a ClientHello, an alert), and the peer waits for those, so flight() is sent before waiting for
anything. The operation is then simply called again.

What this buys, and SSLSocket cannot give: the client's Finished, the first record and close_notify leave in one
write; close_notify is sent without waiting for the peer's; and what is still unsent is always known.

Renegotiation (TLS 1.2 and older) could make a *write* want to read. The default context forbids it; under a caller's
own context it surfaces as an error of the send, never as a hang.
"""

from __future__ import annotations

import functools
import ssl
from contextlib import suppress
from typing import NamedTuple

from ._errors import RequestError

RECORD = 16 * 1024  # bytes of plaintext in a full record (RFC 8446 §5.1)


class Agreed(NamedTuple):
    """What a handshake settled."""

    version: str
    alpn: str | None  # the protocol that the server chose of those we offered (RFC 7301); None if it chose none
    not_after: float | None  # when its certificate expires, in seconds since 1970; None if it was not verified


class Tls:
    """The client's side of one TLS connection."""

    __slots__ = ("_incoming", "_object", "_outgoing")

    def __init__(self, context: ssl.SSLContext, server_hostname: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # As bytes: for a str ssl loads encodings.idna, under a lock that a fork elsewhere may leave taken for ever.
        name = server_hostname.encode("ascii")
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    @property
    def version(self) -> str | None:
        """The negotiated version as ssl names it, such as "TLSv1.3"."""
        return self._object.version()

    @property
    def agreed(self) -> Agreed:
        """What the handshake settled. To be asked once that is done, and before anything fails."""
        # Of a certificate that was not verified ssl returns an empty dict.
        ends = (self._object.getpeercert() or {}).get("notAfter")
        not_after = ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None
        return Agreed(self._object.version() or "unknown", self._object.selected_alpn_protocol(), not_after)

    @property
    def session_id(self) -> bytes:
        """What the session goes by. In TLS 1.3 it changes with each ticket that is taken in, and is empty before."""
        session = self._object.session
        return b"" if session is None else session.id

    def receive(self, ciphertext: bytes) -> None:
        """Take bytes as they came from the peer, b"" for EOF."""
        if ciphertext:
            self._incoming.write(ciphertext)
        else:
            self._incoming.write_eof()

    def flight(self) -> bytes:
        """Return, and forget, what OpenSSL wants sent: in order, and nothing else may be sent in between."""
        return self._outgoing.read()

    def handshake(self) -> bool:
        """Go on with the handshake; True once it is done. The client's Finished may still be in flight().

        Done means, in TLS 1.3 as in 1.2, that the server's certificate and its Finished have been verified
        (RFC 8446 §4.4): no request byte exists as ciphertext before.

        Raises:
            ssl.SSLError: it failed; flight() may hold an alert for the peer.

        """
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def encrypt(self, plaintext: memoryview) -> None:
        """Append records to flight(): all of `plaintext`, or SSLError."""
        self._object.write(plaintext)

    def decrypt(self) -> bytes | None:
        """Return application data, b"" at the peer's close_notify or EOF, None if there is none yet.

        Session tickets and key updates are taken in on the way, and are no application data.

        Raises:
            ssl.SSLError: an alert, or bytes that are no TLS.

        """
        try:
            return self._object.read(4 * RECORD)
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def close_notify(self) -> None:
        """Append close_notify to flight(): the end of what we send is meant (RFC 8446 §6.1)."""
        # SSLWantReadError is the rule: the peer's own close_notify has not come, and is not waited for. Anything else
        # means that the connection is past saying goodbye.
        with suppress(ssl.SSLError):
            self._object.unwrap()


@functools.cache
def default_context() -> ssl.SSLContext:
    """Return a context with the system's trust store, certificate and name checked, TLS 1.2 or newer, ALPN http/1.1.

    Built on first use, since it takes some 20 ms, and shared.
    """
    return client_context()


def client_context(cafile: str | None = None) -> ssl.SSLContext:
    """Build a context as `default_context` is, with the certificates of `cafile` (PEM) in place of the system's."""
    if cafile is None and (system := ssl.get_default_verify_paths().cafile) is not None:
        # create_default_context() keeps silent when it cannot open this, and trusts nobody: with default_context()'s
        # cache that would outlast the want of descriptors that was the reason.
        with open(system, "rb"):
            pass
    context = ssl.create_default_context(cafile=cafile)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def checked_context(context: ssl.SSLContext) -> ssl.SSLContext:
    """Return a caller's context if it can make a client's connection.

    Raises:
        RequestError: it is none, or a server's.

    """
    if not isinstance(context, ssl.SSLContext):
        raise RequestError(f"ssl_context must be an ssl.SSLContext, not {type(context).__name__}")
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise RequestError("ssl_context is a server's: make it by ssl.create_default_context()")
    return context
