"""Writes a pair under training in the released layout: of either kind, sharded or not.

The weights come one at a time, adapters merged, so a model never stands in memory twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gloss_training.disk import writing
from gloss_training.model_files import causal_config, first_config
from gloss_training.pair import Pair
from gloss_training.reconstructor import VALUE_HEAD_FILE
from gloss_training.release import SIDECAR_FILE, Facts, plain_sampling, sidecar, write_sidecar
from gloss_training.sharding import Ranks
from gloss_training.weight_shards import save_weights
from gloss_training.whole_folders import whole_folder

_HEAD = "value_head."


def save_pair(
    pair: Pair,
    model: Any,
    tokenizer: Any,
    facts: Facts,
    folder: Path,
    *,
    dtype: torch.dtype,
    ranks: Ranks,
) -> None:
    """Writes `folder/av` and `folder/ar`; all ranks must call it, since weights are gathered.

    Args:
        pair: whose AV and AR are written.
        model: the model that they began with, for its configuration.
        tokenizer: its tokenizer.
        facts: what the sidecars state.
        folder: both stand there, or neither; what an interrupted run left is replaced.
        dtype: of the files' weights; the value head is float32.
        ranks: the first one writes.

    Raises:
        DiskError: it could not be written.
        ValueError: a weight that is not finite.
    """
    if not ranks.is_first:
        for weights in (pair.av_weights(), pair.ar_weights()):
            for _ in weights:
                pass
        return
    config = causal_config(model.config)
    shutil.rmtree(folder, ignore_errors=True)
    with (
        writing(str(folder), "The stage's newest checkpoint is whole."),
        whole_folder(folder) as at,
    ):
        for role in ("av", "ar"):
            (at / role).mkdir()
            tokenizer.save_pretrained(at / role)
            write_sidecar(at / role / SIDECAR_FILE, sidecar(role, facts, tokenizer))
        plain_sampling(model, tokenizer).save_pretrained(at / "av")
        _save_config(config, dtype, at / "av")
        save_weights(at / "av", pair.av_weights(), dtype=dtype)
        _save_config(first_config(config, facts.layer_index + 1), dtype, at / "ar")
        head: dict[str, Tensor] = {}
        save_weights(at / "ar", _without_head(pair.ar_weights(), head), dtype=dtype)
        save_file(head, at / "ar" / VALUE_HEAD_FILE, metadata={"format": "pt"})


def _without_head(
    weights: Iterator[tuple[str, Tensor]], head: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The AR's blocks; what belongs to its value head goes to `head`, on the CPU."""
    for name, weight in weights:
        if name.startswith(_HEAD):
            head[name.removeprefix(_HEAD)] = weight.detach().float().cpu().contiguous()
        else:
            yield name, weight


def _save_config(config: Any, dtype: torch.dtype, folder: Path) -> None:
    config.dtype = dtype
    config.save_pretrained(folder)
