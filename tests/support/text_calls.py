"""Calls of Explain, Watch and Capture as tests make them, and all that their streams brought."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb

STORY = (
    "Leo is a tailor. He meets Hugo. What will happen next? He eats fish. Then he stops. He waits "
    "in the old village."
)


def text(content: str) -> pb.TextInput:
    """Plain text."""
    return pb.TextInput(text=content)


def tokens(ids: Iterable[int]) -> pb.TextInput:
    """Token ids."""
    return pb.TextInput(token_ids=pb.TokenIds(ids=ids))


def chat(*turns: tuple[str, str]) -> pb.TextInput:
    """A chat of (role, content)."""
    messages = [pb.ChatMessage(role=role, content=content) for role, content in turns]
    return pb.TextInput(chat=pb.Chat(messages=messages))


def listed(*positions: int) -> pb.PositionSelection:
    """Positions one by one."""
    return pb.PositionSelection(list=pb.PositionList(positions=positions))


def sliced(**bounds: int) -> pb.PositionSelection:
    """A slice of positions."""
    return pb.PositionSelection(slice=pb.PositionSlice(**bounds))


def explain_request(content: pb.TextInput | str = STORY, **options: Any) -> pb.ExplainRequest:
    """A request; `request_id` and `positions` are its own, all else is generation options."""
    return pb.ExplainRequest(
        request_id=options.pop("request_id", ""),
        input=text(content) if isinstance(content, str) else content,
        positions=options.pop("positions", None),
        options=pb.GenerationOptions(**options),
    )


def watch_request(content: pb.TextInput | str = STORY, **fields: Any) -> pb.WatchRequest:
    """A request; `target_options` and `options` are given as dicts."""
    return pb.WatchRequest(
        prompt=text(content) if isinstance(content, str) else content,
        target_options=pb.GenerationOptions(**fields.pop("target_options", {})),
        options=pb.GenerationOptions(**fields.pop("options", {})),
        **fields,
    )


def capture_request(*contents: pb.TextInput | str, **fields: Any) -> pb.CaptureRequest:
    """A request for several texts."""
    inputs = [text(one) if isinstance(one, str) else one for one in contents]
    return pb.CaptureRequest(inputs=[pb.CaptureInput(input=one) for one in inputs], **fields)


@dataclass
class Told:
    """What a stream of Explain or Watch said, held to the contract while it is read."""

    start: pb.StreamStart | None = None
    end: pb.StreamEnd | None = None
    ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    said: list[pb.TargetToken] = field(default_factory=list)
    places: list[pb.TokenPosition] = field(default_factory=list)
    skipped: list[pb.SkippedToken] = field(default_factory=list)
    skip_counts: dict[int, int] = field(default_factory=dict)
    finish_reason: int = 0
    text: dict[tuple[int, int], str] = field(default_factory=dict)
    explanations: dict[tuple[int, int], pb.Explanation] = field(default_factory=dict)
    num_messages: int = 0

    @classmethod
    def by(cls, stream: Iterable[Any]) -> Told:
        """Read a stream to its end."""
        told = cls()
        for message in stream:
            told.take(message)
        assert told.end is not None, "no end"
        return told

    def take(self, message: pb.ExplainResponse | pb.WatchResponse) -> None:
        """Take one message in."""
        assert self.end is None, "a message after the end"
        assert message.ByteSize() < 1 << 20
        assert message.HasField("start") == (self.num_messages == 0)
        self.num_messages += 1
        if isinstance(message, pb.WatchResponse):
            self._take_target(message)
            ids, tokens = message.prompt_ids, message.prompt_tokens
        else:
            ids, tokens = message.input_ids, message.input_tokens
        if message.HasField("start"):
            self.start, self.ids = message.start, list(ids)
        else:
            assert not ids
        self.tokens += tokens
        if not tokens:
            assert len(self.tokens) == len(self.ids), "texts of tokens go before all else"
        for place in message.captured:
            if place.position < len(self.ids):
                assert place.token == self.tokens[place.position]
        self.places += message.captured
        for delta in message.deltas:
            assert delta.item_index < len(self.places), "text before its place"
            key = (delta.item_index, delta.sample_index)
            assert key not in self.explanations, "text after its end"
            self.text[key] = self.text.get(key, "") + delta.text
        for explanation in message.explanations:
            self._take_explanation(explanation)
        if message.HasField("end"):
            self.end = message.end

    def in_order(self) -> list[pb.Explanation]:
        """The explanations by item and sample."""
        return [self.explanations[key] for key in sorted(self.explanations)]

    def _take_explanation(self, explanation: pb.Explanation) -> None:
        key = (explanation.item_index, explanation.sample_index)
        assert key not in self.explanations
        assert self.text.get(key, "") == explanation.raw_text
        assert str(explanation.token_position) == str(self.places[explanation.item_index])
        self.explanations[key] = explanation

    def _take_target(self, message: pb.WatchResponse) -> None:
        assert not (message.target_tokens and self.finish_reason), "a token after the end"
        self.said += message.target_tokens
        self.skipped += message.skipped
        if message.target_finish_reason:
            assert not self.finish_reason
            self.finish_reason = message.target_finish_reason
        assert not message.skip_counts or message.HasField("end")
        self.skip_counts.update({one.reason: one.count for one in message.skip_counts})


@dataclass
class Captured:
    """What a Capture stream said."""

    rows: list[pb.CapturedActivation]
    activations: np.ndarray
    failures: dict[int, Any]
    messages: list[pb.CaptureResponse]

    @classmethod
    def by(cls, stream: Iterable[pb.CaptureResponse], width: int = 128) -> Captured:
        """Read a stream to its end; float32 rows."""
        messages = list(stream)
        assert all(message.ByteSize() < 1 << 20 for message in messages)
        assert messages[0].fingerprint and not any(m.fingerprint for m in messages[1:])
        parts = [np.zeros((0, width), np.float32)]
        for message in messages:
            part = np.frombuffer(message.activations.data, "<f4").reshape(-1, width)
            assert len(part) == len(message.rows)
            parts.append(part)
        return cls(
            rows=[row for message in messages for row in message.rows],
            activations=np.concatenate(parts),
            failures={f.item_index: f.error for m in messages for f in m.failures},
            messages=messages,
        )

    def places(self) -> Sequence[tuple[int, int]]:
        """(text, position) of every row."""
        return [(row.input_index, row.token_position.position) for row in self.rows]
