"""What a request must be before anything of it runs.

A request that makes no sense as a whole is refused; a row that cannot be explained fails alone.
"""

from __future__ import annotations

import math
import reprlib

import numpy as np
import torch
from torch import Tensor

from gloss_engine.capture.positions import Positions
from gloss_engine.errors import ItemError, RequestError
from gloss_engine.facts import ModelFacts
from gloss_engine.request import PRIORITIES, Explaining, TextRequest, VerbalizeRequest
from gloss_engine.scheduler import Scheduler
from gloss_engine.text_request import CaptureRequest, TextInput, WatchRequest


def validate(
    request: VerbalizeRequest, facts: ModelFacts, scheduler: Scheduler, can_score: bool
) -> Tensor:
    """Check a request against what the engine can run.

    Returns:
        Its activations, [n, d_model] float32.

    Raises:
        RequestError: naming the field, what was got, what was expected.
    """
    activations = as_activations(request.activations, facts.d_model)
    _check_rows(request, activations.shape[0])
    check_explaining(request, facts, scheduler, can_score)
    _check_layer(request, facts.layer_index)
    return activations


def check_explaining(
    request: Explaining, facts: ModelFacts, scheduler: Scheduler, can_score: bool
) -> None:
    """Check how a request wants to be explained, whatever kind it is.

    Raises:
        RequestError: naming the field, what was got, what was expected.
    """
    if not is_index(request.num_samples) or request.num_samples < 1:
        raise RequestError(
            "INVALID_SAMPLES",
            "num_samples",
            f"num_samples: got {request.num_samples!r}, expected a whole number, 1 or more",
        )
    if request.priority not in PRIORITIES:
        raise RequestError(
            "INVALID_PRIORITY",
            "priority",
            f"priority: got {request.priority!r}, expected one of {', '.join(PRIORITIES)}",
        )
    if request.score and not can_score:
        raise RequestError(
            "NO_RECONSTRUCTOR",
            "score",
            "score: asked for, but no AR is loaded; load one or do not ask",
        )
    _check_length(request, facts, scheduler)


def check_text(given: object, positions: object, field: str = "positions") -> None:
    """Check that a request of text holds a text and positions.

    Args:
        given: what should be a TextInput.
        positions: what should be a selection.
        field: the name of the positions' field.

    Raises:
        RequestError: INVALID_INPUT, INVALID_POSITIONS.
    """
    for name, value, kind in (("input", given, TextInput), (field, positions, Positions)):
        if not isinstance(value, kind):
            reason = "INVALID_INPUT" if kind is TextInput else "INVALID_POSITIONS"
            fix = "" if kind is TextInput else "; Positions.of makes one of other forms"
            raise RequestError(
                reason, name, f"{name}: got {reprlib.repr(value)}, expected {kind.__name__}{fix}"
            )


def check_capture(request: CaptureRequest, default_layer: int, num_layers: int) -> int:
    """Check what is to be captured.

    Args:
        request: whose texts may still fail, each on its own.
        default_layer: K where the request does not say.
        num_layers: blocks of the target that are loaded.

    Returns:
        K.

    Raises:
        RequestError: INVALID_LAYER, LAYER_OUT_OF_RANGE, EMPTY_BATCH, INVALID_INPUT,
            INVALID_POSITIONS.
    """
    layer = default_layer if request.layer_index is None else request.layer_index
    if not is_index(layer):
        raise RequestError(
            "INVALID_LAYER",
            "layer_index",
            f"layer_index: got {layer!r}, expected a whole number, 0 to {num_layers - 1}",
        )
    if not 0 <= layer < num_layers:
        raise RequestError(
            "LAYER_OUT_OF_RANGE",
            "layer_index",
            f"layer_index: got {layer}, expected 0 to {num_layers - 1}, the target's loaded blocks",
        )
    if not isinstance(request.inputs, tuple | list):
        raise RequestError(
            "INVALID_INPUT",
            "inputs",
            f"inputs: got a {type(request.inputs).__name__}, expected a tuple of TextInput",
        )
    if not request.inputs:
        raise RequestError("EMPTY_BATCH", "inputs", "inputs: got none, expected 1 or more")
    for given in request.inputs:
        check_text(given, request.positions)
    return int(layer)


def check_watch(request: WatchRequest, max_new_tokens: int | None) -> None:
    """Check how a target is to be watched.

    Args:
        request: of a target that is loaded.
        max_new_tokens: most tokens it generates; None: it only reads.

    Raises:
        RequestError: naming the field, what was got, what was expected.
    """
    if max_new_tokens is None:
        raise RequestError(
            "TARGET_READS_ONLY",
            "target",
            "target: it was loaded up to block K, and only reads; load it whole to watch it",
        )
    wanted = request.target_sampling.max_new_tokens
    if wanted > max_new_tokens:
        raise RequestError(
            "TOO_MANY_TOKENS",
            "target_sampling.max_new_tokens",
            f"target_sampling.max_new_tokens: got {wanted}, expected at most {max_new_tokens}, "
            "this engine's limit",
        )
    for name in ("every", "max_pending"):
        value = getattr(request, name)
        if value is not None and not (is_index(value) and value >= 1):
            raise RequestError(
                f"INVALID_{name.upper()}",
                name,
                f"{name}: got {value!r}, expected a whole number, 1 or more",
            )
    generated = request.num_generated
    if not (is_index(generated) and generated >= 0):
        raise RequestError(
            "INVALID_NUM_GENERATED",
            "num_generated",
            f"num_generated: got {generated!r}, expected a whole number, 0 or more",
        )
    rate = request.tokens_per_second
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
        raise RequestError(
            "INVALID_TOKENS_PER_SECOND",
            "tokens_per_second",
            f"tokens_per_second: got {rate!r}, expected more than 0 and finite",
        )


