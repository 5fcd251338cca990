"""_route: where a connection goes and how it ends; every malformed option is refused by its name."""

from __future__ import annotations

import socket
import ssl
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from rawfnf import Origin, RequestError
from rawfnf._route import Route, checked_closing, checked_seconds, checked_timeout, default_route, route_to
from rawfnf._tcp import Address

HTTP = Origin("http", "example.com", 80)
HTTPS = Origin("https", "example.com", 443)
IPV4 = Origin("http", "127.0.0.1", 8080)
IPV6 = Origin("http", "::1", 8080)

needs_unix_sockets = pytest.mark.skipif(sys.platform == "win32", reason="Windows' Python has no Unix sockets")


def route(origin: Origin = HTTP, **options: Any) -> Route:
    return route_to(origin, **{"ssl_context": None, "connect_to": None, "source_address": None, **options})


# --- where ---------------------------------------------------------------------------------------------------------

V4, V6 = socket.AF_INET, socket.AF_INET6

# origin, connect_to, and host, port and what is known without a resolver
CONNECT_TO: list[tuple[Origin, Any, str, int, tuple[Address, ...]]] = [
    (HTTP, None, "example.com", 80, ()),
    (HTTPS, None, "example.com", 443, ()),
    (IPV4, None, "127.0.0.1", 8080, (Address(V4, ("127.0.0.1", 8080)),)),
    (IPV6, None, "::1", 8080, (Address(V6, ("::1", 8080, 0, 0)),)),
    (HTTP, ("10.0.0.7", 8443), "10.0.0.7", 8443, (Address(V4, ("10.0.0.7", 8443)),)),
    (HTTP, ("::1", 1), "::1", 1, (Address(V6, ("::1", 1, 0, 0)),)),
    (IPV4, ("::1", 65535), "::1", 65535, (Address(V6, ("::1", 65535, 0, 0)),)),
    (HTTP, ("fe80::1%1", 80), "fe80::1%1", 80, (Address(V6, ("fe80::1", 80, 0, 1)),)),
    (HTTP, ("Backend.Example.", 81), "backend.example.", 81, ()),
    (IPV4, ("my_service", 81), "my_service", 81, ()),
    (HTTP, ("bücher.example", 81), "xn--bcher-kva.example", 81, ()),
    # inet_aton's short forms are a resolver's business: no name server is asked for them
    (HTTP, ("127.1", 81), "127.1", 81, ()),
]


@pytest.mark.parametrize(("origin", "connect_to", "host", "port", "known"), CONNECT_TO)
def test_a_route_goes_to_the_url_or_to_connect_to(
    origin: Origin, connect_to: Any, host: str, port: int, known: tuple[Address, ...]
) -> None:
    found = route(origin, connect_to=connect_to)
    assert (found.origin, found.host, found.port, found.known, found.source) == (origin, host, port, known, None)


@pytest.mark.parametrize(
    "path", ["/run/agent.sock", "agent.sock", Path("/run/agent.sock"), "\0abstract", "/run/ü", "x" * 107]
)
def test_a_path_is_a_unix_socket(path: str | Path) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows' Python has no Unix sockets")
    else:
        for origin in (HTTP, HTTPS, IPV6):
            assert route(origin, connect_to=path).known == (Address(socket.AF_UNIX, str(path)),)


# origin, connect_to, and what messages call it
WHERE: list[tuple[Origin, Any, str]] = [
    (HTTP, None, "example.com:80"),
    (HTTPS, None, "example.com:443"),
    (IPV4, None, "127.0.0.1:8080"),
    (IPV6, None, "[::1]:8080"),
    (HTTP, ("10.0.0.7", 81), "example.com:80 (connect_to 10.0.0.7:81)"),
    (HTTP, ("::1", 81), "example.com:80 (connect_to [::1]:81)"),
    pytest.param(HTTP, "/run/a.sock", "example.com:80 (connect_to '/run/a.sock')", marks=needs_unix_sockets),  # type: ignore[list-item]  # a row all the same
]


@pytest.mark.parametrize(("origin", "connect_to", "where"), WHERE)
def test_messages_name_host_port_and_connect_to(origin: Origin, connect_to: Any, where: str) -> None:
    assert route(origin, connect_to=connect_to).where == where


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("127.0.0.1", Address(V4, ("127.0.0.1", 0))),
        (("127.0.0.1", 0), Address(V4, ("127.0.0.1", 0))),
        (("127.0.0.1", 65535), Address(V4, ("127.0.0.1", 65535))),
        ("::1", Address(V6, ("::1", 0, 0, 0))),
        (("0.0.0.0", 5000), Address(V4, ("0.0.0.0", 5000))),
        (None, None),
    ],
)
def test_a_source_address_is_an_ip_address_with_or_without_a_port(source: Any, address: Address | None) -> None:
    assert route(source_address=source).source == address


