"""The HTTP server of `nodes.metrics`. A stranger who reaches it can take only a few threads and
descriptors of a replica, and cannot fill a log."""

from __future__ import annotations

import socket
import threading
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from nodes.config import Address

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["AT_ONCE_MAX", "MetricsServer"]

AT_ONCE_MAX = 8  # connections; others are closed at once
_SILENT_S = 5.0  # then a client that sends or takes nothing is disconnected


class _Handler(WSGIRequestHandler):
    timeout = _SILENT_S

    def log_message(self, *_: object) -> None:
        pass


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Raises OSError: the port is taken."""

    daemon_threads = True

    def __init__(self, address: Address, app: WSGIApplication) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._free = threading.Semaphore(AT_ONCE_MAX)
        super().__init__((address.host, address.port), _Handler)
        self.set_app(app)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client went away or sent no HTTP: nothing is logged."""
