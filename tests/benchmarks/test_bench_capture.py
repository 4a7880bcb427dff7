"""The benchmark of capture runs, its figures hold together, and no overhead is timed of ways that
do different work. How large figures are is not looked at: that is for a machine that does nothing
else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
FOR_SERVICES = (
    *("gloss_server", "gloss_client", "gloss_api", "grpc", "google.protobuf", "pyarrow"),
    *("pydantic", "pydantic_settings", "structlog", "locust", "typer", "uvloop"),
)
ENGINE_WAYS = {"the same again", "captured", "captured and injected"}
STEP_WAYS = {"the same again", "captured and injected", "injected and handed on"}
MODEL_WAYS = {
    *("the same again", "tap", "tap, kept open", "tap, injected"),
    *("hidden_states, injected", "hook, host copy"),
}
Row = dict[str, Any]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("kernels", "server", "benchmarks"))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of a smoke run, with what it printed."""
    output = tmp_path_factory.mktemp("bench") / "capture.json"
    done = _run("benchmarks/bench_capture.py", "--smoke", "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(output.read_text())
    return {**result, "printed": done.stdout}


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks' folder can be imported from."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def _rows(smoke: dict[str, Any], part: str) -> list[Row]:
    return [row for row in smoke["rows"] if row["part"] == part and "subject" in row]


def test_every_part_is_there_with_its_machine(smoke: dict[str, Any]) -> None:
    assert smoke["command"].startswith("python benchmarks/bench_capture.py --part overhead watch")
    assert smoke["machine"]["torch"] and smoke["machine"]["transformers"]
    assert not [row for row in smoke["rows"] if "failure" in row or "not_run" in row]
    for part in ("overhead", "watch", "explain"):
        assert {row["subject"] for row in _rows(smoke, part)} == {"embedded", "smoke"}
    tables = smoke["printed"].split("\n\n")[1:]
    assert [table.split()[:2] for table in tables] == [
        ["subject", "pass"],
        ["subject", "watches"],
        ["subject", "way"],
    ]


def test_every_way_is_compared_at_every_size(smoke: dict[str, Any]) -> None:
    rows = _rows(smoke, "overhead")
    for subject in ("embedded", "smoke"):
        found: dict[tuple[str, int], set[str]] = {}
        for row in rows:
            if row["subject"] == subject:
                found.setdefault((row["pass"], row["rows"]), set()).add(row["way"])
        assert found == {
            ("reading", 1): ENGINE_WAYS,
            ("reading", 24): ENGINE_WAYS,
            ("whole pass", 1): ENGINE_WAYS,
            ("whole pass", 24): ENGINE_WAYS,
            ("transformers", 1): MODEL_WAYS,
            ("transformers", 24): MODEL_WAYS,
            ("step", 2): STEP_WAYS,
        }
    checks = [row for row in smoke["rows"] if "check" in row]
    assert len(checks) == 2 and all(0 < row["apart"] < 0.1 for row in checks)


def test_an_overhead_has_its_share_its_spread_and_what_follows(smoke: dict[str, Any]) -> None:
    for row in _rows(smoke, "overhead"):
        assert row["rounds"] >= 5 and row["ms"] > 0
        assert row["extra_us_low"] <= row["extra_us"] <= row["extra_us_high"]
        for name in ("", "_low", "_high"):
            share = row[f"extra_us{name}"] / 1e3 / row["plain_ms"]
            assert row[f"share{name}"] == pytest.approx(share)
        if row["way"] == "the same again":
            assert row["goal"] is None
        else:
            under, over = row["share_high"] < 0.01, row["share_low"] >= 0.01
            assert row["goal"] == ("met" if under else "missed" if over else "unclear")


def test_explain_by_text(smoke: dict[str, Any]) -> None:
    rows = _rows(smoke, "explain")
    ways = [(row["subject"], row["way"], row["scored"]) for row in rows]
    assert ways == [
        ("embedded", "in process", False),
        ("embedded", "in process", True),
        ("embedded", "by a server", True),
        ("smoke", "in process", False),
        ("smoke", "in process", True),
    ]
    for row in rows:
        assert 0 < row["first_ms"] <= row["whole_ms"]
        assert row["ms_per_token"] == pytest.approx(row["whole_ms"] / row["tokens"])
        assert row["per_second"] == pytest.approx(1e3 / row["ms_per_token"])
        assert (row["read_ms"] is None) == (row["way"] == "by a server")
        assert row["read_ms"] is None or 0 < row["read_ms"] < row["whole_ms"]
    # The same seed and the same text: the same tokens by every way.
    assert len({row["explanation_tokens"] for row in rows if row["subject"] == "embedded"}) == 1


def test_watch_by_load(smoke: dict[str, Any]) -> None:
    rows = _rows(smoke, "watch")
    loads = [(row["pace"], row["share"], row["scored"]) for row in rows]
    of_one = [(None, False), (0.5, False), (0.5, True)]
    assert loads == [(pace, *load) for pace in (None, 20.0) for load in of_one] * 2
    for row in rows:
        assert row["target_tokens"] > 0 and row["gap_max"] >= row["gap_p95"] >= row["gap_p50"] > 0
        rate = row["target_tokens"] / row["seconds"]
        assert row["tokens_per_second"] == pytest.approx(rate)
        assert row["pace"] is None or rate < 1.5 * row["pace"] * row["watches"]
        explained = row["share"] is not None
        assert (row["bound"] is not None) == explained
        assert ("of_alone" in row) == explained
        if not explained:
            assert row["captured"] < row["target_tokens"] and row["goal"] is None
            continue
        # Every token is captured or skipped, but for those in flight at the window's two ends.
        told = row["captured"] + sum(row["skipped"].values())
        assert abs(row["target_tokens"] - told) <= 2 * row["watches"]
        assert (row["goal"] is None) == (row["pace"] is None)
    assert any(row["lag_p50"] for row in rows if row["subject"] == "smoke" and row["share"])


@pytest.mark.usefixtures("benchmarks")
def test_the_committed_verdicts_are_those_of_the_rule() -> None:
    from capture_watch import Load, Seen, _verdict

    result = json.loads((ROOT / "benchmarks" / "results" / "capture.json").read_text())
    rows = _rows(result, "watch")
    for row in rows:
        load = Load(num_watches=row["watches"], pace=row["pace"], share=row["share"])
        seen = Seen(
            seconds=row["seconds"],
            num_tokens=row["target_tokens"],
            skipped=Counter(row["skipped"]),
            lags=[row["lag_p95"] / 1e3],
        )
        assert row["goal"] == _verdict(load, seen), row
    assert len([row for row in rows if row["goal"] is not None]) == 8


def test_the_gpus_part_needs_nothing_of_services() -> None:
    """It is to run where neither their packages nor ours for them are."""
    program = (
        "import sys\n"
        f"for name in {FOR_SERVICES!r}:\n"
        "    sys.modules[name] = None\n"
        "from dataclasses import replace\n"
        "import bench_capture, capture_stages as stages\n"
        "settings = stages.small_settings(1)\n"
        "sizes = replace(stages.SMALL, num_rows=(1,), window_seconds=0.1)\n"
        "rows = bench_capture.run(stages.shape_stages(stages.SMOKE, 1, settings, sizes), 1e12)\n"
        "bench_capture.report(rows)\n"
        "assert {row['part'] for row in rows} == set(stages.PARTS)\n"
        "assert not [row for row in rows if 'failure' in row]\n"
        "stages.gpu_stages()\n"
    )
    done = _run("-c", program)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.usefixtures("benchmarks")
def test_without_a_gpu_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench_capture import main

    monkeypatch.setattr(sys, "argv", ["bench_capture.py", "--device", "cuda"])
    with pytest.raises(SystemExit, match="error: .*no CUDA device"):
        main()


@pytest.mark.usefixtures("benchmarks")
def test_what_fails_or_finds_no_time_is_a_row_and_what_there_is_is_kept() -> None:
    from bench_capture import run
    from capture_stages import Stage

    def breaks() -> Iterator[Row]:
        yield {"figure": 1}
        raise OSError("no more memory")

    def endless() -> Iterator[Row]:
        while True:
            yield {"figure": 2}

    kept: list[list[Row]] = []
    stages = [Stage(part="watch", rows=breaks), Stage(part="explain", rows=endless)]
    rows = run(stages, 0.0, lambda rows: kept.append(list(rows)))
    assert rows[0] == {"part": "watch", "figure": 1} and "not_run" in rows[1]
    assert rows[2] == {"part": "explain", "figure": 2} and "not_run" in rows[3] and len(rows) == 4
    rows = run(stages[:1], 1e12, lambda rows: kept.append(list(rows)))
    assert rows[1] == {"part": "watch", "failure": "OSError: no more memory"}
    assert [len(part) for part in kept] == [2, 4, 2] and kept[-1] == rows


class Compared:
    """Three rows, and ways of capturing them: what is right, and `way`."""

    def __init__(self) -> None:
        self.rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        self.unit = self.rows / self.rows.norm(dim=-1, keepdim=True)
        self.num_plain = 0

    def overheads(
        self, captured: torch.Tensor | None, injected: torch.Tensor | None = None
    ) -> list[Row]:
        """The figures of a way that captures and injects these."""
        from capture_timing import AGAIN, PLAIN, Way, overheads

        ways = {
            PLAIN: Way(run=self._plain),
            AGAIN: Way(run=self._plain),
            "right": Way(run=lambda: self.rows, injected=lambda: 7.0 * self.unit),
            "way": Way(
                run=lambda: captured, injected=None if injected is None else lambda: injected
            ),
        }
        cpu = torch.device("cpu")
        return overheads(ways, self.rows, injection_scale=7.0, device=cpu, seconds=0.0)

    def _plain(self) -> None:
        self.num_plain += 1


@pytest.mark.usefixtures("benchmarks")
def test_the_same_rows_are_compared() -> None:
    compared = Compared()
    for injected in (None, 7.0 * compared.unit, (7.0 * compared.unit).bfloat16()):
        found = compared.overheads(compared.rows, injected)
        assert [row["way"] for row in found] == ["the same again", "right", "way"]
        assert all(row["rounds"] == 5 and row["rows"] == 3 for row in found)


@pytest.mark.usefixtures("benchmarks")
def test_other_rows_are_refused_before_anything_is_timed() -> None:
    compared = Compared()
    rows, unit = compared.rows, compared.unit
    off = rows.clone()
    off[1, 2] = torch.nextafter(off[1, 2], torch.tensor(9.0))
    for captured in (None, rows[:2], rows[[0, 2, 1]], off, rows.double(), rows.bfloat16()):
        with pytest.raises(RuntimeError, match="^way: got .* nothing was timed"):
            compared.overheads(captured)
    for injected in (7.001 * unit, rows, torch.zeros_like(rows)):
        with pytest.raises(RuntimeError, match="^way: .* prefill buffer"):
            compared.overheads(rows, injected)
    # Twice each, to see what is captured.
    assert compared.num_plain == 2 * (6 + 3)


@pytest.mark.usefixtures("benchmarks")
def test_the_median_of_pairs_and_its_bounds() -> None:
    from capture_timing import extra

    drift = [float(index) for index in range(101)]
    plain = [10 + d for d in drift]
    # In pairs a drift of ten times the difference is gone.
    runs = [p + 1 + (index % 11 - 5) / 100 for index, p in enumerate(plain)]
    found = extra(runs, plain)
    assert found.median == pytest.approx(1.0, abs=0.011)
    assert 0.97 < found.low <= found.median <= found.high < 1.03
    few = extra([3.0, 1.0, 2.0], [0.0, 0.0, 0.0])
    assert (few.low, few.median, few.high) == (1.0, 2.0, 3.0)


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("passes", ["reading", "whole_pass", "step"])
def test_only_what_captures_gathers(passes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain way of the engine's passes runs everything but the capture."""
    import capture_passes
    from capture_stages import small_settings
    from capture_subject import shape_subject
    from suite_shape import SMOKE

    settings = replace(small_settings(1), graphs="off")
    subject = shape_subject("small", SMOKE.config, 1, settings, 24)
    operations = subject.target.decoder.operations
    gather, calls = operations.hook_gather, [0]
    gathered: dict[str, int] = {}

    def counted(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        return gather(*args, **options)

    def overheads(ways: Any, expected: torch.Tensor, **options: Any) -> list[Row]:
        for name, way in ways.items():
            before = calls[0]
            way.run()
            gathered[name] = calls[0] - before
        return []

    monkeypatch.setattr(capture_passes, "overheads", overheads)
    monkeypatch.setattr(operations, "hook_gather", counted)
    cell = capture_passes.Cell(length=12, num_rows=2, seconds=0.0)
    arguments = (subject, settings, cell) if passes == "step" else (subject, cell)
    list(getattr(capture_passes, passes)(*arguments))
    assert gathered.pop("without capture") == gathered.pop("the same again") == 0
    assert len(gathered) == 2 and set(gathered.values()) == {1}
