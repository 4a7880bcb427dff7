"""The one table from gRPC statuses to the client's errors, and the reading of their details."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Protocol

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from gloss_client.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    GlossClientError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServerError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

ERRORS: dict[grpc.StatusCode, type[GlossClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.UNKNOWN: ServerError,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.DATA_LOSS: ServerError,
    grpc.StatusCode.ABORTED: ServerError,
}
PUSHBACK_KEY = "grpc-retry-pushback-ms"
UNHEALTHY = "backend unhealthy"
"""What gRPC's own health checks say of a server that can be reached and does not serve."""
_INDEX = re.compile(r"\[(\d+)\]")


class EndedCall(Protocol):
    """What grpc and grpc.aio errors have in common."""

    def code(self) -> grpc.StatusCode: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> Iterable[Any] | None: ...


def error_of(
    call: EndedCall, *, address: str, request_id: str | None = None, first_index: int = 0
) -> GlossClientError:
    """What a failed call raises.

    Args:
        call: the failed call.
        address: where it went, for people.
        request_id: the call's id.
        first_index: added to the index in the field at fault: where in the caller's batch the
            call's piece began.
    """
    code, details = call.code(), call.details() or ""
    status = _rich_status(call)
    if status is None:
        message = _without_details(code, details, address)
        return ERRORS[code](message, code=code.name, request_id=request_id)
    reason, field, retry_after = read_details(status)
    if field is not None and first_index:
        field = _INDEX.sub(lambda match: f"[{int(match[1]) + first_index}]", field, count=1)
    return ERRORS[code](
        status.message,
        code=code.name,
        reason=reason,
        field=field,
        retry_after=retry_after,
        request_id=request_id,
    )


def read_details(status: status_pb2.Status) -> tuple[str, str | None, float | None]:
    """Reason, field at fault and seconds to wait, from a status' google.rpc details."""
    reason, field, retry_after = "", None, None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
    return reason, field, retry_after


def read_pushback(call: EndedCall) -> float | None:
    """Seconds in a call's `grpc-retry-pushback-ms`; None: it has none; negative: never again."""
    for key, value in call.trailing_metadata() or ():
        if key == PUSHBACK_KEY:
            # gRPC says of a value that is no number what it says of a negative one.
            return int(value) / 1000 if re.fullmatch(r"\d{1,9}", value) else -1.0
    return None


def _rich_status(call: EndedCall) -> status_pb2.Status | None:
    """The call's google.rpc.Status; None where there is none that belongs to it."""
    try:
        return rpc_status.from_call(call)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        # A proxy replaced the code or the text, and the status in the metadata is another one's.
        return None


def _without_details(code: grpc.StatusCode, details: str, address: str) -> str:
    """What gRPC or a proxy said, and what it means for people: no server of ours said it."""
    if code is grpc.StatusCode.UNAVAILABLE and UNHEALTHY in details:
        return (
            f"no server at {address} serves now: health says NOT_SERVING, as while one loads, "
            "restarts its engine or drains; wait until it says SERVING"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"no server can be reached at {address}: {details}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer from {address} in time: {details}"
    return f"{details or 'no message'} (from {address})"
