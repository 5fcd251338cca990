"""The application servers that are not written in Python, with their own defaults: Node, Go, Puma, PHP-FPM."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.processes import ChildError, environment
from bench.servers.base import APPLICATIONS, Running, Server, Site, free_port, path_of, running
from bench.servers.configuration import write
from bench.servers.nginx import nginx
from bench.servers.programs import newest, versions

if TYPE_CHECKING:
    from collections.abc import Iterator

PHP_FPM = newest("php-fpm")
# Seconds for a compiler that has to compile Go's own library first, on a slow machine.
COMPILING = 300.0


@contextmanager
def node(site: Site) -> Iterator[Running]:
    """Run Node's http or https module."""
    port = free_port()
    tls = [site.tls, str(site.certificates.server)] if site.tls else []
    command = [path_of("node"), str(APPLICATIONS / "app.js"), site.address, str(port), *tls]
    with running(site, command, port, "node") as it:
        yield it


@contextmanager
def go(site: Site, *, honours: bool, silent: bool = False) -> Iterator[Running]:
    """Run Go's net/http, with a handler that honours its request's context or ignores it.

    One that gives up answers 500, or, being silent, what net/http answers for it: 200.
    """
    port = free_port()
    options = ["-honour"] if honours else []
    options += ["-silent"] if silent else []
    if site.tls:
        options += ["-tls", site.tls, "-certificate", str(site.certificates.server)]
    with running(site, [str(compiled()), *options, f"{site.address}:{port}"], port, "go") as it:
        yield it


@cache
def compiled() -> Path:
    """Compile the Go application, once in this process; ChildError with what the compiler says."""
    folder = tempfile.mkdtemp(prefix="rawfnf-go-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program = Path(folder) / "main"
    command = [path_of("go"), "build", "-o", str(program), str(APPLICATIONS / "main.go")]
    told = subprocess.run(  # noqa: S603 - our own command line
        command,
        env=environment() | {"GO111MODULE": "off"},  # it needs no modules: there is nothing to be downloaded
        capture_output=True,
        text=True,
        timeout=COMPILING,
        check=False,
    )
    if told.returncode:
        raise ChildError(f"go build: {told.stderr.strip()}")
    return program


@contextmanager
def puma(site: Site) -> Iterator[Running]:
    """Run Puma without a configuration file, but with its log of requests."""
    port = free_port()
    bind, wrapped = f"tcp://{site.address}:{port}", []
    if site.tls:
        pem = site.certificates.server
        bind = f"ssl://{site.address}:{port}?key={pem}&cert={pem}&verify_mode=none"
        # It knows no option for one version of TLS alone, but OpenSSL does.
        wrapped = ["env", f"OPENSSL_CONF={write(site, 'openssl.cnf')}"]
    command = [*wrapped, path_of("puma"), "--no-config", "-v", "-b", bind, str(APPLICATIONS / "config.ru")]
    with running(site, command, port, "puma") as it:
        yield it


@contextmanager
def php_fpm(site: Site, *, between: Literal["unix", "tcp"]) -> Iterator[Running]:
    """Run PHP-FPM with the pool that Debian configures, and nginx before it, by a socket of this kind."""
    if sys.platform == "win32":
        raise NotImplementedError
    port = free_port()
    written = write(site, "php-fpm.conf", between, port=port, user=os.geteuid(), group=os.getegid())
    as_root = ["--allow-to-run-as-root"] if os.geteuid() == 0 else []
    command = [path_of(PHP_FPM), "--nodaemonize", *as_root, "--fpm-config", str(written), "--prefix", str(site.folder)]
    upstream = f"unix:{site.folder / 'php-fpm.sock'}" if between == "unix" else f"{site.address}:{port}"
    with (
        running(site, command, port, "php-fpm") as it,
        nginx(site, "fastcgi", upstream=upstream, application=APPLICATIONS / "index.php") as front,
    ):
        yield Running(front.port, (*front.logs, site.folder / "php-fpm.access.log", *it.logs))


NATIVE: tuple[Server, ...] = (
    Server(
        "Node",
        "Node's http and https modules",
        "application server",
        node,
        programs=("node",),
        install="Debian's nodejs",
        version=partial(versions, Node=("node", "--version")),
    ),
    Server(
        "Go, context ignored",
        "Go's net/http, a handler that does not look at its request's context",
        "application server",
        partial(go, honours=False),
        programs=("go",),
        install="Debian's golang-go",
        version=partial(versions, Go=("go", "version")),
    ),
    Server(
        "Go, context honoured",
        "Go's net/http, a handler that honours its request's context, as calls of database/sql do",
        "application server",
        partial(go, honours=True),
        programs=("go",),
        install="Debian's golang-go",
        version=partial(versions, Go=("go", "version")),
    ),
    Server(
        "Puma",
        "Puma, one process; access log on",
        "application server",
        puma,
        programs=("puma",),
        install="Debian's puma",
        version=partial(versions, Puma=("puma", "--version")),
    ),
    Server(
        "PHP-FPM",
        "PHP-FPM with Debian's pool, post_max_size 64M, behind nginx by a Unix socket; client_max_body_size 64m",
        "application server",
        partial(php_fpm, between="unix"),
        programs=("nginx", PHP_FPM),
        install="Debian's nginx and php-fpm",
        version=partial(versions, nginx=("nginx", "-v"), PHP=(PHP_FPM, "-v")),
    ),
    Server(
        "PHP-FPM, TCP",
        "as PHP-FPM, but nginx reaches it by TCP, as between containers",
        "application server",
        partial(php_fpm, between="tcp"),
        programs=("nginx", PHP_FPM),
        install="Debian's nginx and php-fpm",
        version=partial(versions, nginx=("nginx", "-v"), PHP=(PHP_FPM, "-v")),
    ),
)
