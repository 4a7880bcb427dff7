"""Requests of the contract as tests write them, and what errors say."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from gloss_api.v1 import gloss_pb2 as pb

SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


def health(channel: grpc.Channel, service: str = "") -> int:
    """What a server says of itself."""
    check = health_pb2_grpc.HealthStub(channel).Check
    status: int = check(health_pb2.HealthCheckRequest(service=service), timeout=5).status
    return status


def tensor(rows: np.ndarray) -> pb.Tensor:
    """A float32 tensor."""
    rows = np.asarray(rows, np.float32)
    return pb.Tensor(dtype=pb.TENSOR_DTYPE_FLOAT32, shape=rows.shape, data=rows.tobytes())


def verbalize_request(
    rows: np.ndarray, request_id: str = "", **options: Any
) -> pb.VerbalizeRequest:
    """A request with its generation options as keywords."""
    return pb.VerbalizeRequest(
        request_id=request_id,
        activations=tensor(rows),
        options=pb.GenerationOptions(**options),
    )


def stream_request(
    rows: np.ndarray, request_id: str = "", **options: Any
) -> pb.StreamVerbalizeRequest:
    """The same as a stream."""
    request = verbalize_request(rows, request_id, **options)
    return pb.StreamVerbalizeRequest(request=request)


def reason_of(status: Any) -> str:
    """The ErrorInfo's reason in a google.rpc.Status; checks its domain."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            assert info.domain == "gloss"
            return info.reason
    raise AssertionError(f"no ErrorInfo in {status}")


def fault(error: grpc.RpcError) -> tuple[str, str, str | None]:
    """Code, reason and field of a failed call."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, f"no details: {error}"
    field = None
    violations = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(violations):
            (violation,) = violations.field_violations
            field = violation.field
    return error.code().name, reason_of(status), field  # type: ignore[attr-defined]


def pushback_ms(error: grpc.RpcError) -> int | None:
    """What a failed call says of retries."""
    metadata = {key: value for key, value in error.trailing_metadata()}  # type: ignore[attr-defined]
    return int(metadata["grpc-retry-pushback-ms"]) if "grpc-retry-pushback-ms" in metadata else None


def retry_seconds(error: grpc.RpcError) -> float | None:
    """RetryInfo's delay of a failed call."""
    info = error_details_pb2.RetryInfo()
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    for detail in status.details:
        if detail.Unpack(info):
            return info.retry_delay.ToTimedelta().total_seconds()
    return None
