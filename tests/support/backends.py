"""The two implementations of every operation, for tests that hold both to one definition.

Without a GPU the Triton kernels run in Triton's interpreter, on CPU tensors. It computes bfloat16
wrongly and without saying so, so that type is for GPUs.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import pytest
import torch

from gloss_kernels.operations import Operations

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    assert "triton" not in sys.modules, "triton decorates its own library when it is imported"
    os.environ["TRITON_INTERPRET"] = "1"
    from support.interpreter import speed_up

    speed_up()

TRITON_DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if ON_GPU else [])
DTYPES = {
    "reference": [torch.float32, torch.bfloat16, torch.float16],
    "triton": TRITON_DTYPES,
}


@dataclass(frozen=True)
class Backend:
    """One implementation and where it runs here.

    Attributes:
        name: reference or triton.
        device: CPU for the reference; for triton the GPU, or the CPU under the interpreter.
    """

    name: str
    device: torch.device

    @property
    def ops(self) -> Operations:
        """The operations."""
        return Operations(self.name)

    def __str__(self) -> str:
        return self.name


REFERENCE = Backend("reference", torch.device("cpu"))
TRITON = Backend("triton", torch.device("cuda" if ON_GPU else "cpu"))
BACKENDS = [pytest.param(backend, id=backend.name) for backend in (REFERENCE, TRITON)]
BACKEND_DTYPES = [
    pytest.param(backend, dtype, id=f"{backend.name}-{str(dtype).removeprefix('torch.')}")
    for backend in (REFERENCE, TRITON)
    for dtype in DTYPES[backend.name]
]
