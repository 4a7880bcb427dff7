"""Any bytes as a sidecar: read, or refused with got, expected and fix, and never slowly.

Files under corpus/sidecars are what was found or thought of; a new counterexample goes there.
`GLOSS_FUZZ_EXAMPLES=100000 pytest tests/operations/test_fuzzed_sidecars.py` looks for longer, with
another seed every time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gloss_engine.errors import CheckpointError
from gloss_engine.sidecar import SIDECAR_NAME, read_dataset_sidecar, read_sidecar
from support.checkpoints import Pair

CORPUS = sorted((Path(__file__).parent / "corpus" / "sidecars").iterdir())
EXAMPLES = int(os.environ.get("GLOSS_FUZZ_EXAMPLES", "0"))
FUZZED = settings(
    max_examples=EXAMPLES or 300,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SECONDS = 5.0
"""Far more than a file of this size takes, far less than a bomb does."""

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=8),
    st.dates(),
    st.sampled_from(["sqrt_d_model", "av", "ar", "actor", "nla_model", 2**31, -1, 1e39, 10**400]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=4),
    max_leaves=8,
)


def judge(directory: Path, content: bytes) -> None:
    """Both readers give a sidecar or their error, in time."""
    (directory / SIDECAR_NAME).write_bytes(content)
    (directory / f"rows.parquet.{SIDECAR_NAME}").write_bytes(content)
    began = time.process_time()
    readers: tuple[Callable[[], object], ...] = (
        partial(read_sidecar, directory),
        partial(read_dataset_sidecar, directory / "rows.parquet"),
    )
    for read in readers:
        try:
            read()
        except CheckpointError as error:
            assert "got" in str(error) and "expected" in str(error)
            assert len(str(error)) < 2000 and error.fix
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_corpus(path: Path, tmp_path: Path) -> None:
    judge(tmp_path, path.read_bytes())


def test_the_corpus_is_there() -> None:
    assert len(CORPUS) >= 8


@FUZZED
@given(content=st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    judge(tmp_path, content)


@FUZZED
@given(data=st.data())
def test_a_sidecar_with_other_values(
    tmp_path: Path, pairs: dict[str, Pair], data: st.DataObject
) -> None:
    """A valid one in which some fields have become anything."""
    meta: dict[Any, Any] = yaml.safe_load((pairs["qwen2"].av / SIDECAR_NAME).read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        place = meta
        key = data.draw(st.sampled_from(sorted(place, key=str)))
        while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            key = data.draw(st.sampled_from(sorted(place, key=str)))
        place[key] = data.draw(VALUES)
    judge(tmp_path, yaml.dump(meta, allow_unicode=True).encode("utf-8", "surrogatepass"))


@FUZZED
@given(data=st.data())
def test_a_sidecar_with_other_bytes(
    tmp_path: Path, pairs: dict[str, Pair], data: st.DataObject
) -> None:
    content = bytearray((pairs["qwen2"].av / SIDECAR_NAME).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 12))
        content[at : at + length] = data.draw(st.binary(max_size=12))
    judge(tmp_path, bytes(content))