def validate_texts(request: TextRequest, facts: ModelFacts, can_score: bool) -> Tensor | None:
    """Check a request for the AR.

    Returns:
        Its activations, [n, d_model] float32, or None.

    Raises:
        RequestError: naming the field, what was got, what was expected.
    """
    if not can_score:
        raise RequestError(
            "NO_RECONSTRUCTOR", "texts", "texts: no AR is loaded; load one with the AV"
        )
    if not request.texts:
        raise RequestError("EMPTY_BATCH", "texts", "texts: got none, expected 1 or more")
    for index, text in enumerate(request.texts):
        if not isinstance(text, str):
            raise RequestError(
                "INVALID_TEXT",
                f"texts[{index}]",
                f"texts[{index}]: got a {type(text).__name__}, expected a string",
            )
    if request.activations is None:
        return None
    activations = as_activations(request.activations, facts.d_model)
    if len(request.texts) != activations.shape[0]:
        raise RequestError(
            "LENGTH_MISMATCH",
            "texts",
            f"texts: got {len(request.texts)}, expected {activations.shape[0]}, one an activation",
        )
    return activations


def _check_rows(request: VerbalizeRequest, n: int) -> None:
    for name in ("item_keys", "positions", "token_ids"):
        values = getattr(request, name)
        if values is None:
            continue
        if len(values) != n:
            raise RequestError(
                "LENGTH_MISMATCH", name, f"{name}: got {len(values)}, expected {n}, one a row"
            )
        optional = name != "item_keys"
        for value in values:
            if not (is_index(value) and 0 <= int(value) < 2**64 or optional and value is None):
                raise RequestError(
                    f"INVALID_{name[:-1].upper()}",
                    name,
                    f"{name}: got {value!r}, expected whole numbers from 0 to 2^64 - 1",
                )


def is_index(value: object) -> bool:
    """Whether a value is a whole number: an int or one of numpy's, no bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _check_layer(request: VerbalizeRequest, layer: int | None) -> None:
    stated = request.layer_index
    if stated is None or layer is None or stated == layer or request.allow_layer_mismatch:
        return
    raise RequestError(
        "LAYER_MISMATCH",
        "layer_index",
        f"layer_index: got {stated!r}, expected K = {layer}. K means the output of block K, "
        f"which transformers calls hidden_states[{layer + 1}] (hidden_states[{layer}] is the "
        "output of the block before). Capture there, or allow the mismatch.",
    )


def _check_length(request: Explaining, facts: ModelFacts, scheduler: Scheduler) -> None:
    wanted = request.sampling.max_new_tokens
    if wanted > facts.max_new_tokens:
        raise RequestError(
            "TOO_MANY_TOKENS",
            "max_new_tokens",
            f"max_new_tokens: got {wanted}, expected at most {facts.max_new_tokens}, "
            "this engine's limit",
        )
    needed = scheduler.pages_needed(wanted, request.num_samples)
    if needed > scheduler.allocator.capacity:
        raise RequestError(
            "TOO_MANY_TOKENS",
            "max_new_tokens",
            f"max_new_tokens: {wanted} tokens need {needed} pages, expected at most "
            f"{scheduler.allocator.capacity}, all there are; ask for fewer tokens",
        )


def as_activations(activations: torch.Tensor | np.ndarray, d_model: int) -> Tensor:
    """The request's activations as a [n, d_model] float32 tensor of its own.

    A copy, so that a caller who writes into his array while the request runs changes nothing.

    Raises:
        RequestError: not two-dimensional, empty, another width or no float type.
    """
    if not isinstance(activations, (np.ndarray, Tensor)):
        raise _wrong_dtype(f"a {type(activations).__name__}")
    shape = tuple(activations.shape)
    if len(shape) != 2 or shape[0] == 0 or shape[1] != d_model:
        reason = "EMPTY_BATCH" if 0 in shape else "DIMENSION_MISMATCH"
        raise RequestError(
            reason,
            "activations",
            f"activations: got shape {list(shape)}, expected [n, {d_model}] with n >= 1. "
            "Send one row per activation, each as wide as the explained model's residual stream.",
        )
    if isinstance(activations, np.ndarray):
        if not np.issubdtype(activations.dtype, np.floating):
            raise _wrong_dtype(activations.dtype)
        with np.errstate(over="ignore"):
            return torch.from_numpy(activations.astype(np.float32))
    if not activations.is_floating_point():
        raise _wrong_dtype(activations.dtype)
    return activations.detach().to(torch.float32, copy=True)


def _wrong_dtype(got: object) -> RequestError:
    return RequestError(
        "UNSUPPORTED_DTYPE",
        "activations",
        f"activations: got {got}, expected a numpy array or torch tensor of float32, float16, "
        "bfloat16 or float64.",
    )


def item_errors(norms: list[float]) -> dict[int, ItemError]:
    """Rows that cannot be explained, by index.

    Args:
        norms: the rows' L2 norms in float32: NaN or Inf where a row holds one (or overflows),
            0 where it has no direction.
    """
    errors = {}
    for index, norm in enumerate(norms):
        if not math.isfinite(norm):
            errors[index] = ItemError(
                code="INVALID_ARGUMENT",
                reason="NON_FINITE_VECTOR",
                message="the activation holds NaN or Inf, or its float32 norm overflows; "
                "send finite values",
            )
        elif norm == 0.0:
            errors[index] = ItemError(
                code="INVALID_ARGUMENT",
                reason="ZERO_VECTOR",
                message="the activation is zero, or its float32 norm underflows to zero: "
                "it has no direction to explain",
            )
    return errors
