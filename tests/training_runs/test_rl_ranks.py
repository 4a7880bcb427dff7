"""RL on two ranks, weights sharded, is RL in one process: figures, norms, weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gloss_training.models.sharding import ALONE
from support import rl_ranks


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", rl_ranks.__file__, str(folder)]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, Any] = json.loads((folder / "found.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize("kind", rl_ranks.KINDS)
def test_two_ranks_equal_one_process(
    on_two_ranks: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    alone: Any = rl_ranks.run(kind, ALONE, tmp_path)
    ranks = on_two_ranks[kind]
    assert len(alone["figures"]) == 3
    for one, two in zip(alone["figures"], ranks["figures"], strict=True):
        assert one.keys() == two.keys()
        assert one["skipped"] == 0.0
        assert 0.0 < one["failure_rate"] < 1.0
        for name, value in one.items():
            assert two[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for name, norm in alone["norms"].items():
        assert ranks["norms"][name] == pytest.approx(norm, rel=1e-4), name
