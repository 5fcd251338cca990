"""An nginx of our own before an upstream that loses nothing: what its clients' requests meet on most of the web.

Its configuration is nginx's defaults but for `client_max_body_size 64m`, an access log, and places for its files. The
upstream is the embedded receiver: it reads whole bodies, works on each for a while and does not care who is gone by
then. So what does not arrive there was lost before nginx, or by it.

The listening sockets are made here and handed to nginx as it hands its own to its successor in an upgrade (the variable
NGINX, see ngx_add_inherited_sockets() in src/core/nginx.c). So no other process can take the ports first, and who
connects while nginx still starts is served once it has.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import certificates, counter
from .processes import LOOPBACK, PATIENCE, ChildError, ReceiverProcess, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where Debian and others keep it: not on every user's PATH.
ELSEWHERE = ("/usr/sbin", "/usr/local/sbin")
# Seconds that the upstream works on a request before it answers.
WORK = 0.05
# The receiver's counters, which nobody waits for here.
ASLEEP, SLOT = 0, 1

CONFIGURATION = """\
daemon off;
pid nginx.pid;
error_log error.log info;
events {{ }}
http {{
    access_log access.log;
    client_max_body_size 64m;
    client_body_temp_path client_body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {host}:{plain};
        listen {host}:{tls} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        ssl_protocols TLSv1.3;
        location / {{
            proxy_pass http://{host}:{upstream};
        }}
    }}
}}
"""


class Proxy(NamedTuple):
    """A running nginx: `url` is plain, `tls_url` TLS 1.3 by a certificate that `cafile` trusts."""

    url: str
    tls_url: str
    cafile: Path
    folder: Path
    upstream: ReceiverProcess

    def delivered(self) -> dict[str, int]:
        """Return the SHA-256 of each body that was whole at the upstream and worked on to the end: how often."""
        return self.upstream.report(SLOT)["bodies"]

    def working(self) -> int:
        """How many requests the upstream still works on."""
        return self.upstream.due(SLOT)

    def log(self) -> list[str]:
        """Return nginx's access log: a line for each request that it is done with."""
        return (self.folder / "access.log").read_text(encoding="utf-8", errors="replace").splitlines()


def program() -> str | None:
    """Return nginx's path; None where there is none."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), *ELSEWHERE]))


@contextmanager
def proxy(work: float = WORK) -> Iterator[Proxy]:
    """Start an nginx and its upstream, which answers after so many seconds; ChildError where there is none."""
    nginx = program()
    if nginx is None:
        raise ChildError("nginx is missing (Debian's package nginx-light)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rawfnf-nginx-")))
        counters = folder / "counters"
        counter.create(counters)
        issued = certificates.issue(folder, LOOPBACK)
        upstream = stack.enter_context(ReceiverProcess(counters, issued.server, None, ASLEEP))
        plain, tls = (stack.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(2))
        ports = {"plain": plain.getsockname()[1], "tls": tls.getsockname()[1]}
        text = CONFIGURATION.format(
            host=LOOPBACK, **ports, upstream=upstream.listen(SLOT, delay=work), certificate=issued.server
        )
        (folder / "nginx.conf").write_text(text, encoding="utf-8")
        # Started by root its workers are somebody else, who is to get to the folders that nginx makes in here.
        folder.chmod(0o711)
        stack.enter_context(running(nginx, folder, [plain, tls]))
        urls = (f"http://{LOOPBACK}:{ports['plain']}", f"https://{LOOPBACK}:{ports['tls']}")
        yield Proxy(*urls, issued.authority, folder, upstream)


@contextmanager
def running(nginx: str, folder: Path, listeners: list[socket.socket]) -> Iterator[subprocess.Popen[bytes]]:
    """Run it; the listeners are its own from then on."""
    descriptors = [listener.fileno() for listener in listeners]
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - found on PATH, our own configuration
            [nginx, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env=environment() | {"NGINX": "".join(f"{number};" for number in descriptors)},
            pass_fds=descriptors,
            start_new_session=True,
        )
    for listener in listeners:
        listener.close()
    try:
        yield process
    finally:
        died = process.poll()
        process.terminate()  # the master, which ends its workers
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if died is not None:  # whatever failed meanwhile, this is why
            raise ChildError(f"nginx ended ({died}): {complaint(folder)}")


def complaint(folder: Path) -> str:
    """Return the last line that nginx wrote about itself."""
    lines = [
        line
        for name in ("stderr", "error.log")
        if (folder / name).exists()
        for line in (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    return lines[-1] if lines else "it said nothing"
