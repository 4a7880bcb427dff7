"""What goes into the engine as text, for a target to read or go on from, and what comes of it."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gloss_engine.capture.positions import Positions
from gloss_engine.errors import ItemError, RequestError
from gloss_engine.sampling import SamplingParams

SKIP_REASONS = ("every", "max_pending", "target_ended")


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """A text in one of three forms; exactly one is given.

    Attributes:
        text: plain text; the target's tokenizer adds its special tokens.
        token_ids: tokens, taken as they are.
        messages: a chat as (role, content) pairs, rendered with the target's chat template.

    Raises:
        RequestError: INVALID_INPUT, INVALID_TEXT, INVALID_TOKEN_IDS, INVALID_CHAT: none or several
            of the forms, or what is none of them.
    """

    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    messages: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        forms = ("text", "token_ids", "messages")
        given = [name for name in forms if getattr(self, name) is not None]
        if len(given) != 1:
            raise _refused(
                "INVALID_INPUT",
                f"got {' and '.join(given) or 'none of the forms'}, expected one of text, "
                "token_ids and messages",
            )
        if self.text is not None and not isinstance(self.text, str):
            raise _refused(
                "INVALID_TEXT", f"got a {type(self.text).__name__} as text, expected a string"
            )
        if self.token_ids is not None:
            object.__setattr__(self, "token_ids", _whole_ids(self.token_ids))
        if self.messages is not None:
            object.__setattr__(self, "messages", _turns(self.messages))


@dataclass(frozen=True, kw_only=True)
class ExplainRequest:
    """A text whose activations are to be explained.

    Attributes:
        input: the text.
        positions: which of its positions. A position is the item key of its draws.
        max_positions: refuse a selection of more of them; None: any number is fine.
        num_samples, sampling, score, stream, priority: as in VerbalizeRequest.
    """

    input: TextInput
    positions: Positions = field(default_factory=Positions)
    max_positions: int | None = None
    num_samples: int = 1
    sampling: SamplingParams = field(default_factory=SamplingParams)
    score: bool | None = None
    stream: bool = False
    priority: str = "interactive"


@dataclass(frozen=True, kw_only=True)
class WatchRequest:
    """A prompt for the target to go on from, while its activations are explained.

    Attributes:
        input: the prompt; of a chat, the assistant's turn is begun.
        target_sampling: how the target generates.
        prompt_positions: positions of the prompt to explain as well; None: none.
        max_positions: refuse a selection of more of them; None: any number is fine.
        every: explain every n-th generated token, the first included.
        max_pending: most activations whose explanations are not finished; None: the engine's.
        tokens_per_second: most tokens the target generates in a second; None: as many as it can.
        num_generated: tokens at the prompt's end that the target generated in a Watch that this one
            goes on with: draws, the repetition penalty and every n-th token count them.
        num_samples, sampling, score, stream: how to explain, as in VerbalizeRequest.
    """

    input: TextInput
    target_sampling: SamplingParams = field(default_factory=SamplingParams)
    prompt_positions: Positions | None = None
    max_positions: int | None = None
    every: int = 1
    max_pending: int | None = None
    tokens_per_second: float | None = None
    num_generated: int = 0
    num_samples: int = 1
    sampling: SamplingParams = field(default_factory=SamplingParams)
    score: bool | None = None
    stream: bool = False

    @property
    def priority(self) -> str:
        """Somebody watches."""
        return "interactive"


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

    @property
    def priority(self) -> str:
        """Nobody waits for one of its texts."""
        return "batch"


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


def _whole_ids(given: object) -> tuple[int, ...]:
    """Token ids of a sequence or an array, as ints."""
    values = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(values, Sequence) or isinstance(values, str | bytes | bytearray):
        raise _refused(
            "INVALID_TOKEN_IDS",
            f"got a {type(given).__name__} as token_ids, expected a sequence of whole numbers",
        )
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise _refused(
                "INVALID_TOKEN_IDS",
                f"got token id {reprlib.repr(value)} at {index}, expected a whole number",
            )
    return tuple(int(value) for value in values)


def _turns(given: object) -> tuple[tuple[str, str], ...]:
    """A chat's turns as pairs of strings."""
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise _refused(
            "INVALID_CHAT",
            f"got a {type(given).__name__} as messages, expected pairs of role and content",
        )
    for index, turn in enumerate(given):
        is_pair = isinstance(turn, tuple | list) and len(turn) == 2
        if not is_pair or not all(isinstance(part, str) for part in turn):
            raise _refused(
                "INVALID_CHAT",
                f"got {reprlib.repr(turn)} as message {index}, expected a pair of strings, role "
                "and content",
            )
    return tuple((role, content) for role, content in given)


def _refused(reason: str, message: str) -> RequestError:
    return RequestError(reason, "input", f"input: {message}")
