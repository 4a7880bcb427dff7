"""Writes a pair under training in the released layout: of either kind, sharded or not.

The weights come one at a time, adapters merged, so a model never stands in memory twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from gloss_training.models.full_pair import FullPair
from gloss_training.models.lora_pair import AR, AV, LoraPair
from gloss_training.models.model_files import causal_config, first_config
from gloss_training.models.reconstructor import VALUE_HEAD_FILE
from gloss_training.models.sharding import Ranks
from gloss_training.release.pair_adapters import FOLDER, role_tensors, write_role
from gloss_training.release.sidecars import (
    SIDECAR_FILE,
    Facts,
    plain_sampling,
    sidecar,
    write_sidecar,
)
from gloss_training.release.weight_shards import save_weights
from gloss_training.storage.disk import writing_of_stage
from gloss_training.storage.whole_folders import whole_folder

_HEAD: Final = "value_head."
_KEPT: Final = "The stage's newest checkpoint is whole."


def save_pair(
    pair: FullPair | LoraPair,
    tokenizer: Any,
    facts: Facts,
    folder: Path,
    *,
    base: str,
    dtype: torch.dtype,
    ranks: Ranks,
) -> None:
    """Writes `folder/av` and `folder/ar`, both or neither; beside them a `LoraPair`'s adapters.

    All ranks must call it; for the rest see `save_part`.

    Args:
        base: path or name of the model that adapters belong to.
    """
    released = {AV: pair.av_weights(), AR: pair.ar_weights()}
    adapters = {}
    if isinstance(pair, LoraPair):
        adapters = {role: role_tensors(pair, role) for role in released}
    if not ranks.is_first:
        for weights in released.values():
            _take_part(weights)
        return
    shutil.rmtree(folder, ignore_errors=True)
    with writing_of_stage(str(folder), _KEPT), whole_folder(folder) as at:
        for role, weights in released.items():
            (at / role).mkdir()
            _write_part(role, weights, pair.model, tokenizer, facts, at / role, dtype)
        if isinstance(pair, LoraPair):
            for role, tensors in adapters.items():
                (at / FOLDER / role).mkdir(parents=True)
                write_role(pair, tensors, at / FOLDER / role, base)


def save_part(
    role: str,
    weights: Iterator[tuple[str, Tensor]],
    model: Any,
    tokenizer: Any,
    facts: Facts,
    folder: Path,
    *,
    dtype: torch.dtype,
    ranks: Ranks,
) -> None:
    """Writes an AV or an AR; all ranks must call it, since weights are gathered.

    Args:
        role: `av` or `ar`.
        weights: `Pair.av_weights` or `Pair.ar_weights`.
        model: the model that it began with, for its configuration.
        tokenizer: its tokenizer.
        facts: what the sidecar states.
        folder: whole or not there; what an interrupted stage left is replaced.
        dtype: of the file's weights; an AR's value head is float32.
        ranks: the first one writes.

    Raises:
        DiskError: it could not be written.
        ValueError: a weight that is not finite.
    """
    if not ranks.is_first:
        _take_part(weights)
        return
    shutil.rmtree(folder, ignore_errors=True)
    with writing_of_stage(str(folder), _KEPT), whole_folder(folder) as at:
        _write_part(role, weights, model, tokenizer, facts, at, dtype)


def _take_part(weights: Iterator[tuple[str, Tensor]]) -> None:
    """Gathers with the first rank what only that one writes."""
    for _ in weights:
        pass


def _write_part(
    role: str,
    weights: Iterator[tuple[str, Tensor]],
    model: Any,
    tokenizer: Any,
    facts: Facts,
    folder: Path,
    dtype: torch.dtype,
) -> None:
    config = causal_config(model.config)
    tokenizer.save_pretrained(folder)
    write_sidecar(folder / SIDECAR_FILE, sidecar(role, facts, tokenizer))
    if role == AV:
        plain_sampling(model, tokenizer).save_pretrained(folder)
        save_weights(folder, weights, dtype=dtype)
    else:
        config = first_config(config, facts.layer_index + 1)
        head: dict[str, Tensor] = {}
        save_weights(folder, _without_head(weights, head), dtype=dtype)
        save_file(head, folder / VALUE_HEAD_FILE, metadata={"format": "pt"})
    config.dtype = dtype
    config.save_pretrained(folder)


def _without_head(
    weights: Iterator[tuple[str, Tensor]], head: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The AR's blocks; what belongs to its value head goes to `head`, on the CPU."""
    for name, weight in weights:
        if name.startswith(_HEAD):
            head[name.removeprefix(_HEAD)] = weight.detach().float().cpu().contiguous()
        else:
            yield name, weight
