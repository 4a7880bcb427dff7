"""What goes into the engine and what comes out, as values.

What concerns texts, which a target reads first, is in `text_request.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gloss_engine.errors import ItemError
from gloss_engine.sampling import SamplingParams
from gloss_engine.text_request import (
    CapturedToken,
    OpenedText,
    Reading,
    SkippedToken,
    TargetEnd,
    TargetToken,
    TokenPlace,
)

if TYPE_CHECKING:
    import torch

PRIORITIES = ("interactive", "batch")
FINISH_REASONS = ("eos", "closing_tag", "stop", "length", "cancelled", "error")


class Explaining(Protocol):
    """How a request wants its activations explained, whatever kind it is."""

    @property
    def num_samples(self) -> int: ...
    @property
    def sampling(self) -> SamplingParams: ...
    @property
    def score(self) -> bool | None: ...
    @property
    def stream(self) -> bool: ...
    @property
    def priority(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class VerbalizeRequest:
    """Activations to explain.

    Attributes:
        activations: [n, d_model] of any float type; raw, never normalised. Copied on submission.
        num_samples: explanations per activation.
        sampling: how tokens are drawn.
        item_keys: [n] coordinates of the draws, 0 to 2^64 - 1; None: the index in the request.
        positions: [n] token positions the activations were read at, for flags; None, as a whole
            or for a row: not known.
        token_ids: [n] tokens they were read on, likewise.
        layer_index: the layer the caller read; refused where it is not the checkpoint's K.
        allow_layer_mismatch: run all the same.
        score: ask for evidence; None: wherever an AR is loaded.
        stream: report every token as it comes.
        priority: one of PRIORITIES; interactive activations begin first, but for a share.
        token_logprobs: ask for the log-probability of each token, beside their sum.
    """

    activations: torch.Tensor | np.ndarray
    num_samples: int = 1
    sampling: SamplingParams = field(default_factory=SamplingParams)
    item_keys: tuple[int, ...] | None = None
    positions: tuple[int | None, ...] | None = None
    token_ids: tuple[int | None, ...] | None = None
    layer_index: int | None = None
    allow_layer_mismatch: bool = False
    score: bool | None = None
    stream: bool = False
    priority: str = "interactive"
    token_logprobs: bool = False


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One sample's explanation of one activation, with its evidence.

    Attributes:
        request_id: the request it answers.
        index: the activation's place in the request.
        sample: 0 .. num_samples - 1.
        seed: seed of the draws.
        explanation: the text between the tags (SERVICE contract); never None.
        raw_text: everything generated, special tokens included.
        token_ids: all generated ids, the one that completes the stop included.
        logprob: sum over `token_ids` of log-softmax(logits / T) after the repetition penalty and
            before truncation, nats; T = 0 counts as 1.
        token_logprobs: the terms of that sum, where they were asked for; else empty.
        finish_reason: one of FINISH_REASONS.
        cosine, mse, fve: the AR's evidence; None where not scored (fve also without a baseline).
        flags: see `av.flags`.
        error: why there is no explanation, or None.
        place: where the activation stands, where the target read it itself; else None.
        lag_seconds: from the moment its token was there until the explanation was finished; Watch
            only.
    """

    request_id: str
    index: int
    sample: int
    seed: int
    explanation: str = ""
    raw_text: str = ""
    token_ids: tuple[int, ...] = ()
    logprob: float = 0.0
    token_logprobs: tuple[float, ...] = ()
    finish_reason: str = "error"
    cosine: float | None = None
    mse: float | None = None
    fve: float | None = None
    flags: tuple[str, ...] = ()
    error: ItemError | None = None
    place: TokenPlace | None = None
    lag_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """Texts for the AR: to turn into activations, or to compare with some.

    Attributes:
        texts: explanations without tags.
        activations: [n, d_model] to compare with, raw, or None. Copied on submission.
    """

    texts: tuple[str, ...]
    activations: torch.Tensor | np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class TextResult:
    """What the AR made of one text.

    Attributes:
        request_id: the request it answers.
        index: the text's place in the request.
        reconstruction: [d_model] float32, unnormalised; None where it failed or was compared.
        cosine, mse, fve: the comparison; None where there was none (fve also without a baseline).
        error: why there is no result, or None.
    """

    request_id: str
    index: int
    reconstruction: np.ndarray | None = None
    cosine: float | None = None
    mse: float | None = None
    fve: float | None = None
    error: ItemError | None = None


@dataclass(slots=True)
class TokenDelta:
    """A token of a streaming request, one step old at most."""

    request_id: str
    index: int
    sample: int
    token_id: int


@dataclass(kw_only=True)
class StepOutput:
    """What one engine step brought.

    Attributes:
        num_rows: sequences that got a token.
        started: (request id, index) of the activations that began to run in it.
        tokens: new tokens of requests that stream.
        written: ids of the requests of texts that are whole and wait for the AR now.
        explanations: finished explanations, in no particular order.
        texts: what the AR made of texts.
        opened: texts and prompts that were encoded and will be read.
        captured: activations that the target read and that will be explained.
        target_tokens, target_ends: what the target generated, and where it has ended.
        skipped: generated tokens that will not be explained.
        readings: texts of capture requests that were read, or why they could not be.
        finished: ids of requests whose last result is among them.
        failed: of those, requests of a text that could not be read or gone on from to its end.
    """

    num_rows: int = 0
    started: list[tuple[str, int]] = field(default_factory=list)
    tokens: list[TokenDelta] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    explanations: list[Explanation] = field(default_factory=list)
    texts: list[TextResult] = field(default_factory=list)
    opened: list[OpenedText] = field(default_factory=list)
    captured: list[CapturedToken] = field(default_factory=list)
    target_tokens: list[TargetToken] = field(default_factory=list)
    target_ends: list[TargetEnd] = field(default_factory=list)
    skipped: list[SkippedToken] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    failed: dict[str, ItemError] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether it brought anything."""
        return any(getattr(self, name) for name in _LISTS)

    def take(self, request_id: str) -> list[Explanation]:
        """Take out all that concerns one request of activations; its explanations."""
        mine = [e for e in self.explanations if e.request_id == request_id]
        self.explanations = [e for e in self.explanations if e.request_id != request_id]
        self.tokens = [delta for delta in self.tokens if delta.request_id != request_id]
        self.started = [item for item in self.started if item[0] != request_id]
        self.written = [name for name in self.written if name != request_id]
        self.finished = [name for name in self.finished if name != request_id]
        return mine

    def extend(self, later: StepOutput) -> None:
        """Add what a later step brought."""
        for name in _LISTS:
            getattr(self, name).extend(getattr(later, name))
        self.failed |= later.failed


_LISTS = tuple(one.name for one in fields(StepOutput) if one.name not in ("num_rows", "failed"))
