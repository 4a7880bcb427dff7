"""`gloss capture` interrupted in every way: the rerun ends with the file of one whole run."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gloss_engine.capture.positions import Positions
from gloss_engine.config import EngineConfig
from gloss_engine.target.target import load_target
from gloss_server.commands.capture.input import open_texts
from gloss_server.commands.capture.run import CaptureRun, Part
from gloss_server.embedded import embedded_pair
from support.capture_runs import TEXTS, TURNS, vectors
from support.command_process import end, start_gloss, wait_until
from support.command_runs import Command, write_rows
from support.edits import edit_weights

MANY = 3500
BAD_ROWS = (5, 1500, 3400)
WORDS = TEXTS[0].split() + TEXTS[2].split()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More documents than go into three parts, of any length; a few are bad. Read only."""
    random = np.random.default_rng(8)
    rows = [
        {"text": " ".join(random.choice(WORDS, size=random.integers(1, 12)))} for _ in range(MANY)
    ]
    for row in BAD_ROWS:
        rows[row] = {"text": ""}
    return write_rows(tmp_path_factory.mktemp("many") / "many.jsonl", rows)


@pytest.fixture(scope="module")
def arguments(many: Path, small_target: Path) -> list[object]:
    """The command that is interrupted, but for its output."""
    return [
        *("capture", "--target", small_target, "--layer", 3, "--positions", "0,-1"),
        *("--input", many, "--output"),
    ]


