"""_errors: the three exceptions, and what they say of OSErrors and ssl errors as these really occur."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import pickle
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

import rawfnf
from rawfnf import ConnectError, RawfnfError, RequestError, SendError
from rawfnf._errors import reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLASSES = [RawfnfError, RequestError, ConnectError, SendError]

ATTRIBUTES = ("phase", "host", "port", "bytes_sent", "errno")


@pytest.mark.parametrize(
    ("cls", "bases", "others"),
    [
        (RequestError, (RawfnfError, ValueError), (OSError, ConnectError, SendError)),
        (ConnectError, (RawfnfError, OSError), (ValueError, RequestError, SendError)),
        (SendError, (RawfnfError, OSError), (ValueError, RequestError, ConnectError)),
    ],
)
def test_each_error_is_rawfnfs_and_a_builtin_one(
    cls: type[RawfnfError], bases: tuple[type, ...], others: tuple[type, ...]
) -> None:
    for base in bases:
        assert issubclass(cls, base)
    for other in others:
        assert not issubclass(cls, other)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_that_is_told_nothing_says_that_nothing_left(cls: type[RawfnfError]) -> None:
    error = cls("what happened")
    assert [getattr(error, name) for name in ATTRIBUTES] == ["request", None, None, 0, None]
    assert str(error) == "what happened"
    assert error.args == ("what happened",)


def made(cls: type[RawfnfError]) -> RawfnfError:
    return cls(
        "cannot reach ü:8080: refused; check",
        phase="connect",
        host="::1%eth0",
        port=8080,
        bytes_sent=2**40,
        errno=errno.ECONNREFUSED,
    )


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_carries_what_is_needed_to_act_on_it(cls: type[RawfnfError]) -> None:
    error = made(cls)
    assert [getattr(error, name) for name in ATTRIBUTES] == ["connect", "::1%eth0", 8080, 2**40, errno.ECONNREFUSED]
    # neither OSError's "[Errno 111]" nor a file name in front or behind
    assert str(error) == "cannot reach ü:8080: refused; check"
    assert repr(error) == f"{cls.__name__}('cannot reach ü:8080: refused; check')"


COPIES: list[Callable[[RawfnfError], RawfnfError]] = [copy.copy, copy.deepcopy]


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_copying_and_pickling_whole(cls: type[RawfnfError]) -> None:
    pickled: list[RawfnfError] = [
        pickle.loads(pickle.dumps(made(cls), protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    for error in (*pickled, *(make(made(cls)) for make in COPIES)):
        assert type(error) is cls
        assert str(error) == str(made(cls))
        assert error.args == made(cls).args
        assert [getattr(error, name) for name in ATTRIBUTES] == [getattr(made(cls), name) for name in ATTRIBUTES]


class MineError(SendError):
    """A subclass, as applications make them."""


def test_a_subclass_survives_pickling_as_itself() -> None:
    error = pickle.loads(pickle.dumps(MineError("m", phase="send", host="h", port=1, bytes_sent=2, errno=3)))
    assert type(error) is MineError
    assert [getattr(error, name) for name in ATTRIBUTES] == ["send", "h", 1, 2, 3]


# --- reason(): the operating system's errors -----------------------------------------------------------------------

# errno, and a word of the remedy
REMEDIES = [
    (errno.ECONNREFUSED, "check the port"),
    (errno.ENOENT, "check the path"),
    (errno.ENETUNREACH, "check the address"),
    (errno.EHOSTUNREACH, "check the address"),
    (errno.EMFILE, "ulimit -n"),
    (errno.ENFILE, "file-max"),
    (errno.EADDRNOTAVAIL, "source_address"),
    (errno.EADDRINUSE, "port 0"),
    (errno.EACCES, "permissions"),
    (errno.EPERM, "firewall"),
    (errno.ETIMEDOUT, "raise timeout"),
    (errno.ECONNRESET, "peer"),
    (errno.EPIPE, "peer"),
]


@pytest.mark.parametrize(("number", "remedy"), REMEDIES)
def test_the_reason_of_an_oserror_is_the_systems_words_and_a_remedy(number: int, remedy: str) -> None:
    for cause in (OSError(number, os.strerror(number)), OSError(number, os.strerror(number), "file")):
        words, _, advice = reason(cause).partition("; ")
        assert words == os.strerror(number)
        assert remedy in advice


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError("text only"), "OSError: text only"),
        (OSError(), "OSError"),
        (TimeoutError("too late"), "TimeoutError: too late"),
        (LookupError("gone"), "LookupError: gone"),
        (MemoryError(), "MemoryError"),
        (KeyError("k"), "KeyError: 'k'"),
        (UnicodeEncodeError("ascii", "ü", 0, 1, "ordinal not in range(128)"), "UnicodeEncodeError: "),
        (RequestError("data yields str"), "data yields str"),
    ],
)
def test_the_reason_of_any_other_error_is_its_class_and_words(cause: Exception, said: str) -> None:
    assert said in reason(cause)
    assert "TLS" not in reason(cause)


def test_a_reason_is_one_line_whatever_the_cause_says() -> None:
    assert "\n" not in reason(LookupError("first line\nForged: second line"))


def test_an_error_of_an_iterable_that_has_a_reason_of_its_own_is_not_taken_for_tls() -> None:
    # a body that is fetched by urllib while it is sent
    with pytest.raises(urllib.error.URLError) as caught:
        urllib.request.urlopen("nonsense://example")
    assert "TLS" not in reason(caught.value)
    assert "unknown url type: nonsense" in reason(caught.value)


def test_the_reason_of_a_refused_connection() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, so that nobody else listens there
        with socket.socket() as client, pytest.raises(OSError, match=r".") as caught:
            client.connect(unused.getsockname())
    assert reason(caught.value).endswith("; nothing listens there: check the port, and that the server runs")


def test_the_reason_of_a_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows' Python has no Unix sockets")
    else:
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError, match=r".") as caught:
            client.connect(str(tmp_path / "none"))
        assert reason(caught.value).endswith("; there is no such socket: check the path, and that the server runs")


def test_the_reason_of_a_name_that_cannot_be_resolved_has_a_remedy() -> None:
    with pytest.raises(socket.gaierror) as caught:  # no resolver is asked for a name that must be an address
        socket.getaddrinfo("example.invalid", 80, flags=socket.AI_NUMERICHOST)
    words, _, remedy = reason(caught.value).partition("; ")
    assert words == caught.value.strerror
    assert remedy


def test_a_resolvers_number_is_not_taken_for_an_errno() -> None:
    # EAI_AGAIN is -3 on Linux and 2 on macOS, where 2 is ENOENT as well
    said = reason(socket.gaierror(errno.ENOENT, "Temporary failure in name resolution"))
    assert said.startswith("Temporary failure in name resolution")
    assert "socket" not in said


# --- reason(): ssl's errors, made by real handshakes ----------------------------------------------------------------


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def client_context(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def server_context(certificate: trustme.LeafCert | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, *, name: str = "example.com") -> None:
    """Shake hands in memory; raises what the client raises."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(to_client, to_server, server_hostname=name)
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        try:
            client_side.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            return
        with contextlib.suppress(ssl.SSLError):  # it wants to read, or has sent an alert that the client is to see
            server_side.do_handshake()
    raise AssertionError("the handshake does not end")