def test_a_zone_is_a_network_interface_of_this_machine() -> None:
    index, name = socket.if_nameindex()[0]
    assert route(Origin("http", f"fe80::1%{name}", 80)).known == (Address(V6, ("fe80::1", 80, 0, index)),)
    assert route(Origin("http", f"fe80::1%{index}", 80)).known == (Address(V6, ("fe80::1", 80, 0, index)),)


# options, and what the message says behind the option's name
MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"connect_to": ()}, "must be (host, port)"),
    ({"connect_to": ("h",)}, "must be (host, port)"),
    ({"connect_to": ("h", 80, 1)}, "must be (host, port)"),
    ({"connect_to": ("h", "80")}, "must be (host, port)"),
    ({"connect_to": ("h", None)}, "must be (host, port)"),
    ({"connect_to": ("h", 80.0)}, "must be (host, port)"),
    ({"connect_to": ("h", True)}, "must be (host, port)"),
    ({"connect_to": ("h", 0)}, "1 to 65535"),
    ({"connect_to": ("h", -1)}, "1 to 65535"),
    ({"connect_to": ("h", 65536)}, "1 to 65535"),
    ({"connect_to": (b"h", 80)}, "must be (host, port)"),
    ({"connect_to": (None, 80)}, "must be (host, port)"),
    ({"connect_to": ("", 80)}, "no host"),
    ({"connect_to": ("a b", 80)}, "malformed host"),
    ({"connect_to": ("[::1]", 80)}, "malformed host"),
    ({"connect_to": ("http://h", 80)}, "malformed host"),
    ({"connect_to": ("h:80", 80)}, "malformed host"),
    ({"connect_to": ("h\n", 80)}, "malformed host"),
    ({"connect_to": ("h\0", 80)}, "malformed host"),
    ({"connect_to": ("h\ud800", 80)}, ""),
    ({"connect_to": ("ü..x", 80)}, "IDNA"),
    ({"connect_to": ("fe80::1%no_such_interface", 80)}, "network interface"),
    ({"connect_to": ("fe80::1%", 80)}, ""),
    ({"connect_to": ("fe80::1%a\0", 80)}, ""),
    ({"connect_to": ("fe80::1%99999999999", 80)}, "network interface"),
    ({"connect_to": ["h", 80]}, "must be (host, port)"),
    ({"connect_to": 80}, "must be (host, port)"),
    ({"connect_to": True}, "must be (host, port)"),
    ({"connect_to": {"h": 80}}, "must be (host, port)"),
    ({"connect_to": ""}, "path of a Unix socket"),
    ({"connect_to": b"/run/x"}, "path of a Unix socket"),
    ({"connect_to": "/run/\0x"}, "path of a Unix socket"),
    ({"connect_to": "/run/\ud800"}, ""),
    ({"connect_to": "x" * 108}, "107 bytes"),
    ({"connect_to": "ü" * 54}, "107 bytes"),
    ({"source_address": ()}, "must be (IP address, port)"),
    ({"source_address": ""}, "must be (IP address, port)"),
    ({"source_address": ("", 0)}, "must be (IP address, port)"),
    ({"source_address": "localhost"}, "must be (IP address, port)"),
    ({"source_address": ("localhost", 0)}, "must be (IP address, port)"),
    ({"source_address": ("127.0.0.1",)}, "must be (IP address, port)"),
    ({"source_address": ("127.0.0.1", "0")}, "must be (IP address, port)"),
    ({"source_address": ("127.0.0.1", None)}, "must be (IP address, port)"),
    ({"source_address": ("127.0.0.1", True)}, "must be (IP address, port)"),
    ({"source_address": ("127.0.0.1", -1)}, "must be (IP address, port)"),
    ({"source_address": ("127.0.0.1", 65536)}, "must be (IP address, port)"),
    ({"source_address": ("127.0.0.1", 0, 0)}, "must be (IP address, port)"),
    ({"source_address": (b"127.0.0.1", 0)}, "must be (IP address, port)"),
    ({"source_address": ["127.0.0.1", 0]}, "must be (IP address, port)"),
    ({"source_address": "127.0.0.1:80"}, "must be (IP address, port)"),
    ({"source_address": 5}, "must be (IP address, port)"),
    ({"source_address": "127.0.0.1\0"}, "must be (IP address, port)"),
    ({"source_address": "\ud800"}, "must be (IP address, port)"),
    ({"source_address": "fe80::1%no_such_interface"}, "network interface"),
    ({"source_address": "fe80::1%99999999999"}, "network interface"),
    ({"source_address": "::1", "connect_to": ("127.0.0.1", 80)}, "one is IPv4"),
    ({"source_address": "127.0.0.1", "connect_to": ("::1", 80)}, "one is IPv4"),
    ({"source_address": "127.0.0.1", "connect_to": "/run/x"}, "or a path"),
]


