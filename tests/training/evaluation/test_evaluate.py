"""Figures of pairs that are known: one that is perfect, one that chants, one that has a code."""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from gloss_training.dataset.rows import Rows
from gloss_training.evaluation.evaluate import EvaluationTask, choose_rows, evaluate
from gloss_training.evaluation.explaining import Explanations
from gloss_training.evaluation.fidelity import other_documents, shuffled_fve
from gloss_training.evaluation.table import NAMES, Evaluation, terminal_table
from gloss_training.evaluation.truth import truth_figures
from gloss_training.scoring import strict_baseline
from gloss_training.settings import EvaluateSettings
from gloss_training.world.claims import judge
from gloss_training.world.rewording import reword
from support.story_rows import story_rows

REVEALED = {"hero": "Ben", "job": "baker", "place": "park", "mood": "sad"}
HELDOUT = story_rows(8)
TRAINING = story_rows(16, seed=5)


class KnownPair:
    """An AV that says what a table has for each activation, and an AR that knows its texts.

    Args:
        texts: what the AV says of each row of `rows`.
    """

    def __init__(self, rows: Rows, texts: Sequence[str]) -> None:
        self.rows, self.texts = rows, list(texts)

    def explain(self, activations: Tensor, seed: int) -> Explanations:
        found = [int((self.rows.activations == row).all(1).nonzero()) for row in activations]
        texts = tuple(self.texts[index] for index in found)
        return Explanations(
            texts=texts,
            is_closed=tuple(index % 4 > 0 for index in found),
            num_tokens=tuple(index + 1 for index in found),
        )

    def reconstruct(self, texts: Sequence[str]) -> Tensor:
        """The vector of a text that it knows, three times as long; of another, ones."""
        known = dict(zip(self.texts, self.rows.activations, strict=True))
        return torch.stack([3.0 * known.get(text, torch.ones(32)) for text in texts])


def join(first: Rows, second: Rows) -> Rows:
    return Rows(
        activations=torch.cat([first.activations, second.activations]),
        **{
            name: (*getattr(first, name), *getattr(second, name))
            for name in ("explanations", "texts", "doc_ids", "positions", "facts")
        },
    )


def task_of(texts: Sequence[str], **changes: object) -> EvaluationTask:
    """A pair that says `texts` of the held-out rows, then of the training rows."""
    pair = KnownPair(join(HELDOUT, TRAINING), texts)
    task = EvaluationTask(
        settings=EvaluateSettings(num_rows=24, num_training_rows=30, num_reworded_rows=20),
        seed=0,
        explain=pair.explain,
        reconstruct=pair.reconstruct,
        train_fresh=lambda lessons, vectors: pair.reconstruct,
        rewrite=lambda given: [reword(text, np.random.default_rng(0)) for text in given],
        heldout=HELDOUT,
        training=TRAINING,
        fve_baseline=strict_baseline(HELDOUT.activations),
        knows_truth=True,
    )
    return replace(task, **changes)


def taught() -> list[str]:
    """The teacher's words, each row's its own."""
    texts = [*HELDOUT.explanations, *TRAINING.explanations]
    return [f"{text} No {index}." for index, text in enumerate(texts)]


def test_a_perfect_reconstruction_scores_one_and_shuffled_it_does_not() -> None:
    evaluation, samples = evaluate(task_of(taught()))
    figures = evaluation.figures
    assert figures["fve"] == pytest.approx(1.0, abs=1e-5)
    assert figures["mean_cosine"] == pytest.approx(1.0, abs=1e-5)
    assert figures["fve_shuffled"] < -0.5
    assert figures["fve_fresh_ar"] == pytest.approx(1.0, abs=1e-5)
    assert figures["fve_bag_of_words"] < 0.2
    assert figures["claim_precision"] == figures["fact_recall"] == 1.0
    assert figures["unparsed_rate"] > 0
    assert figures["unclosed_rate"] == 0.25
    assert figures["tokens_mean"] == 12.5
    assert figures["num_training_rows"] == 30
    assert {*figures} == {*NAMES}
    assert [*evaluation.plain()] == [*NAMES, "missing"]
    assert len(samples) == 24
    assert samples[3]["explanation"] == taught()[3]
    assert samples[3]["num_facts"] > 0


def test_a_code_in_the_wording_is_lost_by_a_rewording() -> None:
    evaluation, samples = evaluate(task_of(taught()))
    assert evaluation.figures["reworded_share"] == 1.0
    assert evaluation.figures["paraphrase_retention"] < 0.2
    assert [sample["reworded"] is None for sample in samples] == [False] * 20 + [True] * 4


