"""A batch of activations to explain: its requests, piece by piece, and the merging of replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Unpack

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import convert
from gloss_client.call import Part, merged_timings, one_fingerprint
from gloss_client.errors import InvalidRequest, ServerError
from gloss_client.fields import check_known, set_field
from gloss_client.generation import (
    VerbalizeOptions,
    generation_options,
    max_new_tokens,
    name_call,
    num_samples,
    priority_value,
    reply_bytes,
)
from gloss_client.pieces import Load, Piece
from gloss_client.results import VerbalizeResult
from gloss_client.stream_state import VerbalizeState
from gloss_client.tensors import (
    ITEM_BYTES,
    WireDtype,
    check_rows,
    check_wire_dtype,
    encode_rows,
)

# What an item's key, layer, position and token take, with tags and length.
_ITEM_METADATA_BYTES = 48
# Of a request's id, as servers take it.
_MAX_ID_CHARS = 128


@dataclass(frozen=True, kw_only=True)
class VerbalizeCall:
    """Activations to explain, checked as far as that goes without a server.

    Attributes:
        activations: [n, d_model] of any float type.
        items: what is known of each; empty: nothing of any.
        has_item_keys: whether the caller gave keys.
        head: the request without activations and items.
        wire_dtype: element type on the wire.
        stream: whether it goes to StreamVerbalize.
    """

    activations: np.ndarray
    items: list[pb.ActivationItem]
    has_item_keys: bool
    head: pb.VerbalizeRequest
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
        check_known(options, VerbalizeOptions)
        rows = check_rows(activations)
        wire_dtype = options.get("wire_dtype", "float32")
        check_wire_dtype(wire_dtype)
        head = pb.VerbalizeRequest(options=generation_options(options))
        name_call(head, options)
        if "priority" in options:
            head.priority = priority_value(options["priority"])
        set_field(head, "allow_layer_mismatch", options.get("allow_layer_mismatch", False))
        return cls(
            activations=rows,
            items=_items(options, len(rows)),
            has_item_keys=options.get("item_keys") is not None,
            head=head,
            wire_dtype=wire_dtype,
            stream=stream,
        )

    @property
    def id(self) -> str:
        """The call's id."""
        return self.head.request_id

    @property
    def seed(self) -> int:
        """Seed of the draws."""
        return self.head.options.seed

    @property
    def options(self) -> pb.GenerationOptions:
        """How to explain, seed included."""
        return self.head.options

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
        """The call's id; of a part of the batch with its rows: each is a run of its own.

        An id that would be too long with them is represented by its hash.
        """
        if len(piece) == len(self.activations):
            return self.id
        rows = f".{piece.start}-{piece.stop}"
        if len(self.id) + len(rows) <= _MAX_ID_CHARS:
            return self.id + rows
        return sha256(self.id.encode()).hexdigest() + rows

    def request(self, piece: Piece) -> pb.VerbalizeRequest | pb.StreamVerbalizeRequest:
        request = pb.VerbalizeRequest()
        request.CopyFrom(self.head)
        request.request_id = self.request_id(piece)
        rows = self.activations[piece.start : piece.stop]
        request.activations.CopyFrom(encode_rows(rows, self.wire_dtype, piece.start))
        request.items.extend(self._items(piece))
        return pb.StreamVerbalizeRequest(request=request) if self.stream else request

    def state(self) -> VerbalizeState:
        return VerbalizeState()

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
            seed=self.seed,
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
        items = self.items[piece.start : piece.stop]
        if self.has_item_keys or len(piece) == len(self.activations):
            return items
        keyed = [pb.ActivationItem(item_key=key) for key in range(piece.start, piece.stop)]
        for merged, item in zip(keyed, items, strict=False):
            merged.MergeFrom(item)
        return keyed


def _items(options: VerbalizeOptions, num_rows: int) -> list[pb.ActivationItem]:
    """What the caller says of each activation; empty where nothing of any.

    Raises:
        InvalidRequest: values that are not one for each, or that the contract cannot hold.
    """
    layers = options.get("layer_index")
    if isinstance(layers, int | np.integer):
        layers = [int(layers)] * num_rows
    columns: dict[str, tuple[str, Sequence[int | None] | None]] = {
        "item_key": ("item_keys", options.get("item_keys")),
        "layer_index": ("layer_index", layers),
        "position": ("positions", options.get("positions")),
        "token_id": ("token_ids", options.get("token_ids")),
    }
    if all(values is None for _, values in columns.values()):
        return []
    items = [pb.ActivationItem() for _ in range(num_rows)]
    for name, (argument, values) in columns.items():
        if values is None:
            continue
        if not isinstance(values, Sequence | np.ndarray) or len(values) != num_rows:
            raise InvalidRequest(
                f"{argument}: got {values!r:.80}, expected {num_rows} values, one an activation",
                reason="LENGTH_MISMATCH",
                field=argument,
            )
        column = values.tolist() if isinstance(values, np.ndarray) else values
        for index, (item, value) in enumerate(zip(items, column, strict=True)):
            if value is not None:
                set_field(item, name, value, field=f"items[{index}].{name}")
    return items
