"""Explanations by the engine: repeatable, counted, and cut off where they are."""

from pathlib import Path

import pyarrow.parquet as pq
import torch

from gloss_training.dataset.parquet_file import vectors_of
from gloss_training.evaluation.explaining import Explainer
from gloss_training.evaluation.form import form_figures

SHIPPED = Path(__file__).parents[3] / "server" / "gloss_server" / "embedded"


def test_explanations_repeat_for_a_seed_and_say_what_was_cut_off() -> None:
    table = pq.read_table(SHIPPED / "activations.parquet").slice(0, 9)
    rows = torch.from_numpy(vectors_of(table["activation_vector"]).copy())
    explainer = Explainer(SHIPPED / "av", 40, device="cpu", dtype="float32")
    found = explainer.explain(rows, 3)
    assert len(found) == 9
    assert explainer.explain(rows, 3) == found
    assert explainer.explain(rows, 4) != found
    # A row's draws hang on its place alone, not on what runs beside it.
    assert explainer.explain(rows[:4], 3).texts == found.texts[:4]
    assert all("explanation>" not in text for text in found.texts)
    short = Explainer(SHIPPED / "av", 6, device="cpu", dtype="float32").explain(rows, 3)
    assert short.is_closed == (False,) * 9 and short.num_tokens == (6,) * 9
    assert all(
        text and long.startswith(text) for text, long in zip(short.texts, found.texts, strict=True)
    )
    figures = form_figures(short)
    assert figures == {"tokens_mean": 6.0, "tokens_p95": 6.0, "unclosed_rate": 1.0}
    assert form_figures(found)["unclosed_rate"] == found.is_closed.count(False) / 9
