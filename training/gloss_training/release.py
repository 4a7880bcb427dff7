"""Writes target, AV and AR in the released checkpoint layout, sidecars included."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from gloss_training.config import TinyConfig
from gloss_training.reconstructor import Reconstructor, save_reconstructor
from gloss_training.scoring import strict_baseline
from gloss_training.tokenizer import AR_TEMPLATE, AV_TEMPLATE, MARKER, marked_prompt

SIDECAR_FILE: Final = "nla_meta.yaml"


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Figures of the training activations and the target that every later stage needs."""

    injection_scale: float
    fve_baseline: float
    norm_median: float


def measure(config: TinyConfig, activations: torch.Tensor) -> Statistics:
    """Statistics of raw training activations [n, d].

    The injected norm is a multiple of the usual one, so that the AV, which starts as the target,
    meets a residual stream of a length it knows.
    """
    norm_median = float(activations.norm(dim=-1).median())
    return Statistics(
        injection_scale=config.injection_factor * norm_median,
        fve_baseline=strict_baseline(activations),
        norm_median=norm_median,
    )


def sidecar(
    role: str, config: TinyConfig, statistics: Statistics, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """Contents of nla_meta.yaml, schema version 2, for role `av` or `ar`."""
    prompt = marked_prompt(tokenizer)
    return {
        "schema_version": 2,
        "kind": "nla_model",
        "role": role,
        "d_model": config.model.hidden_size,
        "extraction": {
            "injection_scale": statistics.injection_scale,
            "mse_scale": math.sqrt(config.model.hidden_size),
            "layer_index": config.model.layer_index,
            "fve_baseline": statistics.fve_baseline,
            "min_position": config.data.min_position,
            "norm_median": statistics.norm_median,
        },
        "tokens": {
            "injection_char": MARKER,
            "injection_token_id": prompt.marker_id,
            "injection_left_neighbor_id": prompt.left_id,
            "injection_right_neighbor_id": prompt.right_id,
        },
        "prompt_templates": {"av": AV_TEMPLATE, "ar": AR_TEMPLATE},
    }


def dataset_sidecar(config: TinyConfig) -> dict[str, Any]:
    """Contents of the sidecar beside a parquet file of activations."""
    return {
        "schema_version": 2,
        "kind": "nla_dataset",
        "extraction": {
            "d_model": config.model.hidden_size,
            "layer_index": config.model.layer_index,
            "min_position": config.data.min_position,
        },
    }


def save_language_model(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """A target or AV directory: model, tokenizer, plain sampling as generation defaults."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_ar(reconstructor: Reconstructor, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """An AR directory."""
    folder.mkdir(parents=True, exist_ok=True)
    save_reconstructor(reconstructor, folder)
    tokenizer.save_pretrained(folder)


def write_sidecar(path: Path, contents: dict[str, Any]) -> None:
    """A sidecar file: `nla_meta.yaml` in a checkpoint, `<file>.nla_meta.yaml` beside a parquet."""
    text = yaml.safe_dump(contents, sort_keys=False, allow_unicode=True, width=1000)
    path.write_text(text, encoding="utf-8")
