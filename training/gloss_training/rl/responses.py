"""A rollout's responses as tensors, and micro batches of them with little padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gloss_training.batches import pad_right, places_of
from gloss_training.models.verbalizer import injected_rows
from gloss_training.rl.rollout import Rollout


@dataclass(frozen=True, kw_only=True)
class Responses:
    """n responses, padded on the right to the longest.

    Attributes:
        rows: [n, d_model] activations at the injection norm, one for each response.
        token_ids: [n, t] int64.
        mask: [n, t] bool, which tokens are real.
        engine_logprobs: [n, t] float32; 0 off the mask.
        lengths: [n] int64, on the CPU, so that shapes are known without waiting for the device.
    """

    rows: Tensor
    token_ids: Tensor
    mask: Tensor
    engine_logprobs: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, rollout: Rollout, injection_scale: float, device: torch.device) -> Responses:
        """The responses of a rollout."""
        rows = injected_rows(rollout.activations, injection_scale)
        lengths = torch.tensor([len(ids) for ids in rollout.response_ids])
        token_ids = pad_right(rollout.response_ids, 0)
        mask = torch.arange(token_ids.shape[1]) < lengths[:, None]
        logprobs = torch.zeros(mask.shape)
        logprobs[mask] = torch.tensor([value for each in rollout.logprobs for value in each])
        return cls(
            rows=rows.repeat_interleave(rollout.samples_per_prompt, dim=0).to(device),
            token_ids=token_ids.to(device),
            mask=mask.to(device),
            engine_logprobs=logprobs.to(device),
            lengths=lengths,
        )

    def take(self, chosen: Tensor) -> Responses:
        """The chosen responses, padded to the longest of them."""
        lengths = self.lengths[chosen]
        longest = int(lengths.max())
        chosen = chosen.to(self.rows.device)
        return Responses(
            rows=self.rows[chosen],
            token_ids=self.token_ids[chosen, :longest],
            mask=self.mask[chosen, :longest],
            engine_logprobs=self.engine_logprobs[chosen, :longest],
            lengths=lengths,
        )

    def places(self) -> tuple[Tensor, ...]:
        """Row and position of each real token, in order: what the mask chooses."""
        is_real = torch.arange(self.mask.shape[1]) < self.lengths[:, None]
        return places_of(is_real, self.mask.device)


def micro_batches(lengths: Sequence[int], size: int) -> list[Tensor]:
    """Indices of equally long batches, the longest first: the first one needs the most memory."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return list(torch.tensor(order).split(size))
