"""The command line: `rawfnf post URL …` and `rawfnf probe URL …`.

Options are spelled, and behave, as curl's where curl has them.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import json
import os
import re
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from . import __version__, post
from ._errors import RawfnfError, RequestError, reason
from ._origin import parse_url, redacted
from ._request import Request

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeGuard

    from ._connection import Receipt
    from ._probe import Probe
    from ._request import Auth, ConnectTo

    Body = bytes | BinaryIO | Iterator[bytes]

# Up to here, in bytes, a file or standard input is read whole: its length is then known, and many servers take no
# chunked request. Beyond it streams, and shows its progress.
_IN_MEMORY = 1024 * 1024
_PIECE = 64 * 1024
_SHOWN_BODY = 1024  # bytes of a body that -v shows

_URL_HELP = "http:// is assumed where no scheme is given"
_FORM, _JSON = "application/x-www-form-urlencoded", "application/json"
# Fields whose value -v does not show, but for an authentication scheme that is known to be one.
_SECRET = re.compile(
    rb"(?im)^([^:\n]*(?:auth|cookie|key|password|secret|token)[^:\n]*): *((?:basic|bearer|digest|negotiate) )?.*$"
)

# Options whose value is free text, and so may begin with a dash.
_WITH_VALUE = {"-d", "--data", "--data-binary", "--json", "-H", "--header", "-u", "--user"}

_ABOUT = """
Send an HTTP POST without waiting for the answer, and say what is known to have
arrived; or find out beforehand what an endpoint keeps of such requests.
"""
_PROBE_ABOUT = """
Find out which closing an endpoint needs, and what else fire-and-forget would
never tell.
"""
_PROBE = """
It sends the request for real: N times with each of the three closings, and once
beside idle connections; once in all if the first is not accepted (2xx). It ends
with a line of Python to paste, and tells what a client cannot see.

examples:
  rawfnf probe https://collector.example/events --json '{"event": "test"}'
  rawfnf probe http://localhost:8080/log -d line=test --attempts 20 --idle 60
  rawfnf probe http://agent/metrics --unix-socket /run/agent.sock -d cpu=0.7

