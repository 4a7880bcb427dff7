"""A model's weights as safetensors files of bounded size, with the index that names them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from gloss_training.errors import NotFiniteError

MAX_SHARD_BYTES: Final = 5_000_000_000
SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"


def save_weights(
    folder: Path,
    weights: Iterable[tuple[str, Tensor]],
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes weights into an existing folder; at most one file's are held at once.

    Args:
        folder: where `model.safetensors`, or the shards and their index, go.
        weights: names and tensors, on any device.
        dtype: they are cast to it; None: as they are.
        max_shard_bytes: of a file's tensors; a larger tensor gets a file of its own.

    Raises:
        NotFiniteError: a weight that is not finite.
        ValueError: one that is not once cast.
    """
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    total = size = 0

    def flush() -> None:
        save_file(pending, folder / f"{len(shards)}.part", metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()

    for name, weight in weights:
        stored = _checked(name, weight.detach(), dtype)
        if pending and size + stored.nbytes > max_shard_bytes:
            flush()
            size = 0
        pending[name] = stored
        size += stored.nbytes
        total += stored.nbytes
    flush()
    if len(shards) == 1:
        os.rename(folder / "0.part", folder / SINGLE_FILE)
        return
    weight_map = {}
    for index, names in enumerate(shards):
        file = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        os.rename(folder / f"{index}.part", folder / file)
        weight_map.update(dict.fromkeys(names, file))
    contents = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def _checked(name: str, weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The weight on the CPU in memory of its own, in `dtype`."""
    cast = weight.to(device="cpu", dtype=dtype or weight.dtype, copy=True).contiguous()
    if not torch.isfinite(cast).all():
        if torch.isfinite(weight).all():
            raise ValueError(
                f"{name}: got values that are not finite once cast, expected finite ones; choose "
                "another dtype"
            )
        raise NotFiniteError(
            f"{name}: got values that are not finite, expected finite ones: training has diverged; "
            "go back to a checkpoint, or begin the stage again with a lower learning rate"
        )
    return cast
