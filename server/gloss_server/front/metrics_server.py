"""Shows a registry at http://HOST:PORT/metrics, on threads of its own.

Python's own HTTP server, hardened for what a server that lives long meets: a connection that says
nothing is closed, and when file descriptors run out it waits instead of spinning.
"""

from __future__ import annotations

import socket
import threading
import time
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from gloss_server.address import Address
from gloss_server.command_error import CommandError

_ACCEPT_PAUSE_SECONDS = 0.1


class _Handler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is no event."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # Out of file descriptors the listening socket stays ready: without a pause the loop
            # in serve_forever takes a whole core from the front.
            time.sleep(_ACCEPT_PAUSE_SECONDS)
            raise

    def server_bind(self) -> None:
        # WSGIServer's looks the host's name up, which may wait for DNS.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class MetricsServer:
    """A listening endpoint.

    Args:
        registry: what it shows.
        address: where it listens; port 0 lets the system choose.

    Raises:
        CommandError: an address that cannot be listened at.
    """

    def __init__(self, registry: CollectorRegistry, address: Address) -> None:
        kind = _ServerV6 if ":" in address.host else _Server
        try:
            self._server = kind((address.host, address.port), _Handler)
        except OSError as error:
            raise CommandError(
                f"--metrics-address {address}: cannot listen there: {error.strerror or error}. "
                "Name another port, or an empty one to have no metrics"
            ) from error
        self._server.set_app(make_wsgi_app(registry))
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="gloss-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
