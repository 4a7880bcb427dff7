"""Two ranks under torchrun make the same steps as one process, and none waits for the other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gloss_training.sharding import ALONE, Ranks, ShardingSettings
from support import sharded_steps
from support.sharded_steps import NAN_STEP, NUM_STEPS

KINDS = ("lora", "full")


def under_torchrun(arguments: list[str], num_ranks: int = 2) -> None:
    """Runs `sharded_steps.py` on so many ranks; fails with what they wrote."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={num_ranks}", sharded_steps.__file__, *arguments]
    tests = Path(__file__).parents[1]
    paths = [str(tests), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    ended = subprocess.run(
        [*command], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]


@pytest.fixture(scope="module", params=KINDS)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What one process and what two ranks found."""
    folder = tmp_path_factory.mktemp(request.param)
    under_torchrun([request.param, str(folder)])
    alone = sharded_steps.steps(request.param, ALONE)
    return [alone, load_file(folder / "found-2.safetensors")]


def of_step(found: dict[str, Tensor], what: str, step: int) -> list[Tensor]:
    return [value for name, value in sorted(found.items()) if name.startswith(f"{what}.{step}")]


def test_two_ranks_equal_one_process(runs: list[dict[str, Tensor]]) -> None:
    """The second rank has no valid response but in the last step; who waits ends in a timeout.

    float32: sums of two shares instead of one, and AdamW's first steps divide a gradient by its
    own size, so what is near zero may move by a part of the learning rate, 3e-3, either way.
    """
    alone, ranks = runs
    assert alone.keys() == ranks.keys()
    for step in range(NUM_STEPS):
        expected = alone[f"losses.{step}"]
        torch.testing.assert_close(
            ranks[f"losses.{step}"], expected, rtol=1e-4, atol=1e-5, equal_nan=True
        )
        torch.testing.assert_close(
            ranks[f"norm.{step}"], alone[f"norm.{step}"], rtol=1e-4, atol=0, equal_nan=True
        )
        for own, other in zip(
            of_step(alone, "weights", step), of_step(ranks, "weights", step), strict=True
        ):
            assert own.shape == other.shape
            torch.testing.assert_close(other, own, rtol=1e-4, atol=3e-5)


def test_nan_on_one_rank_skips_the_step_on_all(runs: list[dict[str, Tensor]]) -> None:
    for found in runs:
        assert found[f"norm.{NAN_STEP}"].isnan()
        before, after = (of_step(found, "weights", step) for step in (NAN_STEP - 1, NAN_STEP))
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        last = of_step(found, "weights", NUM_STEPS - 1)
        moved = [not torch.equal(a, b) for a, b in zip(after, last, strict=True)]
        assert sum(moved) > len(moved) / 2, "training goes on behind it"


def test_shares_are_equal_or_refused() -> None:
    ranks = [Ranks(index=index, count=3) for index in range(3)]
    assert [list(range(9)[rank.share(9)]) for rank in ranks] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    with pytest.raises(ValueError, match="rl.prompts_per_step: got 8 over 3 processes"):
        ranks[0].share(8)
    with pytest.raises(ValueError, match="sharding.timeout_s"):
        ShardingSettings(timeout_s=0)


def test_one_process_costs_nothing() -> None:
    value = torch.tensor([1.0, 2.0])
    assert torch.equal(ALONE.sum(value), value)
    assert torch.equal(ALONE.gather(value), value)
    assert ALONE.largest(7) == 7 and ALONE.agree("name") == "name"
