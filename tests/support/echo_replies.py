"""What the echo service answers, made up from rows, texts, keys, seeds and samples alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from google.rpc import error_details_pb2, status_pb2

from gloss_api.v1 import gloss_pb2 as pb

NUM_TOKENS = 3
DTYPES = {
    pb.TENSOR_DTYPE_FLOAT32: np.dtype("<f4"),
    pb.TENSOR_DTYPE_BFLOAT16: np.dtype("<u2"),
    pb.TENSOR_DTYPE_FLOAT16: np.dtype("<f2"),
}


def explained(request: Any) -> Iterator[Any]:
    """Explanations of a batch."""
    rows = decoded(request.activations)
    for index, row in enumerate(rows):
        item = request.items[index] if request.items else pb.ActivationItem()
        key = item.item_key if item.HasField("item_key") else index
        yield from explanations(row, index, key, request.options)


def explanations(row: np.ndarray, index: int, key: int, options: Any) -> Iterator[Any]:
    """Every sample's explanation of an activation."""
    for sample in range(max(1, options.num_samples)):
        made = pb.Explanation(item_index=index, sample_index=sample)
        if not np.isfinite(row).all():
            made.error.CopyFrom(item_status("NON_FINITE_VECTOR"))
            made.finish_reason = pb.FINISH_REASON_ERROR
            yield made
            continue
        draw = (options.seed + 7 * key + 3 * sample) % 1000
        made.token_ids.extend(draw + token for token in range(NUM_TOKENS))
        made.explanation = f"{row.sum():g} {key} {draw}"
        made.raw_text = made.explanation
        made.logprob = -1.5
        made.finish_reason = pb.FINISH_REASON_CLOSING_TAG
        made.evidence.cosine = 0.5
        made.evidence.mse = 0.0
        made.evidence.flags.append(pb.EXPLANATION_FLAG_NO_FVE_BASELINE)
        yield made


def delta(made: Any, token: int) -> Any:
    """One of an explanation's tokens."""
    return pb.TextDelta(
        item_index=made.item_index,
        sample_index=made.sample_index,
        token_ids=[made.token_ids[token]],
        text=made.raw_text.split(" ")[token],
    )


def stream_end(num_explanations: int) -> Any:
    """Last message's part of a stream."""
    return pb.StreamEnd(
        finish_counts=[pb.FinishCount(finish_reason=pb.FINISH_REASON_EOS, count=num_explanations)],
        usage=pb.Usage(generated_tokens=NUM_TOKENS * num_explanations),
        timings=pb.Timings(total_seconds=1),
    )


def item_status(reason: str) -> status_pb2.Status:
    """Why an item failed alone."""
    status = status_pb2.Status(code=3, message=f"an item: {reason}")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason))
    return status


def decoded(tensor: Any) -> np.ndarray:
    """[n, d_model] float32."""
    raw = np.frombuffer(tensor.data, DTYPES[tensor.dtype]).reshape(tuple(tensor.shape))
    if tensor.dtype == pb.TENSOR_DTYPE_BFLOAT16:
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


def encoded(rows: np.ndarray, dtype: Any) -> Any:
    """Rows as a tensor; bfloat16 cut, not rounded: the rows of tests fit it."""
    if dtype == pb.TENSOR_DTYPE_BFLOAT16:
        data = (rows.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    else:
        data = rows.astype(DTYPES[dtype]).tobytes()
    return pb.Tensor(dtype=dtype, shape=rows.shape, data=data)


def text_row(text: str, d_model: int) -> np.ndarray:
    """What the pretended AR makes of a text: its length, and small numbers that fit every type."""
    return np.arange(d_model, dtype=np.float32) + len(text)
