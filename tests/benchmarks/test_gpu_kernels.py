"""The kernels' benchmark runs from a source tree, covers every kernel and sees a wrong one."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from support.device_step import META, NoCopies

ROOT = Path(__file__).parents[2]


def _smoke(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("kernels", "server"))
    return subprocess.run(
        [sys.executable, "benchmarks/gpu_kernels.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_kernel_is_compared() -> None:
    done = _smoke("--smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    compared = {line.split()[0] for line in done.stdout.splitlines() if " smoke " in line}
    kernels = {
        path.stem
        for path in (ROOT / "kernels/gloss_kernels").glob("*.py")
        if "_kernel[" in path.read_text()
    }
    assert kernels and compared == kernels


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_timed() -> None:
    done = _smoke()
    assert done.returncode == 1 and "no GPU" in done.stderr


def test_what_a_graph_is_to_hold_asks_the_device_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """References at the released shapes, on tensors without values.

    On a GPU a capture fails where a value is read, or copied from the host as `torch.tensor` does,
    and no kernel after it is timed.
    """
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu_kernels
    from kernel_bench import RELEASED_PAIRS

    def refused(*given: object, **options: object) -> None:
        raise AssertionError("copied from the host")

    held = []
    # The reference of the fp8 product is one library call, and its cases run a kernel to be made.
    for stem in set(gpu_kernels.stems()) - {"bench_linear_fp8"}:
        benchmark = import_module(stem)
        for pair in RELEASED_PAIRS:
            for case in filter(lambda case: case.captures, benchmark.cases(pair, 64, META)):
                case.reference()
                with monkeypatch.context() as patch, NoCopies():
                    patch.setattr(torch, "tensor", refused)
                    case.reference()
                held.append(stem)
    assert len(set(held)) == len(gpu_kernels.stems()) - 1


def test_a_tree_without_a_repository_is_not_called_clean(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A copy on a machine with a GPU, say."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import common

    monkeypatch.setattr(common, "__file__", str(tmp_path / "common.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = common.machine()
    assert found["commit"] is None and found["clean"] is None


def test_a_run_that_asks_the_device_is_never_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails before the capture, which would leave the process without random numbers; a CUDA
    that only keeps the books."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from kernel_timing import seconds

    events: list[object] = []

    def run() -> None:
        events.append("run")
        if events.count("run") == 3 and events[-2] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    fakes = {
        "Stream": lambda: SimpleNamespace(wait_stream=lambda other: None),
        "current_stream": lambda: SimpleNamespace(wait_stream=lambda other: None),
        "stream": nullcontext,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": events.append,
        "CUDAGraph": lambda: events.append("captured"),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    with pytest.raises(RuntimeError, match="synchronizing"):
        seconds([run, run])
    assert events == ["run", "run", "error", "run", 0]


def test_a_reference_that_cannot_be_timed_leaves_the_kernels_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where torch.compile fails, say: the row says so, and has what was measured before."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import kernel_bench

    class Right:
        KERNEL = "right"

        def cases(self, shape: object, batch: int, device: torch.device) -> Iterator[object]:
            yield kernel_bench.Case(
                name="step", runs=[lambda: "kernel"], reference=lambda: "reference", moved_bytes=4
            )

    def seconds(runs: Sequence[Callable[[], object]], launches: int = 20) -> float:
        if runs[0]() == "reference" and launches == 20:
            raise OSError("no compiler")
        return 2e-6

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, device=None, **o: empty(*size, **o))
    monkeypatch.setattr(torch, "compile", lambda run, dynamic: run)
    monkeypatch.setattr(kernel_bench, "seconds", seconds)
    limits = kernel_bench.Ceilings(copy=4e6, matmul=1.0)
    shape = kernel_bench.SMOKE_SHAPE
    (row,) = kernel_bench.measure(Right(), shape, 1, limits, math.inf, math.inf)
    assert row["failure"] == "OSError: no compiler" and "compiled_us" not in row
    assert (row["us"], row["of_copy"], row["eager_us"]) == (2.0, 0.5, 2.0)


class WrongKernel:
    """A benchmark whose kernel differs from its reference in one element."""

    KERNEL = "wrong"

    def cases(self, shape: object, batch: int, device: torch.device) -> Iterator[object]:
        """One right case, wrong ones, one that raises, and a breakdown between cases."""
        from kernel_bench import Case

        right = torch.arange(1.0, 9.0)
        wrong, nan = right.clone(), right.clone()
        wrong[3] += 1
        nan[3] = torch.nan
        case = Case(name="right", runs=[lambda: right], reference=lambda: right, moved_bytes=1)
        yield case
        yield replace(case, name="wrong", runs=[lambda: wrong])
        yield replace(case, name="nan", runs=[lambda: nan])
        yield replace(case, name="integer", runs=[lambda: right.long()])
        yield replace(case, name="raises", runs=[lambda: [][1]])
        yield replace(case, name="some differ", runs=[right.long], reference=wrong.long)
        yield replace(case, name="few differ", runs=[right.long], reference=wrong.long, unequal=0.1)
        raise OSError("no more memory")


def test_a_wrong_kernel_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import kernel_bench

    rows = kernel_bench.prove(WrongKernel(), kernel_bench.SMOKE_SHAPE, 1)
    wrong = {row["case"] for row in rows if "failure" in row}
    assert wrong == {"wrong", "nan", "integer", "raises", "some differ", "?"}
    assert {row["case"] for row in rows} - wrong == {"right", "few differ"}
    with pytest.raises(SystemExit) as ended:
        kernel_bench.report("wrong", rows, True, None)
    assert ended.value.code == 1
    assert "WRONG wrong nan" in capsys.readouterr().out
