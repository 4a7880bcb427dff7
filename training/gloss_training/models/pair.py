"""What the RL stage trains: an AV, the AV that it began with, and an AR.

`full_pair.py` has three models with weights of their own, `lora_pair.py` one frozen base with
adapters; both are the same to the trainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor


class Pair(Protocol):
    """AV, reference and AR under training.

    Token ids are padded on the right. `rows` are [n, d_model] activations scaled to the injection
    norm (`verbalizer.injected_rows`). The prompt before the marker runs once for all rows.
    """

    def response_states(self, rows: Tensor, responses: Tensor) -> Tensor:
        """[n, d], [n, t] int64 -> [n, t, d] states of the AV whose logits predict each id."""

    def reference_states(self, rows: Tensor, responses: Tensor) -> Tensor:
        """The same of the AV that RL began with, without gradients."""

    def logits(self, states: Tensor) -> Tensor:
        """[..., d] states of the AV -> [..., vocabulary] float32."""

    def reference_logits(self, states: Tensor) -> Tensor:
        """[..., d] states of the reference -> [..., vocabulary] float32."""

    def reconstruct(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """[n, t] int64 AR prompts, [n] lengths -> [n, d_model] float32 reconstructions."""

    def av_parameters(self) -> Sequence[torch.nn.Parameter]:
        """What training the AV changes."""

    def ar_parameters(self) -> Sequence[torch.nn.Parameter]:
        """What training the AR changes, its value head included."""

    def av_weights(self) -> Iterator[tuple[str, Tensor]]:
        """All of the AV's weights by their names in a checkpoint, adapters merged in float32."""

    def ar_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The same of the AR; `value_head.weight` among them."""
