"""A `LoraPair`'s adapters on the disk: one folder in peft's format for the AV, one for the AR.

The AR's also holds its value head. So a stage goes on with what the one before it has trained, and
peft loads either on the base.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from gloss_engine.weight_files import read_weights
from gloss_training.models.lora_pair import AR, LoraPair
from gloss_training.models.reconstructor import VALUE_HEAD_FILE
from gloss_training.models.sharding import Ranks, whole
from gloss_training.release.adapter_files import load_adapter, save_adapter
from gloss_training.storage.disk import writing_of_stage
from gloss_training.storage.whole_folders import whole_folder

FOLDER: Final = "adapters"
"""Beside a stage's `av` and `ar`."""


def save_role(pair: LoraPair, role: str, folder: Path, *, base: str, ranks: Ranks) -> None:
    """Writes the adapter of role `av` or `ar`; all ranks must call it.

    Args:
        pair: whose adapter it is.
        role: also the adapter's name.
        folder: whole or not there; what an interrupted stage left is replaced.
        base: path or name of the base model.
        ranks: the first one writes.
    """
    tensors = role_tensors(pair, role)
    if not ranks.is_first:
        return
    shutil.rmtree(folder, ignore_errors=True)
    kept = "The stage's newest checkpoint is whole."
    with writing_of_stage(str(folder), kept), whole_folder(folder) as at:
        write_role(pair, tensors, at, base)


def role_tensors(pair: LoraPair, role: str) -> dict[str, Tensor]:
    """What is trained for a role, gathered (all ranks must ask); `value_head.weight` of an AR."""
    return {name: whole(w.detach()).cpu().contiguous() for name, w in pair.named(role).items()}


def write_role(pair: LoraPair, tensors: Mapping[str, Tensor], folder: Path, base: str) -> None:
    """Writes what `role_tensors` gave into an existing folder."""
    adapter = dict(tensors)
    head = adapter.pop("value_head.weight", None)
    alpha, text_path = pair.settings.alpha, pair.text_path
    save_adapter(folder, adapter, alpha=alpha, text_path=text_path, base=base)
    if head is not None:
        save_file({"weight": head}, folder / VALUE_HEAD_FILE, metadata={"format": "pt"})


def load_role(pair: LoraPair, role: str, folder: Path) -> None:
    """Takes back what `save_role` wrote, to be trained on. Before the pair is sharded."""
    num_blocks = pair.adapters.num_blocks[role]
    load_adapter(folder, pair.adapters, role, num_blocks=num_blocks)
    if role == AR:
        with torch.no_grad():
            pair.value_head.weight.copy_(read_weights(folder / VALUE_HEAD_FILE)["weight"])
