"""Real servers whose truth is known: each runs on a port of its own, and counts the handlers that ran to their end.

A handler reads the whole body, works for WORK seconds, adds one byte to the file `done`, and answers 200. So what a
client was told can be compared with what was done.

The listening sockets are made here and inherited, where the server can: no other process takes the port first, and who
connects while the server still starts is served once it has.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from bench import certificates, nginx
from tests.peers import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

LOOPBACK = "127.0.0.1"
WORK = 0.03  # seconds; many times what the probe takes for "much sooner"


class MissingError(Exception):
    """This machine has no such server; the message says how to get it."""


class Server(NamedTuple):
    """A running server, and the file in which its handlers leave a byte at their end."""

    url: str
    done: Path
    tls_url: str = ""
    cafile: str = ""

    def handled(self) -> int:
        """How many handlers have run to their end."""
        return self.done.stat().st_size


# --- applications ---------------------------------------------------------------------------------------------------

_DONE = """
import os, threading
def done():
    with open(os.environ["DONE"], "ab", buffering=0) as file:
        file.write(b".")
"""

# http.server: does not care who is gone.
_ROBUST = (
    _DONE
    + f"""
import http.server, socket, sys
class Application(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        threading.Event().wait(float(sys.argv[2]))
        done()
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("{LOOPBACK}", 0), Application, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=int(sys.argv[1]))
server.serve_forever()
"""
)

_WSGI = (
    _DONE
    + f"""
def application(environ, start_response):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    threading.Event().wait({WORK})
    done()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
)

# /late awaits before it reads: uvicorn then says that the client has gone, although it holds the body.
_ASGI = (
    _DONE
    + f"""
import asyncio
async def body(receive):
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        if not message.get("more_body"):
            return True
async def application(scope, receive, send):
    if scope["path"] == "/late":
        await asyncio.sleep({WORK})
    if not await body(receive):
        return
    if scope["path"] != "/late":
        await asyncio.sleep({WORK})
    done()
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}})
    await send({{"type": "http.response.body", "body": b"ok"}})
"""
)

_RACK = f"""
run lambda {{ |env|
  env["rack.input"].read
  sleep {WORK}
  File.open(ENV["DONE"], "ab") {{ |file| file.write "." }}
  [200, {{"Content-Length" => "2"}}, ["ok"]]
}}
"""

# /heeds honours its context, as Go's database and HTTP clients do with it: it gives up once nobody waits, and says
# nothing, which net/http makes a 200.
_GO = f"""
package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

func work(w http.ResponseWriter, r *http.Request) {{
	io.Copy(io.Discard, r.Body)
	if r.URL.Path == "/heeds" {{
		select {{
		case <-r.Context().Done():
			return
		case <-time.After({int(WORK * 1000)} * time.Millisecond):
		}}
	}} else {{
		time.Sleep({int(WORK * 1000)} * time.Millisecond)
	}}
	file, _ := os.OpenFile(os.Getenv("DONE"), os.O_APPEND|os.O_WRONLY, 0o600)
	file.Write([]byte("."))
	file.Close()
}}

func listener(argument string) net.Listener {{
	number, _ := strconv.Atoi(argument)
	made, err := net.FileListener(os.NewFile(uintptr(number), "listener"))
	if err != nil {{
		panic(err)
	}}
	return made
}}

func main() {{
	panic(http.Serve(listener(os.Args[1]), http.HandlerFunc(work)))
}}
"""


# --- servers --------------------------------------------------------------------------------------------------------


@contextmanager
def http_server(folder: Path, work: float = WORK) -> Iterator[Server]:
    """Run http.server with a thread for each connection."""
    script = _written(folder / "robust.py", _ROBUST)
    with _listening() as listener:
        yield from _served(folder, listener, [sys.executable, str(script), str(listener.fileno()), str(work)])


@contextmanager
def nginx_proxy(folder: Path, *, ignore_abort: bool = False, work: float = WORK) -> Iterator[Server]:
    """Run nginx before an http.server, plain and by TLS 1.3; its defaults give up a request whose client ends."""
    program = nginx.program()
    if program is None:
        raise MissingError("nginx is missing (Debian's package nginx-light)")
    folder.chmod(0o711)  # started by root its workers are somebody else
    issued = certificates.issue(folder, LOOPBACK)
    with ExitStack() as stack:
        upstream = stack.enter_context(http_server(_made(folder / "upstream"), work))
        listeners = [stack.enter_context(_listening()) for _ in range(2)]
        plain, tls = (listener.getsockname()[1] for listener in listeners)
        text = nginx.CONFIGURATION.format(
            host=LOOPBACK, plain=plain, tls=tls, upstream=_port(upstream.url), certificate=issued.server
        )
        if ignore_abort:
            text = text.replace("proxy_pass", "proxy_ignore_client_abort on; proxy_pass")
        _written(folder / "nginx.conf", text)
        command = [program, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"]
        inherited = {"NGINX": "".join(f"{listener.fileno()};" for listener in listeners)}
        stack.enter_context(_running(folder, command, listeners, inherited))
        urls = (f"http://{LOOPBACK}:{plain}/", f"https://{LOOPBACK}:{tls}/")
        yield Server(urls[0], upstream.done, urls[1], str(issued.authority))


@contextmanager
def gunicorn(folder: Path, *options: str) -> Iterator[Server]:
    """Run gunicorn with one worker; without options that is a sync worker, which serves one connection at a time."""
    _module("gunicorn")
    _written(folder / "wsgi.py", _WSGI)
    with _listening() as listener:
        command = [sys.executable, "-m", "gunicorn", "--chdir", str(folder), "--bind", f"fd://{listener.fileno()}"]
        yield from _served(folder, listener, [*command, *options, "wsgi:application"])


@contextmanager
def uvicorn(folder: Path) -> Iterator[Server]:
    """Run uvicorn with one process."""
    _module("uvicorn")
    _written(folder / "asgi.py", _ASGI)
    with _listening() as listener:
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(folder), "--fd", str(listener.fileno())]
        yield from _served(folder, listener, [*command, "--lifespan", "off", "asgi:application"])


