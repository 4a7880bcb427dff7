"""How explanations are generated, as keyword arguments and as the contract's message."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence
from typing import Literal, TypedDict

from google.protobuf.message import Message

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.errors import InvalidRequest
from gloss_client.fields import set_field
from gloss_client.pieces import (
    DEFAULT_MAX_NEW_TOKENS,
    EXPLANATION_BYTES,
    TOKEN_BYTES,
)
from gloss_client.tensors import WireDtype

Priority = Literal["interactive", "batch"]
"""Whose activations begin first while others wait: those of interactive calls."""
_PRIORITIES = {"interactive": pb.PRIORITY_INTERACTIVE, "batch": pb.PRIORITY_BATCH}


class SamplingOptions(TypedDict, total=False):
    """How a model generates. What is not given is the server's default, as gloss.proto states it.

    Attributes:
        temperature: 0 is greedy. Default 1.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of likeliest tokens of at least this mass.
        min_p: keep tokens of at least this share of the likeliest one's probability.
        repetition_penalty: for tokens already generated. Default 1.
        max_new_tokens: most tokens. Default 200 of an explanation, the server's limit of a target.
        seed: of the draws, 0 to 2^64 - 1. Default: drawn here, returned with the result.
        stop: strings that end it; an explanation ends at its closing tag as well.
    """

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    max_new_tokens: int | None
    seed: int | None
    stop: Sequence[str]


class ExplanationOptions(SamplingOptions, total=False):
    """How explanations are generated, and the call itself.

    Attributes:
        num_samples: explanations per activation. Default 1.
        score: score with the AR. Default: wherever the server has one.
        model: name of the model. Default: the one that is served.
        request_id: the same id with the same content within 60 seconds is one run. Default: a new
            one, which gRPC's retries share.
        timeout: seconds for everything, retries included. Default: the client's.
    """

    num_samples: int | None
    score: bool | None
    model: str
    request_id: str | None
    timeout: float | None


class VerbalizeOptions(ExplanationOptions, total=False):
    """Keyword arguments of `verbalize` and `stream_verbalize`, besides those of every explanation.

    Attributes:
        item_keys: [n] coordinates of the draws, 0 to 2^64 - 1. Default: the row's index. Equal
            seeds and keys draw equal numbers, whatever else is in the batch.
        layer_index: layer K of every row, or of each; None for a row: not known. Checked against
            the checkpoint's.
        positions: [n] token positions the activations were read at, for flags; None: not known.
        token_ids: [n] tokens they were read on, for flags; None: not known.
        allow_layer_mismatch: run although a layer is not the checkpoint's K.
        wire_dtype: element type the activations are sent in: float32 (default), bfloat16, float16.
        priority: "interactive" (default) where somebody waits; "batch" begins after those.
    """

    item_keys: Sequence[int] | None
    layer_index: int | Sequence[int | None] | None
    positions: Sequence[int | None] | None
    token_ids: Sequence[int | None] | None
    allow_layer_mismatch: bool
    wire_dtype: WireDtype
    priority: Priority


def generation_options(options: SamplingOptions, prefix: str = "") -> pb.GenerationOptions:
    """The contract's message, with a seed in any case.

    A batch in pieces has one seed for all of them, and a caller is told it: it cannot be left to
    the server.

    Args:
        options: those of an explanation, or of a target.
        prefix: stands before a field's name in errors.

    Raises:
        InvalidRequest: a value the contract's types cannot hold; the server judges the others.
    """
    stop, path = options.get("stop", ()), f"{prefix}stop"
    if isinstance(stop, str):
        raise InvalidRequest(f"{path}: got {stop!r}, expected a sequence of strings", field=path)
    try:
        message = pb.GenerationOptions(stop=stop)
    except (TypeError, ValueError):
        said = f"{path}: got {stop!r:.80}, expected a sequence of strings that UTF-8 can hold"
        raise InvalidRequest(said, field=path) from None
    for name in (
        "num_samples",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "max_new_tokens",
        "seed",
        "score",
    ):
        value = options.get(name)
        if value is not None:
            set_field(message, name, value, f"{prefix}{name}")
    if not message.HasField("seed"):
        # 53 bits: a seed that JSON readers of every language hold exactly.
        message.seed = secrets.randbits(53)
    return message


def name_call(request: Message, options: ExplanationOptions) -> None:
    """Sets a request's id, a new one where none is given, and its model.

    Raises:
        InvalidRequest: names that the contract cannot hold.
    """
    request_id = options.get("request_id")
    set_field(request, "request_id", str(uuid.uuid4()) if request_id is None else request_id)
    set_field(request, "model", options.get("model", ""))


def priority_value(priority: str) -> pb.Priority:
    """The contract's value.

    Raises:
        InvalidRequest: a name that it does not know.
    """
    if priority not in _PRIORITIES:
        raise InvalidRequest(
            f"priority: got {priority!r}, expected interactive or batch", field="priority"
        )
    return _PRIORITIES[priority]


def reply_bytes(options: pb.GenerationOptions) -> int:
    """Most bytes that one activation's explanations take in a reply; an estimate."""
    return num_samples(options) * (EXPLANATION_BYTES + TOKEN_BYTES * max_new_tokens(options))


def num_samples(options: pb.GenerationOptions) -> int:
    """Explanations of an activation."""
    return max(1, options.num_samples)


def max_new_tokens(options: pb.GenerationOptions) -> int:
    """Tokens of an explanation, the server's usual limit where none is stated."""
    return max(1, options.max_new_tokens or DEFAULT_MAX_NEW_TOKENS)
