"""What calls return: frozen values, with names in place of the contract's enums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class ItemError:
    """Why one item of a call has no result.

    Attributes:
        code: gRPC status name, such as INVALID_ARGUMENT.
        reason: UPPER_SNAKE reason, such as NON_FINITE_VECTOR.
        message: one sentence for people.
    """

    code: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class TokenPlace:
    """Where in the target's tokens an activation stands.

    Attributes:
        position: in the text, from 0, special tokens included.
        token_id: the token there.
        token: that token as text: data, to be escaped before it is shown.
        norm: L2 norm of the activation.
        layer_index: K, the block whose output it is.
    """

    position: int
    token_id: int
    token: str
    norm: float
    layer_index: int


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One sample's explanation of one activation, with its evidence.

    Attributes:
        index: which activation: its row, or its place among those captured.
        sample: 0 to num_samples - 1.
        explanation: the text between the tags, stripped; empty where it failed. It came from a
            model: data, to be escaped before it is shown.
        raw_text: everything generated, special tokens included.
        token_ids: all generated ids.
        logprob: sum over `token_ids`, nats, after the repetition penalty, before truncation.
        finish_reason: eos, closing_tag, stop, length, cancelled or error.
        cosine, mse, fve: the AR's evidence; None where not scored (fve also without a baseline).
        flags: warnings, such as unclosed or low_fidelity.
        error: why there is no explanation, or None.
        place: where the activation stands; None where the caller sent it.
        lag_seconds: of a watch: from the moment the activation's token was there until this was
            finished; else None.
    """

    index: int
    sample: int
    explanation: str = ""
    raw_text: str = ""
    token_ids: tuple[int, ...] = ()
    logprob: float = 0.0
    finish_reason: str = "error"
    cosine: float | None = None
    mse: float | None = None
    fve: float | None = None
    flags: tuple[str, ...] = ()
    error: ItemError | None = None
    place: TokenPlace | None = None
    lag_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class TextDelta:
    """What one explanation has gained.

    Attributes:
        index: which activation, as in Explanation.
        sample: 0 to num_samples - 1.
        token_ids: new tokens.
        text: new text; all texts of an explanation together are its raw_text.
    """

    index: int
    sample: int
    token_ids: tuple[int, ...]
    text: str


StreamEvent = TextDelta | Explanation


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens a call took, over all its pieces.

    Attributes:
        prefill_tokens: prompt tokens run for it.
        prefix_tokens_reused: prompt tokens that did not have to be run.
        generated_tokens: tokens generated.
    """

    prefill_tokens: int
    prefix_tokens_reused: int
    generated_tokens: int


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Where a call's time went, by the server's clock. Seconds.

    Of a batch that went out in pieces: from the moment the first piece was sent.

    Attributes:
        queue_seconds: until the first activation began to run.
        first_token_seconds: until the first generated token; None where there was none.
        total_seconds: until the end.
    """

    queue_seconds: float
    first_token_seconds: float | None
    total_seconds: float


@dataclass(frozen=True, kw_only=True)
class VerbalizeResult:
    """Explanations in the order of (index, sample).

    Attributes:
        explanations: n x num_samples.
        seed: seed of the draws; the same seed, item keys and options draw the same again.
        fingerprint: of the checkpoints that answered.
        request_id: the call's id, as the server's log has it.
        usage: tokens it took.
        timings: where the time went.
    """

    explanations: tuple[Explanation, ...]
    seed: int
    fingerprint: str
    request_id: str
    usage: Usage
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class StreamSummary:
    """A stream that has ended.

    Attributes:
        finish_counts: explanations by finish reason.
        usage: tokens it took.
        timings: where the time went.
    """

    finish_counts: dict[str, int]
    usage: Usage
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class ReconstructResult:
    """Activations reconstructed from texts.

    Attributes:
        activations: [n, d_model] float32, not normalised; rows of texts that failed are 0.
        failures: texts that failed, by index.
        fingerprint: of the checkpoints that answered.
    """

    activations: np.ndarray
    failures: dict[int, ItemError]
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """How near a text comes to an activation.

    Attributes:
        cosine, mse, fve: as in Explanation; None where it failed (fve also without a baseline).
        error: why there is no score, or None.
    """

    cosine: float | None
    mse: float | None
    fve: float | None
    error: ItemError | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreResult:
    """Scores in the order of the texts.

    Attributes:
        scores: one a text.
        fingerprint: of the checkpoints that answered.
    """

    scores: tuple[Score, ...]
    fingerprint: str
