"""_origin: URL → origin, path, query and userinfo, as tables, and what no URL may ever do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rawfnf
from rawfnf import Origin, RequestError
from rawfnf._origin import Target, parse_path, parse_url, redacted

ROOT = Path(rawfnf.__file__).parents[1]
LABEL = "a" * 63

# URL, origin and Host field; None where that is the host
ORIGINS = [
    ("http://example.com/", Origin("http", "example.com", 80), "example.com"),
    ("https://example.com/", Origin("https", "example.com", 443), "example.com"),
    ("http://example.com", Origin("http", "example.com", 80), "example.com"),
    ("HTTP://EXAMPLE.Com/", Origin("http", "example.com", 80), "example.com"),
    ("hTTpS://example.com/", Origin("https", "example.com", 443), "example.com"),
    # RFC 9110 §4.2.3: the scheme's own port is left out, an empty one is the scheme's own.
    ("http://example.com:80/", Origin("http", "example.com", 80), "example.com"),
    ("https://example.com:443/", Origin("https", "example.com", 443), "example.com"),
    ("http://example.com:443/", Origin("http", "example.com", 443), "example.com:443"),
    ("https://example.com:80/", Origin("https", "example.com", 80), "example.com:80"),
    ("http://example.com:/", Origin("http", "example.com", 80), "example.com"),
    ("http://example.com:?q", Origin("http", "example.com", 80), "example.com"),
    ("http://example.com:8080/", Origin("http", "example.com", 8080), "example.com:8080"),
    ("http://example.com:08080/", Origin("http", "example.com", 8080), "example.com:8080"),
    ("http://example.com:000000000080/", Origin("http", "example.com", 80), "example.com"),
    ("http://example.com:1", Origin("http", "example.com", 1), "example.com:1"),
    ("http://example.com:65535", Origin("http", "example.com", 65535), "example.com:65535"),
    # names that are no host names by RFC 1123, and are used every day
    ("http://my_service:8000/", Origin("http", "my_service", 8000), "my_service:8000"),
    ("http://example.com./", Origin("http", "example.com.", 80), "example.com."),
    ("http://localhost/", Origin("http", "localhost", 80), "localhost"),
    ("http://a/", Origin("http", "a", 80), "a"),
    (f"http://{LABEL}.{LABEL}.{LABEL}.{'b' * 61}/", Origin("http", f"{LABEL}.{LABEL}.{LABEL}.{'b' * 61}", 80), None),
    (f"http://{LABEL}.{LABEL}.{LABEL}.{'b' * 61}./", Origin("http", f"{LABEL}.{LABEL}.{LABEL}.{'b' * 61}.", 80), None),
    # IP literals
    ("http://127.0.0.1:8080/", Origin("http", "127.0.0.1", 8080), "127.0.0.1:8080"),
    ("http://[::1]/", Origin("http", "::1", 80), "[::1]"),
    ("https://[::1]:443/", Origin("https", "::1", 443), "[::1]"),
    ("http://[::1]:8080/", Origin("http", "::1", 8080), "[::1]:8080"),
    ("http://[::1]:/", Origin("http", "::1", 80), "[::1]"),
    ("http://[2001:DB8::FFFF:1.2.3.4]/", Origin("http", "2001:db8::ffff:1.2.3.4", 80), "[2001:db8::ffff:1.2.3.4]"),
    # RFC 6874: the zone, escaped or as people paste it, stays on this machine; it keeps its case, as interfaces do
    ("http://[fe80::1%25eth0]/", Origin("http", "fe80::1%eth0", 80), "[fe80::1]"),
    ("http://[fe80::1%eth0]/", Origin("http", "fe80::1%eth0", 80), "[fe80::1]"),
    ("http://[FE80::1%25Eth0]:81/", Origin("http", "fe80::1%Eth0", 81), "[fe80::1]:81"),
    # behind credentials
    ("http://user:pw@example.com:81/", Origin("http", "example.com", 81), "example.com:81"),
    ("http://user:pw@[::1]:81/", Origin("http", "::1", 81), "[::1]:81"),
    ("http://user:8080@example.com/", Origin("http", "example.com", 80), "example.com"),
    # IDNA 2008 by UTS 46, and what is ASCII already
    ("http://straße.de/", Origin("http", "xn--strae-oqa.de", 80), "xn--strae-oqa.de"),
    ("http://STRASSE.de/", Origin("http", "strasse.de", 80), "strasse.de"),
    ("http://Bücher.Example:81/", Origin("http", "xn--bcher-kva.example", 81), "xn--bcher-kva.example:81"),
    ("http://xn--bcher-kva.example/", Origin("http", "xn--bcher-kva.example", 80), "xn--bcher-kva.example"),
    ("http://例え。テスト/", Origin("http", "xn--r8jz45g.xn--zckzah", 80), "xn--r8jz45g.xn--zckzah"),
    ("http://user:pw@bücher.example/", Origin("http", "xn--bcher-kva.example", 80), "xn--bcher-kva.example"),
]

# URL, path and query
TARGETS = [
    ("http://h", "/", ""),
    ("http://h/", "/", ""),
    ("http://h?", "/", "?"),
    ("http://h/?", "/", "?"),
    ("http://h?a=1", "/", "?a=1"),
    ("http://h/p?a=1&b=2", "/p", "?a=1&b=2"),
    ("http://h/p?a=?/&b", "/p", "?a=?/&b"),
    ("http://h//", "//", ""),
    ("http://h//evil.example/", "//evil.example/", ""),
    # fragments are never sent (RFC 9110 §7.1)
    ("http://h#f", "/", ""),
    ("http://h/#f?a=1", "/", ""),
    ("http://h/p?a=1#f#g", "/p", "?a=1"),
    ("http://h/p?#", "/p", "?"),
    # dot segments are left alone
    ("http://h/a/../b/./c", "/a/../b/./c", ""),
    ("http://h/..", "/..", ""),
    ("http://h/%2e%2E/", "/%2e%2E/", ""),
    # escapes stay as they are, a "%" that starts none becomes %25
    ("http://h/%41%c3%BC%2f", "/%41%c3%BC%2f", ""),
    ("http://h/100%", "/100%25", ""),
    ("http://h/%4", "/%254", ""),
    ("http://h/%zz%41%", "/%25zz%41%25", ""),
    ("http://h/%%41", "/%25%41", ""),
    ("http://h/?%&%2&%20", "/", "?%25&%252&%20"),
    # what is illegal is escaped as UTF-8; what is legal stays (RFC 3986 §3.3, §3.4)
    ("http://h/a b", "/a%20b", ""),
    ("http://h/ü", "/%C3%BC", ""),
    ("http://h/€", "/%E2%82%AC", ""),
    ("http://h/😀?😀", "/%F0%9F%98%80", "?%F0%9F%98%80"),
    ("http://h?ü=ß x", "/", "?%C3%BC=%C3%9F%20x"),
    ("http://h/\u2028\u200b", "/%E2%80%A8%E2%80%8B", ""),
    ("http://h/-._~!$&'()*+,;=:@", "/-._~!$&'()*+,;=:@", ""),
    ("http://h?-._~!$&'()*+,;=:@/?", "/", "?-._~!$&'()*+,;=:@/?"),
    ('http://h/"<>\\^`{|}[]', "/%22%3C%3E%5C%5E%60%7B%7C%7D%5B%5D", ""),
    ('http://h/?"<>\\^`{|}[]', "/", "?%22%3C%3E%5C%5E%60%7B%7C%7D%5B%5D"),
    ("http://h/a@b:c", "/a@b:c", ""),
    ("http://h/?next=https://u:p@other/", "/", "?next=https://u:p@other/"),
]

# URL, and user and password in it
USERINFOS: list[tuple[str, tuple[bytes, bytes] | None]] = [
    ("http://h/", None),
    ("http://@h/", None),
    ("http://user@h/", (b"user", b"")),
    ("http://user:@h/", (b"user", b"")),
    ("http://:pw@h/", (b"", b"pw")),
    ("http://user:pw@h/", (b"user", b"pw")),
    ("http://user:p:w@h/", (b"user", b"p:w")),
    ("http://user:p%40%3A%2Fw@h/", (b"user", b"p@:/w")),
    ("http://us%65r:%C3%BC%ff@h/", (b"user", b"\xc3\xbc\xff")),
    ("http://jürgen:geheim€@h/", ("jürgen".encode(), "geheim€".encode())),
    ("http://user:100%@h/", (b"user", b"100%")),
    ("http://user:a+b@h/", (b"user", b"a+b")),
    ("http://user:pw@h/x@y", (b"user", b"pw")),
    ("http://h/user:pw@y", None),
    ("http://h?user:pw@y", None),
    ("http://h#user:pw@y", None),
]

# URL, and what the message says
MALFORMED = [
    ("", "absolute"),
    ("h", "absolute"),
    ("example.com", "absolute"),
    ("example.com/x", "absolute"),
    ("//example.com/", "absolute"),
    ("/x", "absolute"),
    ("http:", "absolute"),
    ("http:/h", "absolute"),
    ("http:h", "absolute"),
    (" http://h/", "absolute"),
    ("1http://h/", "absolute"),
    ("localhost:8000/x", "absolute"),
    ("ftp://h/", "scheme 'ftp'"),
    ("file:///etc/passwd", "scheme 'file'"),
    ("unix:///run/x.sock", "scheme 'unix'"),
    ("ws://h/", "scheme 'ws'"),
    ("http+unix://h/", "scheme 'http+unix'"),
    ("http://", "no host"),
    ("http:///x", "no host"),
    ("http://?a", "no host"),
    ("http://#a", "no host"),
    ("http://:80/", "no host"),
    ("http://user@/", "no host"),
    ("http://user:pw@:80/", "no host"),
    ("http://h:0/", "port out of range"),
    ("http://h:00/", "port out of range"),
    ("http://h:65536/", "port out of range"),
    ("http://h:99999999999999999999/", "port out of range"),
    ("http://h:" + "9" * 5000 + "/", "port out of range"),
    ("http://h:-1/", "host or port"),
    ("http://h:+80/", "host or port"),
    ("http://h:80a/", "host or port"),
    ("http://h: 80/", "host or port"),
    ("http://h:8_0/", "host or port"),
    ("http://h:\uff18\uff10/", "host or port"),
    ("http://h:80:80/", "host or port"),
    ("http://::1/", "brackets"),
    ("http://fe80::1%25eth0/", "brackets"),
    ("http://[::1/", "host or port"),
    ("http://::1]/", "host or port"),
    ("http://[::1]x/", "host or port"),
    ("http://x[::1]/", "host or port"),
    ("http://[[::1]]/", "host or port"),
    ("http://[]/", "no IPv6 address"),
    ("http://[:::1]/", "no IPv6 address"),
    ("http://[127.0.0.1]/", "no IPv6 address"),
    ("http://[example.com]/", "no IPv6 address"),
    ("http://[v1.fe80]/", "no IPv6 address"),
    ("http://[::\uff11]/", "no IPv6 address"),
    ("http://[::1%25]/", "zone"),
    ("http://[fe80::1%25eth 0]/", "zone"),
    ("http://[fe80::1%25eth0%25]/", "zone"),
    ("http://[fe80::1%25é]/", "zone"),
    ("http://a b/", "malformed host"),
    ("http://a..b/", "malformed host"),
    ("http://.a/", "malformed host"),
    ("http://./", "malformed host"),
    ("http://a../", "malformed host"),
    ("http://a%20b/", "malformed host"),
    ("http://%65xample.com/", "malformed host"),
    ("http://a,b/", "malformed host"),
    ("http://a;b/", "malformed host"),
    ("http://a*/", "malformed host"),
    ("http://a\\b/", "malformed host"),
    ("http://h\\/x", "malformed host"),
    ("http://'h'/", "malformed host"),
    ("http://{host}/", "malformed host"),
    (f"http://{LABEL}a/", "malformed host"),
    (f"http://{LABEL}.{LABEL}.{LABEL}.{'b' * 62}/", "253"),
    (f"http://{LABEL}.{LABEL}.{LABEL}.{'b' * 62}./", "253"),
    ("http://ü..x/", "IDNA"),
    ("http://" + "ü" * 64 + "/", "IDNA"),
    ("http://℀.example/", "IDNA"),
    ("http://\u00ad/", "IDNA"),
    ("http://\u202eevil.example/", "IDNA"),
    ("http://h\n/", "control character"),
    ("http://h/\r\nX: y", "control character"),
    ("http://h/?a=1 HTTP/1.1\r\nX: y\r\n\r\n", "control character"),
    ("http://h/#\n", "control character"),
    ("http://h/\0", "control character"),
    ("http://h/\t", "control character"),
    ("http://h/\x7f", "control character"),
    ("http://h/\x85", "control character"),
    ("http://u\n:p@h/", "control character"),
    ("\nhttp://h/", "control character"),
    ("http://h/\n", "control character"),
    ("http://h/\ud800", "surrogate"),
    ("http://\udcffh/", "surrogate"),
    ("http://h/?\udfff", "surrogate"),
]

# path, and what is sent of it
PATHS = [
    ("/", "/"),
    ("//", "//"),
    ("/devices/42/state", "/devices/42/state"),
    ("/a b/ü/%41/%", "/a%20b/%C3%BC/%41/%25"),
    ("/../x", "/../x"),
    ("/a:b@c;d=e", "/a:b@c;d=e"),
    ("/%3F%23", "/%3F%23"),
]

# path, and what the message says
MALFORMED_PATHS: list[tuple[object, str]] = [
    ("", "begin with '/'"),
    ("x", "begin with '/'"),
    ("http://other/", "begin with '/'"),
    (" /x", "begin with '/'"),
    ("/x?a=1", "params"),
    ("/x#f", "'#'"),
    ("/x\r\nA: b", "control character"),
    ("/\0", "control character"),
    ("/\ud800", "surrogate"),
    (b"/x", "not bytes"),
    (5, "not int"),
]


@pytest.mark.parametrize(("url", "origin", "host_field"), ORIGINS)
def test_a_url_has_an_origin_and_a_host_field(url: str, origin: Origin, host_field: str | None) -> None:
    assert parse_url(url).origin == origin
    assert origin.authority == (origin.host if host_field is None else host_field)


@pytest.mark.parametrize(("url", "path", "query"), TARGETS)
def test_a_url_has_an_escaped_path_and_query(url: str, path: str, query: str) -> None:
    assert parse_url(url) == Target(Origin("http", "h", 80), path, query, None)


@pytest.mark.parametrize(("url", "userinfo"), USERINFOS)
def test_the_userinfo_of_a_url_is_unescaped(url: str, userinfo: tuple[bytes, bytes] | None) -> None:
    target = parse_url(url)
    assert target.userinfo == userinfo
    assert target.origin == Origin("http", "h", 80)


@pytest.mark.parametrize(("url", "says"), MALFORMED)
def test_a_malformed_url_is_a_request_error_that_shows_it_on_one_line(url: str, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_url(url)
    assert isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert says in message
    assert repr(redacted(url)) in message
    assert message.isprintable()


@pytest.mark.parametrize("url", [None, 5, b"http://h/", Path("http://h/"), ["http://h/"]])
def test_a_url_that_is_no_str_is_a_request_error_that_names_its_type(url: str) -> None:
    with pytest.raises(RequestError, match=f"^url must be a str, not {type(url).__name__}$"):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/", "http://h/"),
        ("http://user:secret@h/x", "http://***@h/x"),
        ("http://user:se@cret@h/x", "http://***@h/x"),
        ("http://user:se/cret@h/x", "http://***@h/x"),
        ("http://user:se\ncret@h/x", "http://***@h/x"),
        ("HTTPS://secret@h", "HTTPS://***@h"),
        ("user:secret@h", "***@h"),
        ("//user:secret@h", "***@h"),
        ("http:/user:secret@h", "***@h"),
        ("http://u:p@h/?callback=http://user:secret@other", "http://***@other"),
    ],
)
def test_a_redacted_url_shows_no_credential(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_a_message_shows_no_query_which_often_holds_a_key() -> None:
    # The repr of a Request leaves it out for that reason.
    with pytest.raises(RequestError) as caught:
        parse_url("http://h:99999/hook?key=secret#access_token=secret")
    assert "http://h:99999/hook" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("path", "escaped"), PATHS)
def test_a_path_of_its_own_is_escaped_as_a_urls_is(path: str, escaped: str) -> None:
    assert parse_path(path) == escaped
    assert parse_url(f"http://h{path}").path == escaped


@pytest.mark.parametrize(("path", "says"), MALFORMED_PATHS)
def test_a_malformed_path_is_a_request_error(path: str, says: str) -> None:
    with pytest.raises(RequestError, match=r"^path ") as caught:
        parse_path(path)
    assert says in str(caught.value)


def without_idna(url: str) -> str:
    """Print what parse_url makes of the URL in an interpreter that has no idna package."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
