"""Random streams: one seed and a name per use give independent, repeatable generators."""

import hashlib

import numpy as np
import torch


def stream_seed(seed: int, use: str) -> int:
    """A 63-bit seed for one use of a run's seed."""
    digest = hashlib.sha256(f"{seed}|{use}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator_for(seed: int, use: str) -> np.random.Generator:
    """A numpy generator for one use."""
    return np.random.default_rng(stream_seed(seed, use))


def torch_seed(seed: int, use: str) -> None:
    """Seeds torch's own generator (initial weights, sampling) for one use."""
    torch.manual_seed(stream_seed(seed, use))
