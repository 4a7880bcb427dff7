"""Stages by adapters and in full, in one process and on two ranks: equal, and they export."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from safetensors import safe_open

from gloss_server.commands.doctor.examination import examine, exit_code
from gloss_training.errors import ConfigError
from gloss_training.models.sharding import Ranks
from gloss_training.release.export import export
from gloss_training.run.config import read_config
from gloss_training.stages.run import Run
from support import shared_stages

# At smoke's own rate the steps of adapters are so large that the order of sums decides them.
KINDS = {
    "full": ("rl.reward.judge=0.5", "av.vocabulary_chunk=50"),
    "lora": ("lora.rank=4", "ar.gradient_checkpointing=true", "av.learning_rate=1e-2"),
}


@pytest.fixture(scope="module")
def with_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose target and data are made."""
    root = tmp_path_factory.mktemp("shared") / "data"
    Run(root, read_config("smoke"), Console(quiet=True)).stages(("target", "data"))
    return root


def under_torchrun(root: Path, overrides: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", shared_stages.__file__, str(root), *overrides]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]


@pytest.fixture(scope="module", params=KINDS)
def roots(request: pytest.FixtureRequest, with_data: Path) -> tuple[Path, Path]:
    """The run of one process, and that of two ranks."""
    found = []
    for name in ("alone", "ranks"):
        root = with_data.with_name(f"{request.param}-{name}")
        shutil.copytree(with_data, root)
        found.append(root)
    overrides = KINDS[request.param]
    shared_stages.run_stages(found[0], overrides)
    under_torchrun(found[1], overrides)
    return found[0], found[1]


def figures(root: Path, stage: str) -> list[dict[str, float]]:
    lines = (root / "logs" / f"{stage}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_supervised_stages_on_two_ranks_are_those_of_one_process(
    roots: tuple[Path, Path],
) -> None:
    """float32: sums in another order, over few steps."""
    for stage in ("ar", "av"):
        alone, ranks = (figures(root, stage) for root in roots)
        assert len(alone) == len(ranks) > 0
        for one, two in zip(alone, ranks, strict=True):
            assert one.keys() == two.keys()
            for name, value in one.items():
                assert two[name] == pytest.approx(value, rel=2e-3, abs=1e-5), (stage, name)


def test_a_pair_of_either_kind_and_number_is_exported(
    roots: tuple[Path, Path], tmp_path: Path
) -> None:
    for root in roots:
        out = tmp_path / root.name
        export(root, out)
        checks = examine(out)
        assert exit_code(checks) == 0, [check for check in checks if check.status == "fail"]
        assert len(figures(root, "rl")) > 0
        has_judge = any("reward_judge" in line for line in figures(root, "rl"))
        assert has_judge == root.name.startswith("full")
        has_adapters = (root / "rl" / "adapters").is_dir()
        assert has_adapters == root.name.startswith("lora")
        for stage in (root, root / "rl"):
            with safe_open(stage / "av" / "model.safetensors", "pt") as file:
                assert "model.norm.weight" in file.keys()  # noqa: SIM118 (no mapping)
        if has_adapters:
            export(root, tmp_path / f"{root.name}-peft", form="peft")


def test_stages_of_one_process_are_refused_on_several(with_data: Path) -> None:
    run = Run(with_data, read_config("smoke"), Console(quiet=True))
    object.__setattr__(run.context, "ranks", Ranks(index=0, count=2))
    with pytest.raises(ConfigError, match="gloss-train evaluate without torchrun"):
        run.stage("evaluate")
