"""Evaluation on held-out rows: fidelity, its controls, truth and form, always together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from gloss_training.dataset.rows import Rows
from gloss_training.evaluation.bag_of_words import fit_bag_of_words
from gloss_training.evaluation.explaining import Explanations
from gloss_training.evaluation.fidelity import fidelity_figures, fve_of, shuffled_fve
from gloss_training.evaluation.form import form_figures
from gloss_training.evaluation.paraphrase import Rewriter, paraphrase_figures
from gloss_training.evaluation.table import Evaluation
from gloss_training.evaluation.truth import TRUTH, truth_figures
from gloss_training.scoring import normalized_mse
from gloss_training.seeds import generator_for, stream_seed
from gloss_training.settings import EvaluateSettings
from gloss_training.world.claims import Verdict, judge
from gloss_training.world.stories import words_of

Reader = Callable[[Sequence[str]], Tensor]
"""Explanations -> [n, d] reconstructions."""
LEAST_TRAINING_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """A pair, its rows, and who helps to judge it.

    Attributes:
        settings: how many rows.
        seed: of the choice of rows and of the draws.
        explain: raw activations [n, d] and a seed -> the AV's explanations.
        reconstruct: the pair's AR.
        train_fresh: texts and what they are of [n, d] -> an AR that learnt from them alone.
        rewrite: who puts explanations in other words; None: nobody is asked.
        heldout: rows that nothing was trained on.
        training: rows of another split, for the controls that learn.
        fve_baseline: the strict one of training activations.
        knows_truth: whether rows have the facts that their texts reveal.
    """

    settings: EvaluateSettings
    seed: int
    explain: Callable[[Tensor, int], Explanations]
    reconstruct: Reader
    train_fresh: Callable[[Sequence[str], Tensor], Reader]
    rewrite: Rewriter | None
    heldout: Rows
    training: Rows
    fve_baseline: float
    knows_truth: bool


def evaluate(task: EvaluationTask) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Every figure, and one record per held-out row: text, explanation, rewording, verdict."""
    chosen = choose_rows(task.settings.num_rows, task.seed, len(task.heldout), "evaluation")
    activations = task.heldout.activations[chosen]
    explanations = task.explain(activations, stream_seed(task.seed, "verbalize"))
    rebuilt = task.reconstruct(explanations.texts)
    evaluation = Evaluation()
    evaluation.add({"num_rows": len(chosen), "fve_baseline": task.fve_baseline})
    evaluation.add(fidelity_figures(rebuilt, activations, task.fve_baseline))
    _add_shuffled(task, evaluation, rebuilt, chosen)
    evaluation.add(form_figures(explanations))
    _add_teacher(task, evaluation, chosen)
    _add_learnt(task, evaluation, explanations.texts, activations)
    reworded = _add_reworded(task, evaluation, explanations.texts, activations)
    verdicts = _add_truth(task, evaluation, explanations.texts, chosen)
    cosines = (1.0 - normalized_mse(rebuilt, activations) / 2.0).tolist()
    samples = [
        {
            "doc_id": task.heldout.doc_ids[row],
            "position": task.heldout.positions[row],
            "text": task.heldout.texts[row],
            "explanation": explanations.texts[index],
            "closed": explanations.is_closed[index],
            "cosine": cosines[index],
            "reworded": reworded[index],
            **(asdict(verdicts[index]) if verdicts else {}),
        }
        for index, row in enumerate(chosen)
    ]
    return evaluation, samples


def choose_rows(wanted: int, seed: int, num_rows: int, use: str) -> list[int]:
    """Rows at random, in order, each once."""
    count = min(wanted, num_rows)
    drawn = generator_for(seed, use).choice(num_rows, size=count, replace=False)
    return [int(row) for row in np.sort(drawn)]


