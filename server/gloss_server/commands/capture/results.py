"""Output of `gloss capture`: its columns, its parts, and the files that stand beside it.

    FILE.parquet                  the activations, once all are there (`files/parquet_parts.py`)
    FILE.parquet.nla_meta.yaml    sidecar: their width and their layer
    FILE.parquet.failed.jsonl     what could not be read and what was left out, if anything was

Each part says in its metadata which rows of the input it covers and what failed among them, so that
what failed is as safe as what was read. The finished file says the same of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from gloss_engine.sidecar import SIDECAR_NAME
from gloss_server.command_error import writing
from gloss_server.commands.capture.row import Failure
from gloss_server.files.output_file import foreign, write_whole
from gloss_server.files.parquet_parts import ParquetParts

NUM_SHOWN = 5
"""Failures that the finished file itself names."""
_METADATA = b"gloss.capture"
_GROUP_BYTES = 1 << 26
_MAX_GROUP_ROWS = 16384


def captured_schema(d_model: int) -> pa.Schema:
    """Columns of the output. Others script against them."""
    columns = [
        ("activation_vector", pa.list_(pa.float32(), d_model)),
        ("doc_id", pa.string()),
        ("position", pa.int32()),
        ("token_id", pa.int32()),
        ("token", pa.string()),
        ("is_special", pa.bool_()),
        ("norm", pa.float32()),
        ("n_raw_tokens", pa.int32()),
        ("activation_layer", pa.int32()),
    ]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


@dataclass(frozen=True, kw_only=True)
class Span:
    """Rows of the input that have been dealt with.

    Attributes:
        start, stop: these rows, the last exclusive.
        num_activations: of them that are in the output.
        num_tokens: read.
        num_failed: documents that could not be read.
        num_left_out: activations of no use.
        failures: these documents and activations by row; in a finished file only the first.
    """

    start: int
    stop: int
    num_activations: int = 0
    num_tokens: int = 0
    num_failed: int = 0
    num_left_out: int = 0
    failures: tuple[Failure, ...] = ()

    def then(self, later: Span) -> Span:
        """Both together."""
        return Span(
            start=self.start,
            stop=later.stop,
            num_activations=self.num_activations + later.num_activations,
            num_tokens=self.num_tokens + later.num_tokens,
            num_failed=self.num_failed + later.num_failed,
            num_left_out=self.num_left_out + later.num_left_out,
            failures=(*self.failures, *later.failures),
        )


class CaptureResults:
    """An open output, locked against a second run.

    Args:
        path: the finished file.
        num_rows: of the input.

    Attributes:
        path: the same.
        span: what it holds, from row 0 on, with the first failures.
        is_complete: whether nothing is missing.

    Raises:
        CommandError: another run writes it, or its contents are not of this run.
        OutputError: a path that cannot be written.
    """

    def __init__(self, path: Path, num_rows: int) -> None:
        self.path, self.span = path, Span(start=0, stop=0)
        self._num_rows = num_rows
        self._parts = ParquetParts(path)
        for file in [path] if self._parts.is_finished else self._parts.files():
            span = _read_span(file)
            if span is None or span.start != self.span.stop or span.stop > num_rows:
                self._parts.close()
                raise foreign(path, f"{file.name} is no part")
            self._hold(span)

    @property
    def is_complete(self) -> bool:
        """See the class."""
        return self.span.stop == self._num_rows

    def append(self, tables: Iterable[pa.Table], span: Span) -> None:
        """Write what follows on the rows that are there, so that it survives what comes next.

        Raises:
            OutputError: it could not be written; what was there before still is.
        """
        assert span.start == self.span.stop
        table = pa.concat_tables(tables)
        text = json.dumps(asdict(span))
        self._parts.add(f"{span.start:012d}", table.replace_schema_metadata({_METADATA: text}))
        self._hold(span)

    def finish(self, layer_index: int) -> None:
        """Called once everything is there: the parts become the file, with what stands beside it.

        Args:
            layer_index: K, for the sidecar.

        Raises:
            OutputError: something could not be written; nothing that was there is lost.
        """
        d_model = self._parts.schema().field("activation_vector").type.list_size
        if not self._parts.is_finished:
            self._write_failures()
            _write_sidecar(self.path, d_model, layer_index)
        rows = max(1, min(_GROUP_BYTES // (4 * d_model), _MAX_GROUP_ROWS))
        self._parts.join(rows, {_METADATA: json.dumps(asdict(self.span))})

    def close(self) -> None:
        """Let go of the output; nothing is lost that was appended."""
        self._parts.close()

    def _hold(self, span: Span) -> None:
        whole = self.span.then(span)
        self.span = replace(whole, failures=whole.failures[:NUM_SHOWN])

    def _write_failures(self) -> None:
        path = failures_path(self.path)
        lines = [json.dumps(asdict(failure)) for failure in self._all_failures()]
        if lines:
            write_whole(path, "".join(f"{line}\n" for line in lines))
        else:
            # Of an earlier run, whose output was removed.
            with writing(path):
                path.unlink(missing_ok=True)

    def _all_failures(self) -> Iterator[Failure]:
        for file in self._parts.files():
            span = _read_span(file)
            assert span is not None
            yield from span.failures


def failures_path(output: Path) -> Path:
    """Where the failures of a finished run are listed."""
    return output.with_name(f"{output.name}.failed.jsonl")


def _write_sidecar(output: Path, d_model: int, layer_index: int) -> None:
    meta = {
        "schema_version": 2,
        "kind": "nla_dataset",
        "extraction": {"d_model": d_model, "layer_index": layer_index},
    }
    path = output.with_name(f"{output.name}.{SIDECAR_NAME}")
    write_whole(path, yaml.safe_dump(meta, sort_keys=False))


def _read_span(file: Path) -> Span | None:
    """What a file says it covers; None where no capture wrote it."""
    try:
        metadata = pq.read_metadata(file)
        values = json.loads(metadata.metadata[_METADATA])
        failures = tuple(Failure(**failure) for failure in values["failures"])
        span = replace(Span(**values), failures=failures)
        return span if span.num_activations == metadata.num_rows else None
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None
