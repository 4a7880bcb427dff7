"""Every kernel compiled ahead of time for sm_90 at the shapes of the released pairs, and read.

A kernel that spills, keeps a stack or misses the tensor cores is right and slow, and no
result shows it.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import gloss_kernels
from support import launches as package
from support.aot import compile_in_process

MAX_SHARED = 227 << 10
"""Shared memory of a program on Hopper, bytes; more fails when the kernel is loaded."""

STEMS = sorted(path.stem for path in Path(package.__path__[0]).glob("*.py"))


def test_every_kernel_is_compiled_here() -> None:
    kernels = Path(gloss_kernels.__file__).parent
    with_kernels = {path.stem for path in kernels.glob("*.py") if "_kernel[" in path.read_text()}
    assert with_kernels == set(STEMS)


@pytest.mark.parametrize("stem", STEMS)
def test_the_machine_code(stem: str) -> None:
    """No stack, no local memory, few registers; tensor-core instructions where there is a dot."""
    case = importlib.import_module(f"support.launches.{stem}")
    max_registers = getattr(case, "max_registers", lambda _: case.MAX_REGISTERS)
    cubins = compile_in_process(stem)
    assert cubins
    for cubin in cubins:
        assert (cubin.stack, cubin.local) == (0, 0), cubin
        assert cubin.shared <= MAX_SHARED, cubin
        assert cubin.registers <= max_registers(cubin.case), cubin
        assert (cubin.matrix_instructions > 0) == (cubin.kernel in case.TENSOR_CORES), cubin
    assert {cubin.kernel for cubin in cubins} >= case.TENSOR_CORES
