"""A captured text as its caller gets it."""

from __future__ import annotations

import numpy as np

from gloss_engine.errors import ItemError
from gloss_engine.target.events import ReadText
from gloss_engine.text_request import Reading
from gloss_engine.validation import item_errors

_MAX_NAMED = 8


def reading_of(read: ReadText, special_ids: frozenset[int]) -> Reading:
    """A captured text; activations without a direction are left out and named."""
    job, norms = read.job, read.norms
    assert read.on_host is not None
    errors = item_errors(norms)
    kept = [i for i in range(len(norms)) if i not in errors]
    positions = tuple(job.text.positions[i] for i in kept)
    return Reading(
        request_id=job.request_id,
        index=job.index,
        token_ids=job.text.token_ids,
        positions=positions,
        activations=read.on_host.numpy()[kept],
        norms=np.array([norms[i] for i in kept], np.float32),
        is_special=tuple(job.text.token_ids[at] in special_ids for at in positions),
        error=_left_out(errors, job.text.positions),
    )


def _left_out(errors: dict[int, ItemError], positions: tuple[int, ...]) -> ItemError | None:
    """What is said of activations that were left out of a text's."""
    if not errors:
        return None
    first = next(iter(errors.values()))
    named = ", ".join(str(positions[index]) for index in list(errors)[:_MAX_NAMED])
    more = f" and {len(errors) - _MAX_NAMED} more" if len(errors) > _MAX_NAMED else ""
    return ItemError(
        code="INVALID_ARGUMENT",
        reason=first.reason,
        message=f"left out, for they are not finite or zero: the activations at {named}{more}",
    )
