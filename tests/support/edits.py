"""Changing a written checkpoint in place: how tests break one on purpose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers


def edit_sidecar(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change `nla_meta.yaml` in place."""
    path = directory / "nla_meta.yaml"
    meta = yaml.safe_load(path.read_text())
    edit(meta)
    path.write_text(yaml.safe_dump(meta, allow_unicode=True))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    loaded = json.loads(path.read_text())
    edit(loaded)
    path.write_text(json.dumps(loaded, ensure_ascii=False))


def edit_weights(directory: Path, edit: Callable[[str, torch.Tensor], torch.Tensor | None]) -> None:
    """Replace (or, on None, drop) every tensor of the model's safetensors files in place."""
    for path in sorted(directory.glob("model*.safetensors")):
        edited = {name: edit(name, tensor) for name, tensor in load_file(path).items()}
        kept = {name: tensor for name, tensor in edited.items() if tensor is not None}
        save_file(kept, path, metadata={"format": "pt"})
        index = directory / "model.safetensors.index.json"
        if index.exists():
            dropped = edited.keys() - kept.keys()
            edit_json(index, partial(_forget, names=dropped))


def add_weights(directory: Path, added: dict[str, torch.Tensor]) -> None:
    """Put further tensors into the first of the model's safetensors files."""
    path = min(directory.glob("model*.safetensors"))
    save_file({**load_file(path), **added}, path, metadata={"format": "pt"})
    index = directory / "model.safetensors.index.json"
    if index.exists():
        names = dict.fromkeys(added, path.name)
        edit_json(index, lambda loaded: loaded["weight_map"].update(names))


def add_nfc_marker(directory: Path) -> tuple[str, int]:
    """Give a byte-level tokenizer.json the token U+F900, which Unicode's NFC turns into U+8C48.

    Returns:
        The character and its id, as tokenizer.json alone would encode it.
    """
    char, token_id = "\uf900", 0
    mapped = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    first, second, third = list(mapped.pre_tokenize_str(char)[0][0])

    def edit(loaded: dict[str, Any]) -> None:
        nonlocal token_id
        model = loaded["model"]
        token_id = 2 + max(
            *model["vocab"].values(), *(token["id"] for token in loaded["added_tokens"])
        )
        model["vocab"].update({first + second: token_id - 1, first + second + third: token_id})
        model["merges"] += [[first, second], [first + second, third]]
        loaded["normalizer"] = None

    edit_json(directory / "tokenizer.json", edit)
    return char, token_id


def _forget(index: dict[str, Any], names: set[str]) -> None:
    for name in names:
        del index["weight_map"][name]


def long_winded(model: Path, directory: Path) -> Path:
    """A copy of a random AV or target with room for thousands of tokens; greedily it hardly ever
    ends."""
    shutil.copytree(model, directory)
    edit_json(directory / "config.json", lambda c: c.update(max_position_embeddings=40_000))
    return directory
