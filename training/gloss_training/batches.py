"""Batches: which rows a step sees, and rows of ids as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gloss_training.seeds import generator_for


def rows_of_step(num_rows: int, batch_size: int, step: int, seed: int, use: str) -> list[int]:
    """Rows of one step, in order: epoch after epoch, each a permutation of its own.

    A function of its arguments alone, so step `step` is the whole data cursor: a run that goes on
    sees the rows that it would have seen.
    """
    first = step * batch_size
    chosen: list[int] = []
    while len(chosen) < batch_size:
        epoch, start = divmod(first + len(chosen), num_rows)
        order = generator_for(seed, f"{use}-epoch-{epoch}").permutation(num_rows)
        wanted = batch_size - len(chosen)
        chosen.extend(int(row) for row in order[start : start + wanted])
    return chosen


def places_of(mask: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Where a mask on the CPU is True: for each of its dimensions int64 indices on `device`.

    A mask on the device itself would have the host wait until it knows how many there are.
    """
    return tuple(index.to(device) for index in mask.nonzero(as_tuple=True))


def pad_right(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """[rows, longest] int64, short rows filled with `value` on the right."""
    length = max(len(row) for row in rows)
    batch = np.full((len(rows), length), value, dtype=np.int64)
    for index, row in enumerate(rows):
        batch[index, : len(row)] = row
    return torch.from_numpy(batch)
