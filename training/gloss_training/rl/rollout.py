"""Responses of one step: what the engine sampled, ordered by activation, then by sample."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """`num_prompts * samples_per_prompt` responses; sample s of activation p is p * samples + s.

    Attributes:
        rows: [num_prompts] int64, which rows of the data they are about.
        activations: [num_prompts, d_model] float32, raw.
        samples_per_prompt: responses of each activation.
        response_ids: sampled ids of each response, what ended it included.
        logprobs: the engine's log-probabilities of them, nats, at the temperature.
        explanations: text between the tags; "" where there is none.
        is_valid: whether a response was closed; what was cut off is not.
        seconds: how long it took to sample.
    """

    rows: Tensor
    activations: Tensor
    samples_per_prompt: int
    response_ids: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    explanations: tuple[str, ...]
    is_valid: tuple[bool, ...]
    seconds: float

    def __len__(self) -> int:
        return len(self.response_ids)
