"""`gloss health`: what a server says of itself over grpc.health.v1, for people, scripts, probes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gloss_api.v1 import gloss_pb2
from gloss_server.sources.connection_options import ConnectionOptions
from gloss_server.sources.server_channel import CALL_SECONDS, open_channel, reason, server_error

SERVING, NOT_SERVING = "SERVING", "NOT_SERVING"
SERVICES = ("", gloss_pb2.DESCRIPTOR.services_by_name["GlossService"].full_name)
_RETRY_SECONDS = 1.0


def check_health(address: str, options: ConnectionOptions) -> str:
    """SERVING where the server as a whole and its Gloss service both are, else NOT_SERVING.

    Raises:
        ServerError: no answer, or one that is not Gloss'.
    """
    with open_channel(address, options, with_token=False) as server:
        stub = _stub(server.channel)
        try:
            answers = [
                stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=CALL_SECONDS)
                for name in SERVICES
            ]
        except grpc.RpcError as error:
            raise server_error(address, error) from error
    return SERVING if all(_is_serving(answer) for answer in answers) else NOT_SERVING


def watch_health(
    address: str,
    options: ConnectionOptions,
    show: Callable[[str], None],
    note: Callable[[str], None],
) -> None:
    """Follow the health of the Gloss service until a KeyboardInterrupt.

    Args:
        options: how to connect; a token is not needed, and not shown.
        show: hears SERVING or NOT_SERVING at first and whenever it changes; a server that cannot
            be reached is NOT_SERVING.
        note: hears why a server cannot be reached, once each time.
    """
    shown = None

    def change(status: str) -> bool:
        nonlocal shown
        changed, shown = status != shown, status
        if changed:
            show(status)
        return changed

    with open_channel(address, options, with_token=False) as server:
        stub = _stub(server.channel)
        while True:
            try:
                for answer in stub.Watch(health_pb2.HealthCheckRequest(service=SERVICES[1])):
                    change(SERVING if _is_serving(answer) else NOT_SERVING)
                change(NOT_SERVING)
            except grpc.RpcError as error:
                if change(NOT_SERVING):
                    note(f"{address}: {reason(error)}")
            time.sleep(_RETRY_SECONDS)


def _stub(channel: grpc.Channel) -> Any:
    # The stubs of grpc_health.v1 state no types.
    return health_pb2_grpc.HealthStub(channel)


def _is_serving(answer: health_pb2.HealthCheckResponse) -> bool:
    return answer.status == health_pb2.HealthCheckResponse.SERVING
