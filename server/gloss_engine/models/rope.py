"""Rotary tables: cosines and sines of every position a model may be asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from gloss_engine.models.spec import RopeSpec


def cos_sin_table(rope: RopeSpec, num_positions: int, device: torch.device) -> Tensor:
    """[num_positions, 2, head_dim] float32: cosines, then sines, negative in the first half.

    That is what `qkv_rope_store` multiplies with. Angles are float32 products, as in the reference
    implementations, so that tables agree with theirs to the last bit.
    """
    inv_freq = torch.tensor(rope.inv_freq, dtype=torch.float32)
    angles = torch.arange(num_positions, dtype=torch.float32).unsqueeze(1) * inv_freq
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), dim=1).to(device)