def why(client: ssl.SSLContext, server: ssl.SSLContext, *, name: str = "example.com") -> str:
    with pytest.raises(ssl.SSLError) as caught:
        handshake(client, server, name=name)
    said = reason(caught.value)
    assert "\n" not in said
    return said


def test_these_handshakes_succeed_when_nothing_is_wrong(ca: trustme.CA) -> None:
    handshake(client_context(ca), server_context(ca.issue_cert("example.com")))


def test_the_reason_of_a_wrong_name(ca: trustme.CA) -> None:
    said = why(client_context(ca), server_context(ca.issue_cert("other.example")))
    assert said.startswith("certificate not trusted: Hostname mismatch")
    assert "'example.com'" in said
    assert said.endswith("; use a name that the certificate holds")


def test_the_reason_of_a_wrong_address(ca: trustme.CA) -> None:
    said = why(client_context(ca), server_context(ca.issue_cert("other.example")), name="127.0.0.1")
    assert said.startswith("certificate not trusted: IP address mismatch")
    assert said.endswith("; use an address that the certificate holds")


def test_the_reason_of_an_expired_certificate(ca: trustme.CA) -> None:
    expired = ca.issue_cert("example.com", not_after=datetime.now(timezone.utc) - timedelta(days=1))
    said = why(client_context(ca), server_context(expired))
    assert said == "certificate not trusted: certificate has expired; the server must renew it"


