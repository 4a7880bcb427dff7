"""Reading activations: which rows are read, in which pieces, without the file in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloss_server.files.activation_chunk import spans
from gloss_server.files.activation_file import ActivationFile, open_activations, sha256


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 7))
def test_spans_cover_what_is_needed_once_and_in_order(needed: list[bool], size: int) -> None:
    pieces = list(spans(np.array(needed, dtype=bool), size))
    covered = [index for start, stop in pieces for index in range(start, stop)]
    assert covered == [index for index, wanted in enumerate(needed) if wanted]
    assert all(1 <= stop - start <= size for start, stop in pieces)
    # Not cut more often than borders and size ask for.
    for (_, stop), (start, after) in zip(pieces, pieces[1:], strict=False):
        assert start > stop or after - start == size or not any(needed[after : after + 1])


@pytest.fixture(params=["npy", "parquet"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> ActivationFile:
    """2,500 rows of width 3; row i holds i, i + 0.25, i + 0.5."""
    rows = np.arange(2500, dtype=np.float32)[:, None] + np.float32([0, 0.25, 0.5])
    path = tmp_path / f"rows.{request.param}"
    if request.param == "npy":
        np.save(path, rows)
    else:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 3)
        table = pa.table({"activation_vector": vectors, "position": np.arange(2500) + 7})
        pq.write_table(table, path, row_group_size=1100)
    return open_activations(path)


@pytest.mark.parametrize("chunk_rows", [1, 7, 4096])
def test_needed_rows_come_in_order(opened: ActivationFile, chunk_rows: int) -> None:
    assert (opened.num_rows, opened.width, opened.layer_index) == (2500, 3, None)
    needed = np.zeros(2500, dtype=bool)
    needed[[0, 1, 2, 1023, 1024, 1099, 1100, 1101, 2499]] = True
    indices: list[int] = []
    for chunk in opened.chunks(needed, chunk_rows):
        assert len(chunk.activations) <= chunk_rows
        assert chunk.activations.dtype == np.float32 and chunk.activations.flags.writeable
        for row, vector in enumerate(chunk.activations):
            index = chunk.start + row
            assert vector.tolist() == [index, index + 0.25, index + 0.5]
            if opened.path.suffix == ".parquet":
                assert chunk.positions is not None and chunk.positions[row] == index + 7
            indices.append(index)
    assert indices == np.flatnonzero(needed).tolist()


def test_row_groups_without_a_needed_row_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(40, np.float32)), 4)
    pq.write_table(
        pa.table({"activation_vector": vectors}), tmp_path / "x.parquet", row_group_size=2
    )
    opened = open_activations(tmp_path / "x.parquet")
    read: list[int] = []
    original = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, *args: object, **options: object) -> object:
        read.extend(options["row_groups"])  # type: ignore[call-overload]
        return original(self, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    needed = np.zeros(10, dtype=bool)
    needed[[3, 8]] = True
    assert [chunk.start for chunk in opened.chunks(needed, 32)] == [3, 8]
    assert read == [1, 4]


@pytest.mark.parametrize("group_rows", [2_000, 20_000])
def test_a_file_is_never_in_memory_as_a_whole(tmp_path: Path, group_rows: int) -> None:
    """40 MB are read through 1024 rows of 2 kB and 1 MB of buffer."""
    rng = np.random.default_rng(0)
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(rng.normal(size=20_000 * 512).astype(np.float32)), 512
    )
    path = tmp_path / "large.parquet"
    pq.write_table(pa.table({"activation_vector": vectors}), path, row_group_size=group_rows)
    del vectors
    before = pa.total_allocated_bytes()
    opened = open_activations(path)
    peak = max(pa.total_allocated_bytes() for _ in opened.chunks(np.ones(20_000, dtype=bool), 512))
    assert peak - before < 16e6


def test_float64_beyond_float32_is_left_to_the_engine(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.0, 1e300]]))
    (chunk,) = open_activations(tmp_path / "x.npy").chunks(np.ones(1, dtype=bool), 1)
    assert chunk.activations.tolist() == [[1.0, np.inf]]


def test_missing_numbers_in_a_vector_become_nan(tmp_path: Path) -> None:
    column = pa.array([[1.0, None], [3.0, 4.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"activation_vector": column}), tmp_path / "x.parquet")
    (chunk,) = open_activations(tmp_path / "x.parquet").chunks(np.ones(2, dtype=bool), 2)
    np.testing.assert_array_equal(chunk.activations, [[1, np.nan], [3, 4]])


def test_hash_reads_all_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    seen: list[int] = []
    assert sha256(path, seen.append).startswith("ba7816bf8f01cfea")
    assert sum(seen) == 3
