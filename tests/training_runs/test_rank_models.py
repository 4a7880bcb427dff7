"""One rank loads each model and has the judge; two ranks then do what one process does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gloss_training.models.sharding import ALONE
from support import rank_models
from support.rank_models import BROKEN, FAMILIES, KINDS
from support.small_pairs import made

Found = dict[str, Tensor]
Said = dict[str, Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each family, one without its file, and one whose file was cut short."""
    folder = tmp_path_factory.mktemp("models")
    for arch in FAMILIES:
        made(arch, num_layers=4).save_pretrained(folder / arch)
    for name in BROKEN:
        shutil.copytree(folder / "qwen3", folder / name)
    (folder / "missing" / "model.safetensors").unlink()
    os.truncate(folder / "cut" / "model.safetensors", 5000)
    return folder


@pytest.fixture(scope="module")
def alone(models: Path) -> tuple[Found, Said]:
    return rank_models.run(models, ALONE)


@pytest.fixture(scope="module")
def ranks(models: Path) -> tuple[Found, tuple[Said, Said]]:
    """What two ranks found, and what each of them said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", rank_models.__file__, str(models)]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    first, second = (json.loads((models / f"said-{index}.json").read_text()) for index in (0, 1))
    return load_file(models / "found.safetensors"), (first, second)


def of_kind(found: Found, kind: str) -> Found:
    return {name: value for name, value in found.items() if name.startswith(f"{kind}.")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_rank_begins_with_the_first_ones_model_and_trains_as_one_process(
    alone: tuple[Found, Said], ranks: tuple[Found, tuple[Said, Said]], kind: str
) -> None:
    one, two = of_kind(alone[0], kind), of_kind(ranks[0], kind)
    assert one.keys() == two.keys()
    assert any("inv_freq" in name for name in one)
    assert any("embed_scale" in name for name in one) == ("gemma3" in kind)
    for name, value in one.items():
        if ".start." in name:
            assert torch.equal(two[name], value), name
        else:
            # float32: sums in another order.
            torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rank_but_the_first_ever_has_a_whole_model(
    alone: tuple[Found, Said], ranks: tuple[Found, tuple[Said, Said]], kind: str
) -> None:
    """That the second one reads none ends the run (`rank_models._loaded`)."""
    first, second = ranks[1]
    assert first[f"{kind}.loaded"] == alone[1][f"{kind}.loaded"]
    assert second[f"{kind}.loaded"] == [0] * len(first[f"{kind}.loaded"])
    for said in (first, second):
        # A row more where they cannot be shared out equally.
        assert said[f"{kind}.spread"] < 0.53 * alone[1][f"{kind}.spread"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_model_that_cannot_be_loaded_ends_all_ranks_alike(
    alone: tuple[Found, Said], ranks: tuple[Found, tuple[Said, Said]], name: str
) -> None:
    kind, text = alone[1][name]
    assert kind == "CheckpointError" and "expected" in text
    assert [said[name] for said in ranks[1]] == [[kind, text]] * 2


def test_the_first_ranks_judge_judges_for_all(
    alone: tuple[Found, Said], ranks: tuple[Found, tuple[Said, Said]]
) -> None:
    expected = alone[0]["rewards"]
    assert expected.nan_to_num(nan=-9.0).tolist() == [
        [1.5, -0.5],
        [1.5, 0.5],
        [-9.0, -0.5],
        [1.5, -9.0],
    ]
    torch.testing.assert_close(ranks[0]["rewards"], expected, rtol=0, atol=0, equal_nan=True)


def test_a_judge_that_cannot_go_on_ends_all_ranks_alike(
    ranks: tuple[Found, tuple[Said, Said]],
) -> None:
    expected = ["TeacherError", "the judge was asked 6 times"]
    assert [said["judge"] for said in ranks[1]] == [expected] * 2
