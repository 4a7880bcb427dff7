"""The shipped pair under RL, with rollouts from the engine in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from transformers import AutoTokenizer

from gloss_server.embedded import embedded_pair
from gloss_training.models.decoder import Decoder
from gloss_training.models.full_pair import FullPair
from gloss_training.models.model_files import load_language_model
from gloss_training.models.prompts import marked_prompt
from gloss_training.models.reconstructor import encode_explanations, load_reconstructor
from gloss_training.rl.sampler import Sampler
from gloss_training.rl.settings import RlSettings
from gloss_training.rl.task import RlTask
from gloss_training.settings import PromptSettings


@dataclass(frozen=True, kw_only=True)
class ShippedRl:
    """All that `train_rl` needs."""

    pair: FullPair
    task: RlTask
    sampler: Sampler


def shipped_rl(settings: RlSettings) -> ShippedRl:
    """The pair as it ships, its activations of held-out stories, and an engine of its AV."""
    shipped = embedded_pair()
    meta: dict[str, Any] = yaml.safe_load((shipped.av / "nla_meta.yaml").read_text("utf-8"))
    prompt = PromptSettings(
        injection_char=meta["tokens"]["injection_char"],
        av_template=meta["prompt_templates"]["av"],
        ar_template=meta["prompt_templates"]["ar"],
    )
    tokenizer = AutoTokenizer.from_pretrained(shipped.av, local_files_only=True)
    table = pq.read_table(shipped.activations)
    vectors = np.stack(table["activation_vector"].to_numpy()).astype(np.float32)
    return ShippedRl(
        pair=FullPair(
            Decoder(load_language_model(shipped.av)),
            Decoder(load_language_model(shipped.av)),
            load_reconstructor(shipped.ar),
            marked_prompt(tokenizer, prompt),
        ),
        task=RlTask(
            activations=torch.from_numpy(vectors),
            texts=table["text"].to_pylist(),
            injection_scale=meta["extraction"]["injection_scale"],
            fve_baseline=meta["extraction"]["fve_baseline"],
            encode=lambda texts: encode_explanations(tokenizer, prompt.ar_template, texts),
        ),
        sampler=Sampler.of(shipped.av, settings, device="cpu", dtype="float32"),
    )
