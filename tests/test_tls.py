"""TLS over memory buffers: a client and a server that are moved by hand, without a socket."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest

from rawfnf import RequestError, _tls
from rawfnf._tls import Tls
from tests.peers import server_context

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

APPLICATION_DATA = 23  # RFC 8446 §5.1, the content type in a record's first byte
REQUEST = b"POST / HTTP/1.1\r\nHost: rawfnf.test\r\nContent-Length: 0\r\n\r\n"


class Server:
    """OpenSSL's own server over memory buffers."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def take(self, flight: bytes) -> bytes:
        """Take a client's flight in the handshake; return the answer to it."""
        self.incoming.write(flight)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()


@pytest.fixture
def server(authority: trustme.CA, tls_version: ssl.TLSVersion) -> Server:
    return Server(server_context(authority, tls_version))


@pytest.fixture
def client(trusting: ssl.SSLContext) -> Tls:
    return Tls(trusting, "rawfnf.test")


def shake_hands(client: Tls, server: Server) -> None:
    """Go on until the client is done, and leave in its flight what it wants sent then."""
    while not client.handshake():
        answer = server.take(client.flight())
        assert answer, "both wait for the other"
        client.receive(answer)


def settle(client: Tls, server: Server) -> None:
    """Shake hands to the end: the client has taken in all that the server sends unasked."""
    shake_hands(client, server)
    if last := server.take(client.flight()):  # session tickets, TLS 1.3
        client.receive(last)
    assert client.decrypt() is None


def records(flight: bytes) -> list[int]:
    """Return the content types of a flight's records, which must be whole."""
    types = []
    while flight:
        types.append(flight[0])
        length = 5 + int.from_bytes(flight[3:5], "big")
        assert len(flight) >= length, "a record is cut off"
        flight = flight[length:]
    return types


def test_finished_the_first_record_and_close_notify_are_one_flight(client: Tls, server: Server) -> None:
    shake_hands(client, server)
    client.encrypt(memoryview(REQUEST))
    client.close_notify()
    flight = client.flight()
    assert client.flight() == b""
    server.take(flight)
    assert server.tls.read(1000) == REQUEST
    assert server.tls.read(1000) == b"", "close_notify, which read() tells apart from a ragged end"
    if client.version == "TLSv1.3":
        assert records(flight).count(APPLICATION_DATA) == 3, "Finished, the request and close_notify"


def test_the_version_is_the_negotiated_one(client: Tls, server: Server, tls_version: ssl.TLSVersion) -> None:
    shake_hands(client, server)
    assert client.version == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[tls_version.name]


def test_handshake_asks_for_bytes_however_few_come(client: Tls, server: Server) -> None:
    answer = b""
    for _ in range(10_000):
        if client.handshake():
            break
        answer += server.take(client.flight())
        client.receive(answer[:1])
        answer = answer[1:]
    else:
        pytest.fail("the handshake never ends")
    client.encrypt(memoryview(REQUEST))
    server.take(client.flight())
    assert server.tls.read(1000) == REQUEST


def test_session_tickets_are_no_application_data(authority: trustme.CA, client: Tls) -> None:
    server = Server(server_context(authority, ssl.TLSVersion.TLSv1_3))
    shake_hands(client, server)
    tickets = server.take(client.flight())
    assert tickets, "OpenSSL's server sends two by default"
    client.receive(tickets)
    assert client.decrypt() is None
    server.tls.write(b"HTTP/1.1 204")
    client.receive(server.outgoing.read())
    assert client.decrypt() == b"HTTP/1.1 204"
    assert client.decrypt() is None


def test_all_sizes_of_plaintext_cross_whole(client: Tls, server: Server) -> None:
    shake_hands(client, server)
    server.take(client.flight())
    for size in (1, _tls.RECORD - 1, _tls.RECORD, _tls.RECORD + 1, 4 * _tls.RECORD, 1_000_000):
        sent = bytes(index % 251 for index in range(size))
        client.encrypt(memoryview(sent))
        server.incoming.write(client.flight())
        got = b""
        while len(got) < size:
            got += server.tls.read(size)
        assert got == sent


def test_the_peers_close_notify_reads_as_the_end(client: Tls, server: Server) -> None:
    settle(client, server)
    with pytest.raises(ssl.SSLWantReadError):
        server.tls.unwrap()
    client.receive(server.outgoing.read())
    assert client.decrypt() == b""


def test_eof_without_close_notify_reads_as_the_end(client: Tls, server: Server) -> None:
    settle(client, server)
    client.receive(b"")
    assert client.decrypt() == b""


def test_eof_in_the_handshake_is_an_error(client: Tls) -> None:
    assert not client.handshake()
    client.receive(b"")
    with pytest.raises(ssl.SSLError):
        client.handshake()


def test_close_notify_can_follow_the_peers(client: Tls, server: Server) -> None:
    settle(client, server)
    with pytest.raises(ssl.SSLWantReadError):
        server.tls.unwrap()
    client.receive(server.outgoing.read())
    assert client.decrypt() == b""
    client.close_notify()
    server.incoming.write(client.flight())
    server.tls.unwrap()  # raises unless both have said goodbye


def test_close_notify_after_a_fatal_alert_is_not_an_error(client: Tls, server: Server) -> None:
    shake_hands(client, server)
    client.flight()
    client.receive(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody has encrypted
    with pytest.raises(ssl.SSLError):
        client.decrypt()
    client.close_notify()


@pytest.mark.parametrize("bytes_", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_bytes_that_are_no_tls_are_an_error(client: Tls, bytes_: bytes) -> None:
    assert not client.handshake()
    client.receive(bytes_)
    with pytest.raises(ssl.SSLError):
        client.handshake()


def test_no_request_byte_can_be_encrypted_before_the_certificate_is_verified(
    authority: trustme.CA, tls_version: ssl.TLSVersion
) -> None:
    client = Tls(_tls.client_context(), "rawfnf.test")  # does not trust this authority
    server = Server(server_context(authority, tls_version))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client, server)
    client.flight()
    with pytest.raises(ssl.SSLError):
        client.encrypt(memoryview(REQUEST))
    assert client.flight() == b""


def test_the_server_learns_the_name_and_alpn(
    authority: trustme.CA, tmp_path: Path, tls_version: ssl.TLSVersion
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context, names = server_context(authority, tls_version), []
    context.sni_callback = lambda _object, name, _context: names.append(name)
    context.set_alpn_protocols(["h2", "http/1.1"])
    client, server = Tls(_tls.client_context(str(tmp_path / "authority.pem")), "rawfnf.test"), Server(context)
    shake_hands(client, server)
    assert names == ["rawfnf.test"]
    assert server.tls.selected_alpn_protocol() == "http/1.1"


def test_the_default_context_verifies_and_is_built_once() -> None:
    context = _tls.default_context()
    assert context is _tls.default_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_a_context_that_can_make_no_clients_connection_is_refused(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    assert _tls.checked_context(trusting) is trusting
    with pytest.raises(RequestError, match="server's"):
        _tls.checked_context(server_context(authority, ssl.TLSVersion.TLSv1_3))
    with pytest.raises(RequestError, match="not str"):
        _tls.checked_context("trust me")  # type: ignore[arg-type]  # what is tested
