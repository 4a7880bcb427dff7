"""What calls that begin with a text return: events of their streams, and results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gloss_client.results import (
    Explanation,
    ItemError,
    StreamSummary,
    TextDelta,
    Timings,
    TokenPlace,
    Usage,
)


@dataclass(frozen=True, kw_only=True)
class TextOpened:
    """The text or the prompt, as the target's tokens; the first event.

    Attributes:
        token_ids: all of them, special tokens included.
        tokens: the text of each alone; data, to be escaped before it is shown. Empty from a server
            that is older than this field.
    """

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Captured:
    """An activation was read; its deltas and explanations have this index.

    Attributes:
        index: from 0, in the order in which they are read.
        place: where it stands.
    """

    index: int
    place: TokenPlace


@dataclass(frozen=True, kw_only=True)
class TargetToken:
    """A token the target generated.

    Attributes:
        position: prompt included.
        token_id: its id.
        text: as it continues what stands before it; data, to be escaped before it is shown.
    """

    position: int
    token_id: int
    text: str


@dataclass(frozen=True, kw_only=True)
class TargetEnd:
    """The target generates no more; explanations may still be under way.

    Attributes:
        finish_reason: eos, stop, length, cancelled or error.
    """

    finish_reason: str


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A token that will not be explained although it was asked for.

    Attributes:
        position: prompt included.
        reason: max_pending or target_ended.
    """

    position: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ActivationRows:
    """Activations read from texts, and where they stand.

    Attributes:
        activations: [n, d_model] float32, raw.
        input_index: [n] which text each is of.
        doc_ids: [n] those texts' names.
        places: [n] where each stands.
        is_special: [n] whether its token is a special one.
    """

    activations: np.ndarray
    input_index: tuple[int, ...]
    doc_ids: tuple[str, ...]
    places: tuple[TokenPlace, ...]
    is_special: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class TextFailure:
    """A text that could not be read.

    Attributes:
        input_index: which.
        error: why.
    """

    input_index: int
    error: ItemError


ExplainEvent = TextOpened | Captured | TextDelta | Explanation
WatchEvent = ExplainEvent | TargetToken | TargetEnd | Skipped
CaptureEvent = ActivationRows | TextFailure


@dataclass(frozen=True, kw_only=True)
class ExplainResult:
    """Explanations of a text's activations, in the order of (index, sample).

    Attributes:
        token_ids: the text as the target's tokens.
        places: where the activations stand; `places[i]` is of those with index i.
        explanations: one for each activation and sample, each with its place.
        seed: seed of the draws; the same seed, text and options draw the same again.
        fingerprint: of the checkpoints that answered.
        request_id: the call's id, as the server's log has it.
        finish_counts: explanations by finish reason.
        usage: tokens it took.
        timings: where the time went.
    """

    token_ids: tuple[int, ...]
    places: tuple[TokenPlace, ...]
    explanations: tuple[Explanation, ...]
    seed: int
    fingerprint: str
    request_id: str
    finish_counts: dict[str, int]
    usage: Usage
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class WatchSummary(StreamSummary):
    """A watch that has ended.

    Attributes:
        target_finish_reason: why the target ended; None: the server did not say.
        skip_counts: generated tokens that were not explained, by reason: every, max_pending,
            target_ended.
    """

    target_finish_reason: str | None
    skip_counts: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class CaptureSummary:
    """A capture that has ended.

    Attributes:
        num_activations: how many were read.
        failures: texts that could not be read, by index.
    """

    num_activations: int
    failures: dict[int, ItemError]


@dataclass(frozen=True, kw_only=True)
class CaptureResult(ActivationRows):
    """Activations of all texts, in the order of (text, position).

    Attributes:
        failures: texts that could not be read, by index. Where all failed, `activations` is
            [0, 0].
        fingerprint: of the target that was read.
    """

    failures: dict[int, ItemError]
    fingerprint: str