@pytest.fixture(scope="module")
def whole(arguments: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nobody interrupted. Read only."""
    directory = tmp_path_factory.mktemp("whole")
    process = start_gloss([*arguments, directory / "out.parquet"], directory / "log")
    assert end(process) == 3
    return directory / "out.parquet"


def beside(output: Path, suffix: str) -> Path:
    """What stands beside an output."""
    return output.with_name(f"{output.name}.{suffix}")


def parts(output: Path) -> list[Path]:
    """Parts of an unfinished output, in order."""
    return sorted(beside(output, "parts").glob("*.parquet"))


def assert_finished(output: Path, whole: Path) -> None:
    """The output, and all that stands beside it, is that of an uninterrupted run."""
    assert output.read_bytes() == whole.read_bytes()
    for suffix in ("failed.jsonl", "nla_meta.yaml", "run.json"):
        assert beside(output, suffix).read_bytes() == beside(whole, suffix).read_bytes()
    assert not beside(output, "parts").exists()
    assert len(list(output.parent.glob(f"{output.name}*"))) == 4


def all_vectors(read: list[Part]) -> np.ndarray:
    """[n, d_model] of all parts."""
    return np.concatenate([vectors(part.tables[0]) for part in read])


@pytest.mark.parametrize("num_parts", [0, 1, 3])
def test_killed_and_continued(
    arguments: list[object], whole: Path, tmp_path: Path, num_parts: int
) -> None:
    out = tmp_path / "out.parquet"
    process = start_gloss([*arguments, out], tmp_path / "log")
    wait_until(lambda: beside(out, "run.json").exists() and len(parts(out)) >= num_parts, process)
    process.kill()
    assert end(process) == -signal.SIGKILL
    assert not out.exists(), "half a run must not look like a whole one"
    assert len(parts(out)) < 4, "killed too late to test anything"
    (beside(out, "parts") / "000000001024.parquet.tmp").write_bytes(b"torn")
    assert end(start_gloss([*arguments, out], tmp_path / "log")) == 3
    assert_finished(out, whole)


def test_any_batch_is_a_place_to_go_on(many: Path) -> None:
    target = load_target(embedded_pair().target, EngineConfig(), layer_index=2, generates=False)
    source = open_texts(many)

    def read(start: int, max_tokens: int) -> list[Part]:
        rows = islice(source.rows(start), 60 - start)
        return list(CaptureRun(target, Positions(), max_tokens).batches(rows, lambda span: None))

    # Few tokens: most documents share their pass with one or two others, some take several.
    expected = read(0, 20)
    assert len(expected) > 15
    for at in range(len(expected)):
        went_on = read(expected[at].span.start, 20)
        assert [part.span for part in went_on] == [part.span for part in expected[at:]]
        # To the last bit: what shares a pass is the same.
        for part, other in zip(went_on, expected[at:], strict=True):
            assert part.tables[0].equals(other.tables[0])
    # Which it would not be for itself: in passes of their own, documents have other last bits.
    alone, together = all_vectors(read(0, 1)), all_vectors(expected)
    assert (alone != together).any()
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)


def test_parts_of_any_size_give_the_same_file(
    gloss: Command, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gloss_server.commands.capture.results._MAX_GROUP_ROWS", 5000)
    assert gloss(*arguments, tmp_path / "a.parquet").status == 3
    monkeypatch.setattr("gloss_server.commands.capture.run._MAX_PART_SECONDS", 0)
    assert gloss(*arguments, tmp_path / "b.parquet").status == 3
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2


def test_killed_after_the_rename(capture: Command, tmp_path: Path) -> None:
    file, out = write_rows(tmp_path / "in.jsonl", [{"text": "a b"}]), tmp_path / "out.parquet"
    assert capture(file, out).status == 0
    content = out.read_bytes()
    beside(out, "parts").mkdir()
    shutil.copy(out, beside(out, "parts") / "000000000000.parquet")
    ended = capture(file, out)
    assert ended.status == 0 and "finished already" in ended.stderr
    assert out.read_bytes() == content and not beside(out, "parts").exists()


def test_a_full_disk(arguments: list[object], whole: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out.parquet", tmp_path / "log"
    size = whole.stat().st_size
    # No part fits; then parts do and the whole does not.
    for limit, num_parts in ((size // 8, 0), (size // 2, 4)):
        assert end(start_gloss([*arguments, out], log, max_file_bytes=limit)) == 1
        (line,) = log.read_text().splitlines()
        assert line.startswith(f"error: cannot write {tmp_path}") and "File too large" in line
        assert not out.exists() and len(parts(out)) == num_parts
        assert not list(beside(out, "parts").glob("*.tmp"))
    assert end(start_gloss([*arguments, out], log)) == 3
    assert_finished(out, whole)


def test_ctrl_c_says_how_to_go_on(arguments: list[object], whole: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out.parquet", tmp_path / "log"
    process = start_gloss([*arguments, out], log)
    wait_until(lambda: len(parts(out)) >= 1, process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert end(process) == 130
    (line,) = log.read_text().splitlines()
    metadata = pq.read_metadata(parts(out)[-1]).metadata
    captured = json.loads(metadata[b"gloss.capture"])["stop"]
    assert f"{captured:,} of 3,500 documents captured; the same command continues" in line
    assert end(start_gloss([*arguments, out], log)) == 3
    assert_finished(out, whole)


@pytest.fixture(scope="module")
def begun(arguments: list[object], whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run whose parts are there, but no room for the whole. Read only."""
    directory = tmp_path_factory.mktemp("begun")
    out = directory / "out.parquet"
    limit = whole.stat().st_size // 2
    process = start_gloss([*arguments, out], directory / "log", max_file_bytes=limit)
    assert end(process) == 1 and len(parts(out)) == 4
    return out


@pytest.fixture
def copied(begun: Path, tmp_path: Path) -> Path:
    """A copy of the begun output, to be changed."""
    shutil.copytree(begun.parent, tmp_path / "begun")
    return tmp_path / "begun" / begun.name


def _cut(output: Path) -> None:
    part = parts(output)[1]
    part.write_bytes(part.read_bytes()[:-40])


def _damage(output: Path) -> None:
    part = parts(output)[1]
    content = bytearray(part.read_bytes())
    content[200:20_000] = bytes(19_800)
    part.write_bytes(bytes(content))


def _lose(output: Path) -> None:
    parts(output)[1].unlink()


def _repeat(output: Path) -> None:
    shutil.copy(parts(output)[0], beside(output, "parts") / "000000000001.parquet")


def _put_another(output: Path) -> None:
    pq.write_table(pq.read_table(parts(output)[3]).replace_schema_metadata(None), parts(output)[3])


@pytest.mark.parametrize("change", [_cut, _damage, _lose, _repeat, _put_another])
def test_changed_parts_are_refused(
    gloss: Command, arguments: list[object], copied: Path, change: Callable[[Path], None]
) -> None:
    change(copied)
    ended = gloss(*arguments, copied)
    assert ended.status == 2 and "is no part of this run" in ended.error
    assert not copied.exists() and not list(beside(copied, "parts").glob("*.tmp"))


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--layer", 2], "--layer was 3, now 2"),
        (["--positions", "last"], "--positions was 0,-1, now last"),
        (["--dtype", "bfloat16", "--layer", 4], "--dtype was float32, now bfloat16; --layer was"),
    ],
)
def test_other_options_are_refused(
    gloss: Command, arguments: list[object], begun: Path, extra: list[object], said: str
) -> None:
    ended = gloss(*arguments, begun, *extra)
    assert ended.status == 2 and said in ended.error
    assert len(parts(begun)) == 4


