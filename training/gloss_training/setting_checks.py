"""What the settings' dataclasses check of themselves: each names the setting, in dots."""

from __future__ import annotations

import math


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """ValueError unless `value` is among `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(allowed)}")


def positive(name: str, value: float) -> None:
    """ValueError unless `value` is above 0 (NaN is not)."""
    if not value > 0:
        raise ValueError(f"{name}: got {value}, expected more than 0")


def finite(name: str, value: float) -> None:
    """ValueError where `value` is infinite or NaN."""
    if not math.isfinite(value):
        raise ValueError(f"{name}: got {value}, expected a finite number")


def not_negative(name: str, value: float) -> None:
    """ValueError unless `value` is 0 or more (NaN is not)."""
    if not value >= 0:
        raise ValueError(f"{name}: got {value}, expected 0 or more")


def below(name: str, value: float, limit: float) -> None:
    """ValueError unless `value` is less than `limit`."""
    if not value < limit:
        raise ValueError(f"{name}: got {value}, expected less than {limit}")


def at_most(name: str, value: float, most: float) -> None:
    """ValueError where `value` is more than `most`."""
    if not value <= most:
        raise ValueError(f"{name}: got {value}, expected at most {most}")


def at_least(name: str, value: float, least: float) -> None:
    """ValueError where `value` is less than `least`."""
    if not value >= least:
        raise ValueError(f"{name}: got {value}, expected at least {least}")
