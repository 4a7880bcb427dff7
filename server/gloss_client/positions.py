"""Which positions of a text to read, as callers write them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.errors import InvalidRequest
from gloss_client.fields import extend_field, is_sequence, set_field

Positions = str | int | slice | Sequence[int]
"""`"all"`, `"last"`, `"START:STOP[:STEP]"` or `"i,j,k"`; a position; a slice; or several positions.
Negative ones count from the end. The server says which of them a text has."""

_REASON = "INVALID_POSITIONS"


def position_selection(positions: Positions, field: str) -> pb.PositionSelection:
    """The contract's message.

    Args:
        positions: the selection.
        field: the argument's name, for errors.

    Raises:
        InvalidRequest: none of the forms, or numbers that the contract cannot hold.
    """
    if isinstance(positions, str):
        return _parsed(positions, field)
    if isinstance(positions, slice):
        return _slice(positions.start, positions.stop, positions.step, field)
    given: object = positions.tolist() if isinstance(positions, np.ndarray) else positions
    values = given if is_sequence(given) else [given]
    message = pb.PositionList()
    extend_field(message, "positions", values, field, _REASON)
    return pb.PositionSelection(list=message)


def _parsed(text: str, field: str) -> pb.PositionSelection:
    if text == "all":
        return pb.PositionSelection()
    if text == "last":
        return pb.PositionSelection(list=pb.PositionList(positions=[-1]))
    try:
        if ":" not in text:
            return position_selection([int(part) for part in text.split(",")], field)
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        if len(parts) <= 3:
            start, stop, step = (*parts, None, None)[:3]
            return _slice(start, stop, step, field)
    except ValueError as error:
        if isinstance(error, InvalidRequest):
            raise
    raise InvalidRequest(
        f"{field}: got {text[:80]!r}, expected all, last, START:STOP[:STEP] or numbers with commas",
        reason=_REASON,
        field=field,
    )


def _slice(start: object, stop: object, step: object, field: str) -> pb.PositionSelection:
    message = pb.PositionSlice()
    for name, value in (("start", start), ("stop", stop), ("step", step)):
        if isinstance(value, bool):
            raise InvalidRequest(
                f"{field}.{name}: got {value}, expected a whole number",
                reason=_REASON,
                field=f"{field}.{name}",
            )
        if value is not None:
            set_field(message, name, value, f"{field}.{name}", _REASON)
    return pb.PositionSelection(slice=message)
