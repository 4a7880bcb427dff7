"""Settings of the tiny world: its stories, and the target that is trained on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from gloss_training.setting_checks import at_least, at_most, below, not_negative, positive
from gloss_training.settings import PromptSettings, SftSettings
from gloss_training.world.attributes import ATTRIBUTES, FEWEST_ATTRIBUTES

WORLD_PROMPT: Final = PromptSettings(
    injection_char="㈎",
    av_template=(
        "One state of a reader of a story stands here as a vector. "
        "Say in plain words what the story has told so far and how the text ends: "
        "<concept>{injection_char}</concept>"
    ),
    ar_template="What the story has told so far: {explanation} The vector:",
)
"""The prompts of the world's pair, in words of its tokenizer."""
FEWEST_TOKENS: Final = 300
"""Of a BPE tokenizer: 256 bytes, what it has besides text, and some that are more than a byte."""


@dataclass(frozen=True, kw_only=True)
class ShapeSettings:
    """Shape of the target; the AV has the same, the AR its first `layer_index` + 1 blocks.

    Attributes:
        layer_index: K; activations are the output of block K.
        max_length: positions.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    hidden_size: int = 128
    intermediate_size: int = 256
    num_layers: int = 4
    layer_index: int = 2
    num_heads: int = 8
    num_kv_heads: int = 4
    head_dim: int = 16
    max_length: int = 512

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "max_length"):
            positive(f"world.shape.{name}", getattr(self, name))
        if not 0 <= self.layer_index < self.num_layers - 1:
            raise ValueError(
                f"world.shape.layer_index: got {self.layer_index}, expected a block before the "
                f"last of {self.num_layers}: the output of the last one is already what the head "
                "reads"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"world.shape.num_kv_heads: got {self.num_kv_heads}, expected a divisor of "
                f"{self.num_heads} heads"
            )
        if self.head_dim <= 0 or self.head_dim % 16:
            raise ValueError(
                f"world.shape.head_dim: got {self.head_dim}, expected a multiple of 16"
            )


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """The tiny world: documents, a teacher and an oracle in one.

    Attributes:
        num_attributes: of a story: the first so many.
        vocabulary_size: tokens of a BPE tokenizer that is trained on stories and explanations, most
            of them; 0: one token a word.
        max_words: longest story.
        num_ending_words: last words of the text that an explanation quotes, at most.
        most_stated: facts that the teacher states of those revealed, drawn anew each time, at least
            one, the last words counted as one; 0: all.
        unknown_word_rate: share of words that become the unknown one, as in callers' texts.
        state_head_weight: of the loss that plants the facts in block K; 0: a plain language model.
        shape: of the target.
        training: of the target.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    num_attributes: int = FEWEST_ATTRIBUTES
    vocabulary_size: int = 0
    max_words: int = 80
    num_ending_words: int = 1
    most_stated: int = 0
    unknown_word_rate: float = 0.01
    state_head_weight: float = 6.0
    shape: ShapeSettings = field(default_factory=ShapeSettings)
    training: SftSettings = field(default_factory=SftSettings)

    def __post_init__(self) -> None:
        at_least("world.num_attributes", self.num_attributes, FEWEST_ATTRIBUTES)
        at_most("world.num_attributes", self.num_attributes, len(ATTRIBUTES))
        if self.vocabulary_size:
            at_least("world.vocabulary_size", self.vocabulary_size, FEWEST_TOKENS)
        at_least("world.max_words", self.max_words, 17)
        positive("world.num_ending_words", self.num_ending_words)
        not_negative("world.most_stated", self.most_stated)
        not_negative("world.state_head_weight", self.state_head_weight)
        not_negative("world.unknown_word_rate", self.unknown_word_rate)
        below("world.unknown_word_rate", self.unknown_word_rate, 0.5)
