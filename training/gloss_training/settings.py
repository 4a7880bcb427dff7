"""Settings of the supervised stages, of the target and of the prompts.

Plain dataclasses, as in `rl/settings.py`: what trains needs no pydantic, which only reads files
(`run/config.py`) and refuses what the types here do not allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from gloss_training.setting_checks import at_least, below, finite, not_negative, positive

AV_SLOT: Final = "{injection_char}"
AR_SLOT: Final = "{explanation}"
"""What stands in a template for the marker and for the text: replaced, never str.format's, since
other braces are text."""


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """The model that is explained.

    Attributes:
        path: its directory, in the Hugging Face layout.
        layer_index: K; activations are the output of block K. Not of the last block: what it says
            is already what the head reads.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    path: str
    layer_index: int

    def __post_init__(self) -> None:
        not_negative("target.layer_index", self.layer_index)


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """How an activation and an explanation are put to the AV and the AR.

    Attributes:
        injection_char: the marker; one token of the target's tokenizer that texts never hold.
        av_template: what the AV is asked, with {injection_char} once.
        ar_template: what the AR reads, with {explanation} once.
        injection_scale: L2 norm of an injected activation; 0: `injection_factor` times the median
            norm of the training activations.
        injection_factor: used where `injection_scale` is 0.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    injection_char: str = "㈎"
    av_template: str = (
        "One hidden state of a language model stands here as a vector, taken while it read a "
        "text: <concept>{injection_char}</concept>. Say in plain words what the state holds, "
        "between <explanation> and </explanation>."
    )
    ar_template: str = (
        "What a hidden state of a language model holds: <text>{explanation}</text> The vector:"
    )
    injection_scale: float = 0.0
    injection_factor: float = 1.0

    def __post_init__(self) -> None:
        for name, slot in (("av_template", AV_SLOT), ("ar_template", AR_SLOT)):
            template = getattr(self, name)
            if template.count(slot) != 1:
                raise ValueError(f"prompt.{name}: got {template!r}, expected {slot} once")
        if not self.injection_char.strip():
            raise ValueError(
                f"prompt.injection_char: got {self.injection_char!r}, expected a visible character "
                "that is one token of the target's tokenizer"
            )
        not_negative("prompt.injection_scale", self.injection_scale)
        positive("prompt.injection_factor", self.injection_factor)
        for name in ("injection_scale", "injection_factor"):
            finite(f"prompt.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class SftSettings:
    """A supervised stage: AdamW, linear warm-up, cosine decay to a tenth.

    Attributes:
        num_steps: updates.
        batch_size: rows of an update, over all processes.
        learning_rate: at the end of the warm-up.
        num_warmup_steps: steps that the rate takes to get there.
        max_grad_norm: longer gradients are scaled down to it.
        weight_decay, adam_beta2: of AdamW.
        max_skipped: steps with gradients that are not finite, in a row, that end the run.
        micro_batch: rows of one forward and backward pass; most that memory allows.
        gradient_checkpointing: compute the blocks again in the backward pass rather than keep
            what they computed.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of them stay.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    num_steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 2e-5
    num_warmup_steps: int = 50
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    adam_beta2: float = 0.98
    max_skipped: int = 10
    micro_batch: int = 64
    gradient_checkpointing: bool = False
    checkpoint_every: int = 100
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in (
            *("num_steps", "batch_size", "learning_rate", "max_grad_norm", "max_skipped"),
            *("adam_beta2", "micro_batch", "checkpoint_every", "keep_checkpoints"),
        ):
            positive(name, getattr(self, name))
        for name in ("num_warmup_steps", "weight_decay"):
            not_negative(name, getattr(self, name))
        for name in ("learning_rate", "weight_decay"):
            finite(name, getattr(self, name))
        below("adam_beta2", self.adam_beta2, 1)


@dataclass(frozen=True, kw_only=True)
class AvSettings(SftSettings):
    """Stage av.

    Attributes:
        vocabulary_chunk: tokens whose logits over the vocabulary are held at once.
    """

    vocabulary_chunk: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("vocabulary_chunk", self.vocabulary_chunk)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """The evaluation on held-out rows.

    Attributes:
        num_rows: rows that are explained, one explanation each.
        max_new_tokens: longest response.
        num_training_rows: rows of another split that are explained for the controls that learn:
            a fresh AR, trained as stage ar is, and word counts. 0: without these controls.
        num_reworded_rows: explanations that the teacher puts in other words; 0: none. A teacher
            behind an API wants to be paid for it.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    num_rows: int = 1000
    max_new_tokens: int = 150
    num_training_rows: int = 4000
    num_reworded_rows: int = 0

    def __post_init__(self) -> None:
        at_least("evaluate.num_rows", self.num_rows, 2)
        for name in ("num_training_rows", "num_reworded_rows"):
            not_negative(f"evaluate.{name}", getattr(self, name))
        positive("evaluate.max_new_tokens", self.max_new_tokens)
