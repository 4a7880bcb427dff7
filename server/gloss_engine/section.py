"""A YAML mapping read field by field, every refusal naming file and field.

What the fields mean is for the reader of the file (`sidecar.py`).
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from gloss_engine.errors import CheckpointError


@dataclass(frozen=True)
class Section:
    """One mapping of a file, knowing where it stands so that a refusal can name the field.

    Every getter gives None where the field is missing or null, and raises a CheckpointError where
    it has another type or range.

    Attributes:
        path: the file.
        name: dotted path of the mapping inside it, with a trailing dot; empty at the top.
        values: the mapping.
    """

    path: Path
    name: str
    values: Mapping[object, object]

    def refuse(self, key: str, expected: str, fix: str) -> CheckpointError:
        """The error for one field; the caller raises it."""
        got = reprlib.repr(self.values[key]) if key in self.values else "nothing"
        return CheckpointError(
            f"{self.path}: {self.name}{key}", got=got, expected=expected, fix=fix
        )

    def section(self, key: str) -> Section:
        """A nested mapping; missing and null are the empty one."""
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self.refuse(key, "a mapping", "Indent the fields below it.")
        return Section(self.path, f"{self.name}{key}.", value)

    def text(self, key: str) -> str | None:
        """A non-empty string."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            raise self.refuse(key, "a non-empty string", "Quote the value.")
        return value

    def integer(self, key: str, minimum: int = 0) -> int | None:
        """An integer from `minimum` to 2^31 - 1; no bool, no float."""
        value = self.values.get(key)
        if value is None:
            return None
        if not _is_index(value, minimum):
            raise self.refuse(key, f"an integer of at least {minimum}", "Correct the value.")
        assert isinstance(value, int)
        return value

    def number(self, key: str) -> float | None:
        """A positive finite number."""
        value = self.values.get(key)
        if value is None:
            return None
        # YAML 1.1 reads 8e4 as text (it wants 8.0e+4), hence the advice to write it out.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(key, "a positive number", "Write it out, for example 80000.0.")
        # 1e38 is about where float32 ends; this also keeps float() from overflowing.
        if not 0 < value < 1e38:
            raise self.refuse(key, "a positive finite number", "Correct the value.")
        return float(value)

    def scale(self, key: str, d_model: int) -> float | None:
        """A positive number, or the word `sqrt_d_model`."""
        if self.values.get(key) == "sqrt_d_model":
            return math.sqrt(d_model)
        return self.number(key)

    def ids(self, key: str) -> tuple[int, ...] | None:
        """A non-empty list of token ids."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not value or not all(_is_index(v) for v in value):
            raise self.refuse(key, "null or a list of token ids", "Correct the list.")
        return tuple(value)


def load_section(path: Path) -> Section:
    """Read a YAML file whose top is a mapping; only plain values, no Python objects.

    Raises:
        CheckpointError: missing or undecodable file, broken YAML, another top than a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            str(path),
            got=f"{type(error).__name__}",
            expected="a readable UTF-8 file",
            fix="An AV or AR directory carries its sidecar beside config.json.",
        ) from error
    try:
        loaded = yaml.safe_load(text)
    # Not only YAMLError: PyYAML's constructors leak AttributeError, KeyError, IndexError and
    # ValueError on scalars such as `!!timestamp x`, and deep nesting ends in RecursionError.
    except Exception as error:
        raise CheckpointError(
            str(path),
            got=f"text that is no YAML ({reprlib.repr(str(error))})",
            expected="a YAML mapping",
            fix="Correct the file or take it from the release again.",
        ) from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            str(path),
            got=type(loaded).__name__,
            expected="a YAML mapping",
            fix="Correct the file or take it from the release again.",
        )
    return Section(path, "", loaded)


def _is_index(value: object, minimum: int = 0) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return minimum <= value < 2**31
