"""AV, reference and AR over one frozen base: each is the base with an adapter of its own.

The AR is the base's first K + 1 blocks, without the final norm, and a value head of its own. So
the weights of a language model stand there once, and what is trained is small. To the trainer it
is a `Pair` as one with three models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from gloss_training.models.decoder import Decoder
from gloss_training.models.lora import Adapters, LoraSettings
from gloss_training.models.sharding import whole

if TYPE_CHECKING:
    from gloss_training.models.prompts import MarkedPrompt

AV: Final = "av"
AR: Final = "ar"
REFERENCE: Final = "reference"


class LoraPair:
    """A `Pair` (see there) that trains two adapters and a value head.

    Args:
        model: a causal language model of transformers; its weights are frozen and its linear
            layers replaced.
        prompt: the AV's.
        layer_index: K; the AR has the blocks 0 to K.
        settings: of the adapters; they begin as the base.
        seed: draws the adapters.
        gradient_checkpointing: run blocks again in the backward pass rather than keep all that
            they computed.
    """

    def __init__(
        self,
        model: Any,
        prompt: MarkedPrompt,
        layer_index: int,
        settings: LoraSettings,
        *,
        seed: int,
        gradient_checkpointing: bool = False,
    ) -> None:
        model.requires_grad_(False)
        self.model, self.settings = model, settings
        is_wrapped = hasattr(model.model, "language_model")
        self.text_path = "model.language_model" if is_wrapped else "model"
        text = model.get_submodule(self.text_path)
        self.adapters = Adapters(text, settings.target_modules)
        self.decoder = Decoder(
            model, is_checkpointed=gradient_checkpointing, contexts=self.adapters.contexts
        )
        self.prompt = prompt
        self.num_ar_blocks = layer_index + 1
        width = text.config.hidden_size
        device = next(text.parameters()).device
        # In float32 also over a base of 16 bits: it is small, and all of the AR's output.
        self.value_head = torch.nn.Linear(width, width, bias=False, device=device)
        torch.nn.init.eye_(self.value_head.weight)
        for name, num_blocks in ((AV, len(text.layers)), (AR, self.num_ar_blocks)):
            self.adapters.add(
                name,
                rank=settings.rank,
                alpha=settings.alpha,
                num_blocks=num_blocks,
                seed=seed,
            )

    def keep_reference(self) -> None:
        """From now on the reference is the AV as it is now; before, it is the base."""
        self.adapters.keep(AV, REFERENCE)

    def response_states(self, rows: Tensor, responses: Tensor) -> Tensor:
        """See `Pair`."""
        with self.adapters.use(AV):
            return self.decoder.response_states(self.prompt, rows, responses)

    @torch.no_grad()
    def reference_states(self, rows: Tensor, responses: Tensor) -> Tensor:
        """See `Pair`."""
        has_own = REFERENCE in self.adapters.num_blocks
        with self.adapters.use(REFERENCE if has_own else None):
            return self.decoder.response_states(self.prompt, rows, responses)

    def logits(self, states: Tensor) -> Tensor:
        """See `Pair`."""
        return self.decoder.logits(states)

    def reference_logits(self, states: Tensor) -> Tensor:
        """See `Pair`; AV and reference have the base's head."""
        return self.decoder.logits(states)

    def reconstruct(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """See `Pair`."""
        with self.adapters.use(AR):
            states = self.decoder.last_states(token_ids, lengths, self.num_ar_blocks)
        reconstruction: Tensor = self.value_head(states.float())
        return reconstruction

    def named(self, role: str) -> dict[str, torch.nn.Parameter]:
        """What training the AV or the AR changes, by name: an adapter, and the AR's value head."""
        found = dict(self.adapters.tensors(role))
        if role == AR:
            found.update(self.value_head.named_parameters(prefix="value_head"))
        return found

    def av_parameters(self) -> Sequence[torch.nn.Parameter]:
        """The AV's adapter, by block."""
        return list(self.named(AV).values())

    def ar_parameters(self) -> Sequence[torch.nn.Parameter]:
        """The AR's adapter, by block, then its value head."""
        return list(self.named(AR).values())

    def av_weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Pair`; float32 where something was merged, else as in the base."""
        return self.adapters.merged(AV, self.decoder.named_weights())

    def ar_weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Pair`; types as in `av_weights`, the value head in float32."""
        kept = self._within_ar(self.decoder.named_weights())
        yield from self.adapters.merged(AR, kept)
        yield "value_head.weight", whole(self.value_head.weight.detach())

    def lost_shares(self) -> dict[str, float]:
        """What merging costs: the part of each adapter that the base's type cannot hold."""
        return {name: self.adapters.lost_share(name) for name in (AV, AR)}

    def _within_ar(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """What the AR has of the base: embedding and blocks, neither final norm nor head."""
        for name, weight in weights:
            parts = name.split(".")
            is_block = parts[1] == "layers" and int(parts[2]) < self.num_ar_blocks
            if is_block or parts[1] == "embed_tokens":
                yield name, weight
