"""Names of the contract's enum values as callers see them: lower case, without prefix."""

from __future__ import annotations

from gloss_api.v1 import gloss_pb2 as pb


def _names(enum: str) -> dict[int, str]:
    values = pb.DESCRIPTOR.enum_types_by_name[enum].values
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return {value.number: value.name.removeprefix(prefix).lower() for value in values[1:]}


FINISH_REASONS = _names("FinishReason")
FLAGS = _names("ExplanationFlag")
BASELINE_SOURCES = _names("BaselineSource")
SERVING_STATES = _names("ServingState")
SKIP_REASONS = _names("SkipReason")


def name_of(names: dict[int, str], number: int) -> str:
    """The name, such as closing_tag.

    A server newer than this client may send a number that has no name here: unknown_7.
    """
    return names.get(number) or f"unknown_{number}"
