"""The pair in the package meets the figures it was accepted by, on its own held-out rows."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gloss_training.evaluation.explaining import Explainer
from gloss_training.evaluation.fidelity import other_documents
from gloss_training.evaluation.truth import truth_figures
from gloss_training.models.reconstructor import load_reconstructor, reconstruct
from gloss_training.run.config import read_config
from gloss_training.scoring import fve, normalized_mse
from gloss_training.seeds import generator_for
from gloss_training.world.claims import judge
from gloss_training.world.documents import damaged_story
from gloss_training.world.settings import WORLD_PROMPT
from gloss_training.world.stories import UNKNOWN_WORD, words_of
from gloss_training.world.tokenizer import build_tokenizer

SHIPPED = Path(__file__).parents[3] / "server" / "gloss_server" / "embedded"
NUM_ROWS = 160


def last_words(row: dict[str, object], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The row's last words, enough to check what is said about the ending."""
    assert isinstance(row["token"], str)
    return [UNKNOWN_WORD if row["token_id"] == tokenizer.unk_token_id else row["token"]]


def test_its_world_is_still_the_one_that_tiny_makes() -> None:
    """Tokenizer, stories and their facts, to the letter."""
    config = read_config("tiny")
    assert config.world is not None
    made = build_tokenizer(config.world, config.seed).backend_tokenizer.to_str()
    stored = (SHIPPED / "target" / "tokenizer.json").read_text(encoding="utf-8")
    assert json.loads(made) == json.loads(stored)
    for row in pq.read_table(SHIPPED / "activations.parquet").to_pylist()[::7]:
        use = f"story-{int(row['doc_id'].removeprefix('story-'))}"
        story = damaged_story(config.world, generator_for(config.seed, use))
        assert words_of(row["text"]) == list(story.words[: row["position"] + 1])
        assert json.loads(row["facts"]) == story.revealed(row["position"])


def test_recorded_figures_meet_the_bar() -> None:
    figures = json.loads((SHIPPED / "evaluation.json").read_text())
    assert figures["fve"] >= 0.25
    assert figures["claim_precision"] >= 0.90
    assert figures["fve_shuffled"] <= 0.0
    assert figures["num_rows"] >= 500


def test_shipped_files_stay_small() -> None:
    weights = sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors"))
    assert weights <= 8_000_000


def test_fresh_explanations_meet_the_bar() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "av")
    meta = yaml.safe_load((SHIPPED / "av" / "nla_meta.yaml").read_text("utf-8"))["extraction"]
    table = pq.read_table(SHIPPED / "activations.parquet")
    rows = table.take(np.linspace(0, len(table) - 1, NUM_ROWS).astype(int)).to_pylist()
    activations = torch.tensor([row["activation_vector"] for row in rows])
    explainer = Explainer(SHIPPED / "av", 96, device="cpu", dtype="float32")
    texts = explainer.explain(activations, 11).texts
    rebuilt = reconstruct(
        load_reconstructor(SHIPPED / "ar"), tokenizer, WORLD_PROMPT.ar_template, texts
    )
    figures = truth_figures(
        [
            judge(text, json.loads(row["facts"]), last_words(row, tokenizer))
            for text, row in zip(texts, rows, strict=True)
        ]
    )
    assert fve(normalized_mse(rebuilt, activations), meta["fve_baseline"]) >= 0.8
    shuffled = normalized_mse(rebuilt, other_documents(activations))
    assert fve(shuffled, meta["fve_baseline"]) <= 0.0
    assert figures["claim_precision"] >= 0.95
    assert figures["fact_recall"] == pytest.approx(1.0, abs=0.05)
