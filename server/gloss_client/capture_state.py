"""What the streams of a Capture have said so far, over all its pieces."""

from __future__ import annotations

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import convert
from gloss_client.call import one_fingerprint
from gloss_client.errors import ServerError
from gloss_client.pieces import Piece
from gloss_client.results import ItemError
from gloss_client.stream_state import Message
from gloss_client.tensors import decode_rows
from gloss_client.text_results import ActivationRows, CaptureEvent, CaptureSummary, TextFailure


class CaptureState:
    """State of texts that are read. See StreamState.

    The stream has no last message: it is whole when every text has brought a row or a failure.
    """

    def __init__(self) -> None:
        self.fingerprint: str | None = None
        self._num_activations = 0
        self._failures: dict[int, ItemError] = {}
        self._seen: set[int] = set()

    def events(self, received: Message) -> list[CaptureEvent]:
        piece, _, message = received
        if message is None:
            self._check_whole(piece)
            return []
        if message.fingerprint:
            got = message.fingerprint
            self.fingerprint = one_fingerprint((got, self.fingerprint or got))
        failures = [
            TextFailure(
                input_index=piece.start + failure.item_index,
                error=convert.item_error(failure.error),
            )
            for failure in message.failures
        ]
        self._failures.update((failure.input_index, failure.error) for failure in failures)
        self._seen.update(failure.input_index for failure in failures)
        if not message.rows:
            return [*failures]
        rows = _rows(message, piece.start)
        self._num_activations += len(rows.places)
        self._seen.update(rows.input_index)
        return [rows, *failures]

    def summary(self) -> CaptureSummary:
        return CaptureSummary(
            num_activations=self._num_activations, failures=dict(sorted(self._failures.items()))
        )

    def _check_whole(self, piece: Piece) -> None:
        missing = set(range(piece.start, piece.stop)) - self._seen
        if missing or self.fingerprint is None:
            what = f"text {min(missing)}" if missing else "its fingerprint"
            raise ServerError(f"the stream ended without {what}")


def _rows(message: pb.CaptureResponse, first_index: int) -> ActivationRows:
    """A message's activations; `first_index` is where its piece begins.

    Raises:
        ServerError: not one row for each entry.
    """
    activations = decode_rows(message.activations)
    if activations.ndim != 2 or len(activations) != len(message.rows):
        raise ServerError(
            f"the stream: got activations {activations.shape} for {len(message.rows)} entries"
        )
    return ActivationRows(
        activations=activations,
        input_index=tuple(first_index + row.input_index for row in message.rows),
        doc_ids=tuple(row.doc_id for row in message.rows),
        places=tuple(convert.token_place(row.token_position) for row in message.rows),
        is_special=tuple(row.is_special for row in message.rows),
    )
