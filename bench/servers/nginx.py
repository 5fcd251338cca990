"""nginx before something else: an HTTP upstream, or PHP-FPM. Its configuration says which differences there are."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.servers.base import Running, Site, free_port, path_of, running
from bench.servers.configuration import write

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def nginx(site: Site, *chosen: str, **values: object) -> Iterator[Running]:
    """Run it with these lines and values of its template."""
    port = free_port()
    written = write(site, "nginx.conf", *chosen, **{"port": port, "application": ""} | values)
    command = [path_of("nginx"), "-p", str(site.folder), "-c", written.name, "-e", "error.log"]
    with running(site, command, port, "nginx") as it:
        yield Running(port, (site.folder / "access.log", site.folder / "error.log", *it.logs))
