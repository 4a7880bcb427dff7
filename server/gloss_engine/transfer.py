"""Host to device and back without waiting for the device.

On CUDA both ways go through pinned memory, which PyTorch keeps until the copy has been made. On a
CPU a tensor is where it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def send(values: Any, device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Numbers, nested lists of them or a host tensor as a tensor on the device."""
    tensor = torch.as_tensor(values, dtype=dtype)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def send_rows(rows: Sequence[Tensor], device: torch.device) -> Tensor:
    """Rows [width] of which some are on the host and some on the device, as [n, width] float32."""
    here = [index for index, row in enumerate(rows) if row.device.type == device.type]
    if len(here) == len(rows):
        return torch.stack(list(rows)).to(torch.float32)
    away = [index for index, row in enumerate(rows) if row.device.type != device.type]
    sent = send(torch.stack([rows[index] for index in away]), device, torch.float32)
    if not here:
        return sent
    whole = torch.empty(len(rows), rows[0].shape[0], device=device)
    whole[send(away, device)] = sent
    whole[send(here, device)] = torch.stack([rows[index] for index in here]).to(torch.float32)
    return whole


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
