"""The safetensors files of a model directory: which they are, and reading them with care.

Pickle-only directories, missing shards and damaged files are refused here. What the tensors are
for is `checkpoint.py`'s business.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gloss_engine.errors import CheckpointError

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_FETCH_AGAIN = "Take the file from the release again; the copy is damaged or was cut off."
_SAMPLED_BLOCKS, _BLOCK_BYTES = 64, 4096


def weight_files(directory: Path) -> tuple[Path, ...]:
    """The model's safetensors files: `model.safetensors`, else the shards its index names.

    Raises:
        CheckpointError: none of them there (only pickles, only an adapter, nothing), a broken
            index, or an index that names a missing shard.
    """
    if (directory / SINGLE_NAME).is_file():
        return (directory / SINGLE_NAME,)
    index = directory / INDEX_NAME
    if not index.is_file():
        raise _no_weights(directory)
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            str(index),
            got=f"{type(error).__name__}: {error}",
            expected="a JSON object whose weight_map names a shard for every tensor",
            fix=_FETCH_AGAIN,
        ) from error
    missing = [name for name in names if not _is_shard(directory, name)]
    if missing or not names:
        raise CheckpointError(
            str(index),
            got=f"missing shards {missing[:4]}" if names else "an empty weight_map",
            expected=f"every shard beside the index ({len(names)} of them)",
            fix="Copy the missing files from the release.",
        )
    return tuple(directory / name for name in names)


@contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """A `safe_open` handle on CPU whose failures are CheckpointErrors, also while reading.

    Raises:
        CheckpointError: the file is truncated, corrupt or unreadable.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            str(path),
            got=f"{type(error).__name__}: {error}",
            expected="a complete safetensors file",
            fix=_FETCH_AGAIN,
        ) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors by name, on the CPU in their stored types.

    Raises:
        CheckpointError: the file is truncated, corrupt or unreadable.
    """
    with open_safetensors(path) as handle:
        names = list(handle.keys())
        return {name: handle.get_tensor(name) for name in names}


def read_tensor(handle: Any, path: Path, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One tensor, checked; memory-mapped, so nothing is held beyond it.

    Args:
        handle: from `open_safetensors`.
        path: the handle's file, for messages.
        name: the tensor's name in the file.
        shape: the shape it must have.

    Returns:
        The tensor on CPU in its stored dtype, every value finite.

    Raises:
        CheckpointError: another shape, a dtype that is no plain float, NaN or Inf.
    """
    stored = handle.get_slice(name)
    if tuple(stored.get_shape()) != shape:
        raise CheckpointError(
            f"{path}: {name}",
            got=f"shape {list(stored.get_shape())}",
            expected=list(shape),
            fix="config.json and the weights belong to different models, or the head is another's.",
        )
    tensor: torch.Tensor = handle.get_tensor(name)
    if tensor.dtype not in _FLOAT_DTYPES:
        raise CheckpointError(
            f"{path}: {name}",
            got=str(tensor.dtype),
            expected="float16, bfloat16 or float32",
            fix="Quantised weights are not read; use the checkpoint they were made from.",
        )
    if not torch.isfinite(torch.tensor(largest_magnitude(tensor))):
        raise CheckpointError(
            f"{path}: {name}",
            got="NaN or Inf",
            expected="finite weights",
            fix="The checkpoint was saved broken (sharded saves have done this); save it again.",
        )
    return tensor


def largest_magnitude(tensor: torch.Tensor) -> float:
    """The largest absolute value; NaN if any value is. One pass and no temporary copy."""
    if tensor.numel() == 0:
        return 0.0
    low, high = torch.aminmax(tensor)
    return float(torch.maximum(low.abs(), high.abs()))


def hash_file(digest: Any, path: Path) -> None:
    """Feed a safetensors file's size, header and 64 evenly spread 4 KiB blocks into `digest`,
    the first and the last among them.

    The blocks tell apart two training steps of one model, whose headers are equal, at the price
    of 256 KiB; hashing 14 GB whole would take a minute.

    Raises:
        CheckpointError: the file is too short to be a safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or header_bytes > size - 8:
            raise CheckpointError(
                str(path), got=f"{size} bytes", expected="a safetensors file", fix=_FETCH_AGAIN
            )
        digest.update(hashlib.sha256(file.read(header_bytes)).digest())
        start = 8 + header_bytes
        last = max(size - _BLOCK_BYTES, start)
        digest.update(f"{size} ".encode())
        for block in range(_SAMPLED_BLOCKS):
            file.seek(start + (last - start) * block // (_SAMPLED_BLOCKS - 1), os.SEEK_SET)
            digest.update(file.read(_BLOCK_BYTES))


def _is_shard(directory: Path, name: object) -> bool:
    """A plain file name in the directory: an index must not lead elsewhere."""
    return isinstance(name, str) and Path(name).name == name and (directory / name).is_file()


def _no_weights(directory: Path) -> CheckpointError:
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    got, fix = "no weights", "Name a Hugging Face model directory."
    if "adapter_model.safetensors" in names:
        got, fix = "an adapter alone", "Merge the adapter into its base model and save that."
    elif any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        got = "pickled weights only (.bin, .pt)"
        fix = "Loading a pickle can run code; convert it with save_pretrained(safe_serialization)."
    return CheckpointError(
        str(directory), got=got, expected=f"{SINGLE_NAME} or {INDEX_NAME} with its shards", fix=fix
    )
