"""Models that finished stages have left and that are gone: which file, and how it is made again."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from gloss_training.errors import RunFolderError
from gloss_training.release.export import export
from gloss_training.release.whole_models import require_models
from gloss_training.run.config import read_config
from gloss_training.stages.run import Run

FILES = {
    "target": ["config.json", "tokenizer_config.json", "model.safetensors"],
    "av": ["config.json", "tokenizer_config.json", "nla_meta.yaml", "model.safetensors"],
    "ar": [
        *("config.json", "tokenizer_config.json", "nla_meta.yaml", "value_head.safetensors"),
        "model.safetensors.index.json",
    ],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run whose every stage has left its files, all of them empty."""
    for folder in ("target", "av", "ar", "rl/av", "rl/ar"):
        for name in FILES[folder.removeprefix("rl/")]:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "stages").mkdir()
    for stage in ("target", "data", "ar", "av", "rl"):
        (tmp_path / "stages" / f"{stage}.json").write_text('{"seconds": 1.0}')
    return tmp_path


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        *((stage, f"{stage}/{name}") for stage, names in FILES.items() for name in names),
        *(("rl", f"rl/{role}/{name}") for role in ("av", "ar") for name in FILES[role]),
    ],
)
def test_a_file_that_is_gone_is_named(root: Path, stage: str, name: str) -> None:
    require_models(root, ("target", "data", "ar", "av", "rl"))
    (root / name).unlink()
    with pytest.raises(RunFolderError) as refused:
        require_models(root, ("target", "data", "ar", "av", "rl"))
    command = "data" if stage == "target" else stage
    said = str(refused.value)
    assert said.startswith(f"{root / name.removesuffix('.index.json')}: got no such file")
    assert f"remove {root}/stages/{stage}.json and run gloss-train {command} to" in said


def test_stages_and_exports_go_on_from_whole_models_alone(root: Path, tmp_path: Path) -> None:
    (root / "rl" / "ar" / "value_head.safetensors").unlink()
    with pytest.raises(RunFolderError, match="value_head.safetensors: got no such file"):
        Run(root, read_config("smoke"), Console(quiet=True)).stage("evaluate")
    with pytest.raises(RunFolderError, match="value_head.safetensors: got no such file"):
        export(root, tmp_path / "pair")
    assert not (tmp_path / "pair").exists()
