"""The application servers that are written in Python, with their own defaults."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias

from bench.processes import ROOT
from bench.servers.base import Running, Server, Site, free_port, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from bench.scenarios import TLSVersion

    # What is to be run for a site, to listen at this port.
    Command: TypeAlias = Callable[[Site, int], list[str]]
    Start: TypeAlias = Callable[[Site], AbstractContextManager[Running]]

HERE = "bench.servers.applications"
# OpenSSL's own configuration, for a server without such an option: the one version that is not to be taken. MinProtocol
# would not do, as Python's ssl sets a minimum of its own; and nothing offers less than TLS 1.2 there.
OPENSSL_CONF = """\
openssl_conf = all
[all]
ssl_conf = tls
[tls]
system_default = versions
[versions]
Protocol = -{refused}
"""
REFUSED = {"1.2": "TLSv1.3", "1.3": "TLSv1.2"}


def python(site: Site, module: str, *arguments: str, **variables: str) -> list[str]:
    """Return the command line that runs a module, from any folder, with this package to be found."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Gunicorn keeps a socket in HOME. Unbuffered, a log has its lines when they are looked for.
    variables |= {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "HOME": str(site.folder)}
    return ["env", *(f"{name}={value}" for name, value in variables.items()), sys.executable, "-m", module, *arguments]


def started(command: Command, name: str = "server") -> Start:
    """Return what starts this command, with its log in NAME.log."""

    def start(site: Site) -> AbstractContextManager[Running]:
        port = free_port()
        return running(site, command(site, port), port, name)

    return start


def own(module: str) -> Command:
    """Return the command of an application that brings its server along."""

    def command(site: Site, port: int) -> list[str]:
        tls = [site.tls, str(site.certificates.server)] if site.tls else []
        return python(site, f"{HERE}.{module}", site.address, str(port), *tls)

    return command


def gunicorn(*options: str) -> Command:
    """Return the command of Gunicorn with such workers."""

    def command(site: Site, port: int) -> list[str]:
        arguments = ["--bind", f"{site.address}:{port}", "--access-logfile", "-", *options]
        variables = {}
        if site.tls:
            certificate = str(site.certificates.server)
            arguments += [
                "--certfile",
                certificate,
                "--keyfile",
                certificate,
                "--config",
                f"python:{HERE}.gunicorn_tls",
            ]
            variables["TLS_VERSION"] = site.tls
        return python(site, "gunicorn", *arguments, f"{HERE}.wsgi:application", **variables)

    return command


def waitress(site: Site, port: int) -> list[str]:
    """Return the command of Waitress."""
    return python(site, "waitress", f"--listen={site.address}:{port}", f"{HERE}.wsgi:application")


def uvicorn(application: str, *options: str) -> Command:
    """Return the command of uvicorn for one of the modules here."""

    def command(site: Site, port: int) -> list[str]:
        arguments = ["--host", site.address, "--port", str(port), *options]
        variables = {}
        if site.tls:
            configuration = site.folder / "openssl.cnf"
            configuration.write_text(OPENSSL_CONF.format(refused=REFUSED[site.tls]), encoding="ascii")
            variables["OPENSSL_CONF"] = str(configuration)
            arguments += ["--ssl-certfile", str(site.certificates.server)]
        return python(site, "uvicorn", *arguments, f"{HERE}.{application}:application", **variables)

    return command


def granian(site: Site, port: int) -> list[str]:
    """Return the command of Granian. TLS 1.2 is the least that it can be told to take, never the most."""
    arguments = ["--interface", "asgi", "--access-log", "--host", site.address, "--port", str(port)]
    if site.tls:
        key = site.folder / "key.pem"
        write_pkcs8(site.certificates.server, key)
        arguments += ["--ssl-certificate", str(site.certificates.server), "--ssl-keyfile", str(key)]
    return python(site, "granian", *arguments, f"{HERE}.asgi:application")


def write_pkcs8(certificate: Path, key: Path) -> None:
    """Write the key of a file with key and chain as PKCS#8, the only format that Granian reads."""
    from cryptography.hazmat.primitives import serialization  # comes with trustme, which made the key

    read = serialization.load_pem_private_key(certificate.read_bytes(), None)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.write_bytes(read.private_bytes(pem, pkcs8, serialization.NoEncryption()))


def released(*packages: str) -> Callable[[], str]:
    """Return what tells the versions of packages from PyPI; of those that are here."""
    return lambda: ", ".join(f"{name} {metadata.version(name)}" for name in packages if find_spec(name))


def row(
    name: str,
    title: str,
    command: Command,
    *packages: str,
    tls: bool = True,
    not_alone: tuple[TLSVersion, ...] = (),
) -> Server:
    """Return the row of a server that needs these packages from PyPI; their modules have the same names."""
    install = f"{', '.join(packages)} from PyPI"
    return Server(
        name,
        title,
        "application server",
        started(command),
        tls,
        not_alone,
        modules=packages,
        install=install,
        version=released(*packages),
    )


http_server: Start = started(own("http_server"), "http.server")

# What `pip install uvicorn` gives, and what "uvicorn[standard]" does.
H11 = ("--http", "h11", "--loop", "asyncio")
HTTPTOOLS = ("--http", "httptools", "--loop", "uvloop")

PYTHON: tuple[Server, ...] = (
    Server(
        "http.server",
        "Python's http.server, HTTP/1.1, a thread for each connection, 128 of which may wait",
        "application server",
        http_server,
        version=lambda: f"Python {platform.python_version()}",
    ),
    row("gunicorn sync", "Gunicorn, 4 workers", gunicorn("--workers", "4"), "gunicorn"),
    row(
        "gunicorn gthread",
        "Gunicorn, a worker with 4 threads",
        gunicorn("--worker-class", "gthread", "--threads", "4"),
        "gunicorn",
    ),
    row("waitress", "Waitress", waitress, "waitress", tls=False),
    row("uvicorn h11", "uvicorn as it installs: h11, asyncio", uvicorn("asgi", *H11), "uvicorn"),
    row(
        "uvicorn httptools",
        "uvicorn[standard]: httptools, uvloop",
        uvicorn("asgi", *HTTPTOOLS),
        "uvicorn",
        "httptools",
        "uvloop",
    ),
    row("hypercorn", "Hypercorn, ASGI", own("hypercorn_app"), "hypercorn"),
    row("granian", "Granian, ASGI", granian, "granian", not_alone=("1.2",)),
    row("aiohttp", "aiohttp's own server, client_max_size of 64 MiB", own("aiohttp_app"), "aiohttp"),
    row("tornado", "Tornado's own server", own("tornado_app"), "tornado"),
    row(
        "FastAPI, awaits",
        "FastAPI on uvicorn[standard]; a dependency awaits 2 ms, then the body is read",
        uvicorn("fastapi_app", *HTTPTOOLS),
        "fastapi",
        "uvicorn",
        "httptools",
        "uvloop",
    ),
    row(
        "Django, awaits",
        "Django on uvicorn, DATA_UPLOAD_MAX_MEMORY_SIZE None; a middleware awaits 2 ms",
        uvicorn("django_app", *H11),
        "django",
        "uvicorn",
    ),
)
