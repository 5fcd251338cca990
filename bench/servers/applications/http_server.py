"""The standard library's http.server, a thread for each connection: it does not care who is gone.

It is the upstream of the proxies as well, so that what is missing there was lost before it: it keeps connections, and
takes bodies by chunks, as some proxies pass them on.

    python -m bench.servers.applications.http_server ADDRESS PORT [TLS-VERSION CERTIFICATE]
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench.servers.applications.handled import handle
from bench.servers.applications.tls import from_arguments


class Handler(BaseHTTPRequestHandler):
    """Takes POST."""

    protocol_version = "HTTP/1.1"
    # Header and body of an answer are two writes; the second is not to wait for an ACK of the first.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Handle one post, which may have been cut short."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            body, whole = self.read_chunks()
        else:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            whole = len(body) == length
        handle(body)
        self.close_connection = self.close_connection or not whole
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def read_chunks(self) -> tuple[bytes, bool]:
        """Return a body in chunks (RFC 9112, section 7.1), and whether it was whole."""
        body = bytearray()
        while size := int(self.rfile.readline().partition(b";")[0].strip() or b"-1", 16):
            chunk = self.rfile.read(max(size, 0))
            body += chunk
            if len(chunk) != size:
                return bytes(body), False
            self.rfile.readline()  # the end of the chunk
        while line := self.rfile.readline():
            if not line.strip():
                return bytes(body), True
        return bytes(body), False  # its trailer section did not end


class Server(ThreadingHTTPServer):
    """With room for the bursts that are posted here: by default five connections may wait to be accepted."""

    request_queue_size = 128


def main() -> None:
    """Serve until killed."""
    address, port, *tls = sys.argv[1:]
    server = Server((address, int(port)), Handler)
    if context := from_arguments(tls):
        # The handshake is left to the connection's thread: one slow client is not to hold back the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
