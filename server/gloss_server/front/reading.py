"""Requests of the contract to requests of the engine. What makes no sense ends here, by field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.info import ModelInfo
from gloss_engine.request import TextRequest, VerbalizeRequest
from gloss_server.front.call_error import CallError
from gloss_server.front.labels import PRIORITIES
from gloss_server.front.model import MAX_REPLY_BYTES, ServedModel
from gloss_server.front.options import Limits, Options, check_ar
from gloss_server.front.tensor import check_reply_dtype, decode_rows, reply_bytes

_MAX_NAME_LENGTH = 128
_MAX_TEXT_LENGTH = 16 << 10
"""Characters of a text for the AR: more than ten times the longest explanation."""
_EXPLANATION_BYTES, _TOKEN_BYTES = 256, 16
"""A reply's bytes for an explanation and for each of its tokens: an id of up to 3 bytes, and its
text twice, at the 4 to 5 bytes that a token of running text has."""


def read_verbalize(
    request: pb.VerbalizeRequest, limits: Limits, *, prefix: str = "", streams: bool = False
) -> VerbalizeRequest:
    """Activations to explain.

    Args:
        prefix: stands before the names of fields in errors.
        streams: the reply comes in pieces, so its size is not bounded.

    Raises:
        CallError: with the field at fault.
    """
    settings, info = limits.settings, limits.model.info
    check_model(request.model, limits.model, prefix)
    check_request_id(request.request_id, prefix)
    if not request.HasField("activations"):
        field = f"{prefix}activations"
        raise CallError("MISSING_FIELD", f"{field}: got none, expected [n, d_model]", field)
    activations = decode_rows(
        request.activations, info.av.d_model, f"{prefix}activations", settings.max_items
    )
    num_items = len(activations)
    options = Options.read(request.options, limits, f"{prefix}options")
    keys = _ItemColumns.read(request, num_items, limits.model.info, f"{prefix}items")
    num_sequences = num_items * options.num_samples
    reply = num_sequences * (_EXPLANATION_BYTES + _TOKEN_BYTES * options.sampling.max_new_tokens)
    if not streams and reply > MAX_REPLY_BYTES:
        raise CallError(
            "REPLY_TOO_LARGE",
            f"{prefix}activations: {num_sequences} explanations of up to "
            f"{options.sampling.max_new_tokens} tokens make a reply of up to {reply} bytes, "
            f"expected at most {MAX_REPLY_BYTES}; send several calls, or use StreamVerbalize",
            f"{prefix}activations",
        )
    return VerbalizeRequest(
        activations=activations,
        num_samples=options.num_samples,
        sampling=options.sampling,
        item_keys=keys.item_keys,
        positions=keys.positions,
        token_ids=keys.token_ids,
        score=options.score,
        stream=streams,
        priority=read_priority(request.priority, f"{prefix}priority"),
    )


def read_priority(value: int, field: str) -> str:
    """Whose activations begin first; where it is not stated, somebody waits.

    Raises:
        CallError: a value that the contract does not name.
    """
    if value == pb.PRIORITY_UNSPECIFIED:
        return PRIORITIES[0]
    if value not in pb.Priority.values():
        raise CallError(
            "INVALID_FIELD", f"{field}: got {value}, expected INTERACTIVE or BATCH", field
        )
    return PRIORITIES[value - 1]


def read_reconstruct(request: pb.ReconstructRequest, limits: Limits) -> TextRequest:
    """Texts to turn into activations.

    Raises:
        CallError: with the field at fault.
    """
    info = limits.model.info
    check_model(request.model, limits.model)
    check_ar(info)
    check_reply_dtype(request.dtype, "dtype")
    texts = _texts(request.texts, limits.settings.max_items)
    size = reply_bytes(len(texts), info.av.d_model, request.dtype)
    if size > MAX_REPLY_BYTES:
        raise CallError(
            "REPLY_TOO_LARGE",
            f"texts: {len(texts)} make a reply of {size} bytes, expected at most "
            f"{MAX_REPLY_BYTES}; send several calls, or ask for BFLOAT16",
            "texts",
        )
    return TextRequest(texts=texts)


def read_score(request: pb.ScoreRequest, limits: Limits) -> TextRequest:
    """Texts and activations to compare.

    Raises:
        CallError: with the field at fault.
    """
    info, most = limits.model.info, limits.settings.max_items
    check_model(request.model, limits.model)
    check_ar(info)
    texts = _texts(request.texts, most)
    if not request.HasField("activations"):
        message = "activations: got none, expected [n, d_model]"
        raise CallError("MISSING_FIELD", message, "activations")
    activations = decode_rows(request.activations, info.av.d_model, "activations", most)
    if len(texts) != len(activations):
        raise CallError(
            "LENGTH_MISMATCH",
            f"texts: got {len(texts)}, expected {len(activations)}, one for each activation",
            "texts",
        )
    return TextRequest(texts=texts, activations=activations)


def check_model(name: str, model: ServedModel, prefix: str = "") -> None:
    """Refuse a model that is not served.

    Raises:
        CallError: UNKNOWN_MODEL.
    """
    if name and name != model.model:
        field = f"{prefix}model"
        raise CallError(
            "UNKNOWN_MODEL",
            f"{field}: got {name[:64]!r}, expected {model.model!r} or nothing",
            field,
        )


def check_request_id(request_id: str, prefix: str = "") -> None:
    """Refuse ids that cannot be logged as they are.

    Raises:
        CallError: too long, or characters that do not print.
    """
    if len(request_id) > _MAX_NAME_LENGTH or not request_id.isprintable():
        field = f"{prefix}request_id"
        raise CallError(
            "INVALID_FIELD",
            f"{field}: got {request_id[:64]!r} of {len(request_id)} characters, expected at most "
            f"{_MAX_NAME_LENGTH} that print",
            field,
        )


@dataclass(frozen=True, kw_only=True)
class _ItemColumns:
    """What a request says of its items, as columns; None where it says nothing of any."""

    item_keys: tuple[int, ...] | None = None
    positions: tuple[int | None, ...] | None = None
    token_ids: tuple[int | None, ...] | None = None

    @classmethod
    def read(
        cls, request: pb.VerbalizeRequest, num_items: int, info: ModelInfo, field: str
    ) -> _ItemColumns:
        items = request.items
        if not items:
            return cls()
        if len(items) != num_items:
            raise CallError(
                "LENGTH_MISMATCH",
                f"{field}: got {len(items)}, expected {num_items}, one an activation, or none",
                field,
            )
        item_keys: list[int] = []
        positions: list[int | None] = []
        token_ids: list[int | None] = []
        for index, item in enumerate(items):
            place = f"{field}[{index}]"
            if item.HasField("layer_index"):
                _check_layer(item.layer_index, info, request.allow_layer_mismatch, place)
            item_keys.append(item.item_key if item.HasField("item_key") else index)
            positions.append(_not_negative(item, "position", place))
            token_ids.append(_not_negative(item, "token_id", place))
        return cls(
            item_keys=tuple(item_keys), positions=tuple(positions), token_ids=tuple(token_ids)
        )


def _not_negative(item: pb.ActivationItem, name: str, place: str) -> int | None:
    if not item.HasField(name):
        return None
    value: int = getattr(item, name)
    if value < 0:
        field = f"{place}.{name}"
        raise CallError("INVALID_FIELD", f"{field}: got {value}, expected 0 or more", field)
    return value


def _check_layer(layer: int, info: ModelInfo, is_allowed: bool, place: str) -> None:
    field, k = f"{place}.layer_index", info.layer_index
    num_layers = max(info.av.num_layers, 0 if k is None else k + 1)
    if not 0 <= layer < num_layers:
        raise CallError(
            "LAYER_OUT_OF_RANGE",
            f"{field}: got {layer}, expected 0 to {num_layers - 1}: the model has {num_layers} "
            "blocks",
            field,
        )
    if k is not None and layer != k and not is_allowed:
        raise CallError(
            "LAYER_MISMATCH",
            f"{field}: got {layer}, expected K = {k}. K means the output of block K, which "
            f"transformers calls hidden_states[{k + 1}] (hidden_states[{k}] is the output of the "
            "block before). Read there, or set allow_layer_mismatch",
            field,
        )


def _texts(texts: Sequence[str], most: int) -> tuple[str, ...]:
    if not texts:
        raise CallError("EMPTY_BATCH", "texts: got none, expected 1 or more", "texts")
    if len(texts) > most:
        raise CallError(
            "BATCH_TOO_LARGE",
            f"texts: got {len(texts)}, expected at most {most}; send several calls",
            "texts",
        )
    found = tuple(texts)
    for index, text in enumerate(found):
        if len(text) > _MAX_TEXT_LENGTH:
            raise CallError(
                "TEXT_TOO_LONG",
                f"texts[{index}]: got {len(text)} characters, expected at most {_MAX_TEXT_LENGTH}",
                f"texts[{index}]",
            )
    return found
