"""What the target is compared with: transformers, a plain hook on block K, one text at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.reference import text_model


class ReferenceTarget:
    """A target run by transformers in float32.

    Attributes:
        model, tokenizer: as transformers loads them.
    """

    def __init__(self, directory: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32
        ).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self.blocks = text_model(self.model).layers

    @torch.no_grad()
    def activations(self, token_ids: Sequence[int], layer_index: int) -> Tensor:
        """[num_tokens, d_model] output of block `layer_index`."""
        kept: list[Tensor] = []

        def keep(module: Any, args: Any, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)

        handle = self.blocks[layer_index].register_forward_hook(keep)
        try:
            self.model(input_ids=torch.tensor([list(token_ids)]))
        finally:
            handle.remove()
        return kept[0].reshape(len(token_ids), -1)

    @torch.no_grad()
    def greedy(self, token_ids: Sequence[int], max_new_tokens: int, eos_ids: set[int]) -> list[int]:
        """What it goes on with, up to and with an end-of-sequence id; a whole pass a token."""
        tokens: list[int] = []
        while len(tokens) < max_new_tokens and not eos_ids & set(tokens):
            logits = self.model(input_ids=torch.tensor([[*token_ids, *tokens]])).logits
            tokens.append(int(logits[0, -1].argmax()))
        return tokens
