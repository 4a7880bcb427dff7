"""The loop of `gloss capture`: rows of texts through the target, activations out as parts.

Rows become documents, documents batches of one pass of the target, batches parts that are written
at once. Which texts share a pass can change the last bits of an activation, so batches are cut by
the input alone: a batch ends where the next document does not fit any more. A part is a whole
number of batches, and where it ends changes nothing; so a run that goes on behind a part makes
every row as a run in one go does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa

from gloss_engine.capture.positions import Positions
from gloss_engine.errors import RequestError
from gloss_engine.target.encoding import encode
from gloss_engine.target.reader import TextReader, TextToRead
from gloss_engine.target.target import Target
from gloss_engine.transfer import Arriving
from gloss_server.commands.capture.results import Span, captured_schema
from gloss_server.commands.capture.row import Failure, TextRow
from gloss_server.front.token_texts import TokenTexts

_MAX_PART_SECONDS = 5.0
"""About what a kill can cost."""
_MAX_PART_BYTES = 1 << 26
_MAX_DOCUMENTS = 1024
"""Of a batch and of a part: also failures are held until they are written."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text as tokens, with what is wanted of it.

    Attributes:
        row, doc_id: as of its TextRow.
        text: its tokens and the wanted positions.
    """

    row: int
    doc_id: str
    text: TextToRead

    @property
    def num_tokens(self) -> int:
        """Of the text."""
        return len(self.text.token_ids)


@dataclass(kw_only=True)
class Batch:
    """Consecutive rows of an input that are read in one pass, or one longer document."""

    start: int
    documents: list[Document] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    num_tokens: int = 0

    @property
    def num_rows(self) -> int:
        """Rows of the input."""
        return len(self.documents) + len(self.failures)

    def has_room(self, num_tokens: int, max_tokens: int) -> bool:
        """Whether a document of so many tokens belongs to it."""
        fits = not self.num_tokens or self.num_tokens + num_tokens <= max_tokens
        return fits and self.num_rows < _MAX_DOCUMENTS

    def add(self, given: Document | Failure) -> None:
        """Take the next row."""
        if isinstance(given, Failure):
            self.failures.append(given)
        else:
            self.documents.append(given)
            self.num_tokens += given.num_tokens


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows of an input, read.

    Attributes:
        span: which, and what became of them.
        tables: their activations, as `captured_schema` says.
    """

    span: Span
    tables: tuple[pa.Table, ...]

    def then(self, later: Part) -> Part:
        """Both together."""
        return Part(span=self.span.then(later.span), tables=self.tables + later.tables)

    @property
    def is_large(self) -> bool:
        """Whether it is worth a file."""
        num_bytes = sum(table.nbytes for table in self.tables)
        num_rows = self.span.stop - self.span.start
        return num_bytes >= _MAX_PART_BYTES or num_rows >= _MAX_DOCUMENTS