def test_the_reason_of_a_certificate_that_is_not_valid_yet_has_a_remedy(ca: trustme.CA) -> None:
    now = datetime.now(timezone.utc)
    early = ca.issue_cert("example.com", not_before=now + timedelta(days=1), not_after=now + timedelta(days=2))
    words, _, remedy = why(client_context(ca), server_context(early)).partition("; ")
    assert words == "certificate not trusted: certificate is not yet valid"
    assert "clock" in remedy


def test_the_reason_of_an_unknown_issuer(ca: trustme.CA) -> None:
    said = why(client_context(trustme.CA()), server_context(ca.issue_cert("example.com")))
    assert said.startswith("certificate not trusted: unable to get local issuer certificate; ")
    assert "ssl_context" in said
    assert "--cacert" in said


def write(tmp_path: Path, name: str, *blobs: trustme.Blob) -> str:
    path = tmp_path / name
    path.write_bytes(b"".join(blob.bytes() for blob in blobs))
    return str(path)


def test_the_reason_of_a_self_signed_certificate(ca: trustme.CA, tmp_path: Path) -> None:
    server = server_context(None)
    server.load_cert_chain(write(tmp_path, "own", ca.cert_pem), write(tmp_path, "key", ca.private_key_pem))
    said = why(client_context(trustme.CA()), server)
    assert said.startswith("certificate not trusted: self")
    assert "signed certificate; pass an ssl_context that trusts it" in said


def test_the_reason_of_a_self_signed_root_in_the_chain(ca: trustme.CA, tmp_path: Path) -> None:
    leaf = ca.issue_cert("example.com")
    server = server_context(None)
    server.load_cert_chain(
        write(tmp_path, "chain", *leaf.cert_chain_pems, ca.cert_pem), write(tmp_path, "key", leaf.private_key_pem)
    )
    said = why(client_context(trustme.CA()), server)
    assert said.startswith("certificate not trusted: self")
    assert "in certificate chain; pass an ssl_context that trusts its root" in said


@pytest.mark.parametrize(
    "spoken",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"<html><body>Bad Request</body></html>",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"220 mail.example ESMTP\r\n",
        bytes(range(32, 64)),
    ],
)
def test_the_reason_of_a_port_that_does_not_speak_tls(ca: trustme.CA, spoken: bytes) -> None:
    incoming = ssl.MemoryBIO()
    client = client_context(ca).wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="example.com")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write(spoken)
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    assert reason(caught.value) == "the port does not speak TLS: is it http://?"


def test_the_reason_of_an_alert_names_it_and_has_a_remedy(ca: trustme.CA) -> None:
    client, server = client_context(ca), server_context(ca.issue_cert("example.com"))
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    words, _, remedy = why(client, server).partition("; ")
    assert words.startswith("TLS: ")
    assert "alert protocol version" in words
    assert remedy


def test_the_reason_of_an_end_in_the_middle_of_a_handshake_has_a_remedy(ca: trustme.CA) -> None:
    incoming = ssl.MemoryBIO()
    client = client_context(ca).wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="example.com")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write_eof()
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    words, _, remedy = reason(caught.value).partition("; ")
    assert "eof" in words.lower()
    assert remedy


def test_openssls_own_numbers_are_not_taken_for_errnos() -> None:
    # SSL_ERROR_SSL is 1, as is EPERM. ssl leaves `reason` out where OpenSSL is newer than Python's table of reasons.
    said = reason(ssl.SSLError(1, "unknown error (_ssl.c:1006)"))
    assert "unknown error" in said
    assert "firewall" not in said


@pytest.fixture
def _few_descriptors() -> Iterator[None]:
    resource = pytest.importorskip("resource", reason="needs setrlimit()")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 64), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_few_descriptors")
def test_the_reason_of_running_out_of_descriptors() -> None:
    opened: list[socket.socket] = []
    try:
        with pytest.raises(OSError, match=r".") as caught:
            opened.extend(socket.socket() for _ in range(100))
    finally:
        for sock in opened:
            sock.close()
    assert caught.value.errno == errno.EMFILE
    assert "ulimit -n" in reason(caught.value)


def test_an_error_comes_home_from_another_process_whole() -> None:
    program = """
import pickle, sys
from rawfnf import SendError
error = SendError("broken", phase="send", host="h", port=80, bytes_sent=5, errno=32)
sys.stdout.buffer.write(pickle.dumps(error))
"""
    root = str(Path(rawfnf.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=root, timeout=30, check=True)
    error = pickle.loads(done.stdout)
    assert type(error) is SendError
    assert str(error) == "broken"
    assert [getattr(error, name) for name in ATTRIBUTES] == ["send", "h", 80, 5, 32]
