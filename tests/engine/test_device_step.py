"""Serving on a GPU that is not there: nothing is read back, and nothing is compiled late."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest


@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_serving_reads_no_tensor_and_compiles_no_kernel(quantization: str) -> None:
    """Starts, samples, filters, departures and moves after a warm-up, on tensors without values.

    A read of one raises; kernels that a warm-up missed would be compiled inside a request.
    """
    found = _run_without_a_device("support.device_step", quantization)
    assert found["later"] == []
    assert found["shapes"] == 120 and found["steps"] > 120 and found["launched"] > 1000
    # A few variants of some fifteen kernels; a start-up compiles each once.
    assert 20 <= len(found["kernels"]) <= 35
    assert "_hook_gather_kernel" in found["kernels"], "prefills would compile it"


def test_a_target_reads_no_tensor_and_compiles_no_kernel() -> None:
    """Texts of all lengths, alone, together and in chunks, and prompts that are gone on from."""
    found = _run_without_a_device("support.target_device")
    assert found["later"] == []
    assert found["launched"] > 60 and 15 <= len(found["kernels"]) <= 30
    assert (found["pages"], found["places"]) == (0, 0)


def _run_without_a_device(module: str, *arguments: str) -> dict[str, Any]:
    """What a module that serves on tensors without values says of it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    environment["TRITON_DEFAULT_FP_FUSION"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found
