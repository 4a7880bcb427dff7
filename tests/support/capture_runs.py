"""Texts for `gloss capture`, and its output as arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

TURNS = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It will rain."}]
TEXTS = (
    "The final token ends a clause about the river, and a verb should follow.",
    "x",
    "In 1987 the council met 42 times, which nobody had expected. " * 3,
)


def vectors(table: pa.Table) -> np.ndarray:
    """[n, d_model] float32."""
    column = table["activation_vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), column.type.list_size)
