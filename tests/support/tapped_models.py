"""Small transformers models for taps, and what a plain hook on a block sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gloss_engine import Captured
from support.checkpoints import ARCHITECTURES
from support.models_made import make_config, make_model

KINDS = (*ARCHITECTURES, "gemma3-wrapped")
VOCAB_SIZE = 300
NUM_LAYERS = 6


def tapped_model(kind: str, *, num_layers: int = NUM_LAYERS, attention: str = "sdpa") -> Any:
    """A model of one of KINDS in float32, with weights that vary everywhere."""
    arch = kind.removesuffix("-wrapped")
    config = make_config(arch, num_layers=num_layers, vocab_size=VOCAB_SIZE, tied=arch == "gemma3")
    model = make_model(arch, config, seed=5, wrapped=kind.endswith("-wrapped"))
    model.set_attn_implementation(attention)
    # Else generations end early, and Gemma's config has ids of its own.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def blocks_of(model: Any) -> nn.ModuleList:
    """The decoder blocks, by their names in these architectures."""
    base = model.model
    return (base.language_model if hasattr(base, "language_model") else base).layers


def drawn_ids(*shape: int, seed: int = 0) -> Tensor:
    """Random tokens, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, VOCAB_SIZE, shape, generator=generator)


def padded(texts: list[Tensor], side: str) -> dict[str, Tensor]:
    """Texts as a batch padded on one side."""
    width = max(len(text) for text in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        at = slice(0, len(text)) if side == "right" else slice(width - len(text), width)
        ids[row, at], mask[row, at] = text, 1
    return {"input_ids": ids, "attention_mask": mask}


def places_of(captured: Captured) -> list[tuple[int, int]]:
    """The sequence and the position of every row."""
    return list(zip(captured.sequences.tolist(), captured.positions.tolist(), strict=True))


class PlainHook:
    """Every output of a block, kept whole.

    Attributes:
        outputs: [num_sequences, num_tokens, d_model] of each pass.
    """

    def __init__(self, block: nn.Module) -> None:
        self.outputs: list[Tensor] = []
        self._handle = block.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self.outputs.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    def __enter__(self) -> PlainHook:
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.remove()


def num_hooks(model: nn.Module) -> int:
    """Hooks of every kind on all modules of a model."""
    return sum(
        len(hooks)
        for module in model.modules()
        for name, hooks in vars(module).items()
        if name.endswith("_hooks") and isinstance(hooks, dict)
    )
