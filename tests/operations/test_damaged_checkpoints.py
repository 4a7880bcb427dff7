"""Every file of a checkpoint cut off, emptied or with flipped bits: refused, or read as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gloss_engine import EngineConfig, load_engine
from gloss_engine.errors import CheckpointError
from support.checkpoints import Pair

PARTS = ("av", "ar")
NAMES = ("config.json", "nla_meta.yaml", "tokenizer.json", "tokenizer_config.json")
"""Besides the weights."""


def _files(directory: Path) -> list[Path]:
    return sorted(
        path for path in directory.iterdir() if path.name in NAMES or path.suffix == ".safetensors"
    )


def _load(av: Path, ar: Path) -> None:
    load_engine(av, ar, config=EngineConfig(device="cpu", num_slots=1))


@pytest.mark.parametrize("part", ["av", "ar"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 1.0])
def test_cut_off(
    pairs: dict[str, Pair], copy_of: Callable[[Path], Path], part: str, kept: float
) -> None:
    """At several lengths, the last of them 20 bytes short of all."""
    whole = getattr(pairs["qwen2"], part)
    for path in _files(whole):
        if path.name == "nla_meta.yaml" and kept == 1.0:
            continue  # YAML that ends early may be whole.
        broken = copy_of(whole)
        content = path.read_bytes()
        num_bytes = min(int(len(content) * kept), len(content) - 20)
        (broken / path.name).write_bytes(content[:num_bytes])
        av, ar = (broken if part == name else getattr(pairs["qwen2"], name) for name in PARTS)
        with pytest.raises(CheckpointError) as caught:
            _load(av, ar)
        said = str(caught.value)
        assert "got" in said and "expected" in said and caught.value.fix, path.name


@pytest.mark.parametrize("at", range(0, 64, 3))
def test_a_flipped_bit_in_a_header(
    pairs: dict[str, Pair], copy_of: Callable[[Path], Path], at: int
) -> None:
    """Length and JSON of the weights' header: refused with words, or the same tensors."""
    broken = copy_of(pairs["qwen2"].av)
    path = next(broken.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << at % 7
    path.write_bytes(content)
    try:
        _load(broken, pairs["qwen2"].ar)
    except CheckpointError as error:
        assert "got" in str(error) and error.fix
