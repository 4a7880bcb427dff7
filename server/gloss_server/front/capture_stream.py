"""Readings of texts to messages of a Capture stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.errors import ItemError
from gloss_engine.text_request import Reading, TokenPlace
from gloss_server.front.call_error import item_status
from gloss_server.front.model import ServedModel
from gloss_server.front.reading_text import CaptureWanted
from gloss_server.front.stream import MAX_MESSAGE_BYTES
from gloss_server.front.tensor import encode_rows, reply_bytes
from gloss_server.front.writing import token_position

_ROW_BYTES = 8
"""Of a row's place in a message, besides what it says."""


class CaptureMessages:
    """Fills messages with rows and failures, and closes each at its size.

    Args:
        wanted: what the call asks for.
        model: whose target was read.
    """

    def __init__(self, wanted: CaptureWanted, model: ServedModel) -> None:
        assert model.target is not None
        self._wanted, self._target = wanted, model.target
        layer_index = wanted.layer_index
        self._layer_index = model.info.layer_index if layer_index is None else layer_index
        self._message = pb.CaptureResponse(fingerprint=model.target.fingerprint)
        self._rows: list[np.ndarray] = []
        self._num_bytes = 0

    def failed(self, failures: Iterable[tuple[int, ItemError]]) -> Iterator[pb.CaptureResponse]:
        """Messages with texts, by their place in the call, that could not be read."""
        for index, error in failures:
            yield from self._fail(index, error)
        yield from self._rest()

    def of(
        self, readings: Iterable[Reading], indices: Sequence[int]
    ) -> Iterator[pb.CaptureResponse]:
        """Messages with all of some readings. One may have rows, and an error for others.

        Args:
            readings: of a piece's texts.
            indices: the places of these texts in the call.
        """
        for reading in readings:
            index = indices[reading.index]
            if reading.error is not None:
                yield from self._fail(index, reading.error)
            if reading.positions:
                yield from self._add(reading, index)
        yield from self._rest()

    def _add(self, reading: Reading, index: int) -> Iterator[pb.CaptureResponse]:
        assert self._layer_index is not None
        row_bytes = _ROW_BYTES + reply_bytes(1, reading.activations.shape[1], self._wanted.dtype)
        begin = 0
        for row, position in enumerate(reading.positions):
            place = TokenPlace(
                position, reading.token_ids[position], float(reading.norms[row]), self._layer_index
            )
            entry = self._message.rows.add(
                input_index=index,
                doc_id=self._wanted.doc_ids[index],
                token_position=token_position(place, self._target.texts),
                is_special=reading.is_special[row],
            )
            self._num_bytes += row_bytes + entry.ByteSize()
            if self._num_bytes >= MAX_MESSAGE_BYTES:
                self._rows.append(reading.activations[begin : row + 1])
                begin = row + 1
                yield self._close()
        if begin < len(reading.positions):
            self._rows.append(reading.activations[begin:])

    def _fail(self, index: int, error: ItemError) -> Iterator[pb.CaptureResponse]:
        entry = self._message.failures.add(item_index=index, error=item_status(error))
        self._num_bytes += _ROW_BYTES + entry.ByteSize()
        if self._num_bytes >= MAX_MESSAGE_BYTES:
            yield self._close()

    def _rest(self) -> Iterator[pb.CaptureResponse]:
        if self._num_bytes:
            yield self._close()

    def _close(self) -> pb.CaptureResponse:
        message, self._message = self._message, pb.CaptureResponse()
        if self._rows:
            rows = encode_rows(np.concatenate(self._rows), self._wanted.dtype)
            message.activations.CopyFrom(rows)
        self._rows, self._num_bytes = [], 0
        return message