class NoIdna:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "idna":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, NoIdna())
from rawfnf._origin import parse_url
try:
    print(ascii(parse_url({url!a})))
except Exception as error:
    print(type(error).__name__, ascii(str(error)))
assert "idna" not in sys.modules and "encodings.idna" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def test_a_host_that_is_not_ascii_needs_the_idna_package_and_says_so() -> None:
    printed = without_idna("https://user:secret@straße.de/")
    assert printed.startswith("RequestError ")
    assert "rawfnf[idna]" in printed
    assert "xn--" in printed
    assert "***@stra\\xdfe.de/" in printed
    assert "secret" not in printed


def test_an_ascii_host_does_not_need_the_idna_package() -> None:
    assert "host='xn--strae-oqa.de'" in without_idna("https://xn--strae-oqa.de/straße")


# --- what no URL may ever do ---------------------------------------------------------------------------------------

# Pieces that mean something to a parser, so that most of what is drawn is nearly a URL.
PIECES = st.one_of(
    st.sampled_from(
        ["http://", "https://", "://", "/", "?", "#", "@", ":", "[", "]", "[::1]", "&", "=", "h", "user", ".."]
    ),
    st.sampled_from(["%", "%25", "%0a", "%00", "\\", "127.0.0.1", "example.com", ":80", ":0", "HTTP/1.1", "\r\nX: y"]),
    st.sampled_from(
        [" ", "\r\n", "\n", "\0", "\x85", "\u2028", "\ud800", "ü", "ß", "\u0130", "\u212a", "\uff0f", "\u3002"]
    ),
)
NEARLY_URLS = st.builds(
    "".join, st.tuples(st.sampled_from(["http://", "https://", "http://h", "http://h/", ""]), st.text(max_size=30))
) | st.builds("".join, st.lists(PIECES | st.text(max_size=3), max_size=12))


