"""Files of bounded size that transformers and the engine read as one model."""

import json
from pathlib import Path

import pytest
import torch

from gloss_engine.checkpoint import stored_tensors
from gloss_training.errors import NotFiniteError
from gloss_training.release.weight_shards import INDEX_FILE, save_weights
from support.small_pairs import made


def test_shards_stay_within_their_size_and_are_one_model(tmp_path: Path) -> None:
    model = made("qwen3")
    model.config.save_pretrained(tmp_path)
    save_weights(tmp_path, model.named_parameters(), max_shard_bytes=100_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(file.stat().st_size < 110_000 for file in files)
    assert stored_tensors(tmp_path).keys() == model.state_dict().keys()
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())
    again = type(model).from_pretrained(tmp_path)
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


def test_one_file_where_all_fits(tmp_path: Path) -> None:
    weights = {"a": torch.randn(3, 5).T, "b": torch.randn(2)}
    save_weights(tmp_path, weights.items(), dtype=torch.bfloat16)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    save_weights(tmp_path, {"large": torch.zeros(9)}.items(), max_shard_bytes=4)


@pytest.mark.parametrize(
    ("value", "dtype", "kind", "words"),
    [
        (float("nan"), None, NotFiniteError, "go back to a checkpoint"),
        (float("inf"), torch.bfloat16, NotFiniteError, "go back to a checkpoint"),
        (80000.0, torch.float16, ValueError, "once cast.*another dtype"),
    ],
)
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, value: float, dtype: torch.dtype | None, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        save_weights(tmp_path, [("model.norm.weight", torch.tensor([1.0, value]))], dtype=dtype)
