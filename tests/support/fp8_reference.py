"""transformers with the linear layers of its blocks in fp8, the slow and plain way.

Weights are replaced by what rounding leaves of them, one scale an output channel, and what goes
into a layer is rounded on its way in, one scale a token. All arithmetic is float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gloss_kernels.fp8 import quantize_rows
from support.reference import text_model


def quantize_model(model: Any) -> Any:
    """Round every linear layer of the model's blocks, in place; the head stays as it is."""
    for module in text_model(model).layers.modules():
        if isinstance(module, torch.nn.Linear):
            with torch.no_grad():
                module.weight.copy_(quantize_rows(module.weight).dequantised())
            module.register_forward_pre_hook(_round_input)
    return model


def _round_input(module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (quantize_rows(args[0]).dequantised(), *args[1:])


def row_errors(got: Tensor, expected: Tensor) -> Tensor:
    """[n] each row's differences, as a share of the row's deviation from its mean (both norms):
    logits mean the same with a constant added to all of a row."""
    got, expected = (
        rows - rows.mean(-1, keepdim=True) for rows in (got.double(), expected.double())
    )
    return (got - expected).norm(dim=-1) / expected.norm(dim=-1)