@settings(max_examples=400, deadline=None)
@given(NEARLY_URLS | st.text())
@example("http://h\r\nEvil: x/")
@example("http://\u212a/")
def test_any_text_is_a_request_error_or_gives_a_visible_ascii_target_and_host(url: str) -> None:
    try:
        target = parse_url(url)
    except RequestError as error:
        message = str(error)
        assert message.isprintable()
        return
    visible = re.compile(r"[\x21-\x7e]+")
    assert visible.fullmatch(target.origin.authority)
    assert visible.fullmatch(target.path + target.query)
    assert target.path.startswith("/")
    assert "#" not in target.path + target.query
    assert "?" not in target.path
    assert 0 < target.origin.port < 65536
    name = target.origin.host.partition("%")[0]  # behind it an interface's name, which keeps its case
    assert name == name.lower()


@settings(max_examples=200, deadline=None)
@given(NEARLY_URLS | st.text())
def test_no_url_can_inject_a_line(url: str) -> None:
    try:
        wire = rawfnf.Request(url).encode()
    except RequestError:
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(wire)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    names = [name for name, _ in request.headers]
    expected = [b"host", b"user-agent", b"connection", b"content-length"]
    assert [name for name in names if name != b"authorization"] == expected
    assert isinstance(server.next_event(), h11.EndOfMessage)
    assert server.trailing_data == (b"", False)
    assert wire.count(b"\n") == len(names) + 2


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_escaping_a_url_again_changes_nothing(tail: str) -> None:
    once = parse_url("http://h/" + tail)
    assert parse_url("http://h" + once.path + once.query) == once


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="?#")))
def test_a_path_is_escaped_as_urllib_quotes_it(path: str) -> None:
    stray = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", path)
    assert parse_path("/" + path) == "/" + quote(stray, safe="-._~%!$&'()*+,;=:@/")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=20), st.binary(max_size=20))
def test_any_credentials_come_back_out_of_a_url_that_escapes_them(user: bytes, password: bytes) -> None:
    assert parse_url(f"http://{quote(user, safe='')}:{quote(password, safe='')}@h/").userinfo == (user, password)


def test_a_backslash_ends_no_authority_and_hides_no_host() -> None:
    # urllib3 and browsers would go to good.example.
    with pytest.raises(RequestError, match="malformed host"):
        parse_url("http://good.example\\@evil.example/")
