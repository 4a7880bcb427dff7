"""The device's memory: what the engine holds of it, and how it is noticed that it does not suffice.

Work that does not fit is run once more in smaller parts by whoever runs it, and a part that still
does not fit fails alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from gloss_engine.errors import MemoryTooSmall

T = TypeVar("T")
_SECONDS = 1.0
_SAYINGS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
"""What errors say that have no type of their own: a launch's, cuBLAS', the CPU's allocator's."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, says that the device's memory does not suffice."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(said in str(error) for said in _SAYINGS):
            return True
        # A capture that is broken off ends with an error of its own.
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def refusing(what: str, fix: str) -> Iterator[None]:
    """Let a start end in words where the device's memory does not suffice for it.

    Args:
        what: is being made.
        fix: what leaves it more room.

    Raises:
        MemoryTooSmall: it did not suffice.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MemoryTooSmall(
            f"device memory: it does not suffice for {what} ({first_line}); {fix}"
        ) from error


class DeviceMemory:
    """The memory of one device.

    Args:
        device: on a CPU all figures of its size are 0; its process' resident memory says as much.

    Attributes:
        num_exhausted: times that it did not suffice.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._total = 0
        if device.type == "cuda":
            self._total = torch.cuda.get_device_properties(device).total_memory
        self._read_at = float("-inf")
        self._reserved = self._used = 0
        self.num_exhausted = 0

    def attempt(self, work: Callable[[], T]) -> T | None:
        """What some work returns; None where the memory did not suffice for it.

        Args:
            work: returns something, and leaves nothing behind by which a second run of it, whole or
                in parts, would differ.
        """
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Only here the error's frames are gone, and with them the tensors of the work.
        self.num_exhausted += 1
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def attempt_twice(self, work: Callable[[], T]) -> T | None:
        """The same for work that has no parts: it is run once more as it is."""
        done = self.attempt(work)
        return self.attempt(work) if done is None else done

    def stats(self) -> dict[str, Any]:
        """Fields of EngineStats. torch keeps the sizes, but reading them takes a fraction of a
        millisecond, which a step should not pay: they are read once a second.
        """
        if self._total and time.monotonic() >= self._read_at + _SECONDS:
            self._read_at = time.monotonic()
            self._reserved = torch.cuda.memory_reserved(self._device)
            self._used = torch.cuda.memory_allocated(self._device)
        return {
            "out_of_memory": self.num_exhausted,
            "device_bytes": self._total,
            "device_reserved_bytes": self._reserved,
            "device_used_bytes": self._used,
        }
