"""What goes into the engine as text, for a target to read or go on from, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gloss_engine.capture.positions import Positions
from gloss_engine.errors import ItemError
from gloss_engine.sampling import SamplingParams

SKIP_REASONS = ("every", "max_pending", "target_ended")


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """A text in one of three forms; exactly one is given.

    Attributes:
        text: plain text; the target's tokenizer adds its special tokens.
        token_ids: tokens, taken as they are.
        messages: a chat as (role, content) pairs, rendered with the target's chat template.
    """

    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    messages: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        assert sum(form is not None for form in (self.text, self.token_ids, self.messages)) == 1


@dataclass(frozen=True, kw_only=True)
class ExplainRequest:
    """A text whose activations are to be explained.

    Attributes:
        input: the text.
        positions: which of its positions. A position is the item key of its draws.
        num_samples, sampling, score, stream: as in VerbalizeRequest.
    """

    input: TextInput
    positions: Positions = field(default_factory=Positions)
    num_samples: int = 1
    sampling: SamplingParams = field(default_factory=SamplingParams)
    score: bool | None = None
    stream: bool = False


@dataclass(frozen=True, kw_only=True)
class WatchRequest:
    """A prompt for the target to go on from, while its activations are explained.

    Attributes:
        input: the prompt; of a chat, the assistant's turn is begun.
        target_sampling: how the target generates.
        prompt_positions: positions of the prompt to explain as well; None: none.
        every: explain every n-th generated token, the first included.
        max_pending: most activations whose explanations are not finished; None: the engine's.
        tokens_per_second: most tokens the target generates in a second; None: as many as it can.
        num_samples, sampling, score, stream: how to explain, as in VerbalizeRequest.
    """

    input: TextInput
    target_sampling: SamplingParams = field(default_factory=SamplingParams)
    prompt_positions: Positions | None = None
    every: int = 1
    max_pending: int | None = None
    tokens_per_second: float | None = None
    num_samples: int = 1
    sampling: SamplingParams = field(default_factory=SamplingParams)
    score: bool | None = None
    stream: bool = False


@dataclass(frozen=True, kw_only=True)
class CaptureRequest:
    """Texts whose activations are to be read.

    Attributes:
        inputs: the texts; each succeeds or fails on its own.
        positions: which positions of each.
        layer_index: K, the block whose output is read; None: the AV's.
    """

    inputs: tuple[TextInput, ...]
    positions: Positions = field(default_factory=Positions)
    layer_index: int | None = None


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """Where an activation stands.

    Attributes:
        position: in the text, from 0, special tokens included.
        token_id: the token there.
        norm: L2 norm of the activation, float32.
        layer_index: K, the block whose output it is.
    """

    position: int
    token_id: int
    norm: float
    layer_index: int


@dataclass(frozen=True, kw_only=True)
class OpenedText:
    """A text of an explain request, or a prompt, as tokens.

    Attributes:
        request_id: whose.
        token_ids: all of it.
        positions: which of them will be read.
    """

    request_id: str
    token_ids: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CapturedToken:
    """An activation that was read; its explanations have this index."""

    request_id: str
    index: int
    place: TokenPlace


@dataclass(frozen=True, kw_only=True)
class TargetToken:
    """A token that the target generated, at a position that counts the prompt."""

    request_id: str
    position: int
    token_id: int


@dataclass(frozen=True, kw_only=True)
class TargetEnd:
    """The target generates no more; why, one of FINISH_REASONS."""

    request_id: str
    finish_reason: str


@dataclass(frozen=True, kw_only=True)
class SkippedToken:
    """A generated token that will not be explained; why, one of SKIP_REASONS."""

    request_id: str
    position: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A text of a capture request after it was read.

    Attributes:
        request_id: whose.
        index: which of its texts.
        token_ids: all of the text's tokens.
        positions: [n] those that were read.
        activations: [n, d_model] float32, raw, on the host.
        norms: [n] float32 L2 norms.
        is_special: whether each stands on a special token.
        error: why it could not be read; then all else is empty.
    """

    request_id: str
    index: int
    token_ids: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    activations: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    norms: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    is_special: tuple[bool, ...] = ()
    error: ItemError | None = None
