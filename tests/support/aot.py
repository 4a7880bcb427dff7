"""Compiles what the wrappers launch for an H100 or H200, on a machine without one, and reads it.

Run as a command in a process of its own, because the interpreter must be off there:

    python -m support.aot rms_norm      # writes one JSON list to stdout

The wrappers run as they are, on tensors of the meta device that have a shape and no memory. Triton
gets a driver that names a target and launches nothing, so every kernel a wrapper would launch is
specialised and compiled exactly as it would be on the GPU. The cubin is then read with the
`cuobjdump` that Triton ships.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TARGET = ("cuda", 90, 32)


@dataclass(frozen=True, kw_only=True)
class Cubin:
    """One compiled kernel.

    Attributes:
        case: the launch that compiled it; kernel: its function.
        registers: of a thread; stack, local: bytes of a thread; shared: bytes of a program.
        num_warps: of a program.
        matrix_instructions: tensor-core instructions in its machine code (HGMMA, QGMMA, HMMA).
    """

    case: str
    kernel: str
    registers: int
    stack: int
    local: int
    shared: int
    num_warps: int
    matrix_instructions: int


class _Driver:
    """Names a target and has no device."""

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget(*TARGET)


@contextmanager
def recorded() -> Iterator[list[Any]]:
    """Inside, launches compile instead of running; yields the compiled kernels in order."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    driver.set_active(_Driver())
    compiled: list[Any] = []
    launch = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled.append(launch(self, *args, grid=grid, warmup=True, **options))
        return compiled[-1]

    JITFunction.run = compile_only
    try:
        yield compiled
    finally:
        JITFunction.run = launch


def cubins(cases: Iterator[tuple[str, Callable[[], object]]]) -> list[Cubin]:
    """Compile every case; kernels that several cases share appear once."""
    found: dict[str, Cubin] = {}
    with recorded() as compiled:
        for case, launch in cases:
            compiled.clear()
            launch()
            assert compiled, f"{case}: nothing was launched"
            for kernel in compiled:
                if kernel.hash not in found:
                    found[kernel.hash] = _read(case, kernel)
    return list(found.values())


def _read(case: str, kernel: Any) -> Cubin:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        code = _cuobjdump("-sass", file.name)
    numbers = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    return Cubin(
        case=case,
        kernel=kernel.metadata.name,
        registers=int(numbers["REG"]),
        stack=int(numbers["STACK"]),
        local=int(numbers["LOCAL"]),
        shared=kernel.metadata.shared,
        num_warps=kernel.metadata.num_warps,
        matrix_instructions=len(re.findall(r"\b(?:HGMMA|QGMMA|HMMA|QMMA)\b", code)),
    )


def _cuobjdump(*arguments: str) -> str:
    import triton

    command = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def compile_in_process(stem: str) -> list[Cubin]:
    """The cubins of a kernel's launches, compiled in a process where the interpreter is off."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    environment["TRITON_DEFAULT_FP_FUSION"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "support.aot", stem],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [Cubin(**row) for row in json.loads(done.stdout)]


if __name__ == "__main__":
    launches = importlib.import_module(f"support.launches.{sys.argv[1]}")
    print(json.dumps([asdict(cubin) for cubin in cubins(launches.launches())]))
