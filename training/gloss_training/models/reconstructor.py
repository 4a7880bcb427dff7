"""The activation reconstructor (AR): the target's first K+1 blocks and a linear value head.

There is no final norm and no language head. The hidden state of the last real token, times the
value head, is the reconstruction; rows are padded on the right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from gloss_engine.weight_files import read_weights
from gloss_training.batches import pad_right
from gloss_training.models.decoder import Decoder
from gloss_training.models.model_files import FirstBlocks, load_first_blocks, take_first_blocks
from gloss_training.models.sharding import whole
from gloss_training.settings import AR_SLOT

VALUE_HEAD_FILE: Final = "value_head.safetensors"
BATCH_SIZE: Final = 128


class Reconstructor(torch.nn.Module):
    """Text to vector: token ids [b, t], lengths [b] -> [b, d] float32.

    Args:
        blocks: the target's first K + 1.
        is_checkpointed: see `Decoder`.
    """

    def __init__(self, blocks: FirstBlocks, *, is_checkpointed: bool = False) -> None:
        super().__init__()
        self.decoder = Decoder(blocks, is_checkpointed=is_checkpointed)
        width = blocks.config.hidden_size
        embedding = blocks.get_input_embeddings().weight
        self.value_head = torch.nn.Linear(
            width, width, bias=False, dtype=embedding.dtype, device=embedding.device
        )
        torch.nn.init.eye_(self.value_head.weight)

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All weights by their names in a checkpoint, the value head's among them; gathered."""
        for name, weight in self.decoder.text.named_parameters(prefix="model"):
            yield name, whole(weight.detach())
        for name, weight in self.value_head.named_parameters(prefix="value_head"):
            yield name, whole(weight.detach())

    def forward(self, token_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Reads each row at its last real token; causal attention hides the padding after it."""
        last = self.decoder.last_states(token_ids, lengths, len(self.decoder.blocks))
        reconstruction: torch.Tensor = self.value_head(last).float()
        return reconstruction


def from_target(target: Any, layer_index: int, *, is_checkpointed: bool = False) -> Reconstructor:
    """An AR before training: the target's blocks 0..K, the value head at the identity.

    The blocks are taken out of the target, which is of no use as a model then.
    """
    blocks = take_first_blocks(target, layer_index + 1)
    return Reconstructor(blocks, is_checkpointed=is_checkpointed)


def encode_explanations(
    tokenizer: Any, ar_template: str, explanations: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """AR inputs: ids [n, longest] int64, special tokens included, right-padded, and lengths [n]."""
    rows = tokenizer([ar_template.replace(AR_SLOT, text) for text in explanations]).input_ids
    padding = tokenizer.pad_token_id
    filler = tokenizer.eos_token_id if padding is None else padding
    return pad_right(rows, filler), torch.tensor([len(row) for row in rows])


@torch.no_grad()
def reconstruct(
    read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    tokenizer: Any,
    ar_template: str,
    explanations: Sequence[str],
    *,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Explanations -> [n, d] float32 on the CPU, in batches.

    Args:
        read: a `Reconstructor`, or a pair's `reconstruct`.
        tokenizer: the target's.
        ar_template: what the AR reads.
        explanations: n texts.
        device: where it reads.
    """
    parts = []
    for start in range(0, len(explanations), BATCH_SIZE):
        texts = explanations[start : start + BATCH_SIZE]
        token_ids, lengths = encode_explanations(tokenizer, ar_template, texts)
        parts.append(read(token_ids.to(device), lengths.to(device)).cpu())
    return torch.cat(parts)


def load_reconstructor(folder: Path, dtype: torch.dtype = torch.float32) -> Reconstructor:
    """The AR of a directory in the released layout."""
    reconstructor = Reconstructor(load_first_blocks(folder, dtype))
    reconstructor.value_head.load_state_dict(read_weights(folder / VALUE_HEAD_FILE))
    return reconstructor.eval()
