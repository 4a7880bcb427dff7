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

_MAX_BYTES = 1 << 18
_MAX_NODES = 20_000
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel = 2


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
        got = _SHOWN.repr(self.values[key]) if key in self.values else "nothing"
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
        CheckpointError: missing or undecodable file, broken YAML, another top than a mapping, more
            than a sidecar can be, also where aliases make much of little.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            str(path),
            got=f"{type(error).__name__}",
            expected="a readable UTF-8 file",
            fix="An AV or AR directory carries its sidecar beside config.json.",
        ) from error
    if len(content) > _MAX_BYTES:
        raise _too_much(path, f"more than {_MAX_BYTES} bytes")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        num_nodes = _num_nodes(node, {})
        loaded = _constructed(node) if num_nodes <= _MAX_NODES else None
    # Not only YAMLError: PyYAML's constructors leak AttributeError, KeyError, IndexError and
    # ValueError on scalars such as `!!timestamp x`, and deep nesting ends in RecursionError.
    except Exception as error:
        raise CheckpointError(
            str(path),
            got=f"text that is no YAML ({reprlib.repr(str(error))})",
            expected="a YAML mapping",
            fix="Correct the file or take it from the release again.",
        ) from error
    if num_nodes > _MAX_NODES:
        raise _too_much(path, "aliases that stand for more and more, or for themselves")
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            str(path),
            got=type(loaded).__name__,
            expected="a YAML mapping",
            fix="Correct the file or take it from the release again.",
        )
    return Section(path, "", loaded)


def _num_nodes(node: yaml.Node | None, known: dict[int, float]) -> float:
    """How many nodes there are once every alias is written out; infinite in a circle."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        inner = [part for pair in node.value for part in pair] if _is_map(node) else node.value
        known[id(node)] = 1 + sum(_num_nodes(part, known) for part in inner)
    return known[id(node)]


def _is_map(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode)


def _constructed(node: yaml.Node | None) -> object:
    return None if node is None else yaml.SafeLoader("").construct_document(node)


def _too_much(path: Path, got: str) -> CheckpointError:
    return CheckpointError(
        str(path),
        got=got,
        expected=f"a YAML mapping of at most {_MAX_BYTES} bytes and {_MAX_NODES} values",
        fix="Correct the file or take it from the release again.",
    )


def _is_index(value: object, minimum: int = 0) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return minimum <= value < 2**31