def test_a_fresh_ar_is_trained_on_other_rows_than_those_held_out() -> None:
    seen: list[tuple[Sequence[str], Tensor]] = []

    def train_fresh(texts: Sequence[str], vectors: Tensor) -> object:
        seen.append((texts, vectors))
        return lambda given: torch.ones(len(given), 32)

    evaluation, _ = evaluate(task_of(taught(), train_fresh=train_fresh))
    ((texts, vectors),) = seen
    assert len(texts) == len(vectors) == 30
    assert {*texts} <= {*taught()[24:]}
    assert all((TRAINING.activations == row).all(1).any() for row in vectors)
    assert evaluation.figures["fve_fresh_ar"] < 0.1


def test_what_cannot_be_had_says_why() -> None:
    untaught = replace(HELDOUT, explanations=("",) * len(HELDOUT))
    evaluation, samples = evaluate(
        task_of(
            taught(),
            settings=EvaluateSettings(num_rows=24, num_training_rows=0, num_reworded_rows=0),
            rewrite=None,
            knows_truth=False,
            heldout=untaught,
        )
    )
    assert evaluation.missing["fve_fresh_ar"] == "evaluate.num_training_rows is 0"
    assert evaluation.missing["paraphrase_retention"] == "evaluate.num_reworded_rows is 0"
    assert "only the tiny world knows" in evaluation.missing["claim_precision"]
    assert "not explained" in evaluation.missing["fve_teacher"]
    assert {*evaluation.figures, *evaluation.missing} == {*NAMES}
    assert "num_facts" not in samples[0]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal_table(evaluation))
    shown = console.export_text()
    assert all(name in shown for name in NAMES)
    assert "(none: evaluate.num_training_rows is 0)" in shown


def test_too_few_training_rows_say_how_many_are_needed() -> None:
    settings = EvaluateSettings(num_rows=24, num_training_rows=8, num_reworded_rows=0)
    evaluation, _ = evaluate(task_of(taught(), settings=settings))
    why = evaluation.missing["fve_fresh_ar"]
    assert why == "evaluate.num_training_rows is 8, expected at least 10"


def test_a_table_with_a_hole_is_refused() -> None:
    evaluation = Evaluation(figures=dict.fromkeys(NAMES[1:], 0.5))
    with pytest.raises(AssertionError, match="fve"):
        evaluation.plain()


def test_truth_figures_pool_claims() -> None:
    verdicts = [
        judge("The hero is Ben, a baker. It is dawn.", REVEALED, ["Ben", "."]),
        judge("The text ends with “a red”. Hm.", REVEALED, ["a", "red"]),
    ]
    assert truth_figures(verdicts) == {
        "claim_precision": pytest.approx(3 / 4),
        "fact_precision": pytest.approx(2 / 3),
        "ending_precision": 1.0,
        "facts_per_explanation": 1.5,
        "fact_recall": pytest.approx(2 / 8),
        "unparsed_rate": pytest.approx(1 / 4),
    }


def test_nothing_stated_is_no_precision() -> None:
    figures = truth_figures([judge("", REVEALED, ["Ben"])])
    assert figures == {"facts_per_explanation": 0.0, "fact_recall": 0.0}
    evaluation, _ = evaluate(task_of(["Hm."] * 24 + taught()[24:]))
    assert evaluation.missing["claim_precision"] == "nothing of the kind was stated"
    assert evaluation.figures["unparsed_rate"] == 1.0


def test_shuffled_rows_meet_another_document() -> None:
    marks = torch.arange(len(HELDOUT))[:, None].float()
    moved = other_documents(marks)[:, 0].long().tolist()
    assert sorted(moved) == list(range(len(HELDOUT)))
    assert all(HELDOUT.doc_ids[i] != HELDOUT.doc_ids[j] for i, j in enumerate(moved))


def test_a_row_that_meets_its_own_document_tells_nothing_of_others() -> None:
    """Two documents of seven and three rows: four of the first would meet their own."""
    vectors = torch.eye(2)[[0] * 7 + [1] * 3]
    doc_ids = ["a"] * 7 + ["b"] * 3
    # Each document's rows are equal, so a perfect reconstruction is orthogonal to the others.
    assert shuffled_fve(vectors, vectors, doc_ids, 1.0) == pytest.approx(-1.0)
    assert shuffled_fve(vectors, vectors, ["a"] * 10, 1.0) is None
    one = replace(HELDOUT, doc_ids=("a",) * len(HELDOUT))
    evaluation, _ = evaluate(task_of(taught(), heldout=one))
    assert evaluation.missing["fve_shuffled"] == "held-out rows are of one document"


def test_rows_are_chosen_once_and_by_the_seed() -> None:
    assert choose_rows(5, 0, 9, "a") == choose_rows(5, 0, 9, "a") != choose_rows(5, 1, 9, "a")
    assert choose_rows(20, 0, 9, "a") == list(range(9))
