"""The GPU suite runs all its parts small on a CPU, its rows hold together, its parts fit into its
time, and it fails where something is wrong: a part that raises, a part that hangs, a forward pass
that is off, a command that means nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
FIELDS = {
    *("figure", "value", "unit", "batch", "dtype", "scoring", "share_of_floor", "peer", "ratio"),
    *("activations", "note", "error", "failed"),
}
Row = dict[str, Any]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("kernels", "server"))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of a smoke run, with what it printed and where its profiles are."""
    folder = tmp_path_factory.mktemp("suite")
    output, profiles = folder / "suite.json", folder / "profiles"
    done = _run(
        *("benchmarks/gpu_suite.py", "--smoke", "--commit", "abc"),
        *("--output", str(output), "--profile-dir", str(profiles)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(output.read_text())
    return {**result, "printed": done.stdout, "profiles": profiles}


def _values(rows: list[Row], figure: str) -> dict[tuple[Any, ...], float]:
    return {
        (row["batch"], row["dtype"], row["scoring"]): row["value"]
        for row in rows
        if row["figure"] == figure
    }


def test_every_row_is_whole(smoke: dict[str, Any]) -> None:
    assert smoke["machine"]["commit"] == "abc" and smoke["machine"]["torch"]
    assert smoke["command"].startswith("python benchmarks/gpu_suite.py --smoke")
    for row in smoke["rows"]:
        assert set(row) == FIELDS
        assert row["error"] is None and not row["failed"], row
        assert row["value"] >= 0 and row["unit"]
    lines = smoke["printed"].splitlines()
    table = lines[-len(smoke["rows"]) :]
    assert [line.split()[0] for line in table] == [row["figure"] for row in smoke["rows"]]


def test_every_figure_is_there(smoke: dict[str, Any]) -> None:
    rows = smoke["rows"]
    cells = {(b, d, s) for b in (1, 2, 4, 8) for d in ("bfloat16", "fp8") for s in (False, True)}
    for figure in ("explanations_per_second", "tokens_per_second"):
        assert set(_values(rows, figure)) == cells
    assert set(_values(rows, "step_ms")) == {cell for cell in cells if not cell[2]}
    assert set(_values(rows, "single_explanation_ms")) == {cell for cell in cells if cell[0] == 1}
    for figure in ("first_token_ms", "start_up_seconds"):
        assert set(_values(rows, figure)) == {(*cell[:2], None) for cell in cells}
    cold, *later = [row["note"] for row in rows if row["figure"] == "start_up_seconds"]
    assert "first engine of the process" in cold and "no kernels on a CPU" in cold
    assert len(later) == 8 and all("compiled before" in note for note in later)
    assert len([row for row in rows if row["figure"].startswith("ceiling")]) == 3
    assert len([row for row in rows if row["figure"].startswith("logit_error")]) == 4
    assert len([row for row in rows if row["figure"] == "logprob_error"]) == 1
    assert {row["note"].split(":")[0] for row in rows if row["figure"] == "divergence_rate"} == {
        "batch_invariant off",
        "batch_invariant on",
    }
    written = {path.name for path in smoke["profiles"].iterdir()}
    assert {f"decode_{d}_4.txt" for d in ("bfloat16", "fp8")} <= written


def test_figures_agree_with_each_other(smoke: dict[str, Any]) -> None:
    rows = smoke["rows"]
    rates, tokens = (_values(rows, f"{name}_per_second") for name in ("explanations", "tokens"))
    for cell, rate in rates.items():
        assert tokens[cell] == pytest.approx(10 * rate)
    for (_, dtype, scoring), ms in _values(rows, "single_explanation_ms").items():
        assert rates[1, dtype, scoring] == pytest.approx(1e3 / ms)
    for row in rows:
        if row["share_of_floor"] is not None:
            assert 0 < row["share_of_floor"] < 1


def test_ratios_are_to_the_fastest_peer(smoke: dict[str, Any]) -> None:
    rows = smoke["rows"]
    peers = [row for row in rows if row["figure"] == "peer_explanations_per_second"]
    paths = [row["peer"] for row in peers]
    checks = [row["peer"] for row in rows if row["figure"].startswith(("logit_", "logprob_"))]
    assert checks == ["transformers forward, sdpa"] * 5
    for path in ("generate, static", "generate, dynamic", "generate_batch, paged sdpa"):
        assert any(path in name for name in paths), paths
    compared = 0
    for row in rows:
        if row["figure"] != "explanations_per_second":
            continue
        there = [peer for peer in peers if peer["batch"] == row["batch"]]
        if row["scoring"] or not there:
            assert row["ratio"] is None
            continue
        best = max(there, key=lambda peer: float(peer["value"]))
        assert row["peer"] == best["peer"]
        assert row["ratio"] == pytest.approx(row["value"] / best["value"])
        assert (row["note"] == "the peer in bfloat16") == (row["dtype"] == "fp8")
        compared += 1
    assert compared == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured() -> None:
    done = _run("benchmarks/gpu_suite.py")
    assert done.returncode == 1 and "no GPU" in done.stderr


@pytest.mark.parametrize("minutes", ["nan", "inf", "0", "-1", "nine"])
def test_minutes_that_are_no_time_are_refused(minutes: str) -> None:
    done = _run("benchmarks/gpu_suite.py", "--smoke", "--minutes", minutes)
    assert done.returncode == 2 and "--minutes" in done.stderr and minutes in done.stderr


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks' folder can be imported from."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.mark.usefixtures("benchmarks")
def test_a_part_that_is_none_is_refused_with_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_suite import main

    monkeypatch.setattr(sys, "argv", ["gpu_suite.py", "--smoke", "--only", "ceil", "nosuchpart"])
    with pytest.raises(SystemExit, match="'nosuchpart'.*cold start-up.*generate dynamic 4"):
        main()


@pytest.mark.usefixtures("benchmarks")
def test_what_is_required_fits_into_nine_minutes() -> None:
    from suite_parts import FULL, Suite, optional, parts, required

    from gloss_engine import EngineConfig

    suite = Suite(FULL, EngineConfig(device="cpu", dtype="bfloat16"), fresh_cache=True)
    # Thirty seconds for what no part is: Python, torch, what a part takes beyond its estimate.
    assert sum(part.seconds for part in required(suite)) < 540 - 30
    names = [part.name for part in parts(suite, None)]
    assert names == [part.name for part in (*required(suite), *optional(suite))]
    assert {f"engine {d} {b}" for d in ("bf16", "fp8") for b in (64, 256, 512)} <= set(names)
    assert names.index("cold start-up") == 2


@pytest.mark.usefixtures("benchmarks")
def test_the_cache_is_a_folder_of_the_run_unless_the_caller_set_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gpu_suite import kernel_cache

    monkeypatch.setenv("TRITON_CACHE_DIR", "theirs")
    with kernel_cache() as folder:
        assert folder is None and os.environ["TRITON_CACHE_DIR"] == "theirs"
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    with kernel_cache() as folder:
        assert folder is not None and os.environ["TRITON_CACHE_DIR"] == str(folder)
        assert not list(folder.iterdir())
    assert not folder.exists()


@pytest.fixture
def suite_report(benchmarks: None) -> Any:
    """The module, from the benchmarks' folder."""
    import suite_report

    return suite_report


def test_a_part_that_fails_is_a_row_and_the_rest_runs(suite_report: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    report = suite_report.Report("test", 1.0, path)

    def breaks() -> Iterator[Any]:
        yield suite_report.Row(figure="first", value=1.0, unit="s")
        raise OSError("no more memory\nand more")

    def runs() -> Iterator[Any]:
        kept = json.loads(path.read_text())["rows"]
        assert [row["figure"] for row in kept] == ["first", "breaks"]
        yield suite_report.Row(figure="last", value=2.0, unit="s")

    report.run("breaks", 0, breaks)
    assert report.failed
    report.run("runs", 0, runs)
    rows = json.loads(path.read_text())["rows"]
    assert [row["figure"] for row in rows] == ["first", "breaks", "last"]
    assert rows[1]["error"] == "OSError: no more memory" and rows[1]["failed"]


def test_a_part_that_the_time_does_not_suffice_for_is_not_begun(suite_report: Any) -> None:
    report = suite_report.Report("test", 0.5)
    report.run("long", 3600, lambda: pytest.fail("was begun"))
    (row,) = report.rows
    assert row.value is None and row.error.startswith("not run") and not report.failed


def test_an_output_that_cannot_be_written_is_refused(suite_report: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "out.json", Path("/dev/null")):
        with pytest.raises(OSError, match=f"output: .*{path}"):
            suite_report.Report("test", 1.0, path)
    suite_report.Report("test", 1.0, tmp_path / "new" / "out.json")
    assert not list((tmp_path / "new").iterdir())


def test_the_time_counts_from_where_the_process_began(suite_report: Any) -> None:
    report = suite_report.Report("test", 1.0, started=time.monotonic() - 50)
    assert 5 < report.remaining <= 10


def test_an_interrupt_prints_what_there_is(
    suite_report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpu_suite import run
    from suite_parts import Part

    def interrupted() -> Iterator[Any]:
        yield suite_report.Row(figure="first", value=1.0, unit="s")
        raise KeyboardInterrupt

    report = suite_report.Report("test", 1.0, tmp_path / "out.json")
    unreached = Part("unreached", 0, lambda: pytest.fail("was begun"))
    assert run(report, [Part("long", 0, interrupted), unreached], timed=True) == 130
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["figure"] for row in rows] == ["first", "long"]
    assert rows[1]["error"] == "interrupted"
    table = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split()[0] for line in table] == ["first", "long"]


def test_a_part_that_hangs_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    program = (
        "import sys, time; sys.path.insert(0, 'benchmarks')\n"
        "from pathlib import Path\n"
        "from suite_report import Report\n"
        f"report = Report('test', 0.001, Path({str(path)!r}))\n"
        f"report.give_up_in_time(Path({str(path)!r}).with_suffix('.done').touch, grace=0.5)\n"
        "report.run('hangs', 0, lambda: time.sleep(60))\n"
    )
    done = _run("-c", program)
    assert done.returncode == 1
    (row,) = json.loads(path.read_text())["rows"]
    assert row["figure"] == "hangs" and row["error"].startswith("given up")
    assert "hangs" in done.stdout.splitlines()[-1] and path.with_suffix(".done").exists()


@pytest.mark.usefixtures("benchmarks")
def test_a_float32_reference_leaves_the_peer_its_attention() -> None:
    from suite_shape import SMOKE, plain_targets, random_decoder
    from suite_transformers import on_weights

    from gloss_engine import EngineConfig

    weights = plain_targets(random_decoder(SMOKE, EngineConfig(device="cpu", dtype="bfloat16")))
    model = on_weights(SMOKE.config, weights)
    reference = on_weights(SMOKE.config, weights, attention="eager")
    assert model.config._attn_implementation == "sdpa"
    assert reference.config._attn_implementation == "eager"


@pytest.mark.usefixtures("benchmarks")
def test_setting_up_generate_batch_does_not_shorten_its_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import suite_peers
    from suite_shape import SMOKE, plain_targets, random_decoder, random_pair
    from suite_transformers import on_weights

    from gloss_engine import EngineConfig

    pair = random_pair(SMOKE, random_decoder(SMOKE, EngineConfig(device="cpu", dtype="bfloat16")))
    model = on_weights(SMOKE.config, plain_targets(pair.decoder))
    plain = model.generate_batch
    calls: list[int] = []

    def noted(requests: list[list[int]], **options: Any) -> Any:
        calls.append(len(requests))
        return plain(requests, **options)

    def seconds(work: Callable[[], object]) -> float:
        is_first = not calls
        work()
        return 10.0 if is_first else 0.5

    model.generate_batch = noted
    monkeypatch.setattr(suite_peers, "_seconds", seconds)
    (row,) = suite_peers.generate_batch(model, pair, batch=1, count=3, seconds=2.0)
    assert calls[:2] == [1, 1] and row.activations == calls[-1] > 1


@pytest.fixture
def checks(benchmarks: None) -> Callable[[Any], list[bool]]:
    """Which rows of the logit check fail, once something has been done to the small pair."""
    from suite_correctness import check_logits, forced
    from suite_shape import SMOKE, plain_targets, random_decoder, random_pair
    from suite_transformers import on_weights

    from gloss_engine import EngineConfig

    config = EngineConfig(device="cpu", dtype="bfloat16")

    def run(change: Callable[[Any], Any]) -> list[bool]:
        pair = random_pair(SMOKE, random_decoder(SMOKE, config))
        weights = plain_targets(pair.decoder)
        upcast = {name: weight.float() for name, weight in weights.items()}
        model = on_weights(SMOKE.config, weights)
        given = forced(pair, model, on_weights(SMOKE.config, upcast, attention="eager"))
        return [row.failed for row in check_logits(change(pair), config, given)]

    return run


def test_a_forward_pass_that_is_off_fails(checks: Callable[[Any], list[bool]]) -> None:
    def with_scale(pair: Any, factor: float) -> Any:
        scale = pair.program.injection_scale * factor
        return replace(pair, program=replace(pair.program, injection_scale=scale))

    assert checks(lambda pair: pair) == [False, False]
    # Norms take most of a scale away again: the prompt's own rows show it.
    assert checks(lambda pair: with_scale(pair, 0.5))[0]

    def without_prefix_values(pair: Any) -> Any:
        prefix = pair.program.prefix
        prefix = replace(prefix, values=torch.zeros_like(prefix.values))
        return replace(pair, program=replace(pair.program, prefix=prefix))

    assert checks(without_prefix_values) == [True, True]
