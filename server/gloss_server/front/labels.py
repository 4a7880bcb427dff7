"""The closed sets that metric labels come from. Nothing a caller or a model wrote is ever a label.

A value outside its set is counted under OTHER, so that a forgotten name shows up as a count
without a name and never as a new series.
"""

from __future__ import annotations

import grpc

from gloss_api.v1 import gloss_pb2

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

ITEM_ERRORS = ("ZERO_VECTOR", "NON_FINITE_VECTOR", "NON_FINITE_OUTPUT", "INVALID_TEXT")
REJECTIONS = (
    "QUEUE_FULL",
    "RATE_LIMITED",
    "DEADLINE_UNREACHABLE",
    "SLOW_READER",
    "OUT_OF_MEMORY",
    "LOADING",
    "ENGINE_RESTARTED",
    "DRAINING",
)
CALL_REASONS = (
    *REJECTIONS,
    "DEADLINE_EXCEEDED",
    "CANCELLED",
    "MALFORMED_REQUEST",
    "MISSING_FIELD",
    "INVALID_FIELD",
    "EMPTY_BATCH",
    "BATCH_TOO_LARGE",
    "REPLY_TOO_LARGE",
    "DIMENSION_MISMATCH",
    "LENGTH_MISMATCH",
    "LAYER_MISMATCH",
    "UNSUPPORTED_DTYPE",
    "INVALID_SAMPLES",
    "INVALID_SAMPLING",
    "INVALID_TEXT",
    "TEXT_TOO_LONG",
    "TOO_MANY_TOKENS",
    "DUPLICATE_REQUEST",
    "UNKNOWN_MODEL",
    "NO_RECONSTRUCTOR",
    "NO_TARGET",
    "UNIMPLEMENTED",
    "INTERNAL",
)


def method_name(method: str) -> str:
    """The name of one of our methods, also from its path; OTHER for any other."""
    name = method.removeprefix(f"/{_SERVICE.full_name}/")
    return name if name in METHODS else OTHER
