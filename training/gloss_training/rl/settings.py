"""Settings of the RL stage.

Plain dataclasses: what trains needs no pydantic, which only reads files (`run/config.py`) and
refuses what the types here do not allow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from gloss_training.setting_checks import at_least, at_most, finite, not_negative, one_of, positive

ADVANTAGE_SCALES: Final = ("batch", "group", "none")
KL_KINDS: Final = ("none", "exact", "k2", "k1_reward")


@dataclass(frozen=True, kw_only=True)
class AdvantageSettings:
    """How rewards become advantages.

    Attributes:
        scale: deviation that they are divided by: of the batch's valid samples, of each group's, or
            none.
        floor: least deviation, in units of reward.
        failure_margin: by how much a failed response is worse than its group's worst valid one.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    scale: str = "batch"
    floor: float = 0.05
    failure_margin: float = 0.25

    def __post_init__(self) -> None:
        one_of("rl.advantages.scale", self.scale, ADVANTAGE_SCALES)
        positive("rl.advantages.floor", self.floor)
        not_negative("rl.advantages.failure_margin", self.failure_margin)
        for name in ("floor", "failure_margin"):
            finite(f"rl.advantages.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class KlSettings:
    """How the AV is kept near the AV that RL began with.

    Attributes:
        kind: exact over the vocabulary, k2 in the loss, k1 in the reward with reward-to-go, or
            none. k1 in the loss is not there: its expected gradient is zero.
        weight: of a token's KL, nats.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    kind: str = "exact"
    weight: float = 0.1

    def __post_init__(self) -> None:
        if self.kind in ("k1", "k1_loss"):
            raise ValueError(
                f"rl.kl.kind: got {self.kind!r}, whose expected gradient in the loss is zero; "
                "expected exact, k2, k1_reward or none"
            )
        one_of("rl.kl.kind", self.kind, KL_KINDS)
        not_negative("rl.kl.weight", self.weight)
        finite("rl.kl.weight", self.weight)


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """Weights of the reward's terms; 0 leaves a term out.

    Attributes:
        reconstruction: of -mse, -4 to 0.
        format: of one closed pair of tags and whole sentences, 0 to 1.
        brevity: of tokens over `free_tokens`, each -1 / max_new_tokens.
        repetition: of the share of repeated trigrams, -1 to 0.
        judge: of a teacher's score of how well the explanation fits the text, 0 to 1.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    reconstruction: float = 1.0
    format: float = 0.0
    brevity: float = 0.0
    free_tokens: int = 0
    repetition: float = 0.0
    judge: float = 0.0

    @property
    def has_terms(self) -> bool:
        """Whether any term has a weight."""
        terms = (self.reconstruction, self.format, self.brevity, self.repetition, self.judge)
        return any(terms)

    def __post_init__(self) -> None:
        for name in ("reconstruction", "format", "brevity", "free_tokens", "repetition", "judge"):
            not_negative(f"rl.reward.{name}", getattr(self, name))
            finite(f"rl.reward.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class RlSettings:
    """The RL stage.

    Attributes:
        num_steps: rollouts, each followed by `updates_per_rollout` updates.
        prompts_per_step, samples_per_prompt: activations of a rollout, explanations of each.
        max_new_tokens: longest response.
        temperature: of the rollouts and of all log-probabilities.
        av_learning_rate, ar_learning_rate: after `num_warmup_steps`; they stay.
        trains_av: False trains the AR alone on rollouts (the control).
        importance_cap: most weight of a token against the engine's log-probability.
        clip_ratio: of the ratio to the log-probabilities before the first update; it matters
            with several updates.
        max_skipped: steps with non-finite gradients or without one valid response, in a row, that
            end the run.
        micro_batch: responses of one forward and backward pass.
        vocabulary_chunk: tokens whose logits over the vocabulary are held at once.
        gradient_checkpointing: compute the blocks again in the backward pass rather than keep
            what they computed.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    num_steps: int = 150
    prompts_per_step: int = 32
    samples_per_prompt: int = 8
    updates_per_rollout: int = 1
    max_new_tokens: int = 96
    temperature: float = 1.0
    av_learning_rate: float = 3e-4
    ar_learning_rate: float = 5e-4
    num_warmup_steps: int = 5
    max_grad_norm: float = 1.0
    trains_av: bool = True
    importance_cap: float = 2.0
    clip_ratio: float = 0.2
    max_skipped: int = 10
    micro_batch: int = 64
    vocabulary_chunk: int = 4096
    gradient_checkpointing: bool = False
    checkpoint_every: int = 25
    keep_checkpoints: int = 2
    advantages: AdvantageSettings = field(default_factory=AdvantageSettings)
    kl: KlSettings = field(default_factory=KlSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)

    def __post_init__(self) -> None:
        for name in (
            *("num_steps", "prompts_per_step", "updates_per_rollout", "max_new_tokens"),
            *("av_learning_rate", "ar_learning_rate", "max_grad_norm"),
            *("importance_cap", "clip_ratio", "max_skipped", "micro_batch", "vocabulary_chunk"),
            *("checkpoint_every", "keep_checkpoints"),
        ):
            positive(f"rl.{name}", getattr(self, name))
        # What the engine takes, so that rollouts do not end at it after the stages before.
        at_least("rl.temperature", self.temperature, 1e-6)
        at_most("rl.temperature", self.temperature, 100)
        for name in ("av_learning_rate", "ar_learning_rate"):
            finite(f"rl.{name}", getattr(self, name))
        not_negative("rl.num_warmup_steps", self.num_warmup_steps)
        # Below 1 it would scale every token down, those that both compute alike included.
        at_least("rl.importance_cap", self.importance_cap, 1)
        if self.samples_per_prompt < 2:
            raise ValueError(
                f"rl.samples_per_prompt: got {self.samples_per_prompt}, expected at least 2: an "
                "advantage is against the other samples of the same activation"
            )
        if self.trains_av and not self.reward.has_terms:
            raise ValueError(
                "rl.reward: got 0 for every term, expected more for some: the AV would learn from "
                "nothing (rl.trains_av = false trains the AR alone)"
            )
