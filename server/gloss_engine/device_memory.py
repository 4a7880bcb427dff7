"""What the engine holds of its device's memory, for metrics.

torch keeps the figures, but reading them takes a fraction of a millisecond, which a step should not
pay: they are read once a second.
"""

from __future__ import annotations

import time
from typing import Any

import torch

_SECONDS = 1.0


class DeviceMemory:
    """The memory of one device.

    Args:
        device: on a CPU all figures are 0; its process' resident memory says as much.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._total = 0
        if device.type == "cuda":
            self._total = torch.cuda.get_device_properties(device).total_memory
        self._read_at = float("-inf")
        self._reserved = self._used = 0

    def stats(self) -> dict[str, Any]:
        """Fields of EngineStats."""
        if self._total and time.monotonic() >= self._read_at + _SECONDS:
            self._read_at = time.monotonic()
            self._reserved = torch.cuda.memory_reserved(self._device)
            self._used = torch.cuda.memory_allocated(self._device)
        return {
            "device_bytes": self._total,
            "device_reserved_bytes": self._reserved,
            "device_used_bytes": self._used,
        }
