"""Host to device and back without waiting for the device.

On CUDA both ways go through pinned memory, which PyTorch keeps until the copy has been made. On a
CPU a tensor is where it is.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor


def send(values: Any, device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Numbers, nested lists of them or a host tensor as a tensor on the device."""
    tensor = torch.as_tensor(values, dtype=dtype)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Arriving:
    """A copy of a device tensor on its way to the host.

    Args:
        source: what it holds once everything queued so far has run.
    """

    def __init__(self, source: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if source.device.type != "cuda":
            self._copy = source.clone()
            return
        self._copy = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        self._copy.copy_(source, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    def wait(self) -> Tensor:
        """The copy, on the host; waits for the device to get there."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy


class Stopwatch:
    """The time that work takes on the device, from when this is made to `stop`.

    Args:
        device: where it runs; on a CPU it has run by the time it is stopped.
    """

    def __init__(self, device: torch.device) -> None:
        self._marks: list[torch.cuda.Event] = []
        self._started = self._stopped = time.perf_counter()
        if device.type == "cuda":
            self._marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._marks[0].record()

    def stop(self) -> None:
        """The work has been queued."""
        self._stopped = time.perf_counter()
        if self._marks:
            self._marks[1].record()

    def seconds(self) -> float:
        """What it took; waits for it."""
        if not self._marks:
            return self._stopped - self._started
        self._marks[1].synchronize()
        return self._marks[0].elapsed_time(self._marks[1]) / 1e3
