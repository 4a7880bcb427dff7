"""The configuration `larger`, cut down to seconds: its world through every stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM
from typer.testing import CliRunner

from gloss_server.commands.doctor.examination import examine, exit_code
from gloss_training.cli import app
from gloss_training.dataset.parquet_file import split_file
from gloss_training.dataset.rows import read_rows
from gloss_training.models.prompts import wrap
from gloss_training.release.export import export
from gloss_training.run.config import SHIPPED, read_config
from gloss_training.seeds import generator_for
from gloss_training.stages import evaluate as evaluate_stage
from gloss_training.world import grammar
from gloss_training.world.attributes import ATTRIBUTES
from gloss_training.world.claims import judge
from gloss_training.world.documents import damaged_story
from gloss_training.world.stories import words_of
from gloss_training.world.target import target_config
from gloss_training.world.tokenizer import build_tokenizer

CUT_DOWN = (
    *("device=cpu", "dtype=float32", "num_threads=1"),
    *("world.shape.hidden_size=32", "world.shape.intermediate_size=64", "world.shape.num_heads=2"),
    *("world.shape.num_kv_heads=1", "world.shape.head_dim=16", "world.shape.num_layers=3"),
    *("world.shape.layer_index=1", "world.training.num_steps=4", "world.training.batch_size=8"),
    *("data.num_documents=64", "data.shares.av=24", "data.shares.ar=24", "data.shares.rl=8"),
    *("data.shares.heldout=8", "ar.num_steps=3", "ar.batch_size=8", "av.num_steps=12"),
    # As in smoke.toml: the AV has to close its tag now and then.
    *("av.batch_size=16", "av.learning_rate=3e-2", "av.num_warmup_steps=2", "rl.num_steps=2"),
    *("rl.prompts_per_step=4", "rl.samples_per_prompt=2", "rl.max_new_tokens=32"),
    *("evaluate.num_rows=12", "evaluate.num_training_rows=12", "evaluate.num_reworded_rows=4"),
    "evaluate.max_new_tokens=32",
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    world = read_config("larger").world
    assert world is not None
    return build_tokenizer(world, 0)


def test_every_stage_runs_and_its_pair_passes_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seconds of drawing that tell nothing of the world.
    monkeypatch.setattr(evaluate_stage, "plot_training", lambda curves, path: None)
    root = tmp_path / "run"
    settings = [word for setting in CUT_DOWN for word in ("--set", setting)]
    arguments = ["tiny", "--config", str(SHIPPED / "larger.toml"), "--output", str(root)]
    result = CliRunner().invoke(app, [*arguments, *settings])
    assert result.exit_code == 0, result.output
    kept = json.loads((root / "configuration.json").read_text())
    assert (kept["num_threads"], kept["world"]["num_attributes"]) == (1, 16)
    told: set[str] = set()
    for split in ("av", "ar", "heldout"):
        rows = read_rows(split_file(root / "data", split))
        for text, facts, said in zip(rows.texts, rows.facts, rows.explanations, strict=True):
            verdict = judge(said, facts, words_of(text))
            assert verdict.num_facts == verdict.num_facts_right == len(facts)
            assert (verdict.num_endings_right, verdict.num_unparsed) == (1, 0)
            told |= facts.keys()
    assert told == ATTRIBUTES.keys()
    log = [json.loads(line) for line in (root / "logs" / "rl.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in log] == [0.0, 0.0]
    figures = json.loads((root / "evaluation" / "rl.json").read_text())
    assert {"fve", "fve_shuffled", "fve_fresh_ar", "unparsed_rate"} <= figures.keys()
    export(root, tmp_path / "pair")
    for folder in (root, tmp_path / "pair"):
        checks = examine(folder)
        assert exit_code(checks) == 0, [check for check in checks if check.status == "fail"]
        assert {check.status for check in checks} == {"pass"}


def test_the_target_is_as_large_as_its_file_says(tokenizer: PreTrainedTokenizerFast) -> None:
    world = read_config("larger").world
    assert world is not None
    assert (world.shape.hidden_size, world.shape.num_layers, world.num_attributes) == (512, 8, 16)
    with torch.device("meta"):
        count = Qwen3ForCausalLM(target_config(world.shape, tokenizer)).num_parameters()
    said = (SHIPPED / "larger.toml").read_text(encoding="utf-8")
    assert f"{count / 1e6:.1f} million parameters" in said
    assert "not been run on a GPU" in said


def test_stories_and_explanations_of_everything_have_room(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    config = read_config("larger")
    assert config.world is not None
    generator = generator_for(0, "test")
    for _ in range(60):
        story = damaged_story(config.world, generator)
        assert len(tokenizer.encode(story.text)) <= config.world.shape.max_length
        said = wrap(grammar.explain(story, len(story.words) - 2, generator, 1))
        longest = len(tokenizer.encode(said)) + 1
        assert longest <= config.rl.max_new_tokens == config.evaluate.max_new_tokens