@contextmanager
def puma(folder: Path) -> Iterator[Server]:
    """Run Puma, which drops a request whose client has sent FIN. It makes its own listener, and tells the port."""
    program = shutil.which("puma")
    if program is None:
        raise MissingError("puma is missing (Debian's package puma)")
    rackup = _written(folder / "config.ru", _RACK)
    done = _written(folder / "done", "")
    command = [program, "-b", f"tcp://{LOOPBACK}:0", "-C", "-", str(rackup)]
    with _running(folder, command, [], {"DONE": str(done)}) as alive:
        yield Server(_told(folder, alive, r"Listening on http://(\S+)", "http://"), done)


@contextmanager
def go(folder: Path) -> Iterator[Server]:
    """Run Go's net/http."""
    program = shutil.which("go")
    if program is None:
        raise MissingError("go is missing (Debian's package golang-go)")
    source, binary = _written(folder / "main.go", _GO), folder / "server"
    environment = os.environ | {"GOCACHE": str(folder / "cache"), "GO111MODULE": "off"}
    subprocess.run([program, "build", "-o", binary, source], env=environment, check=True, timeout=2 * PATIENCE)
    with _listening() as listener:
        yield from _served(folder, listener, [str(binary), str(listener.fileno())])


@contextmanager
def http2_only(folder: Path) -> Iterator[Server]:
    """Run OpenSSL's own server: it refuses whoever does not offer HTTP/2 by ALPN, and goes no further than that."""
    program = shutil.which("openssl")
    if program is None:
        raise MissingError("openssl is missing (Debian's package openssl)")
    issued, done = certificates.issue(folder, LOOPBACK), _written(folder / "done", "")
    command = [program, "s_server", "-accept", f"{LOOPBACK}:0", "-www", "-alpn", "h2", "-cert", str(issued.server)]
    with _running(folder, command, [], {}) as alive:
        yield Server("", done, _told(folder, alive, r"ACCEPT (\S+)", "https://"), str(issued.authority))


# --- processes ------------------------------------------------------------------------------------------------------


def _served(folder: Path, listener: socket.socket, command: list[str]) -> Iterator[Server]:
    """Run a server that inherits the listener under its number."""
    done = _written(folder / "done", "")
    port = listener.getsockname()[1]
    with _running(folder, command, [listener], {"DONE": str(done)}):
        yield Server(f"http://{LOOPBACK}:{port}/", done)


@contextmanager
def _running(
    folder: Path, command: list[str], listeners: list[socket.socket], variables: Mapping[str, str]
) -> Iterator[Callable[[], bool]]:
    """Run a process, whose own the listeners are from then on; yields what tells whether it is alive."""
    descriptors = [listener.fileno() for listener in listeners]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"HOME": str(folder)} | dict(variables),  # where gunicorn puts a socket of its own
            pass_fds=descriptors,
            start_new_session=True,
        )
    for listener in listeners:
        listener.close()
    try:
        yield lambda: process.poll() is None
    finally:
        died = process.poll()
        if sys.platform == "win32":
            process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers as well: nothing of it is wanted any more
        process.wait()
        if died is not None:  # whatever failed meanwhile, this is why
            raise AssertionError(f"{command[0]} ended ({died}): {log.read_text(errors='replace')[-1000:]}")


def _told(folder: Path, alive: Callable[[], bool], pattern: str, scheme: str) -> str:
    """Return the URL of a server that makes its own listener, once it says where."""
    log = folder / "log"
    until(lambda: re.search(pattern, log.read_text()) or not alive(), "the server says where it listens")
    told = re.search(pattern, log.read_text())
    if told is None:
        raise AssertionError(f"it ended: {log.read_text()[-1000:]}")
    return f"{scheme}{told[1]}/"


def _listening() -> socket.socket:
    return socket.create_server((LOOPBACK, 0), backlog=64)


def _port(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


def _module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise MissingError(f"{name} is missing (the extra `test`)")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
