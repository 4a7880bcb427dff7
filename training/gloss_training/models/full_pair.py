"""A pair whose AV, reference and AR are three models with weights of their own.

Full fine-tuning of any decoder family that `decoder.py` runs. Weights may be of 16 bits: what is
learnt then stands in float32 in the optimizer (`learning/optimizer.py`), and the AV computes in the
type that the engine samples in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gloss_training.models.decoder import Decoder
from gloss_training.models.prompts import MarkedPrompt
from gloss_training.models.reconstructor import Reconstructor
from gloss_training.models.sharding import whole


class FullPair:
    """A `Pair` (see there) of three models.

    They stay in evaluation mode: dropout would make another policy than the one that sampled.

    Args:
        av: the AV; it is trained in place.
        reference: the AV that RL begins with, in memory of its own; it stays as it is.
        reconstructor: the AR; it is trained in place.
        prompt: the AV's, with the marker's place.
    """

    def __init__(
        self, av: Decoder, reference: Decoder, reconstructor: Reconstructor, prompt: MarkedPrompt
    ) -> None:
        self.model: Any = av.model
        self.av = av.eval()
        self.reference = reference.eval().requires_grad_(False)
        self.reconstructor = reconstructor.eval()
        self.prompt = prompt

    def response_states(self, rows: Tensor, responses: Tensor) -> Tensor:
        """See `Pair`."""
        return self.av.response_states(self.prompt, rows, responses)

    @torch.no_grad()
    def reference_states(self, rows: Tensor, responses: Tensor) -> Tensor:
        """See `Pair`."""
        return self.reference.response_states(self.prompt, rows, responses)

    def logits(self, states: Tensor) -> Tensor:
        """See `Pair`."""
        return self.av.logits(states)

    def reference_logits(self, states: Tensor) -> Tensor:
        """See `Pair`."""
        return self.reference.logits(states)

    def reconstruct(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """See `Pair`."""
        reconstruction: Tensor = self.reconstructor(token_ids, lengths)
        return reconstruction

    def av_parameters(self) -> Sequence[torch.nn.Parameter]:
        """The text part's weights and the head's; a vision tower stays as it is."""
        named = dict(self.av.model.named_parameters()).values()
        trained = {id(weight) for _, weight in self.av.named_weights()}
        return [weight for weight in named if id(weight) in trained]

    def ar_parameters(self) -> Sequence[torch.nn.Parameter]:
        """All of the AR's weights."""
        return list(self.reconstructor.parameters())

    def av_weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Pair`."""
        for name, weight in self.av.named_weights():
            yield name, whole(weight.detach())

    def ar_weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Pair`."""
        return self.reconstructor.named_weights()
