"""Checkpoints inside a stage: everything that a resumed run needs, written whole or not at all.

    folder/step-00000100/state.json  tensors.safetensors
                                     shards/              of several processes, instead

A checkpoint is written beside its place, forced to the disk, and then given its name: who is killed
at any moment leaves the old ones, and perhaps a folder of another name that the next save removes.
One process pickles nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from gloss_training.errors import RunFolderError
from gloss_training.models.sharding import ALONE, Ranks
from gloss_training.storage.disk import writing_of_stage
from gloss_training.storage.sharded_tensors import read_sharded, spread, write_sharded

TENSORS_FILE: Final = "tensors.safetensors"
SHARDS_FOLDER: Final = "shards"
STATE_FILE: Final = "state.json"
_NAME: Final = re.compile(r"step-(\d{8})")
_ROOM: Final = "with a smaller keep_checkpoints of the stage fewer checkpoints stay"
_WRITING: Final = ".writing"
_GOING: Final = ".going"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What one checkpoint holds.

    Attributes:
        step: updates that were made; the next one has this index.
        tensors: weights, moments and random states by name.
        state: plain values.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    keep: int = 2,
    ranks: Ranks = ALONE,
) -> Path:
    """Writes the checkpoint of `step`; of the others the newest stay, `keep` with this one.

    All ranks must call it: each writes its part of what is sharded.

    Raises:
        DiskError: it could not be written; the newest `keep` of the older ones are there.
    """
    unfinished = folder / f"{_name(step)}{_WRITING}"
    what = f"checkpoint {folder / _name(step)}"
    with writing_of_stage(what, _kept(folder), room=_ROOM):
        try:
            ranks.first(lambda: _begin(folder, unfinished, keep))
            if ranks.count > 1:
                write_sharded(unfinished / SHARDS_FOLDER, tensors)
            else:
                _write_tensors(unfinished / TENSORS_FILE, tensors)
            ranks.first(lambda: _finish(unfinished, step, state, keep))
        except BaseException:
            if ranks.is_first:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return folder / _name(step)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a folder; None where there is none."""
    found = _finished(folder)
    return found[-1] if found else None


def load(path: Path, like: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """Reads a checkpoint that `save` wrote, on this number of processes or another.

    Args:
        path: the checkpoint.
        like: tensors of its names as they stand here now, where they are sharded: what is read is
            spread as they are (see `sharded_tensors.read_sharded`).

    Raises:
        RunFolderError: a part of it is gone or damaged.
    """
    try:
        state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        step = state.pop("step")
        if (path / SHARDS_FOLDER).is_dir():
            tensors = read_sharded(path / SHARDS_FOLDER, like or {})
        else:
            tensors = spread(load_file(path / TENSORS_FILE), like or {})
    except (OSError, ValueError, KeyError, SafetensorError, CheckpointException) as error:
        raise RunFolderError(
            f"{path}: got a checkpoint that cannot be read ({type(error).__name__}: {error}), "
            "expected a whole one; remove it to go on from the one before it"
        ) from error
    return Checkpoint(step=step, tensors=tensors, state=state)


def latest_step(folder: Path) -> int:
    """The step of the newest whole checkpoint, which is where a run goes on; 0 without one."""
    newest = latest(folder)
    return 0 if newest is None else int(newest.name.removeprefix("step-"))


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix` and a slash, without it."""
    start = f"{prefix}/"
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix` and a slash before their names: what `part` takes apart."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def random_state() -> dict[str, Tensor]:
    """The state of torch's own generators."""
    found = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def set_random_state(tensors: Mapping[str, Tensor]) -> None:
    """Takes back what `random_state` gave."""
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def _begin(folder: Path, unfinished: Path, keep: int) -> None:
    """A folder of another name, to be filled, once there is the room that fewer to keep make."""
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    for old in _finished(folder)[:-keep]:
        _remove(old)
    unfinished.mkdir()


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({n: value.detach().cpu().contiguous() for n, value in tensors.items()}, path)


def _finish(unfinished: Path, step: int, state: Mapping[str, Any], keep: int) -> None:
    """Waits until all of it is on the disk, gives it its name, and removes older ones."""
    text = json.dumps({"step": step, **state}, indent=1)
    (unfinished / STATE_FILE).write_text(text, encoding="utf-8")
    for path in (*unfinished.rglob("*"), unfinished):
        _force(path)
    folder = unfinished.parent
    _rename(unfinished, folder / _name(step))
    for old in _finished(folder)[:-keep]:
        _remove(old)


def _rename(unfinished: Path, place: Path) -> None:
    """Gives a whole checkpoint its name; one of the same step that is there goes first."""
    if place.exists():
        _remove(place)
    os.rename(unfinished, place)
    _force(place.parent)


def _finished(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _remove(path: Path) -> None:
    """Removes a whole checkpoint: first its name, so that half of one is never taken for one."""
    going = path.with_name(f"{path.name}{_GOING}")
    os.rename(path, going)
    shutil.rmtree(going)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name.endswith((_WRITING, _GOING)):
            shutil.rmtree(path)


def _force(path: Path) -> None:
    """Waits until a file or the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _kept(folder: Path) -> str:
    newest = latest(folder)
    if newest is None:
        return "There is no older checkpoint of this stage; the stages before it are whole."
    return f"The one before it, {newest.name}, is whole."
