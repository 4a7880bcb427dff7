"""Two ranks under torchrun make the same steps as one process, and none waits for the other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gloss_training.models.sharding import ALONE, Ranks, ShardingSettings
from support import sharded_steps
from support.sharded_steps import KINDS, NAN_STEP, NUM_STEPS


def under_torchrun(folder: Path, num_ranks: int = 2) -> None:
    """Runs `sharded_steps.py` on so many ranks; fails with what they wrote."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={num_ranks}", sharded_steps.__file__, str(folder)]
    tests = Path(__file__).parents[1]
    paths = [str(tests), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]


Found = dict[str, Tensor]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    """What one process and what two ranks found; each went on once from what the other saved."""
    folder = tmp_path_factory.mktemp("sharded")
    alone = sharded_steps.run(folder, ALONE)
    under_torchrun(folder)
    for kind in KINDS:
        sharded_steps.resume(folder, kind, ALONE, alone)
    return alone, load_file(folder / "found-2.safetensors")


def of_step(found: Found, run: str, step: int) -> list[Tensor]:
    """All weights after a step of one run."""
    start = f"{run}.weights.{step}."
    names = sorted((name for name in found if name.startswith(start)), key=len)
    assert names
    return [found[name] for name in names]


def assert_equal_weights(found: list[Tensor], expected: list[Tensor]) -> None:
    """float32: sums of two shares instead of one, and AdamW's first steps divide a gradient by its
    own size, so what is near zero may move by a part of the learning rate, 3e-3, either way."""
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_equal_one_process(runs: tuple[Found, Found], kind: str) -> None:
    """The second rank has no valid response but in the last step; who waits ends in a timeout."""
    alone, ranks = runs
    assert alone.keys() == ranks.keys()
    run = f"{kind}.whole"
    for step in range(NUM_STEPS):
        for figure in ("losses", "norm"):
            name = f"{run}.{figure}.{step}"
            torch.testing.assert_close(
                ranks[name], alone[name], rtol=1e-4, atol=1e-5, equal_nan=True
            )
        assert_equal_weights(of_step(ranks, run, step), of_step(alone, run, step))


@pytest.mark.parametrize("kind", KINDS)
def test_nan_on_one_rank_skips_the_step_on_all(runs: tuple[Found, Found], kind: str) -> None:
    for found in runs:
        run = f"{kind}.whole"
        assert found[f"{run}.norm.{NAN_STEP}"].isnan()
        before, after = (of_step(found, run, step) for step in (NAN_STEP - 1, NAN_STEP))
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        last = of_step(found, run, NUM_STEPS - 1)
        moved = [not torch.equal(a, b) for a, b in zip(after, last, strict=True)]
        assert sum(moved) > len(moved) / 2, "training goes on behind it"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_with_another_number_of_ranks(runs: tuple[Found, Found], kind: str) -> None:
    """Weights and moments of two ranks go to one process, and of one process to two ranks."""
    for found in runs:
        resumed = of_step(found, f"{kind}.resumed", NUM_STEPS - 1)
        assert_equal_weights(resumed, of_step(found, f"{kind}.whole", NUM_STEPS - 1))
        before = of_step(found, f"{kind}.whole", NUM_STEPS - 2)
        assert not all(torch.allclose(a, b) for a, b in zip(resumed, before, strict=True))


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
