"""Batches of texts for the AR: to reconstruct, and to compare with activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import convert
from gloss_client.call import Part, one_fingerprint
from gloss_client.errors import InvalidRequest, ServerError
from gloss_client.fields import is_unicode
from gloss_client.pieces import Load, Piece
from gloss_client.results import ReconstructResult, ScoreResult
from gloss_client.tensors import (
    ITEM_BYTES,
    WIRE_DTYPES,
    WireDtype,
    check_rows,
    check_wire_dtype,
    decode_rows,
    encode_rows,
)

# Width a row is taken to have before the server has said its own: Llama-3.3-70B's.
ASSUMED_D_MODEL = 8192
# A score in a reply, or a text's failure with its message.
_RESULT_BYTES = 512


@dataclass(frozen=True, kw_only=True)
class ReconstructCall:
    """Texts to turn into activations.

    Attributes:
        texts: explanations without tags.
        model: name of the model; empty: the one that is served.
        wire_dtype: element type of the reply.
    """

    texts: Sequence[str]
    model: str
    wire_dtype: WireDtype

    method = "Reconstruct"

    def __post_init__(self) -> None:
        check_texts(self.texts, self.model)
        check_wire_dtype(self.wire_dtype)

    def load(self, d_model: int | None) -> Load:
        row = (d_model or ASSUMED_D_MODEL) * ITEM_BYTES[self.wire_dtype]
        return Load(item_bytes=_text_bytes(self.texts), reply_bytes=row + _RESULT_BYTES)

    def request_id(self, piece: Piece) -> None:
        return None

    def request(self, piece: Piece) -> pb.ReconstructRequest:
        return pb.ReconstructRequest(
            model=self.model,
            texts=self.texts[piece.start : piece.stop],
            dtype=WIRE_DTYPES[self.wire_dtype],
        )

    def merge(self, parts: list[Part]) -> ReconstructResult:
        rows = np.concatenate([decode_rows(part.reply.activations) for part in parts])
        if rows.ndim != 2 or len(rows) != len(self.texts):
            raise ServerError(
                f"the reply: got activations {rows.shape}, expected [{len(self.texts)}, d_model]"
            )
        return ReconstructResult(
            activations=rows,
            failures={
                part.piece.start + failure.item_index: convert.item_error(failure.error)
                for part in parts
                for failure in part.reply.failures
            },
            fingerprint=one_fingerprint(part.reply.fingerprint for part in parts),
        )


@dataclass(frozen=True, kw_only=True)
class ScoreCall:
    """Texts and activations to compare.

    Attributes:
        texts: n explanations without tags.
        activations: [n, d_model] of any float type.
        model: name of the model; empty: the one that is served.
        wire_dtype: element type the activations are sent in.
    """

    texts: Sequence[str]
    activations: np.ndarray
    model: str
    wire_dtype: WireDtype

    method = "Score"

    def __post_init__(self) -> None:
        check_texts(self.texts, self.model)
        check_wire_dtype(self.wire_dtype)
        num_rows = len(check_rows(self.activations))
        if num_rows != len(self.texts):
            raise InvalidRequest(
                f"texts: got {len(self.texts)} for {num_rows} activations, expected one for each",
                reason="LENGTH_MISMATCH",
                field="texts",
            )

    def load(self, d_model: int | None) -> Load:
        row = self.activations.shape[1] * ITEM_BYTES[self.wire_dtype]
        return Load(
            item_bytes=[row + size for size in _text_bytes(self.texts)],
            reply_bytes=_RESULT_BYTES,
        )

    def request_id(self, piece: Piece) -> None:
        return None

    def request(self, piece: Piece) -> pb.ScoreRequest:
        rows = slice(piece.start, piece.stop)
        return pb.ScoreRequest(
            model=self.model,
            texts=self.texts[rows],
            activations=encode_rows(self.activations[rows], self.wire_dtype, piece.start),
        )

    def merge(self, parts: list[Part]) -> ScoreResult:
        scores = tuple(convert.score(result) for part in parts for result in part.reply.results)
        if len(scores) != len(self.texts):
            raise ServerError(f"the reply: got {len(scores)} scores, expected {len(self.texts)}")
        return ScoreResult(
            scores=scores, fingerprint=one_fingerprint(part.reply.fingerprint for part in parts)
        )


def check_texts(texts: Sequence[str], model: str) -> None:
    """Refuse what is not a sequence of at least one string, and a model's name that cannot be sent.

    Raises:
        InvalidRequest: what was got, what was expected.
    """
    if not is_unicode(model):
        raise InvalidRequest("model: got a lone surrogate, expected a name", field="model")
    if isinstance(texts, str):
        raise InvalidRequest("texts: got one string, expected a sequence: [text]", field="texts")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidRequest(
                f"texts[{index}]: got {type(text).__name__}, expected a string",
                field=f"texts[{index}]",
            )
        if not is_unicode(text):
            raise InvalidRequest(
                f"texts[{index}]: got a lone surrogate, expected text that UTF-8 can hold",
                reason="INVALID_TEXT",
                field=f"texts[{index}]",
            )
    if not len(texts):
        raise InvalidRequest(
            "texts: got none, expected at least one", reason="EMPTY_BATCH", field="texts"
        )


def _text_bytes(texts: Sequence[str]) -> list[int]:
    """Bytes of each text in a request, its tag and length included."""
    return [len(text.encode()) + 8 for text in texts]