exit status (curl's numbers):
  0 probed, whatever was found   2 bad arguments   6 cannot resolve
  7 cannot connect   28 timed out   35 TLS handshake failed
  60 certificate not trusted
"""
_EXAMPLES = """
examples:
  rawfnf post https://collector.example/events --json '{"event": "start"}'
  rawfnf post http://localhost:8080/up --data-binary @a.bin --closing answered
  tail -n 100 app.log | rawfnf post http://localhost:8080/log \\
    --data-binary @- -H 'Content-Type: text/plain'
  rawfnf post http://agent/metrics --unix-socket /run/agent.sock -d cpu=0.7
  rawfnf probe https://collector.example/events --json '{"event": "test"}'

exit status (curl's numbers):
  0 sent, or probed   2 bad arguments   6 cannot resolve   7 cannot connect
  28 timed out   35 TLS handshake failed   55 failed while sending
  60 certificate not trusted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = _parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
    try:
        status: int = arguments.run(arguments)
        return status
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells have it


def _joined(argv: Sequence[str]) -> list[str]:
    """Join options with values that begin with a dash, which argparse takes for options: -d '--boundary'."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in _WITH_VALUE and word.startswith("-") and word != "-":
            joined[-1] += f"={word}" if joined[-1].startswith("--") else word
        else:
            joined.append(word)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rawfnf",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rawfnf {__version__}")
    parser.set_defaults(run=lambda _: _help(parser))
    commands = parser.add_subparsers(metavar="COMMAND")
    _add_post(commands)
    _add_probe(commands)
    return parser


def _help(parser: argparse.ArgumentParser) -> int:
    """Help who gave no command. That is an error, and its text none of the output."""
    parser.print_help(sys.stderr)
    return 2


def _add_post(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "post",
        help="send one request",
        description="Send one request, and close without waiting for the answer.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("url", metavar="URL", help=_URL_HELP)
    _add_request_options(command)
    option = _add_connection_options(command)
    option(
        "--closing",
        choices=("now", "acked", "answered"),
        help="close when our kernel has every byte, the peer's has, or the server answered (now; over TLS: acked)",
    )
    _add_output_options(command)
    command.set_defaults(run=_post)


def _add_probe(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "probe",
        help="find out which closing an endpoint needs, by real requests",
        description=_PROBE_ABOUT,
        epilog=_PROBE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("url", metavar="URL", help=_URL_HELP)
    _add_request_options(command)
    _add_connection_options(command)
    option = command.add_argument_group("what is asked").add_argument
    option("--attempts", type=int, default=5, metavar="N", help="requests for each closing (default: 5)")
    option(
        "--idle",
        type=float,
        default=3.0,
        metavar="S",
        help="seconds to watch whether idle connections stay open; 0: do not ask (default: 3)",
    )
    _add_output_options(command)
    command.set_defaults(run=_probe)


def _add_request_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument_group("the request").add_argument
    option(
        "-d",
        "--data",
        action="append",
        dest="data",
        type=_stripped,
        metavar="DATA|@FILE|@-",
        help="form data; line ends and NULs of a file or standard input are left out; several are joined by '&'",
    )
    option(
        "--data-binary",
        action="append",
        dest="data",
        type=_as_it_is,
        metavar="DATA|@FILE|@-",
        help="the same, but as it is",
    )
    option(
        "--json",
        action="append",
        type=_as_it_is,
        metavar="JSON|@FILE|@-",
        help="--data-binary with a Content-Type and Accept of application/json",
    )
    option(
        "-H",
        "--header",
        action="append",
        default=[],
        metavar="'K: V'",
        help="'K;' sends an empty field; 'Content-Type:' leaves that out",
    )
    option("-u", "--user", metavar="USER:PW", help="Basic authentication; asks for the password if there is no colon")
    option("-X", "--request", default="POST", metavar="METHOD", help="such as PUT (default: POST)")


def _add_connection_options(command: argparse.ArgumentParser) -> Callable[..., argparse.Action]:
    """Add what is common to all commands; return what adds one more to the group."""
    option = command.add_argument_group("the connection").add_argument
    option(
        "-m",
        "--max-time",
        type=float,
        default=5.0,
        metavar="S",
        help="seconds to resolve, connect, handshake and send; 0: no limit (default: 5)",
    )
    option(
        "--linger",
        type=float,
        default=5.0,
        metavar="S",
        help="seconds that acked and answered may wait after sending (default: 5)",
    )
    option("--cacert", metavar="FILE", help="trust the certificates in this PEM file, not the system's")
    option("--cert", metavar="FILE", help="client certificate, PEM")
    option("--key", metavar="FILE", help="its private key, PEM")
    option("-k", "--insecure", action="store_true", help="trust any certificate")
    option(
        "--connect-to",
        action="append",
        default=[],
        metavar="HOST1:PORT1:HOST2:PORT2",
        help="connect to the second where the URL says the first; empty parts match any, or change nothing",
    )
    option("--unix-socket", metavar="PATH", help="connect to this Unix socket, whatever the URL says")
    option("--interface", metavar="ADDR", help="connect from this IP address")
    return option


def _add_output_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument_group("what is shown").add_argument
    option("-w", "--write-out", choices=("json",), help="write what is known to standard output as JSON")
    option("-v", "--verbose", action="store_true", help="show the bytes sent, credentials masked, on standard error")


def _post(arguments: argparse.Namespace) -> int:
    try:
        receipt = _send(arguments)
    except RawfnfError as error:
        return _failed(arguments, error)
    _tell(json.dumps(_plain(receipt)) if arguments.write_out else _line(receipt), "sent")
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    try:
        found = _ask(arguments)
    except RawfnfError as error:
        return _failed(arguments, error)
    from ._advice import report

    told = json.dumps(_plain(found)) if arguments.write_out else report(found, _context_code(arguments))
    _tell(told, "probed")
    return 0


def _failed(arguments: argparse.Namespace, error: RawfnfError) -> int:
    status = _exit_status(error)
    if arguments.write_out:
        print(json.dumps(_error_report(error, status)))
    print(f"rawfnf: {error}", file=sys.stderr)
    return status


def _tell(told: str, done: str) -> None:
    try:
        print(told, flush=True)
    except OSError as error:
        # Still 0: a script that tries again because nobody reads its output would send twice. At its exit Python would
        # flush, and fail, once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"rawfnf: {done}, but what is known cannot be written: {reason(error, remedies=False)}", file=sys.stderr)


def _plain(value: Any) -> object:
    """Return NamedTuples as what JSON knows, times as RFC 3339 has them."""
    if hasattr(value, "_asdict"):
        return {name: _plain(field) for name, field in value._asdict().items()}
    return value.isoformat() if hasattr(value, "isoformat") else value


def _send(arguments: argparse.Namespace) -> Receipt:
    body = _body(arguments)
    options = _options(arguments, body)
    progress = None
    if not isinstance(body, bytes) and sys.stderr.isatty():
        body, progress = _watched(body)
    try:
        return post(data=body, closing=arguments.closing, **options)
    finally:
        if progress is not None:
            progress.clear()


def _ask(arguments: argparse.Namespace) -> Probe:
    from ._advice import Call
    from ._probe import ask, requests_sent

    body = _body(arguments)
    options = _options(arguments, body)
    attempts, idle = arguments.attempts, arguments.idle
    most = requests_sent(attempts, idle)
    Request(options["url"], headers=options["headers"], auth=options["auth"], method=options["method"])  # or complains
    beside = ", one beside idle connections" if idle else ""
    call = Call(params=None, **options)
    print(f"rawfnf: sending {redacted(options['url'])}", file=sys.stderr)
    print(f"  up to {most} real requests: {attempts} with each closing{beside}", file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        return ask(call, body, attempts=attempts, idle=idle)
    try:
        return ask(call, body, attempts=attempts, idle=idle, tell=lambda what: _draw(f"asking: {what}"))
    finally:
        _draw("")


def _options(arguments: argparse.Namespace, body: Body) -> dict[str, Any]:
    """Return the arguments that post() and probe() have in common; with -v the request is shown."""
    url = arguments.url if re.match(r"[A-Za-z][A-Za-z0-9+.\-]*://", arguments.url) else f"http://{arguments.url}"
    headers = _headers(arguments)
    auth = _auth(arguments.user)
    if arguments.verbose:
        _show(Request(url, headers=headers, auth=auth, method=arguments.request), body)
    return {
        "url": url,
        "headers": headers,
        "auth": auth,
        "method": arguments.request,
        "timeout": arguments.max_time or None,
        "linger": arguments.linger,
        "ssl_context": _context(arguments),
        "connect_to": _connect_to(url, arguments),
        "source_address": arguments.interface,
    }


# --- what is sent --------------------------------------------------------------------------------------------------


def _stripped(value: str) -> Callable[[], Body]:
    return lambda: _content(value, lambda piece: piece.translate(None, b"\r\n\0"))


def _as_it_is(value: str) -> Callable[[], Body]:
    return lambda: _content(value, None)


def _content(value: str, change: Callable[[bytes], bytes] | None) -> Body:
    """Return what an option's value stands for: itself, or what @FILE or @- holds."""
    if not value.startswith("@"):
        return os.fsencode(value)
    if value == "@-" and sys.stdin is None:
        raise RequestError("cannot read '-': standard input is closed")
    try:
        file: BinaryIO = sys.stdin.buffer if value == "@-" else open(value[1:], "rb")  # noqa: SIM115  # it may stream
        first = file.read(_IN_MEMORY + 1)
        if len(first) <= _IN_MEMORY:
            if value != "@-":
                file.close()
            return change(first) if change else first
        if change is None and file.seekable():
            file.seek(-len(first), os.SEEK_CUR)
            return file
    except OSError as error:
        raise RequestError(f"cannot read {value[1:]!r}: {reason(error, remedies=False)}") from error
    pieces = itertools.chain((first,), iter(lambda: file.read(_PIECE), b""))
    return map(change, pieces) if change else pieces


def _is_file(body: Body) -> TypeGuard[BinaryIO]:
    return hasattr(body, "seek")


def _body(arguments: argparse.Namespace) -> Body:
    if arguments.json and arguments.data:
        raise RequestError("--json stands beside -d or --data-binary: give one of them")
    contents: list[Callable[[], Body]] = arguments.json or arguments.data or []
    bodies = [content() for content in contents]
    if len(bodies) == 1:
        return bodies[0]
    return (b"" if arguments.json else b"&").join(
        body if isinstance(body, bytes) else b"".join(body) for body in bodies
    )


def _headers(arguments: argparse.Namespace) -> list[tuple[str | bytes, str | bytes]]:
    """Return curl's -H values as fields, with the Content-Type that -d and --json bring along."""
    defaults = {}
    if arguments.json:
        defaults = {"content-type": ("Content-Type", _JSON), "accept": ("Accept", _JSON)}
    elif arguments.data:
        defaults = {"content-type": ("Content-Type", _FORM)}
    fields: list[tuple[str | bytes, str | bytes]] = []
    for text in arguments.header:
        name, colon, value = text.partition(":")
        empty = not colon and name.endswith(";")
        if not (colon or empty):  # shown up to the first space: what follows may be a credential
            raise RequestError(
                f"-H {text.split()[:1]} holds no field: write 'Name: value', or 'Name;' for an empty one"
            )
        name = name.rstrip(";").strip()
        defaults.pop(name.lower(), None)
        if value.strip() or empty:
            fields.append((name, os.fsencode(value.strip())))
        elif name.lower() in {"host", "user-agent"}:
            raise RequestError(f"-H {text!r}: every request says {name}; give it another value")
    return [*defaults.values(), *fields]


def _auth(user: str | None) -> Auth | None:
    if user is None:
        return None
    name, colon, password = user.partition(":")
    if not colon:
        from getpass import getpass

        try:
            password = getpass(f"Password for {name!r}: ")
        except EOFError:
            raise RequestError("-u holds no ':', and nobody is there to be asked for the password") from None
    return os.fsencode(name), os.fsencode(password)


# --- how it is sent ------------------------------------------------------------------------------------------------


def _context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    if not (arguments.cacert or arguments.cert or arguments.key or arguments.insecure):
        return None
    import ssl  # with _tls, for https only

    from . import _tls

    try:
        context = _tls.client_context(arguments.cacert)
    except OSError as error:  # ssl.SSLError is one
        raise RequestError(f"--cacert {arguments.cacert!r} cannot be used: {reason(error, remedies=False)}") from error
    if arguments.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if arguments.key and not arguments.cert:
        raise RequestError("--key stands without --cert: give the certificate too")
    if arguments.cert:
        try:
            context.load_cert_chain(arguments.cert, arguments.key)
        except OSError as error:
            raise RequestError(
                f"--cert {arguments.cert!r} or its key cannot be used: {reason(error, remedies=False)}"
            ) from error
    return context


def _context_code(arguments: argparse.Namespace) -> list[str]:
    """Return lines of Python that make a context as _context() does."""
    from ._advice import quoted

    trusted = f"cafile={quoted(arguments.cacert)}" if arguments.cacert else ""
    code = ["import ssl", f"ssl_context = ssl.create_default_context({trusted})"]
    if arguments.insecure:
        code += ["ssl_context.check_hostname = False", "ssl_context.verify_mode = ssl.CERT_NONE  # trusts anybody"]
    if arguments.cert:
        files = ", ".join(quoted(name) for name in (arguments.cert, arguments.key) if name)
        code.append(f"ssl_context.load_cert_chain({files})")
    return code


def _connect_to(url: str, arguments: argparse.Namespace) -> ConnectTo | None:
    if arguments.unix_socket:
        return cast("str", arguments.unix_socket)
    origin = parse_url(url).origin
    for rule in arguments.connect_to:
        host1, port1, host2, port2 = _connect_to_rule(rule)
        if host1.lower() in ("", origin.host) and port1 in ("", str(origin.port)):
            return host2 or origin.host, int(port2 or origin.port)
    return None


def _connect_to_rule(rule: str) -> tuple[str, str, str, str]:
    host = r"(\[[^\]]*\]|[^:]*)"
    match = re.fullmatch(rf"{host}:(\d*):{host}:(\d*)", rule)
    if match is None:
        raise RequestError(f"--connect-to {rule!r} is not HOST1:PORT1:HOST2:PORT2")
    host1, port1, host2, port2 = match.groups()
    return host1.strip("[]"), port1, host2.strip("[]"), port2


# --- what is shown -------------------------------------------------------------------------------------------------


def _show(request: Request, body: Body) -> None:
    """Write the request to standard error, as curl -v does, with credentials masked and a long body cut."""
    if isinstance(body, bytes):
        wire = request.encode(body)
    elif _is_file(body):
        here = body.tell()
        wire = bytes(request.message(body).pieces[0])
        body.seek(here)
    else:
        wire = request.encode(iter(()))  # the head is the same, whatever the chunks are
    head, _, sent = wire.partition(b"\r\n\r\n")
    lines = [*_SECRET.sub(rb"\1: \2***", head.replace(b"\r\n", b"\n")).split(b"\n"), b""]
    if isinstance(body, bytes) or _is_file(body):
        lines += sent[:_SHOWN_BODY].splitlines()
    if not isinstance(body, bytes) or len(body) > _SHOWN_BODY:
        lines.append(b"[and so on]")
    for line in lines:
        print(">", _printable(line), file=sys.stderr)


def _printable(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return "".join(char if char == "\t" or (char.isprintable() and char != "\ufffd") else "." for char in text)


def _line(receipt: Receipt) -> str:
    peer = receipt.peer if isinstance(receipt.peer, str) else "{}:{}".format(*receipt.peer)
    delivery = receipt.delivery if receipt.status is None else f"{receipt.delivery} {receipt.status}"
    phases = ", ".join(f"{name} {_milliseconds(spent)}" for name, spent in receipt.timings._asdict().items() if spent)
    tls = f" over {receipt.tls_version}" if receipt.tls_version else ""
    return f"{delivery}: {receipt.bytes_sent} bytes to {peer}{tls} in {_milliseconds(sum(receipt.timings))} ({phases})"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def _error_report(error: RawfnfError, status: int) -> dict[str, Any]:
    fields = ("phase", "host", "port", "bytes_sent", "errno")
    return {
        "error": type(error).__name__,
        "message": str(error),
        **{field: getattr(error, field) for field in fields},
        "exit_status": status,
    }


def _exit_status(error: RawfnfError) -> int:
    if isinstance(error, RequestError):
        return 2
    if getattr(error.__cause__, "verify_code", None) is not None:
        return 60
    if error.errno == errno.ETIMEDOUT:
        return 28
    return {"resolve": 6, "connect": 7, "handshake": 35}.get(error.phase, 55)


def _draw(text: str) -> None:
    """Write over the last line of the terminal that standard error is."""
    print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


class _Progress:
    """A bar on standard error, redrawn in place; `total` in bytes, None if nobody knows."""

    _WIDTH = 30
    _INTERVAL = 0.1  # seconds between two drawings

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._done = 0
        self._next = 0.0

    def add(self, piece: bytes) -> bytes:
        """Count a piece that has been read for sending, and pass it on."""
        self._done += len(piece)
        now = monotonic()
        if now >= self._next:
            self._next = now + self._INTERVAL
            _draw(self._drawn())
        return piece

    def clear(self) -> None:
        """Leave the line as it was found."""
        _draw("")

    def _drawn(self) -> str:
        done = f"{self._done / 1048576:.1f} MiB"
        if not self._total:
            return f"sending {done}"
        share = min(1.0, self._done / self._total)
        bar = "#" * round(share * self._WIDTH)
        return f"sending [{bar:<{self._WIDTH}}] {share:4.0%} of {self._total / 1048576:.1f} MiB"


class _WatchedFile:
    """What `post` asks of a file, with its progress shown."""

    def __init__(self, file: BinaryIO, progress: _Progress) -> None:
        self.tell, self.seek = file.tell, file.seek
        self._file, self._progress = file, progress

    def read(self, size: int) -> bytes:
        return self._progress.add(self._file.read(size))


def _watched(body: BinaryIO | Iterator[bytes]) -> tuple[Any, _Progress]:
    """Return the body in a shape that draws its progress while `post` reads it."""
    if not _is_file(body):
        progress = _Progress(None)
        return map(progress.add, body), progress
    here = body.tell()
    progress = _Progress(body.seek(0, os.SEEK_END) - here)
    body.seek(here)
    return _WatchedFile(body, progress), progress
