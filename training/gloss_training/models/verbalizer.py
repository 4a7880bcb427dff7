"""The activation verbalizer (AV): a language model whose prompt holds one injected vector.

The embedding at the marker's position is replaced by h * injection_scale / max(|h|, 1e-12): by
position, never by looking for the marker's id. The prompt before the marker is the same for all
rows, so its keys and values are computed once a batch (`decoder.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import torch
from torch.utils.checkpoint import checkpoint

from gloss_training.batches import pad_right, places_of
from gloss_training.models.decoder import Decoder
from gloss_training.models.prompts import MarkedPrompt, wrap
from gloss_training.models.sharding import whole
from gloss_training.scoring import EPSILON

IGNORED: Final = -100


class Speaker(Protocol):
    """An AV as its loss needs it; see `pair.Pair`, which is one."""

    def response_states(self, rows: torch.Tensor, responses: torch.Tensor) -> torch.Tensor:
        """[n, d], [n, t] int64 -> [n, t, d] states whose logits predict each id."""

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """[..., d] -> [..., vocabulary] float32."""


class Verbalizer:
    """A `Speaker` with weights of its own.

    Args:
        model: a causal language model of transformers.
        prompt: with the marker that a row replaces.
        is_checkpointed: see `Decoder`.
    """

    def __init__(self, model: Any, prompt: MarkedPrompt, *, is_checkpointed: bool = False) -> None:
        self.model = model
        self.decoder = Decoder(model, is_checkpointed=is_checkpointed)
        self.prompt = prompt

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """What training it changes: of a wrapped model only the language model in it."""
        self.model.requires_grad_(False)
        self.decoder.text.requires_grad_(True)
        self.model.get_output_embeddings().requires_grad_(True)
        return {name: w for name, w in self.model.named_parameters() if w.requires_grad}

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All weights by their names in a checkpoint; gathered."""
        for name, weight in self.decoder.named_weights():
            yield name, whole(weight.detach())

    def response_states(self, rows: torch.Tensor, responses: torch.Tensor) -> torch.Tensor:
        """See `Speaker`."""
        return self.decoder.response_states(self.prompt, rows, responses)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """See `Speaker`."""
        return self.decoder.logits(states)


def injected_rows(activations: torch.Tensor, injection_scale: float) -> torch.Tensor:
    """[n, d] raw activations -> [n, d] rows of norm `injection_scale`, norms in fp32."""
    vectors = activations.float()
    return vectors * (injection_scale / vectors.norm(dim=-1, keepdim=True).clamp_min(EPSILON))


def encode_responses(
    tokenizer: Any, explanations: Sequence[str], end_token_id: int
) -> list[list[int]]:
    """Response ids of each explanation: tags around it and the end of the turn."""
    rows = tokenizer([wrap(text) for text in explanations], add_special_tokens=False).input_ids
    return [[*row, end_token_id] for row in rows]


def response_loss(
    speaker: Speaker,
    rows: torch.Tensor,
    responses: Sequence[Sequence[int]],
    *,
    chunk: int,
    num_chunks: int = 1,
) -> torch.Tensor:
    """Summed cross-entropy of the response tokens given the injected rows [n, d]; nats, scalar.

    Args:
        chunk: most tokens whose logits are held at once. Those of 64 responses of 122 tokens over
            152,000 words are 4.7 GB in float32, and their gradient as much again: of several chunks
            each one's are made, used and dropped, and made again for the backward pass.
        num_chunks: least number of chunks, empty ones included: where weights are sharded, all
            ranks must call the head equally often.
    """
    targets = pad_right(responses, IGNORED)
    places = places_of(targets != IGNORED, rows.device)
    targets = targets.to(rows.device)
    states, wanted = speaker.response_states(rows, targets)[places], targets[places]

    def of_chunk(span: slice) -> torch.Tensor:
        logits = speaker.logits(states[span])
        return torch.nn.functional.cross_entropy(logits, wanted[span], reduction="sum")

    count = max(num_chunks, -(-len(wanted) // chunk))
    if count == 1:
        return of_chunk(slice(None))
    spans = [slice(index * chunk, (index + 1) * chunk) for index in range(count)]
    parts = [
        checkpoint(of_chunk, span, use_reentrant=False, preserve_rng_state=False) for span in spans
    ]
    return torch.stack(parts).sum()
