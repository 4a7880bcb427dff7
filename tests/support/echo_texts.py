"""What the echo service answers to texts: its pretended target reads characters.

A character's token is its code point, after a special token at the beginning; chats are written
out. Activations depend on token and position alone; one on "!" is not finite. The target goes on
from a prompt by saying it again, from a place that its seed decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from support.echo_replies import (
    NUM_TOKENS,
    delta,
    encoded,
    explanations,
    item_status,
    stream_end,
)

SPECIAL_ID = 1
LAYER_INDEX = 2
LAG_SECONDS = 0.125
ROWS_A_MESSAGE = 5
TEXTS_A_MESSAGE = 8
"""Of a long text's tokens: the others come in more messages."""
DEFAULT_WATCH_TOKENS = 6


def token_ids_of(text: Any) -> list[int]:
    """A TextInput's tokens."""
    if text.WhichOneof("input") == "token_ids":
        return list(text.token_ids.ids)
    if text.WhichOneof("input") == "chat":
        written = "".join(f"{one.role}: {one.content}\n" for one in text.chat.messages)
        return [ord(character) for character in written]
    return [SPECIAL_ID, *map(ord, text.text)]


def chosen(selection: Any, length: int) -> list[int]:
    """The positions of a PositionSelection."""
    if selection.WhichOneof("selection") == "list":
        return sorted({position % length for position in selection.list.positions})
    one = selection.slice
    ends = [getattr(one, n) if one.HasField(n) else None for n in ("start", "stop", "step")]
    return list(range(length))[slice(*ends)]


def row_of(token_id: int, position: int, d_model: int) -> np.ndarray:
    """[d_model] an activation: small whole numbers that fit every type."""
    if token_id == ord("!"):
        return np.full(d_model, np.nan, np.float32)
    return np.arange(d_model, dtype=np.float32) + token_id % 16 + position % 8


def token_of(token_id: int) -> str:
    """A token as text."""
    return "<s>" if token_id == SPECIAL_ID else chr(token_id)


def place_of(token_id: int, position: int, layer_index: int = LAYER_INDEX) -> Any:
    """Where it stands."""
    return pb.TokenPosition(
        position=position,
        token_id=token_id,
        token=token_of(token_id),
        norm=position + 0.5,
        layer_index=layer_index,
    )


def explain_messages(request: Any, d_model: int, fingerprint: str) -> Iterator[Any]:
    """A stream: start, what was captured, one token of every explanation a message, end."""
    token_ids = token_ids_of(request.input)
    positions = chosen(request.positions, len(token_ids))
    first, *more = _parts([token_of(token_id) for token_id in token_ids])
    start = _start(request, fingerprint)
    yield pb.ExplainResponse(start=start, input_ids=token_ids, input_tokens=first)
    for part in more:
        yield pb.ExplainResponse(input_tokens=part)
    reading = _Reading(token_ids=token_ids, options=request.options, d_model=d_model)
    # Two messages: indices go on over all of them.
    for part in (positions[:2], positions[2:]):
        yield pb.ExplainResponse(captured=[reading.capture(position) for position in part])
    for token in range(NUM_TOKENS):
        yield pb.ExplainResponse(deltas=reading.deltas(token))
    # The last first: they finish in any order.
    yield pb.ExplainResponse(explanations=reversed(reading.made))
    yield pb.ExplainResponse(end=stream_end(len(reading.made)))


