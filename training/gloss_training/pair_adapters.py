"""A `LoraPair`'s adapters on the disk: one folder in peft's format for the AV, one for the AR.

The AR's also holds its value head. So a stage goes on with what the one before it has trained, and
peft loads either on the base.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file

from gloss_training.adapter_files import adapter_tensors, load_adapter, save_adapter
from gloss_training.lora_pair import AR, LoraPair
from gloss_training.reconstructor import VALUE_HEAD_FILE
from gloss_training.sharding import Ranks, whole
from gloss_training.whole_folders import whole_folder

FOLDER: Final = "adapters"
"""Beside a stage's `av` and `ar`."""


def save_role(pair: LoraPair, role: str, folder: Path, *, base: str, ranks: Ranks) -> None:
    """Writes the adapter of role `av` or `ar` as a new folder; all ranks must call it.

    Args:
        pair: whose adapter it is.
        role: also the adapter's name.
        folder: made.
        base: path or name of the base model.
        ranks: the first one writes.
    """
    tensors = adapter_tensors(pair.adapters, role)
    head = whole(pair.value_head.weight.detach()).cpu().contiguous()
    if not ranks.is_first:
        return
    with whole_folder(folder) as at:
        save_adapter(
            at,
            tensors,
            alpha=pair.settings.alpha,
            text_path=pair.text_path,
            base=base,
        )
        if role == AR:
            save_file({"weight": head}, at / VALUE_HEAD_FILE, metadata={"format": "pt"})


def load_role(pair: LoraPair, role: str, folder: Path) -> None:
    """Takes back what `save_role` wrote, to be trained on. Before the pair is sharded."""
    num_blocks = pair.adapters.num_blocks[role]
    load_adapter(folder, pair.adapters, role, num_blocks=num_blocks)
    if role == AR:
        with torch.no_grad():
            pair.value_head.weight.copy_(load_file(folder / VALUE_HEAD_FILE)["weight"])
