"""The stages `ar` and `av`: from the target and the data to a pair in the released layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gloss_training.learning.progress import Progress
from gloss_training.learning.sft import Lesson, ar_supervision, av_supervision
from gloss_training.learning.supervised import Supervision, train
from gloss_training.machine import let_go
from gloss_training.models.lora_pair import AR, AV, LoraPair
from gloss_training.models.model_files import load_language_model
from gloss_training.models.outlines import loaded
from gloss_training.models.prompts import marked_prompt, stop_ids_of
from gloss_training.models.sharding import shard_decoder
from gloss_training.models.verbalizer import Speaker, Verbalizer
from gloss_training.release.pair import save_part
from gloss_training.release.pair_adapters import FOLDER, save_role
from gloss_training.run.context import Context
from gloss_training.seeds import torch_seed
from gloss_training.settings import SftSettings
from gloss_training.stages.pairs import new_ar, new_lora_pair, placed, spread_lora, stored_dtype
from gloss_training.stages.sft_samples import tell_samples


def make_ar(run: Context) -> dict[str, Any]:
    """Trains the AR on the teacher's texts, from the target's first blocks; its figures."""
    settings, lesson, ar = run.config.ar, _lesson(run, AR), new_ar(run)
    supervision = ar_supervision(lesson, settings, ar.reconstruct, ar.weights)
    with run.journal(AR, settings.num_steps) as journal:
        figures = _train(run, supervision, settings, journal)
    _save(run, AR, ar.released(), ar.model, ar.pair)
    return figures


def make_av(run: Context) -> dict[str, Any]:
    """Trains the AV on the teacher's texts, from the target, and has it say a few; its figures."""
    lesson = _lesson(run, AV)
    with run.journal(AV, run.config.av.num_steps) as journal:
        figures = _train_av(run, lesson, journal)
        # What it was trained in, before the engine takes its room.
        let_go()
        run.ranks.first(lambda: tell_samples(run, journal))
    return figures


def _train_av(run: Context, lesson: Lesson, journal: Progress) -> dict[str, Any]:
    settings = run.config.av
    torch_seed(run.config.seed, AV)
    pair: LoraPair | None = None
    speaker: Speaker
    weights: Mapping[str, torch.nn.Parameter]
    if run.config.lora.is_enabled:
        pair = new_lora_pair(run, is_checkpointed=settings.gradient_checkpointing)
        spread_lora(run, pair)
        model, speaker, weights = pair.decoder.model, pair, pair.named(AV)
    else:
        whole = loaded(run.ranks, lambda: load_language_model(run.target, stored_dtype(run)))
        model = placed(run, whole)
        prompt = marked_prompt(lesson.tokenizer, run.config.prompt)
        own = Verbalizer(model, prompt, is_checkpointed=settings.gradient_checkpointing)
        shard_decoder(own.decoder, run.ranks, run.config.sharding, run.dtype)
        speaker, weights = own, own.weights()
    supervision = av_supervision(
        lesson,
        settings,
        speaker,
        weights,
        injection_scale=run.statistics().injection_scale,
        stop_ids=stop_ids_of(model),
    )
    figures = _train(run, supervision, settings, journal)
    released = own.named_weights() if pair is None else pair.av_weights()
    _save(run, AV, released, model, pair)
    return figures


def _lesson(run: Context, split: str) -> Lesson:
    tokenizer, rows = run.tokenizer(), run.rows(split)
    return Lesson(
        activations=rows.activations,
        explanations=rows.explanations,
        tokenizer=tokenizer,
        prompt=run.config.prompt,
        device=run.device,
        seed=run.config.seed,
        ranks=run.ranks,
    )


def _train(
    run: Context, supervision: Supervision, settings: SftSettings, journal: Progress
) -> dict[str, Any]:
    folder = run.folder.checkpoints(supervision.stage)
    return train(supervision, settings, journal, folder, run.ranks)


def _save(run: Context, role: str, released: Any, model: Any, pair: LoraPair | None) -> None:
    """The released layout; of adapters also what the next stage goes on from."""
    facts, root = run.facts(model), run.folder.root
    tokenizer = run.tokenizer()
    save_part(
        role, released, model, tokenizer, facts, root / role, dtype=run.dtype, ranks=run.ranks
    )
    if pair is not None:
        save_role(pair, role, root / FOLDER / role, base=str(run.target), ranks=run.ranks)
