"""Errors of calls and of items, and the one table that gives each its gRPC status.

Every status carries google.rpc details: an ErrorInfo with the reason, a BadRequest where a field is
at fault, a RetryInfo where later helps. Retries are also said in `grpc-retry-pushback-ms`, the only
form that gRPC clients obey: a negative value means that no retry helps.
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from gloss_engine.errors import ItemError, RequestError

DOMAIN = "gloss"
_MAX_MESSAGE_BYTES = 1000
"""It travels three times in the trailing metadata, of which clients take 8 to 16 KiB: once with
three characters for each byte that is not ASCII, twice with four for three."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"

_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
CODES = {
    "MALFORMED_REQUEST": _INVALID,
    "MISSING_FIELD": _INVALID,
    "INVALID_FIELD": _INVALID,
    "EMPTY_BATCH": _INVALID,
    "BATCH_TOO_LARGE": _INVALID,
    "REPLY_TOO_LARGE": _INVALID,
    "DIMENSION_MISMATCH": _INVALID,
    "LENGTH_MISMATCH": _INVALID,
    "LAYER_MISMATCH": _INVALID,
    "UNSUPPORTED_DTYPE": _INVALID,
    "INVALID_SAMPLES": _INVALID,
    "INVALID_SAMPLING": _INVALID,
    "INVALID_TEXT": _INVALID,
    "TEXT_TOO_LONG": _INVALID,
    "TOO_MANY_TOKENS": _INVALID,
    "EMPTY_TEXT": _INVALID,
    "INVALID_CHAT": _INVALID,
    "INVALID_TOKEN_IDS": _INVALID,
    "INVALID_POSITIONS": _INVALID,
    "NO_POSITION": _INVALID,
    "POSITION_OUT_OF_RANGE": grpc.StatusCode.OUT_OF_RANGE,
    "LAYER_OUT_OF_RANGE": grpc.StatusCode.OUT_OF_RANGE,
    "UNKNOWN_MODEL": grpc.StatusCode.NOT_FOUND,
    "NO_RECONSTRUCTOR": grpc.StatusCode.FAILED_PRECONDITION,
    "NO_TARGET": grpc.StatusCode.FAILED_PRECONDITION,
    "TARGET_READS_ONLY": grpc.StatusCode.FAILED_PRECONDITION,
    "REQUEST_ID_REUSED": grpc.StatusCode.ALREADY_EXISTS,
    "QUEUE_FULL": _EXHAUSTED,
    "RATE_LIMITED": _EXHAUSTED,
    "DEADLINE_UNREACHABLE": _EXHAUSTED,
    "SLOW_READER": _EXHAUSTED,
    "OUT_OF_MEMORY": _EXHAUSTED,
    "DEADLINE_EXCEEDED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "MISSING_TOKEN": grpc.StatusCode.UNAUTHENTICATED,
    "WRONG_TOKEN": grpc.StatusCode.UNAUTHENTICATED,
    "METHOD_NOT_ALLOWED": grpc.StatusCode.PERMISSION_DENIED,
    "UNKNOWN_METHOD": grpc.StatusCode.UNIMPLEMENTED,
    "CANCELLED": grpc.StatusCode.CANCELLED,
    "LOADING": _UNAVAILABLE,
    "ENGINE_RESTARTED": _UNAVAILABLE,
    "DRAINING": _UNAVAILABLE,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}
"""The status of a call that ends for a reason."""


class CallError(Exception):
    """A call that ends with another status than OK.

    Args:
        reason: a key of CODES.
        message: what was got, what was expected, what to do.
        field: the request's field at fault, as a path.
        retry_after: seconds until another try may succeed; 0 at once; None: it never will.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.reason, self.field, self.retry_after = reason, field, retry_after
        self.code: grpc.StatusCode = CODES[reason]
        cut = message.encode(errors="replace")[:_MAX_MESSAGE_BYTES]
        super().__init__(cut.decode(errors="ignore"))

    @classmethod
    def of_request(cls, error: RequestError, field: str) -> CallError:
        """What the engine refuses a request for; `field` is the contract's name of the field."""
        message = str(error)
        if message.startswith(error.field):
            message = field + message.removeprefix(error.field)
        return cls(error.reason, message, field)

    def status(self) -> status_pb2.Status:
        """The status with its details."""
        details = []
        if self.field is not None:
            bad_request = error_details_pb2.BadRequest()
            bad_request.field_violations.add(
                field=self.field, description=str(self), reason=self.reason
            )
            details.append(_packed(bad_request))
        if self.retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(round(self.retry_after * 1000))
            details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
        return _status(self.code.value[0], str(self), self.reason, details)

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The status' details and the retry pushback, as trailing metadata."""
        metadata = tuple(rpc_status.to_status(self.status()).trailing_metadata)
        if self.retry_after is None and self.code is not _EXHAUSTED:
            return metadata
        milliseconds = -1 if self.retry_after is None else round(self.retry_after * 1000)
        return (*metadata, (PUSHBACK_KEY, str(milliseconds)))


def item_status(error: ItemError) -> status_pb2.Status:
    """The status of an item that failed alone."""
    return _status(code_pb2.Code.Value(error.code), error.message, error.reason, [])


def _status(code: int, message: str, reason: str, details: list[any_pb2.Any]) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)
    return status_pb2.Status(code=code, message=message, details=[_packed(info), *details])


def _packed(message: object) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)  # type: ignore[arg-type]
    return packed
