"""Capture: which positions of a text are read, and `tap`, which reads them off any model.

Names are looked up when they are first used: `positions` is for processes without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gloss_engine.capture.captured import Captured
    from gloss_engine.capture.positions import Positions
    from gloss_engine.capture.tapping import tap

__all__ = ["Captured", "Positions", "tap"]

_HOMES = {"Captured": "captured", "Positions": "positions", "tap": "tapping"}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
