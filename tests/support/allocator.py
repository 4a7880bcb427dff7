"""Memory that does not suffice, injected where operations get theirs: a simulation, on any device.

While it is armed, every tensor that an operation makes (a view is none, nor what is written in
place) asks here, and what is refused raises what torch's allocator raises. So code sees what it
would see of a full device: an operation without a result, among others that have theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Refuses = Callable[[int], bool]


class TightMemory(TorchDispatchMode):
    """A device's memory that refuses what it is told to.

    Attributes:
        refuses: whether so many bytes are refused; None: it is not armed.
        num_asked, num_refused: allocations since it was armed.
        largest: bytes of the largest of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refuses: Refuses | None = None
        self.num_asked = self.num_refused = self.largest = 0

    @contextmanager
    def armed(self, refuses: Refuses) -> Iterator[TightMemory]:
        """Refuse while the body runs."""
        self.refuses = refuses
        self.num_asked = self.num_refused = self.largest = 0
        try:
            with self:
                yield self
        finally:
            self.refuses = None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in made:
            if self.refuses is not None and _storage(tensor) not in given:
                self._ask(tensor.untyped_storage().nbytes())
        return result

    def _ask(self, num_bytes: int) -> None:
        assert self.refuses is not None
        self.num_asked += 1
        self.largest = max(self.largest, num_bytes)
        if self.refuses(num_bytes):
            self.num_refused += 1
            raise torch.OutOfMemoryError(f"injected: {num_bytes} bytes were refused")


def the_nth(*numbers: int) -> Refuses:
    """Refuses the allocations of these numbers, counted from 0."""
    asked = iter(range(1 << 62))
    return lambda num_bytes: next(asked) in numbers


def larger_than(limit: int) -> Refuses:
    """Refuses what is larger, as a device does whose largest free block that is."""
    return lambda num_bytes: num_bytes > limit


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.numel() else id(tensor)
