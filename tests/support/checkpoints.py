"""Small random checkpoints in exactly the released layout, written by transformers itself.

Weights are drawn so that nothing is trivial: every norm weight and bias varies, logits spread by
units, greedy decoding moves through many tokens. One seed, one checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging

from support.tokenizers_made import AR_TEMPLATE, AV_TEMPLATE, FAMILIES, save_tokenizer

ARCHITECTURES = ("qwen2", "qwen3", "llama3", "gemma3")
LAYER_INDEX = 3
NUM_LAYERS = 6
INJECTION_SCALES = {"qwen2": 15.0, "qwen3": 12.0, "llama3": 10.0, "gemma3": 80.0}
_GEMMA_WINDOW = 8
_MODELS = {
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "llama3": LlamaForCausalLM,
    "gemma3": Gemma3ForCausalLM,
}


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
    **options: Any,
) -> Path:
    """Write an AV: a target's files and `nla_meta.yaml`.

    Args:
        directory: created.
        arch: one of ARCHITECTURES.
        layer_index: K.
        injection_scale: None: INJECTION_SCALES[arch].
        training_names: the sidecar of training output (actor/critic, a `critic` block).
        options: as of `write_target`.
    """
    write_target(directory, arch, **options)
    scale = INJECTION_SCALES[arch] if injection_scale is None else injection_scale
    write_sidecar(
        directory, arch, "av", layer_index, injection_scale=scale, training_names=training_names
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


def make_config(arch: str, *, num_layers: int, vocab_size: int, tied: bool) -> Any:
    """A small config of one architecture, with every switch that distinguishes it in use."""
    shared = {
        "vocab_size": vocab_size,
        "num_hidden_layers": num_layers,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
        "intermediate_size": 112,
    }
    if arch == "qwen2":
        return Qwen2Config(**shared, hidden_size=72, num_attention_heads=6, num_key_value_heads=2)
    if arch == "qwen3":
        return Qwen3Config(
            **shared, hidden_size=80, num_attention_heads=5, num_key_value_heads=1, head_dim=24
        )
    if arch == "llama3":
        # original_max_position_embeddings 32: of 8 frequencies one is kept, one blended, six cut.
        rope = {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
        return LlamaConfig(
            **shared,
            hidden_size=96,
            num_attention_heads=6,
            num_key_value_heads=3,
            rope_parameters=rope,
        )
    full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0}
    return Gemma3TextConfig(
        **shared,
        hidden_size=72,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=20,
        query_pre_attn_scalar=36,
        sliding_window=_GEMMA_WINDOW,
        layer_types=[
            "full_attention" if index % 3 == 2 else "sliding_attention"
            for index in range(num_layers)
        ],
        rope_parameters={
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    )


def make_model(arch: str, config: Any, *, seed: int, wrapped: bool = False) -> Any:
    """A transformers model of the config with weights that vary everywhere."""
    if wrapped:
        assert arch == "gemma3"
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        outer = Gemma3Config(
            text_config=config,
            vision_config=vision,
            tie_word_embeddings=config.tie_word_embeddings,
            eos_token_id=config.eos_token_id,
        )
        model = Gemma3ForConditionalGeneration(outer)
    else:
        model = _MODELS[arch](config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "vision" not in name and "projector" not in name:
                parameter.copy_(_draw(name, parameter.shape, arch, generator))
    return model.eval()


def write_sidecar(
    directory: Path,
    arch: str,
    role: str,
    layer_index: int,
    *,
    injection_scale: float | str | None = None,
    training_names: bool = False,
) -> None:
    """Write the `nla_meta.yaml` that belongs to the tokenizer already in the directory."""
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    char = FAMILIES[arch].marker_char
    turn = [{"role": "user", "content": AV_TEMPLATE.replace("{injection_char}", char)}]
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
        "prompt_templates": {names["av"]: AV_TEMPLATE, names["ar"]: AR_TEMPLATE},
    }
    if training_names:
        meta["critic"] = {"extraction_layer_index": layer_index}
    else:
        meta["extraction_layer_index"] = layer_index
    (directory / "nla_meta.yaml").write_text(yaml.safe_dump(meta, allow_unicode=True))


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
            edit_json(index, lambda loaded, dropped=dropped: _drop(loaded["weight_map"], dropped))


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
    first, second, third = mapped.pre_tokenize_str(char)[0][0]

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


def _drop(table: dict[str, Any], keys: set[str]) -> None:
    for key in keys:
        del table[key]


def _width(directory: Path) -> int:
    config = json.loads((directory / "config.json").read_text())
    return int(config.get("text_config", config)["hidden_size"])


def _draw(name: str, shape: torch.Size, arch: str, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    is_gemma = arch == "gemma3"
    if name.endswith("bias"):
        return 0.3 * noise
    if "norm" in name:
        # Sharper attention, and logits of a few units from Gemma's small embeddings.
        raised = 1.0 if "q_norm" in name else 0.0
        if is_gemma:
            raised += 2.0 if "layers" not in name or "post_" in name else 0.0
        return 0.2 * noise + raised + (0.0 if is_gemma else 1.0)
    if "embed_tokens" in name:
        return noise * (0.1 if is_gemma else 0.3)
    if "lm_head" in name:
        return noise * (1 if is_gemma else 3) / shape[1] ** 0.5
    # Blocks that outweigh the embeddings: else a tied head repeats the token it was given.
    gain = 2.0 if "o_proj" in name or "down_proj" in name else 1.6
    return noise * gain / shape[1] ** 0.5
