"""Serving on a GPU that is not there: nothing is read back, and nothing is compiled late."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_serving_reads_no_tensor_and_compiles_no_kernel(quantization: str) -> None:
    """Starts, samples, filters, departures and moves after a warm-up, on tensors without values.

    A read of one raises; kernels that a warm-up missed would be compiled inside a request.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    environment["TRITON_DEFAULT_FP_FUSION"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "support.device_step", quantization],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert found["later"] == []
    assert found["shapes"] == 120 and found["steps"] > 120 and found["launched"] > 1000
    assert "_hook_gather_kernel" in found["kernels"]
    # A few variants of some fifteen kernels; a start-up compiles each once.
    assert 20 <= len(found["kernels"]) <= 35
