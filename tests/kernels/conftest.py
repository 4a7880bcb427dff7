"""What every test of an operation shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor


def _poison(tensor: Tensor) -> Tensor:
    if tensor.is_meta or tensor.numel() == 0:
        return tensor
    if tensor.dtype == torch.bool:
        return tensor.fill_(True)
    if tensor.is_floating_point():
        return tensor.copy_(torch.tensor(torch.nan).to(tensor.dtype))
    return tensor.fill_(torch.iinfo(tensor.dtype).max)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory holds NaN, or the largest integer, so an element nobody writes is seen."""
    names = ((torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"))
    for owner, name in (*names, (Tensor, "new_empty")):
        plain = getattr(owner, name)

        def poisoned(*args: Any, plain: Any = plain, **options: Any) -> Tensor:
            return _poison(plain(*args, **options))

        monkeypatch.setattr(owner, name, poisoned)
