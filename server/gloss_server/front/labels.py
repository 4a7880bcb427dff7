"""The closed sets that metric labels come from. Nothing a caller or a model wrote is ever a label.

A value outside its set is counted under OTHER, so that a forgotten name shows up as a count
without a name and never as a new series.
"""

from __future__ import annotations

import grpc

from gloss_api.v1 import gloss_pb2
from gloss_server.front.call_error import CODES as CODES_OF_REASONS

OTHER = "OTHER"

_SERVICE = gloss_pb2.DESCRIPTOR.services_by_name["GlossService"]


def _names(enum: str) -> tuple[str, ...]:
    """Lower-case names of an enum of the contract, without its prefix and its unspecified value."""
    values = gloss_pb2.DESCRIPTOR.enum_types_by_name[enum].values
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return tuple(value.name.removeprefix(prefix).lower() for value in values[1:])


METHODS = tuple(method.name for method in _SERVICE.methods)
CODES = tuple(code.name for code in grpc.StatusCode)
FINISH_REASONS = _names("FinishReason")
FLAGS = _names("ExplanationFlag")
STATES = _names("ServingState")
PHASES = ("queued", "running")
START_PHASES = ("loading", "warm_up")

SKIPS = _names("SkipReason")
PRIORITIES = _names("Priority")
EXPLAINING_METHODS = ("Verbalize", "StreamVerbalize", "Explain")
"""Those whose explanations are as soon there as the service is quick; a Watch's come while its
target speaks."""
RESOURCES = ("explanations", "tokens", "texts", "text_tokens", "watches", "request_bytes")
"""What is bounded in flight; see `Gate.rooms`."""

ITEM_ERRORS = (
    *("ZERO_VECTOR", "NON_FINITE_VECTOR", "NON_FINITE_OUTPUT", "TEXT_TOO_LONG", "EMPTY_TEXT"),
    *("INVALID_TEXT", "INVALID_TOKEN_IDS", "INVALID_CHAT", "NO_POSITION", "POSITION_OUT_OF_RANGE"),
    *("MISSING_FIELD", "OUT_OF_MEMORY"),
)
CALL_REASONS = tuple(CODES_OF_REASONS)
REJECTIONS = tuple(
    reason
    for reason, code in CODES_OF_REASONS.items()
    if code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
)


def method_name(method: str) -> str:
    """The name of one of our methods, also from its path; OTHER for any other."""
    name = method.removeprefix(f"/{_SERVICE.full_name}/")
    return name if name in METHODS else OTHER