def test_other_input_and_other_targets_are_refused(
    gloss: Command,
    arguments: list[object],
    begun: Path,
    many: Path,
    small_target: Path,
    copy_of: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    changed = tmp_path / "changed.jsonl"
    changed.write_bytes(many.read_bytes().replace(b"river", b"River", 1))
    assert "the input is another file" in gloss(*arguments, begun, "--input", changed).error

    def edit(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor * 1.5 if name.endswith("layers.0.mlp.up_proj.weight") else tensor

    target = copy_of(small_target)
    edit_weights(target, edit)
    assert "--target was" in gloss(*arguments, begun, "--target", target).error


def test_what_no_run_has_begun_is_left_alone(capture: Command, tmp_path: Path) -> None:
    file, out = write_rows(tmp_path / "in.jsonl", [{"text": "a"}]), tmp_path / "out.parquet"
    out.write_text("someone's notes")
    ended = capture(file, out)
    assert ended.status == 2 and "without out.parquet.run.json" in ended.error
    assert out.read_text() == "someone's notes"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.parquet"]


def test_another_commands_output_is_refused(
    capture: Command, verbalize: Command, npy: Path, tmp_path: Path
) -> None:
    file, out = write_rows(tmp_path / "in.jsonl", [{"text": "a"}]), tmp_path / "out.parquet"
    assert capture(file, out).status == 0
    assert "--positions was all, now not set" in verbalize(npy, out).error


def test_two_runs_do_not_write_one_output(capture: Command, tmp_path: Path) -> None:
    file, out = write_rows(tmp_path / "in.jsonl", [{"text": "a"}]), tmp_path / "out.parquet"
    beside(out, "parts").mkdir()
    descriptor = os.open(beside(out, "parts"), os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        ended = capture(file, out)
    finally:
        os.close(descriptor)
    assert ended.status == 2 and "another run is writing it" in ended.error
    assert not beside(out, "run.json").exists()
    assert capture(file, out).status == 0


def test_a_finished_run_does_nothing(
    capture: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": TEXTS[0]}, {"messages": TURNS}]
    file, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    # Of an earlier output of this name, which was removed.
    beside(out, "failed.jsonl").write_text("{}\n")
    assert capture(file, out).status == 0
    assert not beside(out, "failed.jsonl").exists()
    before = (out.read_bytes(), out.stat().st_ino)
    monkeypatch.setattr("gloss_server.commands.capture.command.load_target", None)
    ended = capture(file, out)
    assert ended.status == 0 and "finished already" in ended.stderr
    assert (out.read_bytes(), out.stat().st_ino) == before


def test_the_state_is_readable_by_people(capture: Command, tmp_path: Path) -> None:
    file, out = write_rows(tmp_path / "in.jsonl", [{"text": "a b"}]), tmp_path / "out.parquet"
    capture(file, out, "--positions", "0:1")
    state = json.loads(beside(out, "run.json").read_text())
    assert state["num_rows"] == 1 and state["seed"] is None
    assert state["options"]["--positions"] == "0:1" and state["options"]["--layer"] == 2
