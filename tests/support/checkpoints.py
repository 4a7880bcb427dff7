"""Small random checkpoints in exactly the released layout, written by transformers itself.

One seed, one checkpoint. The weights come from `models_made.py`, the tokenizers from
`tokenizers_made.py`; `edits.py` breaks what was written here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from transformers import AutoTokenizer, GenerationConfig
from transformers.utils import logging

from support.edits import add_weights, edit_weights
from support.models_made import make_config, make_model
from support.tokenizers_made import AR_TEMPLATE, AV_TEMPLATE, FAMILIES, save_tokenizer

ARCHITECTURES = ("qwen2", "qwen3", "llama3", "gemma3")
LAYER_INDEX = 3
NUM_LAYERS = 6
INJECTION_SCALES = {"qwen2": 15.0, "qwen3": 12.0, "llama3": 10.0, "gemma3": 80.0}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An AV directory and the AR directory that belongs to it."""

    av: Path
    ar: Path


def write_target(
    directory: Path,
    arch: str,
    *,
    seed: int = 0,
    num_layers: int = NUM_LAYERS,
    dtype: torch.dtype = torch.float32,
    tied: bool | None = None,
    wrapped: bool = False,
    sharded: bool = False,
) -> Path:
    """Write a plain model with its tokenizer: a target, or an AV before it has a sidecar.

    Args:
        directory: created.
        arch: one of ARCHITECTURES.
        seed: draws the weights.
        num_layers: blocks.
        dtype: of the stored weights.
        tied: whether the head reads the embedding table; None: Gemma yes, others no.
        wrapped: Gemma inside Gemma3ForConditionalGeneration, with a small vision tower.
        sharded: several files with an index.
    """
    directory.mkdir(parents=True)
    family = FAMILIES[arch]
    tied = arch == "gemma3" if tied is None else tied
    config = make_config(arch, num_layers=num_layers, vocab_size=1000, tied=tied)
    config.save_pretrained(directory)
    tokenizer = save_tokenizer(arch, directory)
    eos = sorted({tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(family.end_of_turn)})
    config = make_config(arch, num_layers=num_layers, vocab_size=len(tokenizer), tied=tied)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    model = make_model(arch, config, seed=seed, wrapped=wrapped).to(dtype)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=eos
    )
    logging.disable_progress_bar()
    model.save_pretrained(directory, max_shard_size="60KB" if sharded else "1GB")
    return directory


def write_av(
    directory: Path,
    arch: str,
    *,
    layer_index: int = LAYER_INDEX,
    injection_scale: float | str | None = None,
    training_names: bool = False,
    template: str = AV_TEMPLATE,
    **options: Any,
) -> Path:
    """Write an AV: a target's files and `nla_meta.yaml`.

    Args:
        directory: created.
        arch: one of ARCHITECTURES.
        layer_index: K.
        injection_scale: None: INJECTION_SCALES[arch].
        training_names: the sidecar of training output (actor/critic, a `critic` block).
        template: its prompt, with the place of the activation.
        options: as of `write_target`.
    """
    write_target(directory, arch, **options)
    scale = INJECTION_SCALES[arch] if injection_scale is None else injection_scale
    write_sidecar(
        *(directory, arch, "av", layer_index),
        injection_scale=scale,
        training_names=training_names,
        template=template,
    )
    return directory


def write_ar(
    directory: Path,
    arch: str,
    *,
    seed: int = 1,
    layer_index: int = LAYER_INDEX,
    bias: bool = False,
    dummies: bool = False,
    training_names: bool = False,
    **options: Any,
) -> Path:
    """Write an AR: K + 1 blocks, no head, no final norm, a value head and `nla_meta.yaml`.

    Args:
        directory: created.
        arch: one of ARCHITECTURES.
        seed: draws the weights and the value head.
        layer_index: K.
        bias: give the value head a bias.
        dummies: put a dummy `lm_head` [d, d] and a final norm of another width into the file.
        training_names: as of `write_av`.
        options: as of `write_target`.
    """
    write_target(directory, arch, seed=seed, num_layers=layer_index + 1, **options)
    d_model = _width(directory)
    unused = ("lm_head.weight", "model.norm.weight")
    edit_weights(directory, lambda name, tensor: None if name.endswith(unused) else tensor)
    if dummies:
        add_weights(
            directory,
            {"lm_head.weight": torch.zeros(d_model, d_model), "model.norm.weight": torch.ones(3)},
        )
    generator = torch.Generator().manual_seed(seed + 1000)
    noise = torch.randn(d_model, d_model, generator=generator) / d_model**0.5
    head = {"weight": torch.eye(d_model) + 0.5 * noise}
    if bias:
        head["bias"] = 0.3 * torch.randn(d_model, generator=generator)
    save_file(head, directory / "value_head.safetensors")
    write_sidecar(directory, arch, "ar", layer_index, training_names=training_names)
    return directory


def write_pair(directory: Path, arch: str, *, seed: int = 0, **options: Any) -> Pair:
    """Write `directory/av` and `directory/ar`; options as of `write_target` go to both."""
    av = write_av(directory / "av", arch, seed=seed, **options)
    return Pair(av=av, ar=write_ar(directory / "ar", arch, seed=seed + 1, **options))


def write_sidecar(
    directory: Path,
    arch: str,
    role: str,
    layer_index: int,
    *,
    injection_scale: float | str | None = None,
    training_names: bool = False,
    template: str = AV_TEMPLATE,
) -> None:
    """Write the `nla_meta.yaml` that belongs to the tokenizer already in the directory."""
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    char = FAMILIES[arch].marker_char
    turn = [{"role": "user", "content": template.replace("{injection_char}", char)}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(text, add_special_tokens=False)
    (marker_id,) = tokenizer.encode(char, add_special_tokens=False)[-1:]
    position = ids.index(marker_id)
    tail = AR_TEMPLATE.split("{explanation}")[1]
    names = {"av": "actor", "ar": "critic"} if training_names else {"av": "av", "ar": "ar"}
    meta: dict[str, Any] = {
        "kind": "nla_model",
        "schema_version": 2,
        "role": names[role],
        "stage": "rl",
        "d_model": _width(directory),
        "extraction": {"injection_scale": injection_scale, "mse_scale": _width(directory) ** 0.5},
        "tokens": {
            "injection_char": char,
            "injection_token_id": marker_id,
            "injection_left_neighbor_id": ids[position - 1],
            "injection_right_neighbor_id": ids[position + 1],
            # Without the tail's first token, which may merge with what stands before it.
            "critic_suffix_ids": tokenizer.encode(tail, add_special_tokens=False)[1:],
        },
        "prompt_templates": {names["av"]: template, names["ar"]: AR_TEMPLATE},
    }
    if training_names:
        meta["critic"] = {"extraction_layer_index": layer_index}
    else:
        meta["extraction_layer_index"] = layer_index
    (directory / "nla_meta.yaml").write_text(yaml.safe_dump(meta, allow_unicode=True))


def _width(directory: Path) -> int:
    config = json.loads((directory / "config.json").read_text())
    return int(config.get("text_config", config)["hidden_size"])
