"""`gloss verbalize` interrupted in every way: the rerun ends with the rows of one whole run."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gloss_server.commands.verbalize.command import verbalize as run_verbalize
from gloss_server.sources.local_explainer import LocalExplainer
from gloss_server.sources.verbalize_options import VerbalizeOptions
from gloss_server.terminal import RunProgress
from support.checkpoints import Pair
from support.command_process import end, start_gloss, wait_until
from support.command_runs import Command, in_order, read_rows, same

MANY = 300


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of more rows than run at once, of several chunks."""
    path = tmp_path_factory.mktemp("many") / "many.npy"
    np.save(path, np.random.default_rng(8).normal(size=(MANY, 72)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def arguments(many: Path, small_pair: Pair) -> list[object]:
    """The command that is interrupted, but for its output."""
    return [
        *("verbalize", many, "--local", "--av", small_pair.av, "--ar", small_pair.ar),
        *("--max-new-tokens", 10, "--seed", 3, "--output"),
    ]


@pytest.fixture(scope="module")
def whole(arguments: list[object], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Rows of a run that nobody interrupted."""
    directory = tmp_path_factory.mktemp("whole")
    process = start_gloss([*arguments, directory / "out.jsonl"], directory / "log")
    assert end(process) == 0
    rows = in_order(read_rows(directory / "out.jsonl"))
    assert len(rows) == MANY
    return rows


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _state_is_there(output: Path) -> bool:
    return output.with_name(f"{output.name}.run.json").exists()


@pytest.mark.parametrize(
    "moment",
    [
        _state_is_there,
        lambda output: _lines(output) >= 1,
        lambda output: _lines(output) >= 100,
        lambda output: _lines(output) >= 180,
    ],
)
def test_killed_and_continued_jsonl(
    arguments: list[object], whole: list[Any], tmp_path: Path, moment: Callable[[Path], bool]
) -> None:
    out = tmp_path / "out.jsonl"
    process = start_gloss([*arguments, out], tmp_path / "log")
    wait_until(lambda: moment(out), process)
    process.kill()
    assert end(process) == -signal.SIGKILL
    kept = out.read_bytes().rpartition(b"\n")[0] if out.exists() else b""
    assert _lines(out) < MANY, "killed too late to test anything"
    assert end(start_gloss([*arguments, out], tmp_path / "log")) == 0
    assert out.read_bytes().startswith(kept)
    assert same(in_order(read_rows(out)), whole)


@pytest.mark.parametrize("parts", [0, 1, 5])
def test_killed_and_continued_parquet(
    arguments: list[object], whole: list[Any], tmp_path: Path, parts: int
) -> None:
    out = tmp_path / "out.parquet"
    directory = tmp_path / "out.parquet.parts"
    process = start_gloss([*arguments, out], tmp_path / "log")
    wait_until(
        lambda: _state_is_there(out) and len(list(directory.glob("*.parquet"))) >= parts, process
    )
    process.kill()
    assert end(process) == -signal.SIGKILL
    assert not out.exists(), "half a run must not look like a whole one"
    (directory / "000000000000-000000.parquet.tmp").write_bytes(b"torn")
    assert end(start_gloss([*arguments, out], tmp_path / "log")) == 0
    assert same(pq.read_table(out).to_pylist(), whole)
    assert not directory.exists()


def test_killed_after_the_rename(arguments: list[object], tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert end(start_gloss([*arguments, out], tmp_path / "log")) == 0
    content = out.read_bytes()
    (tmp_path / "out.parquet.parts").mkdir()
    (tmp_path / "out.parquet.parts" / "000000000000-000000.parquet").write_bytes(b"left over")
    assert end(start_gloss([*arguments, out], tmp_path / "log")) == 0
    assert out.read_bytes() == content and not (tmp_path / "out.parquet.parts").exists()


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_full_disk(arguments: list[object], whole: list[Any], tmp_path: Path, name: str) -> None:
    out, log = tmp_path / name, tmp_path / "log"
    # A part is about 12 kB, a whole run of lines about 130 kB: both limits are hit on the way.
    limit = 60_000 if name.endswith("jsonl") else 6_000
    process = start_gloss([*arguments, out], log, max_file_bytes=limit)
    assert end(process) == 1
    (line,) = log.read_text().splitlines()
    assert line.startswith(f"error: cannot write {tmp_path}") and "File too large" in line
    if name.endswith("jsonl"):
        written = read_rows(out)
        assert 0 < len(written) < MANY and out.stat().st_size <= limit
    else:
        assert not out.exists()
    assert end(start_gloss([*arguments, out], log)) == 0
    rows = in_order(read_rows(out)) if name.endswith("jsonl") else pq.read_table(out).to_pylist()
    assert same(rows, whole)


def test_ctrl_c_says_how_to_go_on(
    arguments: list[object], whole: list[Any], tmp_path: Path
) -> None:
    out, log = tmp_path / "out.jsonl", tmp_path / "log"
    process = start_gloss([*arguments, out], log)
    wait_until(lambda: _lines(out) >= 32, process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert end(process) == 130
    (line,) = log.read_text().splitlines()
    assert f"{_lines(out)} of 300 explanations" in line and "the same command continues" in line
    assert end(start_gloss([*arguments, out], log)) == 0
    assert same(in_order(read_rows(out)), whole)


@pytest.mark.parametrize(("cut", "junk"), [(1, 0), (2, 0), (90, 0), (500, 0), (1, 90_000)])
def test_a_torn_last_line_is_dropped(
    verbalize: Command, npy: Path, tmp_path: Path, cut: int, junk: int
) -> None:
    out = tmp_path / "out.jsonl"
    verbalize(npy, out, "--samples", 2)
    expected = in_order(read_rows(out))
    # A power failure can leave zeros where a line was to be, more than there is left to write.
    out.write_bytes(out.read_bytes()[:-cut] + bytes(junk))
    ended = verbalize(npy, out, "--samples", 2)
    assert (
        ended.status == 3 and "80 explanations of 40 activations, 4 of them failed" in ended.stderr
    )
    assert same(in_order(read_rows(out)), expected)


def test_a_row_with_some_of_its_samples_gets_the_others(
    verbalize: Command, npy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    verbalize(npy, out, "--samples", 3)
    lines = out.read_bytes().splitlines(keepends=True)
    expected = in_order(read_rows(out))
    out.write_bytes(b"".join(line for number, line in enumerate(lines) if number % 7 != 4))
    assert verbalize(npy, out, "--samples", 3).status == 3
    assert same(in_order(read_rows(out)), expected)


def test_chunks_of_any_size_give_the_same_rows(npy: Path, small_pair: Pair, tmp_path: Path) -> None:
    outputs = []
    for chunk_rows in (1, 3, 32):
        out = tmp_path / f"{chunk_rows}.jsonl"
        options = VerbalizeOptions(file=npy, output=out, max_new_tokens=6, seed=7)
        pair = LocalExplainer(av=small_pair.av, ar=small_pair.ar)
        outcome = run_verbalize(options, pair, RunProgress(), chunk_rows=chunk_rows)
        assert (outcome.num_done, outcome.num_failed) == (40, 2)
        outputs.append(in_order(read_rows(out)))
    assert same(outputs[0], outputs[2]) and same(outputs[1], outputs[2])


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_finished_run_does_nothing(
    verbalize: Command,
    npy: Path,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / name
    assert verbalize(npy, out).status == 3
    before = (out.read_bytes(), out.stat().st_ino)
    monkeypatch.setattr("gloss_server.sources.local_explainer.load_engine", None)
    ended = verbalize(npy, out)
    assert ended.status == 3, "the rows that failed are still in it"
    assert "finished already" in ended.stderr and "nothing to do" in ended.stderr
    assert (out.read_bytes(), out.stat().st_ino) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.run.json"]


def test_a_drawn_seed_is_said_and_kept(verbalize: Command, npy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    ended = verbalize(npy, out, seed=None)
    expected = in_order(read_rows(out))
    (seed,) = {row["seed"] for row in expected}
    assert f"seed {seed}" in ended.stderr
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:9]))
    assert verbalize(npy, out, seed=None).status == 3
    assert same(in_order(read_rows(out)), expected)
    assert verbalize(npy, out, seed=seed).status == 3
    assert f"--seed was {seed}, now {seed + 1}" in verbalize(npy, out, seed=seed + 1).error
    other = tmp_path / "other.jsonl"
    verbalize(npy, other, seed=None)
    assert {row["seed"] for row in read_rows(other)} != {seed}


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--samples", 2], "--samples was 1, now 2"),
        (["--temperature", 0.5], "--temperature was 1.0, now 0.5"),
        (["--top-p", 0.5], "--top-p was 1.0, now 0.5"),
        (["--top-k", 5], "--top-k was 0, now 5"),
        (["--min-p", 0.1], "--min-p was 0.0, now 0.1"),
        (["--repetition-penalty", 1.1], "--repetition-penalty was 1.0, now 1.1"),
        (["--max-new-tokens", 7], "--max-new-tokens was 6, now 7"),
        (["--seed", 8], "--seed was 7, now 8"),
        (["--no-score"], "now not set"),
        (["--fve-baseline", 0.5], "--fve-baseline was not set, now 0.5"),
        (["--dtype", "bfloat16"], "--dtype was float32, now bfloat16"),
        (["--quantization", "fp8"], "--quantization was not set, now fp8"),
        (["--batch-invariant"], "--batch-invariant was not set, now True"),
        (["--injection-mode", "add"], "--injection-mode was replace, now add"),
        (["--layer", 3], "--layer was not set, now 3"),
        (["--temperature", 0.5, "--top-k", 5], "--temperature was 1.0, now 0.5; --top-k was"),
    ],
)
def test_other_options_are_refused(
    begun: Path, verbalize: Command, npy: Path, extra: list[object], said: str
) -> None:
    before = begun.read_bytes()
    ended = verbalize(npy, begun, *extra)
    assert ended.status == 2 and said in ended.error
    assert begun.read_bytes() == before


@pytest.fixture(scope="module")
def begun(npy: Path, small_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that could go on. Read only."""
    out = tmp_path_factory.mktemp("begun") / "out.jsonl"
    options = VerbalizeOptions(file=npy, output=out, max_new_tokens=6, seed=7)
    run_verbalize(options, LocalExplainer(av=small_pair.av, ar=small_pair.ar), RunProgress())
    out.write_bytes(out.read_bytes()[:-1])
    return out


def test_other_input_and_other_checkpoints_are_refused(
    begun: Path,
    verbalize: Command,
    small_pair: Pair,
    activations: np.ndarray,
    copy_of: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    same_rows = tmp_path / "renamed.npy"
    np.save(same_rows, activations)
    changed = activations.copy()
    changed[39, 71] += 1
    np.save(tmp_path / "changed.npy", changed)
    assert "the input is another file" in verbalize(tmp_path / "changed.npy", begun).error
    av = copy_of(small_pair.av)
    weights = bytearray((av / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (av / "model.safetensors").write_bytes(bytes(weights))
    assert "--av was" in verbalize(same_rows, begun, "--av", av).error


def test_what_no_run_has_begun_is_left_alone(verbalize: Command, npy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("someone's notes\n")
    ended = verbalize(npy, out)
    assert ended.status == 2 and "without out.jsonl.run.json" in ended.error
    assert out.read_text() == "someone's notes\n"
    assert not (tmp_path / "out.jsonl.run.json").exists()
    empty = tmp_path / "made_by_mktemp.jsonl"
    empty.touch()
    assert verbalize(npy, empty).status == 3 and len(read_rows(empty)) == 40


@pytest.mark.parametrize(
    "line",
    [
        b"{}\n",
        b"not json\n",
        b'{"index": 40, "sample": 0, "error": null}\n',
        b"the first again",
        b"\n",
    ],
)
def test_a_changed_output_is_refused(
    verbalize: Command, npy: Path, tmp_path: Path, line: bytes
) -> None:
    out = tmp_path / "out.jsonl"
    verbalize(npy, out)
    first, *rest = out.read_bytes().splitlines(keepends=True)
    if line == b"the first again":
        line = first
    changed = b"".join([first, line, *rest[:9]])
    out.write_bytes(changed)
    assert "line 2 is no row of this run" in verbalize(npy, out).error
    assert out.read_bytes() == changed


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2, "gloss": "9"}', "\x00"])
def test_a_changed_state_is_refused(
    verbalize: Command, npy: Path, tmp_path: Path, text: str
) -> None:
    out = tmp_path / "out.jsonl"
    state = tmp_path / "out.jsonl.run.json"
    state.write_text(text)
    assert "no run of this version wrote" in verbalize(npy, out).error
    assert state.read_text() == text and not out.exists()


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet.parts"])
def test_two_runs_do_not_write_one_output(
    verbalize: Command, npy: Path, tmp_path: Path, name: str
) -> None:
    held = tmp_path / name
    out = tmp_path / name.removesuffix(".parts")
    if held.suffix == ".parts":
        held.mkdir()
    descriptor = os.open(held, os.O_RDONLY | os.O_CREAT * (held.suffix != ".parts"))
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        ended = verbalize(npy, out)
    finally:
        os.close(descriptor)
    assert ended.status == 2 and "another run is writing it" in ended.error
    assert not (tmp_path / f"{out.name}.run.json").exists()
    assert verbalize(npy, out).status == 3


def test_the_state_is_readable_by_people(verbalize: Command, npy: Path, tmp_path: Path) -> None:
    verbalize(npy, tmp_path / "out.jsonl", "--temperature", 0.7)
    path = tmp_path / "out.jsonl.run.json"
    state = json.loads(path.read_text())
    assert state["seed"] == 7 and state["num_rows"] == 40
    assert state["options"]["--temperature"] == 0.7
    assert len(state["input_sha256"]) == 64
