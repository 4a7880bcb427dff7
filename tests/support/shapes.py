"""Shapes that kernels are compiled at ahead of time."""

from __future__ import annotations

from dataclasses import replace

from gloss_engine.released import RELEASED_PAIRS

EMBEDDED = replace(
    RELEASED_PAIRS[0],
    name="embedded",
    d_model=128,
    num_heads=8,
    num_kv_heads=4,
    head_dim=16,
    intermediate_size=256,
    vocab_size=269,
)
"""The pair that ships with Gloss: the smallest head there is, and it runs on a GPU too."""

COMPILED_SHAPES = (*RELEASED_PAIRS, EMBEDDED)
