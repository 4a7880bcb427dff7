"""What went wrong, as a browser is told it: the service's refusals and the page's own.

One table says which gRPC status becomes which of HTTP's.
"""

from __future__ import annotations

import math

from starlette.responses import Response

from gloss_client import ConfigError, GlossClientError
from gloss_server.page.json_text import Json, json_text

HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "CANCELLED": 503,
    "DEADLINE_EXCEEDED": 504,
}
OTHER_STATUS = 502
"""Of what the service should not have said: INTERNAL, UNKNOWN, DATA_LOSS, ABORTED."""
_HINTS = {
    "UNAUTHENTICATED": "Enter the service's bearer token in the page, or have gloss ui started "
    "with --token-file.",
    "PERMISSION_DENIED": "Ask whoever runs the service to allow it.",
    "FAILED_PRECONDITION": "Start gloss serve with what it names, such as --target.",
    "RESOURCE_EXHAUSTED": "Wait a moment and try again; the page does so by itself.",
    "UNIMPLEMENTED": "Install the same release of Gloss here and where the service runs.",
    "UNAVAILABLE": "Nothing shown is lost. The page tries again by itself; gloss health says how "
    "the service is.",
    "CANCELLED": "Ask again.",
    "DEADLINE_EXCEEDED": "Ask for fewer positions or shorter explanations, or when the service is "
    "less busy.",
}
_MAX_MESSAGE = 1000
_OTHER_HINT = "It is a defect of the service; its log has more under the request's id."
_REASON_HINTS = {
    "SLOW_READER": "Ask for fewer positions or samples at a time, and keep the page in view.",
    # The service says itself what to do.
    "TEXT_TOO_LONG": "",
}


class Problem(Exception):
    """A request that cannot be answered, or a stream that breaks off.

    Attributes:
        code: of gRPC, such as UNAVAILABLE.
        message: what was got and what was expected.
        reason: UPPER_SNAKE, such as QUEUE_FULL; empty: none.
        hint: how to go on; empty: the message says it.
        field: the request's field at fault; None: none.
        retry_seconds: when another try may succeed; None: not known, or never.
        status: of HTTP; None: as the code has it.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        reason: str = "",
        hint: str | None = None,
        field: str | None = None,
        retry_seconds: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message[:_MAX_MESSAGE]
        if hint is None:
            usual = "" if HTTP_STATUS.get(code) in (400, 404, 409) else _OTHER_HINT
            hint = _REASON_HINTS.get(reason, _HINTS.get(code, usual))
        self.hint, self.field, self.retry_seconds = hint, field, retry_seconds
        self.status = status or HTTP_STATUS.get(code, OTHER_STATUS)

    @classmethod
    def of(cls, error: GlossClientError) -> Problem:
        """What the client raised."""
        if isinstance(error, ConfigError):
            # All else of the configuration was judged when the page was started.
            message = error.message.replace("the argument", "what the browser sent")
            return cls("UNAUTHENTICATED", message, reason="NO_TOKEN")
        return cls(
            error.code,
            error.message,
            reason=error.reason,
            field=error.field,
            retry_seconds=error.retry_after,
        )

    def values(self) -> Json:
        """As JSON has it."""
        return {
            "code": self.code,
            "reason": self.reason,
            "message": self.message,
            "hint": self.hint,
            "field": self.field,
            "retry_seconds": self.retry_seconds,
        }

    def response(self) -> Response:
        """The answer to a request that did not begin."""
        headers = {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.retry_seconds is not None:
            headers["Retry-After"] = str(math.ceil(self.retry_seconds))
        return Response(json_text(self.values()), self.status, headers, "application/json")