def watch_messages(request: Any, d_model: int, fingerprint: str) -> Iterator[Any]:
    """A stream: start, one token of the target a message, explanations one token later, end."""
    prompt_ids = token_ids_of(request.prompt)
    first, *more = _parts([token_of(token_id) for token_id in prompt_ids])
    start = _start(request, fingerprint)
    yield pb.WatchResponse(start=start, prompt_ids=prompt_ids, prompt_tokens=first)
    for part in more:
        yield pb.WatchResponse(prompt_tokens=part)
    reading = _Reading(
        token_ids=list(prompt_ids), options=request.options, d_model=d_model, lag=LAG_SECONDS
    )
    if request.HasField("prompt_positions"):
        positions = chosen(request.prompt_positions, len(prompt_ids))
        yield pb.WatchResponse(captured=[reading.capture(position) for position in positions])
    num_tokens = request.target_options.max_new_tokens or DEFAULT_WATCH_TOKENS
    every = request.every or 1
    most = request.max_pending or num_tokens
    skips = {pb.SKIP_REASON_EVERY: 0, pb.SKIP_REASON_MAX_PENDING: 0, pb.SKIP_REASON_TARGET_ENDED: 0}
    for number in range(num_tokens):
        position = len(reading.token_ids)
        spoken = prompt_ids[(request.target_options.seed + number) % len(prompt_ids)]
        reading.token_ids.append(spoken)
        token = pb.TargetToken(position=position, token_id=spoken, text=chr(spoken))
        message = pb.WatchResponse(target_tokens=[token])
        reason = None
        if number % every:
            reason = pb.SKIP_REASON_EVERY
        elif number == num_tokens - 1:
            reason = pb.SKIP_REASON_TARGET_ENDED
            message.target_finish_reason = pb.FINISH_REASON_LENGTH
        elif number % (most + 1) == most:
            reason = pb.SKIP_REASON_MAX_PENDING
        if reason is None:
            message.captured.append(reading.capture(position))
        else:
            skips[reason] += 1
            if reason != pb.SKIP_REASON_EVERY:
                message.skipped.add(position=position, reason=reason)
        yield message
    for token_index in range(NUM_TOKENS):
        yield pb.WatchResponse(deltas=reading.deltas(token_index))
    yield pb.WatchResponse(explanations=reading.made)
    counts = [pb.SkipCount(reason=reason, count=count) for reason, count in skips.items() if count]
    yield pb.WatchResponse(end=stream_end(len(reading.made)), skip_counts=counts)


def capture_messages(request: Any, d_model: int, fingerprint: str) -> Iterator[Any]:
    """A stream: the fingerprint, then rows, a few a message, and texts that cannot be read."""
    yield pb.CaptureResponse(fingerprint=fingerprint)
    layer_index = request.layer_index if request.HasField("layer_index") else LAYER_INDEX
    for index, one in enumerate(request.inputs):
        token_ids = token_ids_of(one.input)
        if one.input.text == "fail":
            failure = pb.ItemFailure(item_index=index, error=item_status("TEXT_TOO_LONG"))
            yield pb.CaptureResponse(failures=[failure])
            continue
        positions = chosen(request.positions, len(token_ids))
        for first in range(0, len(positions), ROWS_A_MESSAGE):
            part = positions[first : first + ROWS_A_MESSAGE]
            rows = np.stack([row_of(token_ids[i], i, d_model) for i in part])
            yield pb.CaptureResponse(
                activations=encoded(rows, request.dtype),
                rows=[
                    pb.CapturedActivation(
                        input_index=index,
                        doc_id=one.doc_id,
                        token_position=place_of(token_ids[i], i, layer_index),
                        is_special=token_ids[i] == SPECIAL_ID,
                    )
                    for i in part
                ],
            )


@dataclass(kw_only=True)
class _Reading:
    """Activations of one text, and their explanations."""

    token_ids: list[int]
    options: Any
    d_model: int
    lag: float | None = None
    made: list[Any] = field(default_factory=list)
    num_captured: int = 0

    def capture(self, position: int) -> Any:
        token_id = self.token_ids[position]
        place = place_of(token_id, position)
        row = row_of(token_id, position, self.d_model)
        for one in explanations(row, self.num_captured, position, self.options):
            one.token_position.CopyFrom(place)
            if self.lag is not None:
                one.lag_seconds = self.lag
            self.made.append(one)
        self.num_captured += 1
        return place

    def deltas(self, token: int) -> list[Any]:
        return [delta(one, token) for one in self.made if not one.HasField("error")]


def _parts(tokens: list[str]) -> list[list[str]]:
    return [tokens[at : at + TEXTS_A_MESSAGE] for at in range(0, len(tokens), TEXTS_A_MESSAGE)]


def _start(request: Any, fingerprint: str) -> Any:
    return pb.StreamStart(
        request_id=request.request_id, fingerprint=fingerprint, seed=request.options.seed
    )
