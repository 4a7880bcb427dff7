"""Checkpoints: what is read back, which stay, and what a failed or killed save leaves."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from gloss_training.errors import DiskError, RunFolderError
from gloss_training.storage import checkpoints

TENSORS = {"a/w": torch.arange(6.0).reshape(2, 3), "a/step": torch.tensor(3.0)}


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    tensors = {**TENSORS, "bits": torch.tensor([1, 255], dtype=torch.uint8)}
    path = checkpoints.save(tmp_path / "av", 12, tensors, {"num_skipped": 2, "figures": {"x": 0.1}})
    assert path == checkpoints.latest(tmp_path / "av")
    assert checkpoints.latest_step(tmp_path / "av") == 12
    back = checkpoints.load(path)
    assert (back.step, back.state) == (12, {"num_skipped": 2, "figures": {"x": 0.1}})
    assert back.tensors.keys() == tensors.keys()
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in tensors.items())
    assert checkpoints.part(back.tensors, "a").keys() == {"w", "step"}


def test_only_the_newest_stay_and_the_order_is_of_numbers(tmp_path: Path) -> None:
    for step in (5, 100, 20):
        checkpoints.save(tmp_path, step, TENSORS, {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]
    assert checkpoints.latest_step(tmp_path) == 100
    assert checkpoints.latest(tmp_path / "none") is None


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        path = checkpoints.save(tmp_path, 5, {"w": torch.tensor([value])}, {})
    assert checkpoints.load(path).tensors["w"].item() == 2.0


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_full_disk_leaves_the_older_one_and_says_what_to_do(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(tmp_path, 5, TENSORS, {})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(DiskError, match="the disk is full.*step-00000005, is whole.*--resume"):
        checkpoints.save(tmp_path, 6, TENSORS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]
    monkeypatch.undo()
    assert torch.equal(checkpoints.load(tmp_path / "step-00000005").tensors["a/w"], TENSORS["a/w"])


def test_fewer_to_keep_make_room_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (5, 6):
        checkpoints.save(tmp_path, step, TENSORS, {}, keep=2)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(DiskError, match="Make room .with a smaller keep_checkpoints"):
        checkpoints.save(tmp_path, 7, TENSORS, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006"]


def test_what_a_killed_save_left_is_no_checkpoint_and_goes_with_the_next(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 5, TENSORS, {})
    half = tmp_path / "step-00000006.writing"
    half.mkdir()
    (half / "state.json").write_text("{")
    assert checkpoints.latest_step(tmp_path) == 5
    checkpoints.save(tmp_path, 7, TENSORS, {})
    assert not half.exists()


def test_random_states_come_back() -> None:
    torch.manual_seed(3)
    state = checkpoints.random_state()
    drawn = torch.rand(3)
    checkpoints.set_random_state(state)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize("name", [checkpoints.STATE_FILE, checkpoints.TENSORS_FILE])
@pytest.mark.parametrize("contents", [None, "", "{}"])
def test_a_damaged_checkpoint_is_named(name: str, contents: str | None, tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path, 5, TENSORS, {})
    (path / name).unlink()
    if contents is not None:
        (path / name).write_text(contents)
    said = "step-00000005: got a checkpoint that cannot be read .*; remove it to go on from the one"
    with pytest.raises(RunFolderError, match=said):
        checkpoints.load(path)
