"""Writes a target, and the sidecars of AV and AR; their weights are `pair.py`'s part."""

import math
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from transformers import GenerationConfig

from gloss_training.dataset.statistics import Statistics
from gloss_training.models.prompts import marked_prompt, stop_ids_of
from gloss_training.settings import PromptSettings
from gloss_training.storage.disk import writing_of_stage
from gloss_training.storage.whole_folders import whole_folder

SIDECAR_FILE: Final = "nla_meta.yaml"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a sidecar states beside the tokenizer's ids.

    Attributes:
        d_model: width of the activations.
        layer_index: K.
        min_position: where reading begins.
        statistics: of the training activations.
        prompt: templates and marker.
    """

    d_model: int
    layer_index: int
    min_position: int
    statistics: Statistics
    prompt: PromptSettings


def save_target(model: Any, tokenizer: Any, folder: Path) -> None:
    """A target's directory: model, tokenizer, plain sampling as generation defaults."""
    shutil.rmtree(folder, ignore_errors=True)
    with _writing(folder), whole_folder(folder) as at:
        model.generation_config = plain_sampling(model, tokenizer)
        model.save_pretrained(at)
        tokenizer.save_pretrained(at)


def sidecar(role: str, facts: Facts, tokenizer: Any) -> dict[str, Any]:
    """Contents of nla_meta.yaml, schema version 2, for role `av` or `ar`."""
    prompt = marked_prompt(tokenizer, facts.prompt)
    return {
        "schema_version": 2,
        "kind": "nla_model",
        "role": role,
        "d_model": facts.d_model,
        "extraction": {
            "injection_scale": facts.statistics.injection_scale,
            "mse_scale": math.sqrt(facts.d_model),
            "layer_index": facts.layer_index,
            "fve_baseline": facts.statistics.fve_baseline,
            "min_position": facts.min_position,
            "norm_median": facts.statistics.norm_median,
        },
        "tokens": {
            "injection_char": facts.prompt.injection_char,
            "injection_token_id": prompt.marker_id,
            "injection_left_neighbor_id": prompt.left_id,
            "injection_right_neighbor_id": prompt.right_id,
        },
        "prompt_templates": {"av": facts.prompt.av_template, "ar": facts.prompt.ar_template},
    }


def write_sidecar(path: Path, contents: dict[str, Any]) -> None:
    """A checkpoint's sidecar; that of a data set is `dataset/sidecar.py`'s."""
    text = yaml.safe_dump(contents, sort_keys=False, allow_unicode=True, width=1000)
    path.write_text(text, encoding="utf-8")


def plain_sampling(model: Any, tokenizer: Any) -> GenerationConfig:
    """What ended a turn still does; penalties and cut-offs that a target came with are gone."""
    stops = stop_ids_of(model) or (tokenizer.eos_token_id,)
    padding = tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stops[0] if len(stops) == 1 else list(stops),
        pad_token_id=tokenizer.eos_token_id if padding is None else padding,
    )


def _writing(folder: Path) -> AbstractContextManager[None]:
    return writing_of_stage(str(folder), "The stage's newest checkpoint is whole.")