def _add_shuffled(
    task: EvaluationTask, evaluation: Evaluation, rebuilt: Tensor, chosen: list[int]
) -> None:
    """The reconstructions against activations of other documents, where there are others."""
    doc_ids = [task.heldout.doc_ids[row] for row in chosen]
    found = shuffled_fve(rebuilt, task.heldout.activations[chosen], doc_ids, task.fve_baseline)
    if found is None:
        evaluation.leave_out(("fve_shuffled",), "held-out rows are of one document")
    else:
        evaluation.add({"fve_shuffled": found})


def _add_teacher(task: EvaluationTask, evaluation: Evaluation, chosen: list[int]) -> None:
    """The AR on the teacher's own words, of the rows that have some."""
    taught = [row for row in chosen if task.heldout.explanations[row]]
    if not taught:
        evaluation.leave_out(("fve_teacher",), "the teacher has not explained held-out rows")
        return
    rebuilt = task.reconstruct([task.heldout.explanations[row] for row in taught])
    activations = task.heldout.activations[taught]
    evaluation.add({"fve_teacher": fve_of(rebuilt, activations, task.fve_baseline)})


def _add_learnt(
    task: EvaluationTask, evaluation: Evaluation, texts: Sequence[str], activations: Tensor
) -> None:
    """The controls that learn from the AV's texts about rows of another split."""
    names = ("fve_fresh_ar", "fve_bag_of_words")
    count = min(task.settings.num_training_rows, len(task.training))
    if count < LEAST_TRAINING_ROWS:
        wanted = task.settings.num_training_rows
        least = f", expected at least {LEAST_TRAINING_ROWS}"
        few = f"{len(task.training)} rows of another split{least}"
        # 0 is a choice, and no mistake.
        asked = f"evaluate.num_training_rows is {wanted}{least if wanted else ''}"
        evaluation.add({"num_training_rows": 0})
        evaluation.leave_out(names, asked if count < len(task.training) else few)
        return
    rows = choose_rows(count, task.seed, len(task.training), "evaluation-training")
    learnt = task.training.activations[rows]
    lessons = task.explain(learnt, stream_seed(task.seed, "verbalize-training")).texts
    evaluation.add({"num_training_rows": count})
    readers: tuple[Reader, Reader] = (
        task.train_fresh(lessons, learnt),
        fit_bag_of_words(lessons, learnt),
    )
    for name, reader in zip(names, readers, strict=True):
        evaluation.add({name: fve_of(reader(texts), activations, task.fve_baseline)})


def _add_reworded(
    task: EvaluationTask, evaluation: Evaluation, texts: Sequence[str], activations: Tensor
) -> list[str | None]:
    """Paraphrase retention over the first rows; the rewordings, None where there is none."""
    count = min(task.settings.num_reworded_rows, len(texts))
    if task.rewrite is None or not count:
        names = ("reworded_share", "fve_reworded", "paraphrase_retention")
        evaluation.leave_out(names, "evaluate.num_reworded_rows is 0")
        return [None] * len(texts)
    figures, missing, reworded = paraphrase_figures(
        texts[:count], activations[:count], task.rewrite, task.reconstruct, task.fve_baseline
    )
    evaluation.add(figures, missing)
    return [*reworded, *[None] * (len(texts) - count)]


def _add_truth(
    task: EvaluationTask, evaluation: Evaluation, texts: Sequence[str], chosen: list[int]
) -> list[Verdict]:
    """Claims against the facts, where they are known."""
    if not task.knows_truth:
        evaluation.leave_out(TRUTH, "only the tiny world knows which claims are true")
        return []
    verdicts = [
        judge(text, task.heldout.facts[row], words_of(task.heldout.texts[row]))
        for text, row in zip(texts, chosen, strict=True)
    ]
    figures = truth_figures(verdicts)
    unstated = tuple(name for name in TRUTH if name not in figures)
    evaluation.add(figures)
    evaluation.leave_out(unstated, "nothing of the kind was stated")
    return verdicts
