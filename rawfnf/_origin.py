"""URL → origin, request target and userinfo (RFC 3986, RFC 9110 §4.2). Pure: no socket, no network.

What a URL may not hold is refused here, before anything else looks at it; what it may hold only escaped is escaped.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ._errors import RequestError

_DEFAULT_PORTS = {"http": 80, "https": 443}

# RFC 3986 appendix B, with the authority required: http and https URLs always have one (RFC 9110 §4.2.1).
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.DOTALL)
# No backslash: others end the authority there, and so would see another host than we do.
_AUTHORITY = re.compile(r"(?:([^\\]*)@)?(?:\[([^\[\]@]*)\]|([^:\[\]@]*))(?::([0-9]*))?", re.DOTALL)

# RFC 3986 §3.3: pchar = unreserved / pct-encoded / sub-delims / ":" / "@", and "/" between segments; §3.4: a query adds
# "?", which a path that is split off has lost. A "%" that starts no escape is itself illegal, and becomes %25.
_ILLEGAL = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~%!$&'()*+,;=:@/?]")
_UNSENDABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and what UTF-8 cannot encode

# RFC 1123 §2.1 and RFC 1035 §2.3.4 bound names to 63 octets a label, 253 in all. The underscore is no host name's, but
# containers and service discovery use it every day.
_HOST = re.compile(r"(?=.{1,253}\.?\Z)[a-z0-9_\-]{1,63}(?:\.[a-z0-9_\-]{1,63})*\.?")
_ZONE = re.compile(r"[A-Za-z0-9._~\-]+")


class Origin(NamedTuple):
    """Scheme, host and port (RFC 9110 §4.3.1). An IPv6 host stands without its brackets."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The Host field's value: the port is left out where it is the scheme's own (RFC 9110 §4.2.3)."""
        # A zone such as %eth0 means something on this machine only, and stays here (RFC 6874 §4).
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


class Target(NamedTuple):
    """Where a request goes, and the credentials that its URL carried."""

    origin: Origin
    path: str
    query: str  # with its "?", or empty
    userinfo: tuple[bytes, bytes] | None  # user, password, unescaped


def redacted(url: str) -> str:
    """Return the URL without anything that might be a credential, a key in the query among it: for messages only."""
    shown = re.sub(r"^([A-Za-z][A-Za-z0-9+.\-]*://)?.*@", r"\1***@", url, flags=re.DOTALL)
    return re.sub(r"[?#].*", "?***", shown, flags=re.DOTALL)


def parse_url(url: str) -> Target:
    """Split, check and escape an http or https URL. A fragment is dropped, dot segments are left alone.

    Raises:
        RequestError: with the URL shown as far as it cannot hold a credential.

    """
    if not isinstance(url, str):
        raise RequestError(f"url must be a str, not {type(url).__name__}")
    shown = redacted(url)
    refuse_unsendable(url, f"url {shown!r}")
    match = _URL.fullmatch(url)
    if match is None:
        raise RequestError(f"url {shown!r} is not absolute: begin it with http:// or https://")
    scheme = match[1].lower()
    if scheme not in _DEFAULT_PORTS:
        raise RequestError(f"url {shown!r} has the scheme {scheme!r}: rawfnf sends to http and https only")
    authority = _AUTHORITY.fullmatch(match[2])
    if authority is None:
        raise RequestError(
            f"url {shown!r} has a malformed host or port: "
            "escape '@', ':' and '/' in credentials (%40, %3A, %2F), and put an IPv6 address in [brackets]"
        )
    userinfo, literal, name, port_text = authority.groups()
    host = _ipv6(literal, shown) if literal is not None else host_name(name, f"url {shown!r}")
    port = _port(port_text, shown) if port_text else _DEFAULT_PORTS[scheme]
    query = "?" + escaped(match[4][1:]) if match[4] is not None else ""
    return Target(Origin(scheme, host, port), escaped(match[3] or "/"), query, _userinfo(userinfo))


def escaped(text: str) -> str:
    """Percent-encode, as UTF-8, what a path or query may not hold; escapes that are there stay as they are."""
    return _ILLEGAL.sub(_octets_escaped, text)


def parse_path(path: str) -> str:
    """Check and escape a path that replaces the URL's own."""
    if not isinstance(path, str):
        raise RequestError(f"path must be a str, not {type(path).__name__}")
    shown = redacted(path)
    refuse_unsendable(path, f"path {shown!r}")
    if not path.startswith("/"):
        raise RequestError(f"path {shown!r} must begin with '/'")
    if "?" in path or "#" in path:
        raise RequestError(f"path {shown!r} holds a '?' or '#': give a query as params, or escape them (%3F, %23)")
    return escaped(path)


def refuse_unsendable(text: str, where: str) -> None:
    """Raise RequestError if `text` holds a control character or a lone surrogate; shows that one character only."""
    if found := _UNSENDABLE.search(text):
        what = "lone surrogate" if found[0] >= "\ud800" else "control character"
        raise RequestError(f"{where} holds a {what} ({found[0]!r} at {found.start()}): remove or escape it")


def host_name(name: str, where: str) -> str:
    """Return a host name as the lower-case ASCII that a resolver and the Host field take.

    Names that are not ASCII are encoded by the `idna` package (IDNA 2008, UTS 46): the built-in codec is IDNA 2003 and
    sends straße.de to strasse.de, another site.
    """
    if not name:
        raise RequestError(f"{where} has no host")
    if not name.isascii():
        name = _idna(name, where)
    name = name.lower()
    if _HOST.fullmatch(name) is None:
        raise RequestError(f"{where} has a malformed host: labels of 1 to 63 letters, digits, '-' or '_', 253 in all")
    return name


def _octets_escaped(match: re.Match[str]) -> str:
    return "".join(f"%{octet:02X}" for octet in match[0].encode())


def _ipv6(literal: str, shown: str) -> str:
    from ipaddress import IPv6Address  # loaded for bracketed hosts only: it is 0.3 MB

    # RFC 6874 §2 writes the zone after an escaped percent sign; people paste the bare one.
    address, percent, zone = literal.replace("%25", "%", 1).partition("%")
    try:
        IPv6Address(address)
    except ValueError:
        raise RequestError(f"url {shown!r} has brackets around something that is no IPv6 address") from None
    if percent and _ZONE.fullmatch(zone) is None:
        raise RequestError(f"url {shown!r} has a malformed IPv6 zone")
    return address.lower() + percent + zone


def _port(text: str, shown: str) -> int:
    digits = text.lstrip("0")
    if not digits or len(digits) > 5 or int(digits) > 65535:
        raise RequestError(f"url {shown!r} has a port out of range: 1 to 65535")
    return int(digits)


def _userinfo(userinfo: str | None) -> tuple[bytes, bytes] | None:
    if not userinfo:
        return None
    from urllib.parse import unquote_to_bytes  # loaded for URLs with credentials only: it is 0.5 MB

    user, _, password = userinfo.partition(":")
    return unquote_to_bytes(user), unquote_to_bytes(password)


def _idna(name: str, where: str) -> str:
    try:
        import idna
    except ImportError:
        raise RequestError(
            f"{where} has a host that is not ASCII: install rawfnf[idna], or write the host in its xn-- form"
        ) from None
    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise RequestError(f"{where} has a host that IDNA refuses: {error}") from error