class CaptureRun:
    """Reads documents with one target.

    Args:
        target: what reads, up to block K.
        positions: which of each document.
        max_tokens: of a pass, but for a longer document.
    """

    def __init__(self, target: Target, positions: Positions, max_tokens: int) -> None:
        self._target, self._positions, self._max_tokens = target, positions, max_tokens
        self._reader = TextReader(target, max_tokens)
        self._texts = TokenTexts(target.tokenizer.backend_tokenizer)
        self._schema = captured_schema(target.spec.d_model)

    def batches(
        self, rows: Iterable[TextRow | Failure], on_batch: Callable[[Span], None]
    ) -> Iterator[Part]:
        """Read rows batch by batch; a device works on the next batch while one is taken in.

        Args:
            rows: consecutive ones.
            on_batch: hears of each batch that was read.

        Yields:
            A part of each batch.
        """
        running: tuple[Batch, Arriving, Arriving] | None = None
        for batch in chain(self._cut(map(self._document, rows)), [None]):
            launched = None if batch is None else self._launch(batch)
            if running is not None:
                part = self._read(*running)
                on_batch(part.span)
                yield part
            running = launched

    def _launch(self, batch: Batch) -> tuple[Batch, Arriving, Arriving]:
        raw, norms = self._reader.read([document.text for document in batch.documents])
        return batch, Arriving(raw), Arriving(norms)

    def _document(self, given: TextRow | Failure) -> Document | Failure:
        """A row as tokens, or why that cannot be."""
        if isinstance(given, Failure):
            return given
        try:
            token_ids = encode(self._target, given.text)
            positions = self._positions.resolve(len(token_ids))
        except RequestError as error:
            return Failure(
                row=given.row, doc_id=given.doc_id, reason=error.reason, message=str(error)
            )
        text = TextToRead(token_ids=token_ids, positions=positions)
        return Document(row=given.row, doc_id=given.doc_id, text=text)

    def _cut(self, rows: Iterable[Document | Failure]) -> Iterator[Batch]:
        batch: Batch | None = None
        for row in rows:
            num_tokens = 0 if isinstance(row, Failure) else row.num_tokens
            if batch is not None and not batch.has_room(num_tokens, self._max_tokens):
                yield batch
                batch = None
            batch = batch or Batch(start=row.row)
            batch.add(row)
        if batch is not None:
            yield batch

    def _read(self, batch: Batch, raw: Arriving, norms: Arriving) -> Part:
        """What a batch has brought; waits for it."""
        on_host = norms.wait().numpy()
        places = [
            (document, position)
            for document in batch.documents
            for position in document.text.positions
        ]
        usable = np.isfinite(on_host) & (on_host > 0)
        left_out = [
            _left_out(places[index], float(on_host[index]))
            for index in np.flatnonzero(~usable).tolist()
        ]
        kept = [place for place, use in zip(places, usable.tolist(), strict=True) if use]
        failures = sorted(batch.failures + left_out, key=lambda failure: failure.row)
        return Part(
            span=Span(
                start=batch.start,
                stop=batch.start + batch.num_rows,
                num_activations=len(kept),
                num_tokens=batch.num_tokens,
                num_failed=len(batch.failures),
                num_left_out=len(left_out),
                failures=tuple(failures),
            ),
            tables=(self._table(kept, raw.wait().numpy()[usable], on_host[usable]),),
        )

    def _table(
        self, places: list[tuple[Document, int]], raw: np.ndarray, norms: np.ndarray
    ) -> pa.Table:
        positions = np.array([position for _, position in places], dtype=np.int32)
        ids = [document.text.token_ids[position] for document, position in places]
        layer = self._target.layer_index
        return pa.Table.from_arrays(
            [
                pa.FixedSizeListArray.from_arrays(pa.array(raw.reshape(-1)), raw.shape[1]),
                pa.array([document.doc_id for document, _ in places], pa.string()),
                pa.array(positions),
                pa.array(ids, pa.int32()),
                pa.array([self._texts.of(token_id) for token_id in ids], pa.string()),
                pa.array([token_id in self._target.special_ids for token_id in ids], pa.bool_()),
                pa.array(norms),
                pa.array(positions + 1),
                pa.array(np.full(len(places), layer, dtype=np.int32)),
            ],
            schema=self._schema,
        )


def parts(batches: Iterable[Part]) -> Iterator[Part]:
    """Batches put together to what is worth a file, or has taken long enough."""
    whole, started = None, time.monotonic()
    for batch in batches:
        whole = batch if whole is None else whole.then(batch)
        if whole.is_large or time.monotonic() - started >= _MAX_PART_SECONDS:
            yield whole
            whole, started = None, time.monotonic()
    if whole is not None:
        yield whole


def _left_out(place: tuple[Document, int], norm: float) -> Failure:
    """Why an activation is of no use."""
    document, position = place
    if math.isfinite(norm):
        reason, what = "ZERO_VECTOR", "is zero, or its float32 norm underflows"
    else:
        reason, what = "NON_FINITE_VECTOR", "holds NaN or Inf, or its float32 norm overflows"
    return Failure(
        row=document.row,
        doc_id=document.doc_id,
        position=position,
        reason=reason,
        message=f"the activation {what}; it was left out",
    )
