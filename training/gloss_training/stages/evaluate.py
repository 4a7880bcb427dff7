"""The stage `evaluate`: the pair before and after RL, on held-out rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from torch import Tensor

from gloss_training.errors import Declined
from gloss_training.evaluation.evaluate import EvaluationTask, Reader, evaluate
from gloss_training.evaluation.explaining import Explainer
from gloss_training.evaluation.paraphrase import Rewriter
from gloss_training.evaluation.plots import curves, plot_training
from gloss_training.evaluation.table import terminal_table
from gloss_training.learning.sft import Lesson, ar_supervision
from gloss_training.learning.supervised import train
from gloss_training.machine import let_go
from gloss_training.models.reconstructor import load_reconstructor, reconstruct
from gloss_training.run.context import Context
from gloss_training.run.folder import write_json
from gloss_training.stages.data import teacher_of
from gloss_training.stages.pairs import new_ar
from gloss_training.storage.disk import writing
from gloss_training.teachers.judging import Judge

CURVES_FILE: Final = "curves.png"
TRAINING_SPLIT: Final = "ar"
"""Whose rows the controls learn from: the AV has seen neither them nor the held-out ones."""


def make_evaluation(run: Context) -> dict[str, Any]:
    """Explains held-out rows with each pair of the run; which was the last one, and its figures.

    Raises:
        Declined: the teacher's rewordings were not confirmed.
        and what `evaluate_pair` raises.
    """
    names = ("sft", "rl") if run.folder.is_finished("rl") else ("sft",)
    with _rewriter(run, num_pairs=len(names)) as rewrite:
        for name in names:
            pair, figures = name, _evaluate(run, name, rewrite)
            # One pair's engine and readers, before the next one's take their room.
            let_go()
    if pair == "rl":
        steps = curves(run.folder.root / "logs" / "rl.jsonl")
        plot_training({"rl": steps}, run.folder.root / "evaluation" / CURVES_FILE)
    return {"pair": pair, **figures}


def evaluate_pair(run: Context, name: str) -> dict[str, Any]:
    """Explains held-out rows with the pair `sft` or `rl`, and writes what it finds; its figures.

    Raises:
        Declined: the teacher's rewordings were not confirmed.
        RunFolderError: there is no such pair.
        DiskError: what was found could not be written.
    """
    with _rewriter(run, num_pairs=1) as rewrite:
        return _evaluate(run, name, rewrite)


def _evaluate(run: Context, name: str, rewrite: Rewriter | None) -> dict[str, Any]:
    root = run.folder.root
    for stage in ("rl",) if name == "rl" else ("ar", "av"):
        run.folder.record(stage)
    pair = root / "rl" if name == "rl" else root
    explainer = Explainer(
        pair / "av",
        run.config.evaluate.max_new_tokens,
        device=run.device.type,
        dtype=run.config.dtype,
    )
    ar = load_reconstructor(pair / "ar", run.dtype).to(run.device)
    task = EvaluationTask(
        settings=run.config.evaluate,
        seed=run.config.seed,
        explain=explainer.explain,
        reconstruct=_reader(run, ar),
        train_fresh=_fresh(run, name),
        rewrite=rewrite,
        heldout=run.rows("heldout"),
        training=run.rows(TRAINING_SPLIT),
        fve_baseline=run.statistics().fve_baseline,
        # Documents of one's own may be read by the tiny world's target, too.
        knows_truth=run.config.world is not None and not run.config.data.documents,
    )
    evaluation, samples = evaluate(task)
    write_json(root / "evaluation" / f"{name}.json", evaluation.plain())
    lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
    path = root / "evaluation" / f"{name}.samples.jsonl"
    with writing(str(path), "The pair is whole."):
        path.write_text("".join(lines), encoding="utf-8")
    run.console.print(terminal_table(evaluation, f"The pair {name} on held-out rows"))
    return dict(evaluation.figures)


def _reader(run: Context, read: Callable[[Tensor, Tensor], Tensor]) -> Reader:
    tokenizer, template = run.tokenizer(), run.config.prompt.ar_template
    return lambda texts: reconstruct(read, tokenizer, template, texts, device=run.device)


def _fresh(run: Context, name: str) -> Callable[[Sequence[str], Tensor], Reader]:
    """Trains an AR as stage ar does, on the AV's texts alone.

    AV and AR trained together can agree on a code that nobody else reads. A fresh AR begins as the
    target and meets the AV's texts only as they are: what it finds in them is in the words.
    """
    stage = f"evaluate/{name}"

    def train_fresh(texts: Sequence[str], activations: Tensor) -> Reader:
        settings, ar = run.config.ar, new_ar(run)
        lesson = Lesson(
            activations=activations,
            explanations=texts,
            tokenizer=run.tokenizer(),
            prompt=run.config.prompt,
            device=run.device,
            seed=run.config.seed,
        )
        supervision = ar_supervision(lesson, settings, ar.reconstruct, ar.weights)
        with run.journal(stage, settings.num_steps) as journal:
            train(supervision, settings, journal, run.folder.checkpoints(stage))
        return _reader(run, ar.reconstruct)

    return train_fresh


@contextmanager
def _rewriter(run: Context, num_pairs: int) -> Iterator[Rewriter | None]:
    """The teacher's rewordings, where some are wanted, once what they take is confirmed.

    Raises:
        Declined: it was not.
    """
    settings = run.config.evaluate
    if not settings.num_reworded_rows:
        yield None
        return
    num_rows = min(settings.num_rows, run.folder.record("data")["num_heldout_rows"])
    count = num_pairs * min(settings.num_reworded_rows, num_rows)
    with Judge(teacher_of(run.config, run.folder.root / "rewordings.jsonl")) as judge:
        if not run.confirm(judge.estimate_rewording(count)):
            raise Declined("not confirmed: nothing was reworded and nothing was evaluated")
        yield judge.reworded
