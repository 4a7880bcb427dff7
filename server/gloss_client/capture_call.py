"""Texts whose activations are to be read: their requests, piece by piece, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.capture_state import CaptureState
from gloss_client.errors import InvalidRequest
from gloss_client.fields import check_known, is_sequence, set_field
from gloss_client.pieces import Load, Piece
from gloss_client.positions import Positions, position_selection
from gloss_client.tensors import WIRE_DTYPES, WireDtype, check_wire_dtype
from gloss_client.text_input import Text, text_input
from gloss_client.text_results import ActivationRows, CaptureEvent, CaptureResult, CaptureSummary


class CaptureOptions(TypedDict, total=False):
    """Keyword arguments of `capture` and `stream_capture`.

    Attributes:
        positions: which positions of each text, in the forms of `explain`. Default: all.
        layer_index: K, the block whose output is read. Default: the AV's.
        doc_ids: names of the texts, one for each. Default: their indices.
        model: name of the model. Default: the one that is served.
        wire_dtype: element type of the activations on the wire: float32 (default), bfloat16,
            float16.
        timeout: seconds for everything, retries included. Default: the client's.
    """

    positions: Positions | None
    layer_index: int | None
    doc_ids: Sequence[str] | None
    model: str
    wire_dtype: WireDtype
    timeout: float | None


@dataclass(frozen=True, kw_only=True)
class CaptureCall:
    """Texts to read, checked as far as that goes without a server. See Cut.

    Attributes:
        inputs: the texts with their names.
        head: the request without them.
    """

    inputs: list[pb.CaptureInput]
    head: pb.CaptureRequest

    method = "Capture"

    @classmethod
    def of(cls, texts: Sequence[Text], **options: Unpack[CaptureOptions]) -> CaptureCall:
        """Checks a caller's arguments.

        Raises:
            InvalidRequest: what was got, what was expected.
            TypeError: an argument that does not exist.
        """
        check_known(options, CaptureOptions)
        wire_dtype = options.get("wire_dtype", "float32")
        check_wire_dtype(wire_dtype)
        head = pb.CaptureRequest(dtype=WIRE_DTYPES[wire_dtype])
        set_field(head, "model", options.get("model", ""))
        layer_index, positions = options.get("layer_index"), options.get("positions")
        if layer_index is not None:
            set_field(head, "layer_index", layer_index)
        if positions is not None:
            head.positions.CopyFrom(position_selection(positions, "positions"))
        return cls(inputs=_inputs(texts, options.get("doc_ids")), head=head)

    def load(self, d_model: int | None) -> Load:
        return Load(item_bytes=[text.ByteSize() + 8 for text in self.inputs], reply_bytes=0)

    def request_id(self, piece: Piece) -> None:
        return None

    def request(self, piece: Piece) -> pb.CaptureRequest:
        request = pb.CaptureRequest()
        request.CopyFrom(self.head)
        request.inputs.extend(self.inputs[piece.start : piece.stop])
        return request

    def state(self) -> CaptureState:
        return CaptureState()

    def result(
        self,
        events: Iterable[CaptureEvent],
        fingerprint: str | None,
        summary: CaptureSummary | None,
    ) -> CaptureResult:
        """The events of a stream that came to its end, as one."""
        assert fingerprint is not None
        assert summary is not None
        parts = [event for event in events if isinstance(event, ActivationRows)]
        input_index = [index for part in parts for index in part.input_index]
        places = [place for part in parts for place in part.places]
        doc_ids = [doc_id for part in parts for doc_id in part.doc_ids]
        is_special = [special for part in parts for special in part.is_special]
        rows = [part.activations for part in parts] or [np.zeros((0, 0), np.float32)]
        # Pieces come in any order.
        order = sorted(range(len(places)), key=lambda row: (input_index[row], places[row].position))
        return CaptureResult(
            activations=np.concatenate(rows)[order],
            input_index=tuple(input_index[row] for row in order),
            doc_ids=tuple(doc_ids[row] for row in order),
            places=tuple(places[row] for row in order),
            is_special=tuple(is_special[row] for row in order),
            failures=summary.failures,
            fingerprint=fingerprint,
        )


def _inputs(texts: Sequence[Text], doc_ids: Sequence[str] | None) -> list[pb.CaptureInput]:
    """The texts with their names; the server's default would be an index within a piece.

    Raises:
        InvalidRequest: what is no sequence of texts, or names that are not one for each.
    """
    if not is_sequence(texts):
        raise InvalidRequest(
            f"texts: got {type(texts).__name__}, expected a sequence of texts: [text]",
            field="texts",
        )
    if not texts:
        raise InvalidRequest(
            "texts: got none, expected at least one", reason="EMPTY_BATCH", field="texts"
        )
    if doc_ids is not None and not (is_sequence(doc_ids) and len(doc_ids) == len(texts)):
        raise InvalidRequest(
            f"doc_ids: got {doc_ids!r:.80}, expected {len(texts)} names, one a text",
            reason="LENGTH_MISMATCH",
            field="doc_ids",
        )
    inputs = []
    for index, text in enumerate(texts):
        message = pb.CaptureInput(input=text_input(text, f"texts[{index}]"))
        name = str(index) if doc_ids is None else doc_ids[index]
        set_field(message, "doc_id", name, f"doc_ids[{index}]")
        inputs.append(message)
    return inputs
