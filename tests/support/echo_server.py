"""An EchoService on a real port, with health."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gloss_api.v1 import gloss_pb2, gloss_pb2_grpc
from support.echo_service import EchoService

SERVICE = gloss_pb2.DESCRIPTOR.services_by_name["GlossService"].full_name
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class EchoServer:
    """A server that runs.

    Attributes:
        address: host:port.
        service: its service.
    """

    address: str
    service: EchoService
    _health: Any

    def set_serving(self, serving: bool) -> None:
        """What health says, of the server as a whole and of its service."""
        for name in ("", SERVICE):
            self._health.set(name, SERVING if serving else NOT_SERVING)


@contextmanager
def echo_server(
    service: EchoService | None = None,
    *,
    credentials: grpc.ServerCredentials | None = None,
    max_message_bytes: int = 32 << 20,
    port: int = 0,
) -> Iterator[EchoServer]:
    """Runs a server until the block is left."""
    service = service or EchoService()
    # Every health watch keeps a thread. The way that keeps none deadlocks now and then when a watch
    # ends while its first answer is on its way (grpcio-health-checking 1.85).
    with ThreadPoolExecutor(64) as threads:
        server = grpc.server(
            threads,
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.so_reuseport", 0),
            ],
        )
        gloss_pb2_grpc.add_GlossServiceServicer_to_server(service, server)
        checks = health.HealthServicer(experimental_non_blocking=False)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        host = f"127.0.0.1:{port}"
        bound = (
            server.add_insecure_port(host)
            if credentials is None
            else server.add_secure_port(host, credentials)
        )
        server.start()
        try:
            yield EchoServer(f"127.0.0.1:{bound}", service, checks)
        finally:
            service.stopping.set()
            server.stop(grace=None).wait()
