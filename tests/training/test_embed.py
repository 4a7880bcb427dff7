"""The shipped pair: what is in it, and that its activations are those of its own target."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer, Qwen3ForCausalLM

from gloss_training.embed import embed
from gloss_training.errors import RunFolderError
from gloss_training.run.config import read_config
from gloss_training.stages.run import Run
from gloss_training.world.stories import split_words


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shipping")
    Run(root / "run", read_config("smoke"), Console(quiet=True)).stages()
    embed(root / "run", root / "out")
    embed(root / "run", root / "out")  # a second time over the first: nothing is left behind
    return root / "out"


def test_activations_are_those_of_the_shipped_target(embedded: Path) -> None:
    table = pq.read_table(embedded / "activations.parquet")
    assert table["activation_vector"].type == pa.list_(pa.float32(), 32)
    target = Qwen3ForCausalLM.from_pretrained(embedded / "target").eval()
    tokenizer = AutoTokenizer.from_pretrained(embedded / "target")
    for row in table.to_pylist()[::17]:
        words = split_words(row["text"].replace("[UNK]", "Unknownword"))
        ids = tokenizer.encode(" ".join(words))
        assert len(ids) == row["n_raw_tokens"] == row["position"] + 1
        assert ids[-1] == row["token_id"]
        with torch.no_grad():
            states = target(torch.tensor([ids]), output_hidden_states=True).hidden_states
        alone = states[row["activation_layer"] + 1][0, -1]
        torch.testing.assert_close(
            torch.tensor(row["activation_vector"]), alone, rtol=1e-4, atol=1e-4
        )
        assert row["norm"] == pytest.approx(float(alone.norm()), rel=1e-4)
        assert set(json.loads(row["facts"]).values()) <= set(words)


def test_everything_a_server_needs_is_there(embedded: Path) -> None:
    for name in ("target", "av", "ar"):
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            assert (embedded / name / file).exists()
    for name in ("av", "ar"):
        assert (embedded / name / "nla_meta.yaml").exists()
    assert (embedded / "ar" / "value_head.safetensors").exists()
    before, after = (
        json.loads((embedded / name).read_text())
        for name in ("evaluation-before-rl.json", "evaluation.json")
    )
    page = (embedded / "README.md").read_text()
    for name in ("fve", "fve_shuffled", "num_rows"):
        assert f"| {name.replace('_', ' ')} | {before[name]:,.4g} | {after[name]:,.4g} |" in page
    assert "gloss-train tiny" in page and "planted" in page


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a run"):
        embed(tmp_path, tmp_path / "out")


def test_a_run_whose_tokens_are_no_words_is_refused(tmp_path: Path) -> None:
    kept = json.dumps(read_config("larger").plain())
    (tmp_path / "configuration.json").write_text(kept)
    with pytest.raises(RunFolderError, match="gloss-train tiny with a token a word"):
        embed(tmp_path, tmp_path / "out")