@pytest.mark.parametrize(("options", "says"), MALFORMED)
def test_a_malformed_route_is_a_request_error_that_names_the_option(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        route(**options)
    assert str(caught.value).startswith(next(iter(options)))
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("host", "says"),
    [("fe80::1%no_such_interface", "network interface"), ("fe80::1%99999999999", "network interface")],
)
def test_a_url_with_a_zone_that_is_none_here_is_a_request_error(host: str, says: str) -> None:
    with pytest.raises(RequestError, match=r"^url") as caught:
        default_route(Origin("http", host, 80))
    assert says in str(caught.value)


def test_a_source_address_of_another_family_than_the_urls_is_a_request_error() -> None:
    for origin, source in ((IPV4, "::1"), (IPV6, "127.0.0.1")):
        with pytest.raises(RequestError, match=f"^source_address '{source}' cannot reach"):
            route(origin, source_address=source)


# --- TLS -----------------------------------------------------------------------------------------------------------


def test_http_has_no_tls_and_https_has_it_by_default() -> None:
    assert route(HTTP).ssl_context is None
    context = route(HTTPS).ssl_context
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert route(HTTPS).ssl_context is context  # it is built once
    assert default_route(HTTPS).ssl_context is context


def test_a_context_of_the_callers_own_is_taken_as_it_is() -> None:
    context = ssl.create_default_context()
    assert route(HTTPS, ssl_context=context).ssl_context is context


@pytest.mark.parametrize("context", [True, False, "cert.pem", 0, ssl, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)])
def test_what_is_no_clients_context_is_a_request_error(context: Any) -> None:
    with pytest.raises(RequestError, match=r"^ssl_context "):
        route(HTTPS, ssl_context=context)


@pytest.mark.parametrize(
    ("host", "connect_to", "sni"),
    [
        ("example.com", None, "example.com"),
        ("example.com.", None, "example.com"),  # RFC 6066 §3: without the final dot
        ("xn--strae-oqa.de", None, "xn--strae-oqa.de"),
        ("example.com", ("10.0.0.7", 1), "example.com"),
        ("example.com", ("backend.example", 1), "example.com"),
        ("127.0.0.1", None, None),  # RFC 6066 §3: no literals
        ("fe80::1%1", None, None),
    ],
)
def test_the_server_is_told_the_urls_name_whatever_it_connects_to(host: str, connect_to: Any, sni: str | None) -> None:
    tls = route(Origin("https", host, 443), connect_to=connect_to).start_tls()
    assert tls is not None
    assert not tls.handshake()
    told: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _, name, __: told.append(name)
    incoming = ssl.MemoryBIO()
    incoming.write(tls.flight())
    server = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    with pytest.raises(ssl.SSLError):  # it has no certificate
        server.do_handshake()
    assert told == [sni]


# --- how long, and how it ends -------------------------------------------------------------------------------------

NO_SECONDS: list[Any] = [-1, -0.001, float("nan"), float("inf"), float("-inf"), "5", b"5", True, False, [5], (5, 5)]
NO_SECONDS += [1j, Decimal(5), Fraction(1, 2), object(), 10**400, 1e300, 2e9]


@pytest.mark.parametrize("value", NO_SECONDS, ids=lambda value: repr(value)[:20])
def test_what_is_no_duration_is_a_request_error_that_names_the_option(value: Any) -> None:
    with pytest.raises(RequestError, match=r"^linger must be"):
        checked_seconds(value, "linger")
    with pytest.raises(RequestError, match=r"^timeout must be"):
        checked_timeout(value)


@pytest.mark.parametrize("value", [0, 0.0, 1e-9, 0.5, 5, 3600, 86400.0, 1e9])
def test_a_duration_is_seconds(value: float) -> None:
    assert checked_seconds(value, "linger") == value


def test_none_is_no_duration_but_no_limit_as_timeout() -> None:
    none: Any = None
    with pytest.raises(RequestError, match=r"^linger must be"):
        checked_seconds(none, "linger")
    assert checked_timeout(None) is None
    assert checked_timeout(5) == 5
    assert checked_timeout(1e-9) == 1e-9


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_a_timeout_of_zero_is_a_request_error_that_says_how_to_have_no_limit(zero: float) -> None:
    with pytest.raises(RequestError, match=r"^timeout must be more than 0 seconds; None"):
        checked_timeout(zero)


@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
def test_there_are_three_closings(closing: str) -> None:
    assert checked_closing(closing) == closing


@pytest.mark.parametrize("closing", ["", "NOW", "now ", "later", b"now", 0, True, ["now"], None, object()])
def test_any_other_closing_is_a_request_error_that_names_the_three(closing: Any) -> None:
    with pytest.raises(RequestError, match=r"^closing must be one of 'now', 'acked', 'answered', not "):
        checked_closing(closing)


def test_a_default_route_is_the_route_without_options() -> None:
    for origin in (HTTP, HTTPS, IPV4, IPV6):
        assert default_route(origin) == route(origin)
