"""Adapters in peft's format: `adapter_config.json` and `adapter_model.safetensors`.

peft itself is not needed. What it can write and `models/lora.py` does not compute (rslora, dora,
biases, ranks that differ by layer) is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from gloss_engine.weight_files import read_weights
from gloss_training.models.lora import LINEAR_LAYERS, Adapters
from gloss_training.models.sharding import whole

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
_START: Final = "base_model.model."
_KEY: Final = re.compile(
    r"base_model\.model\.(?P<text>.+\.)(?P<name>layers\.\d+\..+\.lora_[AB]\.weight)"
)
_PLAIN: Final = {
    "peft_type": "LORA",
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
}
"""What other values of peft's settings would mean a sum that `models/lora.py` does not compute."""


def adapter_tensors(adapters: Adapters, name: str) -> dict[str, Tensor]:
    """An adapter's tensors on the CPU, gathered where they are sharded (all ranks must ask)."""
    parameters = adapters.tensors(name).items()
    return {key: whole(value.detach()).cpu().contiguous() for key, value in parameters}


def save_adapter(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    alpha: float,
    text_path: str,
    base: str,
) -> None:
    """Writes one adapter into an existing folder, so that peft loads it on its base.

    Args:
        folder: where the two files go.
        tensors: of `adapter_tensors`.
        alpha: as it was trained with.
        text_path: where the base model has its text part: `model`, or `model.language_model` of a
            wrapped one.
        base: path or name of the base model.
    """
    layers = sorted({int(key.split(".")[1]) for key in tensors})
    modules = {key.split(".")[-3] for key in tensors}
    first = tensors[next(iter(tensors))]
    config = {
        **_PLAIN,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": first.shape[0],
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        # A pattern, since a wrapped model's vision tower has layers of the same names.
        "target_modules": rf"{re.escape(text_path)}\.layers\.({'|'.join(map(str, layers))})\."
        rf"\w+\.({'|'.join(n for n in LINEAR_LAYERS if n in modules)})",
        "inference_mode": True,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    named = {f"{_START}{text_path}.{key}": value for key, value in tensors.items()}
    save_file(named, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_adapter(folder: Path, adapters: Adapters, name: str, *, num_blocks: int) -> None:
    """Reads an adapter that `save_adapter` or peft wrote as adapter `name`, to be trained on.

    Args:
        folder: holds the two files.
        adapters: of the base it was trained on.
        name: replaced where it exists.
        num_blocks: how many blocks of the base the adapter may change.

    Raises:
        ValueError: settings that this adapter's sum does not have, or tensors of another base.
    """
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, plain in _PLAIN.items():
        got = config.get(key, plain)
        if got != plain and (got or plain):
            raise ValueError(
                f"{path}: {key}: got {got!r}, expected {plain!r}; merge this adapter into its base "
                "with peft, and name that as the base"
            )
    stored = _stored(folder / WEIGHTS_FILE)
    adapters.remove(name)
    adapters.add(name, rank=config["r"], alpha=config["lora_alpha"], num_blocks=num_blocks, seed=0)
    parameters = adapters.tensors(name)
    unknown = sorted(set(stored) - set(parameters))
    if unknown:
        raise ValueError(
            f"{folder / WEIGHTS_FILE}: got {unknown[0]} and {len(unknown) - 1} more, which this "
            "base has no adapter for; expected layers of lora.target_modules in its first "
            f"{num_blocks} blocks"
        )
    _fill(parameters, stored, folder / WEIGHTS_FILE)


@torch.no_grad()
def _fill(parameters: Mapping[str, Any], stored: Mapping[str, Tensor], path: Path) -> None:
    """Layers that the file leaves out keep B at zero: they are the base's."""
    for key, value in stored.items():
        parameter = parameters[key]
        if parameter.shape != value.shape:
            raise ValueError(
                f"{path}: {key}: got {list(value.shape)}, expected {list(parameter.shape)}; this "
                "adapter belongs to another base"
            )
        parameter.copy_(value)


def _stored(path: Path) -> dict[str, Tensor]:
    """A file's tensors by the names that `Adapters.tensors` has."""
    found = {}
    for key, value in read_weights(path).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(
                f"{path}: got {key}, expected {_START}...layers.N....lora_A.weight; only linear "
                "layers of the blocks have adapters"
            )
        found[match["name"]] = value
    return found
