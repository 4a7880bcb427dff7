"""A server that only says how it is: GetStats, GetModelInfo and health, as a test tells it to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gloss_api.v1 import gloss_pb2, gloss_pb2_grpc

SERVICE = gloss_pb2.DESCRIPTOR.services_by_name["GlossService"].full_name


class StatusServer(gloss_pb2_grpc.GlossServiceServicer):
    """Listens from the start until `stop`; what it answers may be changed at any time.

    Attributes:
        stats, info: its answers; info None: UNAVAILABLE, as while it loads.
        address: where it listens.
    """

    def __init__(self, port: int = 0) -> None:
        self.stats = gloss_pb2.GetStatsResponse()
        self.info: gloss_pb2.GetModelInfoResponse | None = None
        self._health = health.HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        gloss_pb2_grpc.add_GlossServiceServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def set_health(self, whole: bool, service: bool) -> None:
        """SERVING or NOT_SERVING of the server as a whole and of the Gloss service."""
        words = health_pb2.HealthCheckResponse
        for name, serving in (("", whole), (SERVICE, service)):
            self._health.set(name, words.SERVING if serving else words.NOT_SERVING)

    def stop(self) -> None:
        """End every call and stop listening."""
        self._server.stop(0).wait()

    def GetStats(self, request: Any, context: Any) -> gloss_pb2.GetStatsResponse:
        return self.stats

    def GetModelInfo(self, request: Any, context: Any) -> gloss_pb2.GetModelInfoResponse:
        if self.info is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "loading")
        return self.info
