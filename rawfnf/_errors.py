"""The three exceptions, and the one place where OSError and ssl errors become one of them.

They answer one question: *may I send it again without the server getting it twice?*
RequestError: nothing touched the network. ConnectError: no request byte left. SendError: the server may have none,
some or all of the request.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Any


class RawfnfError(Exception):
    """What every error of rawfnf is.

    Attributes:
        phase: where it happened: "request", "resolve", "connect", "handshake", "send" or "close" (the last: every byte
            had been handed to our kernel, and what `closing` waits for did not come).
        host, port: the URL's; None where there is none yet.
        bytes_sent: request bytes (before encryption) that our kernel had taken. Over TLS it is a lower bound: records
            that were handed over in part are not counted.
        errno: the operating system's number, or the resolver's EAI_ number in phase "resolve"; None if there is none.

    """

    def __init__(
        self,
        message: str,
        *,
        phase: str = "request",
        host: str | None = None,
        port: int | None = None,
        bytes_sent: int = 0,
        errno: int | None = None,
    ) -> None:
        super().__init__(message)
        self.phase = phase
        self.host = host
        self.port = port
        self.bytes_sent = bytes_sent
        self.errno = errno

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError pickles only its args; an error must survive the way home from a multiprocessing worker whole.
        fields = (self.phase, self.host, self.port, self.bytes_sent, self.errno)
        return _restore, (type(self), str(self), *fields)


def _restore(  # noqa: PLR0917  # pickle calls it, by position
    cls: type[RawfnfError],
    message: str,
    phase: str,
    host: str | None,
    port: int | None,
    bytes_sent: int,
    errno: int | None,
) -> RawfnfError:
    return cls(message, phase=phase, host=host, port=port, bytes_sent=bytes_sent, errno=errno)


class RequestError(RawfnfError, ValueError):
    """The request cannot be made as asked. Nothing touched the network."""


class ConnectError(RawfnfError, OSError):
    """No connection that could carry the request. No request byte left: sending it again cannot make it two."""


class SendError(RawfnfError, OSError):
    """It broke after the first request byte. The server may have none, some or all of the request."""


# What the reader of the message can do about it, by errno. Looked up last, so that a more exact cause can speak first.
_REMEDIES = {
    _errno.ECONNREFUSED: "nothing listens there: check the port, and that the server runs",
    _errno.ENOENT: "there is no such socket: check the path, and that the server runs",
    _errno.ENETUNREACH: "no route leads there: check the address and this machine's network",
    _errno.EHOSTUNREACH: "no route leads there: check the address and this machine's network",
    _errno.EMFILE: "this process is out of descriptors: close some, or raise its limit (ulimit -n)",
    _errno.ENFILE: "the system is out of descriptors: close some, or raise its limit (fs.file-max)",
    _errno.EADDRNOTAVAIL: "no free local port, or source_address is not this machine's: "
    "post less often or from more addresses, or widen net.ipv4.ip_local_port_range",
    _errno.EADDRINUSE: "source_address is taken: give it the port 0",
    _errno.EACCES: "not permitted: check the socket's permissions and the firewall",
    _errno.EPERM: "not permitted: check the firewall",
    _errno.ETIMEDOUT: "raise timeout, or check that the peer can be reached and reads what it is sent",
    _errno.ECONNRESET: "the peer gave up: look for the reason in its log",
    _errno.ENOTCONN: "the peer gave up: look for the reason in its log",
    _errno.EPIPE: "the peer gave up: look for the reason in its log",
}

# OpenSSL's X509_V_ERR_ numbers (x509_vfy.h) that have a remedy of their own.
_CERTIFICATE_REMEDIES = {
    9: "look at this machine's clock",
    10: "the server must renew it",
    18: "pass an ssl_context that trusts it (on the command line: --cacert)",
    19: "pass an ssl_context that trusts its root (on the command line: --cacert)",
    20: "pass an ssl_context that trusts its issuer (on the command line: --cacert)",
    62: "use a name that the certificate holds",
    64: "use an address that the certificate holds",
}

# What OpenSSL says of bytes that are no TLS record, by version: plain HTTP, most of the time.
_NOT_TLS = {
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
}


def not_prepared(cause: OSError | ImportError) -> ConnectError:
    """Translate a failure before there was anything to connect: of a module or certificate loaded on first use."""
    return ConnectError(f"cannot prepare the request: {reason(cause)}", errno=number(cause))


def number(cause: BaseException) -> int | None:
    """Return the operating system's or resolver's number. OpenSSL's library numbers stand in the same place: none."""
    return cause.errno if isinstance(cause, OSError) and not _is_tls(cause) else None


def reason(cause: BaseException, *, remedies: bool = True) -> str:
    """Say what went wrong, in one line, and what to do about it; no remedies for what is no socket's error."""
    text, remedy = _told(cause)
    line = " ".join(text.split())
    return f"{line}; {remedy}" if remedy and remedies else line


def _told(cause: BaseException) -> tuple[str, str]:
    if _is_tls(cause):
        return _told_of_tls(cause)
    if isinstance(cause, OSError) and cause.errno is not None:
        text = cause.strerror or os.strerror(cause.errno)
        if type(cause).__name__ == "gaierror":  # its numbers are the resolver's own
            return text, "check the spelling, and that this machine resolves names"
        return text, _REMEDIES.get(cause.errno, "")
    if type(cause).__module__.partition(".")[0] == __package__:
        return str(cause), ""
    return f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__, ""


def _told_of_tls(cause: BaseException) -> tuple[str, str]:
    verify_code = getattr(cause, "verify_code", None)
    if verify_code is not None:
        remedy = _CERTIFICATE_REMEDIES.get(verify_code, "ask who runs the server")
        return f"certificate not trusted: {getattr(cause, 'verify_message', cause)}", remedy
    said = str(getattr(cause, "reason", None) or cause)
    if said in _NOT_TLS:
        return "the port does not speak TLS: is it http://?", ""
    text = f"TLS: {said.lower().replace('_', ' ')}"
    if "ALERT" in said:
        return text, "the server refused: look for the reason in its log"
    if "EOF" in said:
        return text, "the peer closed in the middle: does the port speak TLS?"
    return text, "check which versions and ciphers both sides speak"


def _is_tls(cause: BaseException) -> bool:
    """Tell ssl's errors by where they come from: importing ssl to name its classes would cost plain senders 4 MB."""
    return type(cause).__module__ == "ssl"
