"""The stages `ar` and `av`: from the target and the data to a pair in the released layout."""

from __future__ import annotations

import copy
from typing import Any

from gloss_training.context import Context
from gloss_training.prompts import marked_prompt, stop_ids_of
from gloss_training.reconstructor import from_target
from gloss_training.release import save_ar, save_av
from gloss_training.seeds import torch_seed
from gloss_training.settings import SftSettings
from gloss_training.sft import Lesson, ar_supervision, av_supervision
from gloss_training.supervised import Supervision, train
from gloss_training.verbalizer import Verbalizer


def make_ar(run: Context) -> dict[str, Any]:
    """Trains the AR on the teacher's texts, from the target's first blocks; its figures."""
    settings = run.config.ar
    target, tokenizer = run.load_target(), run.tokenizer()
    torch_seed(run.config.seed, "ar")
    reconstructor = from_target(
        target, run.config.layer_index, is_checkpointed=settings.gradient_checkpointing
    )
    reconstructor = reconstructor.to(run.device, run.dtype)
    weights = dict(reconstructor.named_parameters())
    supervision = ar_supervision(_lesson(run, "ar", tokenizer), settings, reconstructor, weights)
    figures = _train(run, supervision, settings)
    save_ar(reconstructor, tokenizer, run.facts(target), run.folder.root / "ar")
    return figures


def make_av(run: Context) -> dict[str, Any]:
    """Trains the AV on the teacher's texts, from the target; its figures."""
    settings = run.config.av
    target, tokenizer = run.load_target(), run.tokenizer()
    torch_seed(run.config.seed, "av")
    model = copy.deepcopy(target).to(run.device, run.dtype)
    prompt = marked_prompt(tokenizer, run.config.prompt)
    speaker = Verbalizer(model, prompt, is_checkpointed=settings.gradient_checkpointing)
    supervision = av_supervision(
        _lesson(run, "av", tokenizer),
        settings,
        speaker,
        speaker.weights(),
        injection_scale=run.statistics().injection_scale,
        stop_ids=stop_ids_of(target),
    )
    figures = _train(run, supervision, settings)
    save_av(model, tokenizer, run.facts(target), run.folder.root / "av")
    return figures


def _lesson(run: Context, split: str, tokenizer: Any) -> Lesson:
    rows = run.rows(split)
    return Lesson(
        activations=rows.activations,
        explanations=rows.explanations,
        tokenizer=tokenizer,
        prompt=run.config.prompt,
        device=run.device,
        seed=run.config.seed,
    )


def _train(run: Context, supervision: Supervision, settings: SftSettings) -> dict[str, Any]:
    stage = supervision.stage
    with run.journal(stage, settings.num_steps) as journal:
        return train(supervision, settings, journal, run.folder.checkpoints(stage))
