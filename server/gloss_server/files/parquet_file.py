"""A parquet file of activations: column `activation_vector`, read one batch of rows at a time.

Optional columns: `activation_layer` (one value), `position` and `token_id` (for flags). A sidecar
`FILE.parquet.nla_meta.yaml` may state the layer too. All rows are checked when the file is opened,
so that no run ends on a bad row after hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gloss_server.command_error import CommandError
from gloss_server.files.activation_chunk import (
    ActivationChunk,
    BoolArray,
    as_float32,
    sidecar_layer,
    spans,
)
from gloss_server.files.input_reading import open_parquet, reading

VECTORS, LAYERS, POSITIONS, TOKENS = "activation_vector", "activation_layer", "position", "token_id"
_BATCH_ROWS = 1024
_EXPECTED = f"one with a column {VECTORS}"


class ParquetFile:
    """See `ActivationFile`.

    Raises:
        CommandError: no parquet, no such column, ragged or missing rows, two layers.
        CheckpointError: a sidecar beside it that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path, _EXPECTED):
            self._file = open_parquet(path)
        self.num_rows = int(self._file.metadata.num_rows)
        names = self._file.schema_arrow.names
        _check_columns(path, self._file.schema_arrow)
        self._places = [name for name in (POSITIONS, TOKENS) if name in names]
        if self.num_rows == 0:
            raise CommandError(f"{path}: got no rows, expected at least one")
        self.width, layers = self._scan([name for name in (LAYERS,) if name in names])
        self.layer_index = _one_layer(path, layers, sidecar_layer(path, self.width))

    def chunks(self, needed: BoolArray, chunk_rows: int) -> Iterator[ActivationChunk]:
        """See `ActivationFile`. Row groups without a needed row are not read."""
        at = 0
        for group in range(self._file.num_row_groups):
            num_rows = self._file.metadata.row_group(group).num_rows
            if needed[at : at + num_rows].any():
                yield from self._group_chunks(group, at, needed, chunk_rows)
            at += num_rows

    def _group_chunks(
        self, group: int, at: int, needed: BoolArray, chunk_rows: int
    ) -> Iterator[ActivationChunk]:
        for batch in self._batches([VECTORS, *self._places], [group]):
            for start, stop in spans(needed[at : at + batch.num_rows], chunk_rows):
                yield self._chunk(batch.slice(start, stop - start), at + start)
            at += batch.num_rows

    def _chunk(self, batch: pa.RecordBatch, start: int) -> ActivationChunk:
        vectors = batch.column(VECTORS).flatten().to_numpy(zero_copy_only=False)
        places = {name: tuple(batch.column(name).to_pylist()) for name in self._places}
        return ActivationChunk(
            start=start,
            activations=as_float32(vectors).reshape(batch.num_rows, self.width),
            positions=places.get(POSITIONS),
            token_ids=places.get(TOKENS),
        )

    def _batches(self, columns: list[str], groups: list[int] | None) -> Iterator[pa.RecordBatch]:
        with reading(self.path, _EXPECTED):
            yield from self._file.iter_batches(
                batch_size=_BATCH_ROWS, row_groups=groups, columns=columns
            )

    def _scan(self, layer_columns: list[str]) -> tuple[int, set[int | None]]:
        """Read the file once: the width of all its rows, and the layers it states."""
        width: int | None = None
        layers: set[int | None] = set()
        start = 0
        for batch in self._batches([VECTORS, *self._places, *layer_columns], None):
            lengths = pc.list_value_length(batch.column(VECTORS))
            width = lengths[0].as_py() if width is None else width
            self._check_rows(lengths, width, start)
            for name in self._places:
                self._check_known(name, batch.column(name), start)
            for name in layer_columns:
                layers.update(pc.unique(batch.column(name)).to_pylist())
            start += batch.num_rows
        if not width:
            raise CommandError(f"{self.path}: row 0 of {VECTORS} is empty, expected d_model floats")
        return width, layers

    def _check_rows(self, lengths: pa.Array, width: int | None, start: int) -> None:
        bad = np.flatnonzero(lengths.fill_null(-1).to_numpy(zero_copy_only=False) != width)
        if width is None or bad.size:
            row = int(bad[0]) if bad.size else 0
            got = lengths[row].as_py()
            raise CommandError(
                f"{self.path}: row {start + row} of {VECTORS} holds "
                f"{'null' if got is None else f'{got} values'}, expected "
                f"{'d_model' if width is None else width} as in row 0. Write the column as a "
                "fixed-size list, which cannot hold ragged rows"
            )

    def _check_known(self, name: str, column: pa.Array, start: int) -> None:
        if column.null_count:
            row = start + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise CommandError(
                f"{self.path}: row {row} of {name} is null, expected an integer. Fill the column "
                "or drop it"
            )


def _check_columns(path: Path, schema: pa.Schema) -> None:
    if VECTORS not in schema.names:
        raise CommandError(
            f"{path}: got columns {', '.join(schema.names)}, expected one named {VECTORS}"
        )
    kind = schema.field(VECTORS).type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (is_list or pa.types.is_fixed_size_list(kind)) or not pa.types.is_floating(
        kind.value_type
    ):
        raise CommandError(
            f"{path}: column {VECTORS}: got {kind}, expected a fixed-size list of float32"
        )
    for name in (LAYERS, POSITIONS, TOKENS):
        if name in schema.names and not pa.types.is_integer(schema.field(name).type):
            raise CommandError(
                f"{path}: column {name}: got {schema.field(name).type}, expected integers. Convert "
                "it, or drop it if it means something else"
            )


def _one_layer(path: Path, layers: set[int | None], in_sidecar: int | None) -> int | None:
    """The layer that column and sidecar agree on, or None where neither states one."""
    if len(layers) > 1:
        listed = ", ".join(sorted("null" if layer is None else str(layer) for layer in layers))
        raise CommandError(
            f"{path}: column {LAYERS}: got {listed}, expected one layer. Split the file by layer"
        )
    in_column = next(iter(layers), None)
    if None not in (in_column, in_sidecar) and in_column != in_sidecar:
        raise CommandError(
            f"{path}: column {LAYERS}: got {in_column}, expected {in_sidecar} as its sidecar "
            "says. Find out which is right and correct the other"
        )
    return in_sidecar if in_column is None else in_column
