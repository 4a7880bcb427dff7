"""A run of seconds through every stage: layout, bytes, resumption, refusal."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from gloss_training import pipeline
from gloss_training.cli import app
from gloss_training.config import smoke
from gloss_training.pipeline import STAGES, TinyRun
from gloss_training.tokenizer import marked_prompt

QUIET = Console(quiet=True)


def digests(root: Path) -> dict[str, str]:
    """Hash of every weight file, log and parquet file of a run."""
    files = [p for p in root.rglob("*") if p.suffix in {".safetensors", ".jsonl", ".yaml"}]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    TinyRun(root, smoke(), QUIET).run()
    return root


def test_same_seed_same_bytes(finished: Path, tmp_path: Path) -> None:
    TinyRun(tmp_path, smoke(), QUIET).run()
    first, second = digests(finished), digests(tmp_path)
    assert sum(name.endswith(".safetensors") for name in first) == 4
    assert first == second


def test_another_seed_gives_other_weights(finished: Path, tmp_path: Path) -> None:
    TinyRun(tmp_path, smoke(seed=1), QUIET).run()
    first, second = digests(finished), digests(tmp_path)
    for name in ("target/model.safetensors", "av/model.safetensors", "ar/model.safetensors"):
        assert first[name] != second[name]


def test_finished_stages_are_kept_and_a_lost_one_comes_back_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TinyRun(tmp_path, smoke(), QUIET).run()
    before = digests(tmp_path)
    for stage in ("av", "evaluate"):
        (tmp_path / "stages" / f"{stage}.json").unlink()
    (tmp_path / "av" / "model.safetensors").write_bytes(b"cut off")

    def refuse(*_: object) -> None:
        raise AssertionError("a finished stage was done again")

    for name in ("train_target", "make_rows", "train_ar"):
        monkeypatch.setattr(pipeline, name, refuse)
    records = TinyRun(tmp_path, smoke(), QUIET).run()
    assert digests(tmp_path) == before
    assert list(records) == list(STAGES)


def test_another_configuration_is_refused_by_name(finished: Path) -> None:
    with pytest.raises(ValueError, match=r"seed: 0 -> 4"):
        TinyRun(finished, smoke(seed=4), QUIET)


def test_checkpoints_have_the_released_layout(finished: Path) -> None:
    config = smoke()
    width = config.model.hidden_size
    for role in ("av", "ar"):
        meta = yaml.safe_load((finished / role / "nla_meta.yaml").read_text("utf-8"))
        tokenizer = AutoTokenizer.from_pretrained(finished / role)
        prompt = marked_prompt(tokenizer, meta["prompt_templates"]["av"])
        assert (meta["schema_version"], meta["kind"], meta["role"]) == (2, "nla_model", role)
        assert meta["d_model"] == width
        assert meta["tokens"] == {
            "injection_char": "㈎",
            "injection_token_id": prompt.marker_id,
            "injection_left_neighbor_id": prompt.left_id,
            "injection_right_neighbor_id": prompt.right_id,
        }
        extraction = meta["extraction"]
        assert extraction["mse_scale"] == pytest.approx(math.sqrt(width))
        assert extraction["layer_index"] == config.model.layer_index
        assert extraction["min_position"] == config.data.min_position
        assert 0 < extraction["fve_baseline"] <= 1
        assert min(extraction["injection_scale"], extraction["norm_median"]) > 0
        assert "{explanation}" in meta["prompt_templates"]["ar"]
    ar = json.loads((finished / "ar" / "config.json").read_text())
    assert (ar["num_hidden_layers"], ar["model_type"]) == (config.model.layer_index + 1, "qwen3")
    dataset = yaml.safe_load((finished / "data" / "av.parquet.nla_meta.yaml").read_text())
    assert (dataset["kind"], dataset["extraction"]["d_model"]) == ("nla_dataset", width)


def test_models_load_by_the_ordinary_client_in_float32(finished: Path) -> None:
    for name in ("target", "av"):
        model = AutoModelForCausalLM.from_pretrained(finished / name)
        assert model.config.model_type == "qwen3"
        assert model.dtype == torch.float32
        assert model.generation_config.repetition_penalty in (None, 1.0)
        assert (finished / name / "generation_config.json").exists()


def test_figures_are_written(finished: Path) -> None:
    figures = json.loads((finished / "evaluation.json").read_text())
    assert {"fve", "fve_shuffled", "claim_precision", "unparsed_rate"} <= figures.keys()
    samples = (finished / "samples.jsonl").read_text("utf-8").splitlines()
    assert len(samples) == figures["num_rows"] == smoke().num_evaluation_rows
    log = (finished / "logs" / "av.jsonl").read_text().splitlines()
    assert len(log) == smoke().av.num_steps


def test_command_prints_a_summary_and_refuses_other_settings(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["tiny", "--output", str(finished), "--smoke"])
    assert result.exit_code == 0, result.output
    assert "claim_precision" in result.output
    arguments = ["tiny", "--output", str(finished), "--smoke", "--seed", "9"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "seed: 0 -> 9" in result.output
