"""A batch of activations to explain: its requests, piece by piece, and the merging of replies."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import convert
from gloss_client.call import Part, merged_timings, one_fingerprint
from gloss_client.errors import InvalidRequest, ServerError
from gloss_client.generation import (
    VerbalizeOptions,
    generation_options,
    max_new_tokens,
    num_samples,
    reply_bytes,
    set_field,
)
from gloss_client.pieces import Load, Piece
from gloss_client.results import VerbalizeResult
from gloss_client.tensors import (
    ITEM_BYTES,
    WireDtype,
    check_rows,
    check_wire_dtype,
    encode_rows,
)

# What an item's key, layer, position and token take, with tags and length.
_ITEM_METADATA_BYTES = 48


@dataclass(frozen=True, kw_only=True)
class VerbalizeCall:
    """Activations to explain, checked as far as that goes without a server.

    Attributes:
        activations: [n, d_model] of any float type.
        columns: per-item fields of the contract that the caller gave: [n] each, None: not known.
        options: how to explain, seed included.
        id: the call's id.
        model: name of the model; empty: the one that is served.
        allow_layer_mismatch: as in the contract.
        wire_dtype: element type on the wire.
        stream: whether it goes to StreamVerbalize.
    """

    activations: np.ndarray
    columns: dict[str, Sequence[int | None]]
    options: pb.GenerationOptions
    id: str
    model: str
    allow_layer_mismatch: bool
    wire_dtype: WireDtype
    stream: bool

    @classmethod
    def of(
        cls, activations: np.ndarray, *, stream: bool, **options: Unpack[VerbalizeOptions]
    ) -> VerbalizeCall:
        """Checks a caller's arguments.

        Raises:
            InvalidRequest: what was got, what was expected.
            TypeError: an argument that does not exist.
        """
        unknown = options.keys() - VerbalizeOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}")
        rows = check_rows(activations)
        wire_dtype = options.get("wire_dtype", "float32")
        check_wire_dtype(wire_dtype)
        layers = options.get("layer_index")
        if isinstance(layers, int | np.integer):
            layers = [int(layers)] * len(rows)
        given = {
            "item_key": _column("item_keys", options.get("item_keys"), len(rows)),
            "layer_index": _column("layer_index", layers, len(rows)),
            "position": _column("positions", options.get("positions"), len(rows)),
            "token_id": _column("token_ids", options.get("token_ids"), len(rows)),
        }
        return cls(
            activations=rows,
            columns={name: column for name, column in given.items() if column is not None},
            options=generation_options(options),
            id=options.get("request_id") or str(uuid.uuid4()),
            model=options.get("model", ""),
            allow_layer_mismatch=options.get("allow_layer_mismatch", False),
            wire_dtype=wire_dtype,
            stream=stream,
        )

    @property
    def method(self) -> str:
        return "StreamVerbalize" if self.stream else "Verbalize"

    def load(self, d_model: int | None) -> Load:
        row = self.activations.shape[1] * ITEM_BYTES[self.wire_dtype] + _ITEM_METADATA_BYTES
        return Load(
            item_bytes=[row] * len(self.activations),
            reply_bytes=0 if self.stream else reply_bytes(self.options),
            explanations=num_samples(self.options),
            tokens=num_samples(self.options) * max_new_tokens(self.options),
        )

    def request_id(self, piece: Piece) -> str:
        """The call's id; of a part of the batch with its rows: each is a run of its own."""
        if len(piece) == len(self.activations):
            return self.id
        return f"{self.id}.{piece.start}-{piece.stop}"

    def request(self, piece: Piece) -> pb.VerbalizeRequest | pb.StreamVerbalizeRequest:
        request = pb.VerbalizeRequest(
            request_id=self.request_id(piece),
            model=self.model,
            activations=encode_rows(
                self.activations[piece.start : piece.stop], self.wire_dtype, piece.start
            ),
            items=self._items(piece),
            options=self.options,
            allow_layer_mismatch=self.allow_layer_mismatch,
        )
        return pb.StreamVerbalizeRequest(request=request) if self.stream else request

    def merge(self, parts: list[Part]) -> VerbalizeResult:
        replies: list[pb.VerbalizeResponse] = [part.reply for part in parts]
        fingerprint = one_fingerprint(reply.fingerprint for reply in replies)
        explanations = tuple(
            convert.explanation(message, part.piece.start)
            for part in parts
            for message in part.reply.explanations
        )
        expected = len(self.activations) * num_samples(self.options)
        if len(explanations) != expected:
            raise ServerError(
                f"the reply: got {len(explanations)} explanations, expected {expected}",
                request_id=self.id,
            )
        return VerbalizeResult(
            explanations=explanations,
            seed=self.options.seed,
            fingerprint=fingerprint,
            request_id=self.id,
            usage=convert.usage([reply.usage for reply in replies]),
            timings=merged_timings([(part.reply.timings, part.sent_after) for part in parts]),
        )

    def _items(self, piece: Piece) -> list[pb.ActivationItem]:
        """What is known of the piece's rows.

        Without keys of the caller's own, those of a part are the rows' places in the whole batch:
        the draws do not depend on where it was cut.
        """
        columns = dict(self.columns)
        if "item_key" not in columns and len(piece) < len(self.activations):
            columns["item_key"] = range(len(self.activations))
        if not columns:
            return []
        items = []
        for index in range(piece.start, piece.stop):
            item = pb.ActivationItem()
            for name, column in columns.items():
                value = column[index]
                if value is not None:
                    set_field(item, name, value, field=f"items[{index}].{name}")
            items.append(item)
        return items


def _column(
    name: str, values: Sequence[int | None] | None, num_rows: int
) -> Sequence[int | None] | None:
    """A per-item argument, of the right length and as Python integers."""
    if values is None:
        return None
    if len(values) != num_rows:
        raise InvalidRequest(
            f"{name}: got {len(values)} values for {num_rows} activations, expected one for each",
            reason="LENGTH_MISMATCH",
            field=name,
        )
    return values.tolist() if isinstance(values, np.ndarray) else values
