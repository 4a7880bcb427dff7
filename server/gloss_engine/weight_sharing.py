"""Which weights and tokenizers of two checkpoints are the same, so that memory holds them once.

An AV begins as a copy of its target, and what its training froze stays equal to the byte: often the
embedding, sometimes the first blocks. Files are compared, not loaded tensors: a weight that is
shared is then never allocated twice, whatever type or layout it is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gloss_engine.checkpoint import stored_tensors
from gloss_engine.models.spec import ModelSpec
from gloss_engine.weight_files import open_safetensors

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
_FIRST_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class EqualWeights:
    """Tensors of a checkpoint that another one holds too.

    Attributes:
        names: canonical names of the equal ones.
        others: of the checkpoint's remaining ones.
    """

    names: frozenset[str]
    others: frozenset[str]

    def holds(self, prefix: str) -> bool:
        """Whether there are tensors of this name or below it, and all are equal."""
        return _any_below(self.names, prefix) and not _any_below(self.others, prefix)


def equal_weights(directory: Path, other: Path) -> EqualWeights:
    """Compare a checkpoint with another, tensor by tensor.

    Reads equal tensors whole, and of those that differ mostly the first rows.

    Raises:
        CheckpointError: files that cannot be read.
    """
    mine, theirs = stored_tensors(directory), stored_tensors(other)
    if directory.resolve() == other.resolve():
        return EqualWeights(names=frozenset(mine), others=frozenset())
    equal = set()
    for name, (path, stored) in mine.items():
        if name in theirs and _equal(path, stored, *theirs[name]):
            equal.add(name)
    return EqualWeights(names=frozenset(equal), others=frozenset(mine.keys() - equal))


def can_share(spec: ModelSpec, other: ModelSpec) -> bool:
    """Whether blocks of one model may stand in the other: all that a block reads of its spec."""
    count = min(spec.num_layers, other.num_layers)

    def block_part(whole: ModelSpec) -> ModelSpec:
        return replace(
            whole,
            layers=whole.layers[:count],
            max_positions=0,
            tie_word_embeddings=False,
            vocab_size=0,
        )

    return block_part(spec) == block_part(other)


def same_tokenizer(directory: Path, other: Path) -> bool:
    """Whether two directories hold the same tokenizer, chat template included."""
    return all(_content(directory / name) == _content(other / name) for name in TOKENIZER_FILES)


def _any_below(names: frozenset[str], prefix: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for name in names)


def _equal(path: Path, name: str, other_path: Path, other_name: str) -> bool:
    with open_safetensors(path) as mine, open_safetensors(other_path) as theirs:
        one, two = mine.get_slice(name), theirs.get_slice(other_name)
        if one.get_shape() != two.get_shape() or one.get_dtype() != two.get_dtype():
            return False
        if not _same(one[:_FIRST_ROWS], two[:_FIRST_ROWS]):
            return False
        return _same(mine.get_tensor(name), theirs.get_tensor(other_name))


def _same(one: Any, two: Any) -> bool:
    return torch.equal(one, two)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
