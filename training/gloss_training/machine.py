"""Where a run computes, and how repeatably."""

from __future__ import annotations

import gc

import torch

from gloss_training.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prepare(device: str, num_threads: int) -> torch.device:
    """The device of a configuration; sets threads, and on a CPU has torch repeat itself to the bit.

    Raises:
        ConfigError: a GPU was asked for that is not there.
    """
    torch.set_num_threads(num_threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(
            f"device: got {device!r} without a GPU, expected cpu or auto; give --set device=cpu"
        )
    torch.use_deterministic_algorithms(device == "cpu")
    if device == "cpu":
        return torch.device(device)
    index, count = torch.device(device).index or 0, torch.cuda.device_count()
    if index >= count:
        raise ConfigError(
            f"device: got {device!r} with {count} GPUs, expected at most cuda:{count - 1}"
        )
    return torch.device("cuda", index)


def let_go() -> None:
    """Gives back the memory of models that nothing uses any more.

    They hang in circles, as a block and how it is run, which Python breaks when it has made enough
    objects, and not when a device is full.
    """
    gc.collect()
