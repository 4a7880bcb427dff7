"""Requests of the contract that bring text for the target, to requests of the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.capture.positions import Positions
from gloss_engine.errors import ItemError
from gloss_engine.text_request import ExplainRequest, TextInput, WatchRequest
from gloss_server.front.call_error import CallError
from gloss_server.front.options import Limits, Options, read_sampling
from gloss_server.front.reading import check_model, check_request_id, read_priority
from gloss_server.front.tensor import check_reply_dtype
from gloss_server.front.text_input import check_target, read_positions, read_text

MAX_WATCH_EXPLANATIONS = 4096
"""Of one Watch over its life: its run keeps them, 10 KB each at 100 tokens, for whoever joins."""
_MAX_DOC_ID_LENGTH = 512


@dataclass(frozen=True, kw_only=True)
class CaptureWanted:
    """What a Capture call asks for.

    Attributes:
        inputs: its texts, or why one cannot be read.
        doc_ids: the caller's names for them.
        positions: which positions of each.
        layer_index: K; None: the AV's.
        dtype: element type of the reply.
    """

    inputs: tuple[TextInput | ItemError, ...]
    doc_ids: tuple[str, ...]
    positions: Positions
    layer_index: int | None
    dtype: pb.TensorDtype


def read_explain(request: pb.ExplainRequest, limits: Limits) -> ExplainRequest:
    """A text whose activations are to be explained.

    Raises:
        CallError: with the field at fault.
    """
    check_model(request.model, limits.model)
    check_target(limits.model.info)
    check_request_id(request.request_id)
    options = Options.read(request.options, limits, "options")
    return ExplainRequest(
        max_positions=limits.settings.max_items,
        input=read_text(request.input, limits, "input"),
        positions=read_positions(request.positions, "positions"),
        num_samples=options.num_samples,
        sampling=options.sampling,
        score=options.score,
        stream=True,
        priority=read_priority(request.priority, "priority"),
    )


def read_watch(request: pb.WatchRequest, limits: Limits) -> WatchRequest:
    """A prompt for the target to go on from. Where the target's seed is not stated it is that of
    the explanations, which the reply names.

    Raises:
        CallError: with the field at fault.
    """
    settings, info = limits.settings, limits.model.info
    check_model(request.model, limits.model)
    check_target(info, generates=True)
    check_request_id(request.request_id)
    options = Options.read(request.options, limits, "options")
    num_samples, seed = options.num_samples, options.sampling.seed
    assert seed is not None
    every = request.every if request.HasField("every") else 1
    _check(every >= 1, "every", every, "1 or more")
    target_sampling = read_sampling(
        request.target_options,
        "target_options",
        most=info.max_watch_tokens,
        default=MAX_WATCH_EXPLANATIONS * every // num_samples,
        seed=seed,
    )
    _check_explanations(target_sampling.max_new_tokens, every, num_samples)
    # By default as many as fit into the server's bounds.
    each = num_samples * options.sampling.max_new_tokens
    room = min(settings.max_queued_explanations // num_samples, settings.max_queued_tokens // each)
    pending = request.max_pending
    if not request.HasField("max_pending"):
        pending = max(min(info.watch_max_pending, room), 1)
    _check(1 <= pending <= settings.max_items, "max_pending", pending, f"1 to {settings.max_items}")
    generated, given = request.num_generated, len(request.prompt.token_ids.ids)
    usable = generated == 0 or 0 < generated < given
    _check(usable, "num_generated", generated, "0, or fewer than the prompt's token_ids")
    pace = request.tokens_per_second if request.HasField("tokens_per_second") else None
    usable = pace is None or (pace > 0 and math.isfinite(pace))
    _check(usable, "tokens_per_second", pace, "a finite number above 0")
    has_positions = request.HasField("prompt_positions")
    return WatchRequest(
        max_positions=settings.max_items,
        input=read_text(request.prompt, limits, "prompt"),
        target_sampling=target_sampling,
        prompt_positions=(
            read_positions(request.prompt_positions, "prompt_positions") if has_positions else None
        ),
        every=every,
        max_pending=pending,
        tokens_per_second=pace,
        num_generated=generated,
        num_samples=num_samples,
        sampling=options.sampling,
        score=options.score,
        stream=True,
    )


def read_capture(request: pb.CaptureRequest, limits: Limits) -> CaptureWanted:
    """Texts whose activations are to be read. One that cannot be read fails alone.

    Raises:
        CallError: with the field at fault.
    """
    info, most = limits.model.info, limits.settings.max_items
    check_model(request.model, limits.model)
    target = check_target(info)
    check_reply_dtype(request.dtype, "dtype")
    if not request.inputs:
        raise CallError("EMPTY_BATCH", "inputs: got none, expected 1 or more", "inputs")
    if len(request.inputs) > most:
        raise CallError(
            "BATCH_TOO_LARGE",
            f"inputs: got {len(request.inputs)}, expected at most {most}; send several calls",
            "inputs",
        )
    layer_index = request.layer_index if request.HasField("layer_index") else None
    if layer_index is not None and not 0 <= layer_index < target.num_layers:
        raise CallError(
            "LAYER_OUT_OF_RANGE",
            f"layer_index: got {layer_index}, expected 0 to {target.num_layers - 1}: the target "
            f"has {target.num_layers} blocks loaded",
            "layer_index",
        )
    inputs: list[TextInput | ItemError] = []
    for index, item in enumerate(request.inputs):
        length = len(item.doc_id)
        _check(
            length <= _MAX_DOC_ID_LENGTH,
            f"inputs[{index}].doc_id",
            f"{length} characters",
            f"at most {_MAX_DOC_ID_LENGTH}",
        )
        try:
            # Its message has no index: the failure has one, and clients cut their texts into calls.
            inputs.append(read_text(item.input, limits, "input"))
        except CallError as error:
            failure = ItemError(code=error.code.name, reason=error.reason, message=str(error))
            inputs.append(failure)
    return CaptureWanted(
        inputs=tuple(inputs),
        doc_ids=tuple(item.doc_id or str(index) for index, item in enumerate(request.inputs)),
        positions=read_positions(request.positions, "positions"),
        layer_index=layer_index,
        dtype=request.dtype,
    )


def _check_explanations(num_tokens: int, every: int, num_samples: int) -> None:
    count = math.ceil(num_tokens / every) * num_samples
    if count > MAX_WATCH_EXPLANATIONS:
        field = "target_options.max_new_tokens"
        raise CallError(
            "BATCH_TOO_LARGE",
            f"{field}: got {num_tokens}, which makes {count} explanations, expected at most "
            f"{MAX_WATCH_EXPLANATIONS}; ask for fewer tokens, fewer samples, or a larger `every`",
            field,
        )


def _check(is_valid: bool, field: str, got: object, expected: str) -> None:
    if not is_valid:
        raise CallError("INVALID_FIELD", f"{field}: got {got}, expected {expected}", field)
