"""`gloss-train export`: a finished run's pair as others use it.

Either in the released layout, as directories for AV and AR that `gloss doctor` passes and the
engine serves; or of a run with adapters as the adapters alone, in peft's format. What is written
appears under its name when all of it is on the disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from gloss_engine.weight_files import INDEX_NAME, open_safetensors, weight_files
from gloss_training.errors import RunFolderError
from gloss_training.machine import DTYPES
from gloss_training.release.adapter_files import CONFIG_FILE
from gloss_training.release.pair_adapters import FOLDER
from gloss_training.release.weight_shards import MAX_SHARD_BYTES, save_weights
from gloss_training.release.whole_models import require_models
from gloss_training.storage.disk import writing
from gloss_training.storage.whole_folders import whole_folder

FORMS: Final = ("released", "peft")
ROLES: Final = ("av", "ar")


def export(
    run: Path,
    output: Path,
    *,
    form: str = "released",
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Writes the pair of a run's last finished stage: of RL, or of the supervised stages.

    Args:
        run: the run's directory.
        output: a new directory, which gets `av` and `ar`.
        form: released or peft.
        dtype: of the released layout's weights: float32 or bfloat16; None: as they are. A value
            head stays float32.
        max_shard_bytes: of a file.

    Returns:
        Where the pair came from.

    Raises:
        RunFolderError: no finished pair, one whose files are gone, or no adapters.
        ValueError: `output` exists, an unknown form or dtype, or weights that do not fit the dtype.
        DiskError: it could not be written.
    """
    _one_of("--format", form, FORMS)
    if dtype is not None:
        _one_of("--dtype", dtype, tuple(DTYPES))
    source = _newest(run)
    with writing(str(output), "The run is as it was."), whole_folder(output) as at:
        for role in ROLES:
            if form == "peft":
                adapter = source / FOLDER / role
                if not (adapter / CONFIG_FILE).is_file():
                    raise RunFolderError(
                        f"{run}: got a run that trained all weights (lora.rank 0), expected one "
                        "with adapters; export it with --format released"
                    )
                shutil.copytree(adapter, at / role)
            else:
                chosen = None if dtype is None else DTYPES[dtype]
                copy_model(source / role, at / role, chosen, max_shard_bytes)
    return source


def copy_model(source: Path, output: Path, dtype: torch.dtype | None, max_shard_bytes: int) -> None:
    """A model's directory with its weights cast and in files of bounded size."""
    output.mkdir()
    paths = weight_files(source)
    for path in sorted(source.iterdir()):
        if path not in paths and path.name != INDEX_NAME and path.is_file():
            shutil.copyfile(path, output / path.name)
    save_weights(output, _stored(paths), dtype=dtype, max_shard_bytes=max_shard_bytes)
    if dtype is not None:
        _state_dtype(output / "config.json", str(dtype).removeprefix("torch."))


def _newest(run: Path) -> Path:
    """Where the last finished stage with a pair has it."""
    if not run.is_dir():
        raise RunFolderError(f"{run}: got no such directory, expected a run's")
    finished = {path.stem for path in (run / "stages").glob("*.json")}
    if "rl" in finished:
        require_models(run, ("rl",))
        return run / "rl"
    if {"av", "ar"} <= finished:
        require_models(run, ROLES)
        return run
    missing = ", ".join(sorted({"av", "ar"} - finished))
    raise RunFolderError(f"{run} has not finished stage {missing}; run gloss-train {missing} first")


def _stored(paths: tuple[Path, ...]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of safetensors files, one tensor at a time."""
    for path in paths:
        with open_safetensors(path) as handle:
            for name in handle.keys():  # noqa: SIM118 (no mapping)
                yield name, handle.get_tensor(name)


def _state_dtype(path: Path, dtype: str) -> None:
    """What config.json says of its weights' type, in the text part's table too."""
    config = json.loads(path.read_text(encoding="utf-8"))
    tables = [config, *(t for t in config.values() if isinstance(t, dict))]
    for table in tables:
        for key in ("dtype", "torch_dtype"):
            if key in table:
                table[key] = dtype
    config.setdefault("dtype", dtype)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(allowed)}")
