"""The models that a run's finished stages have left, and whether all of their files are there.

A record says that a stage is finished; who has removed or moved its files since is told which one
is missing, and how it is made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from gloss_engine.sidecar import SIDECAR_NAME
from gloss_engine.weight_files import INDEX_NAME
from gloss_training.errors import RunFolderError
from gloss_training.models.reconstructor import VALUE_HEAD_FILE

_LEFT: Final[Mapping[str, tuple[str, ...]]] = {
    "target": ("target",),
    "ar": ("ar",),
    "av": ("av",),
    "rl": ("rl/av", "rl/ar"),
}
"""Where each stage leaves its models."""
_WEIGHTS: Final = "model.safetensors"


def require_models(root: Path, stages: Iterable[str]) -> None:
    """Refuses to go on from models that are not there any more.

    Args:
        root: the run's directory.
        stages: finished ones; those that leave no model are passed over.

    Raises:
        RunFolderError: a file of a model is missing.
    """
    for stage in stages:
        for folder in (root / name for name in _LEFT.get(stage, ())):
            missing = next((path for path in _files(folder) if not path.exists()), None)
            if missing is not None:
                command = "data" if stage == "target" else stage
                raise RunFolderError(
                    f"{missing}: got no such file, expected what stage {stage} has left; put it "
                    f"back, or remove {root / 'stages' / f'{stage}.json'} and run gloss-train "
                    f"{command} to have it made again"
                )


def _files(folder: Path) -> list[Path]:
    """What a model's directory holds at least."""
    names = ["config.json", "tokenizer_config.json"]
    names += [] if folder.name == "target" else [SIDECAR_NAME]
    names += [VALUE_HEAD_FILE] if folder.name == "ar" else []
    index = folder / INDEX_NAME
    return [*(folder / name for name in names), index if index.exists() else folder / _WEIGHTS]
