"""The errors the client raises. `status.py` says which gRPC status becomes which.

    GlossClientError
    ├── ConfigError          the client cannot be set up like this (also a ValueError)
    ├── InvalidRequest       the request is wrong, here or there (also a ValueError)
    ├── NotFound             no such model
    ├── AlreadyExists        this request_id belongs to another request
    ├── FailedPrecondition   the server has not loaded what this needs
    ├── Unauthenticated      no valid credentials
    ├── PermissionDenied     valid ones, but not for this
    ├── ResourceExhausted    the server is full, or this caller's quota is used up
    ├── Unavailable          nobody answers, or the server cannot answer now
    ├── DeadlineExceeded     the call's time is over
    ├── Cancelled            the call was cancelled, or the client is closed
    ├── Unimplemented        the server does not know this method
    ├── ServerError          a defect of the server
    └── InconsistentReply    parts of one batch were answered by different checkpoints

An item that fails alone raises nothing: its result carries an `ItemError` (results.py).
"""

from __future__ import annotations

from typing import ClassVar


class GlossClientError(Exception):
    """Base of everything the client raises on purpose.

    Attributes:
        message: what was got, what was expected and what to do.
        code: name of the gRPC status, such as INVALID_ARGUMENT.
        reason: UPPER_SNAKE reason from the server, such as DIMENSION_MISMATCH; empty: none.
        field: the request's field at fault, as a path; None: none. Indices are the caller's, also
            when the batch went out in several calls.
        retry_after: seconds until another try may succeed; None: not known, or never.
        request_id: id of the call, as the server's log has it; None: it has none.
    """

    default_code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        reason: str = "",
        field: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason, self.field = reason, field
        self.retry_after, self.request_id = retry_after, request_id

    def __str__(self) -> str:
        return f"{self.reason or self.code}: {self.message}"


class ConfigError(GlossClientError, ValueError):
    """An address, TLS option, token or retry policy that cannot work."""

    default_code = "INVALID_ARGUMENT"

    def __str__(self) -> str:
        return self.message


class InvalidRequest(GlossClientError, ValueError):
    """A request that can never succeed as it is: INVALID_ARGUMENT or OUT_OF_RANGE."""

    default_code = "INVALID_ARGUMENT"


class NotFound(GlossClientError):
    """The named model is not served: NOT_FOUND."""

    default_code = "NOT_FOUND"


class AlreadyExists(GlossClientError):
    """The request_id was used with other content: ALREADY_EXISTS."""

    default_code = "ALREADY_EXISTS"


class FailedPrecondition(GlossClientError):
    """The server has no AR, or no target, to do this with: FAILED_PRECONDITION."""

    default_code = "FAILED_PRECONDITION"


class Unauthenticated(GlossClientError):
    """The token or certificate is missing or not known: UNAUTHENTICATED."""

    default_code = "UNAUTHENTICATED"


class PermissionDenied(GlossClientError):
    """The credentials are known and do not allow this: PERMISSION_DENIED."""

    default_code = "PERMISSION_DENIED"


class ResourceExhausted(GlossClientError):
    """QUEUE_FULL, RATE_LIMITED, DEADLINE_UNREACHABLE: RESOURCE_EXHAUSTED."""

    default_code = "RESOURCE_EXHAUSTED"


class Unavailable(GlossClientError):
    """Nobody answers at the address, or the server is loading or restarting: UNAVAILABLE."""

    default_code = "UNAVAILABLE"


class DeadlineExceeded(GlossClientError):
    """The call took longer than its timeout: DEADLINE_EXCEEDED."""

    default_code = "DEADLINE_EXCEEDED"


class Cancelled(GlossClientError):
    """The call was cancelled, here or by the server, or the client is closed: CANCELLED."""

    default_code = "CANCELLED"


class Unimplemented(GlossClientError):
    """The server is older than the method, or is no Gloss server: UNIMPLEMENTED."""

    default_code = "UNIMPLEMENTED"


class ServerError(GlossClientError):
    """The server failed in a way it should not: INTERNAL, UNKNOWN, DATA_LOSS, ABORTED."""

    default_code = "INTERNAL"


class InconsistentReply(GlossClientError):
    """The pieces of one batch came from different checkpoints; run the batch again."""

    default_code = "ABORTED"
