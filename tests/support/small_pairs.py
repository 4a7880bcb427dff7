"""Models of every family, small enough to train within a test, and what they are asked."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from gloss_training.models.prompts import MarkedPrompt
from support.models_made import make_config, make_model

ARCHS: Final = ("qwen2", "qwen3", "llama3", "gemma3", "gemma3_wrapped")
VOCAB_SIZE: Final = 101
NUM_LAYERS: Final = 6
PROMPT: Final = MarkedPrompt(token_ids=(5, 17, 3, 3, 40, 22, 9, 61, 14, 30, 77, 8), marker_index=9)
"""Twelve tokens; nine before the marker, one more than Gemma's window here."""


def made(arch: str, *, seed: int = 0, num_layers: int = NUM_LAYERS) -> Any:
    """A model of transformers with a vocabulary of 101, in evaluation mode."""
    family, _, wrapped = arch.partition("_")
    config = make_config(
        family, num_layers=num_layers, vocab_size=VOCAB_SIZE, tied=family == "gemma3"
    )
    return make_model(family, config, seed=seed, wrapped=bool(wrapped))


def random_ids(count: int, length: int, *, seed: int = 5) -> Tensor:
    """[count, length] int64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB_SIZE, (count, length), generator=generator)
