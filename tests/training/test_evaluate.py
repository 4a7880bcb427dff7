"""Figures over verdicts, and controls that notice a pair which cheats."""

import asyncio

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from gloss_training import evaluate as evaluation
from gloss_training.claims import judge
from gloss_training.dataset.rows import Rows
from gloss_training.dataset.statistics import RunningStatistics
from gloss_training.passage import Passage
from gloss_training.reconstructor import from_target
from gloss_training.run_config import RunConfig
from gloss_training.settings import EvaluateSettings
from gloss_training.teachers.world_teacher import WorldTeacher
from gloss_training.world_documents import world_documents

REVEALED = {"hero": "Ben", "job": "baker", "place": "park", "mood": "sad"}


def heldout(config: RunConfig) -> Rows:
    """Rows of stories with the teacher's words and random vectors."""
    assert config.world is not None
    teacher = WorldTeacher(seed=0, num_ending_words=1)
    passages = [
        Passage(
            doc_id=document.doc_id,
            position=position,
            text=" ".join((document.text or "").split(" ")[: position + 1]),
            facts=document.facts_at(position) if document.facts_at else None,
        )
        for document in world_documents(config.world, 8, 0)
        for position in (9, 14, 21)
    ]
    answers = asyncio.run(teacher.explain(passages, lambda answer: None))
    return Rows(
        activations=torch.randn(len(passages), 32, generator=torch.Generator().manual_seed(0)),
        explanations=tuple(answer.text for answer in answers),
        texts=tuple(passage.text for passage in passages),
        doc_ids=tuple(passage.doc_id for passage in passages),
        positions=tuple(passage.position for passage in passages),
        facts=tuple(passage.facts or {} for passage in passages),
    )


def test_truth_figures_pool_claims() -> None:
    verdicts = [
        judge("The hero is Ben, a baker. It is dawn.", REVEALED, ["Ben", "."]),
        judge("The text ends with “a red”. Hm.", REVEALED, ["a", "red"]),
    ]
    figures = evaluation.truth_figures(verdicts)
    assert figures == {
        "claim_precision": pytest.approx(3 / 4),
        "fact_precision": pytest.approx(2 / 3),
        "ending_precision": 1.0,
        "facts_per_explanation": 1.5,
        "fact_recall": pytest.approx(2 / 8),
        "unparsed_rate": pytest.approx(1 / 4),
    }


def test_nothing_stated_is_no_precision() -> None:
    figures = evaluation.truth_figures([judge("", REVEALED, ["Ben"])])
    assert set(figures.values()) == {0.0}


def test_shuffled_rows_meet_another_document(
    config: RunConfig,
) -> None:
    rows = heldout(config)
    marks = torch.arange(len(rows))[:, None].float()
    moved = evaluation.other_documents(marks)[:, 0].long().tolist()
    assert sorted(moved) == list(range(len(rows)))
    assert all(rows.doc_ids[i] != rows.doc_ids[j] for i, j in enumerate(moved))


def test_a_perfect_reconstruction_scores_one_and_shuffled_it_does_not(
    config: RunConfig,
    target: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = heldout(config)
    measured = RunningStatistics()
    measured.add(rows.activations.numpy())
    statistics = measured.result(config.prompt)
    monkeypatch.setattr(evaluation, "verbalize", lambda *_, **__: list(rows.explanations))
    monkeypatch.setattr(evaluation, "reconstruct", lambda *_: 3.0 * rows.activations)
    figures, samples = evaluation.evaluate(
        EvaluateSettings(num_rows=len(rows)),
        0,
        target,
        from_target(target, 2),
        tokenizer,
        config.prompt,
        rows,
        statistics,
    )
    assert figures.fve == pytest.approx(1.0, abs=1e-5)
    assert figures.mean_cosine == pytest.approx(1.0, abs=1e-5)
    assert figures.fve_shuffled < -0.5
    assert figures.claim_precision == figures.fact_recall == 1.0
    assert figures.unclosed_rate == 1.0
    assert len(samples) == figures.num_rows == len(rows)
    assert samples[3]["explanation"] == rows.explanations[3]
