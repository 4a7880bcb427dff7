"""Watching a target: what is sent, the events of its stream, and what it came to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import json_format

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import (
    Captured,
    Explanation,
    ServerError,
    Skipped,
    TargetEnd,
    TargetToken,
    TextDelta,
    TextOpened,
)
from support.echo_server import EchoServer


def of_type(events: list[Any], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_a_watch_brings_tokens_and_explanations(client: Any, server: EchoServer) -> None:
    stream = client.watch("abc", seed=8, target={"max_new_tokens": 5})
    assert (stream.seed, stream.fingerprint, stream.summary) == (8, None, None)
    events = list(stream)
    assert server.service.methods() == ["Watch"]
    assert events[0] == TextOpened(token_ids=(1, 97, 98, 99), tokens=("<s>", "a", "b", "c"))
    tokens = of_type(events, TargetToken)
    spoken = [1, 97, 98, 99, 1]
    assert tokens == [
        TargetToken(position=4 + number, token_id=token_id, text=chr(token_id))
        for number, token_id in enumerate(spoken)
    ]
    # All but the last, which the target does not run.
    captured = of_type(events, Captured)
    assert [one.index for one in captured] == [0, 1, 2, 3]
    assert [one.place.position for one in captured] == [4, 5, 6, 7]
    done = of_type(events, Explanation)
    assert [one.place for one in done] == [one.place for one in captured]
    assert {one.lag_seconds for one in done} == {0.125}
    for one, token in zip(captured, tokens[:4], strict=True):
        assert events.index(one) == events.index(token) + 1
    assert len(of_type(events, TextDelta)) == 12
    assert of_type(events, TargetEnd) == [TargetEnd(finish_reason="length")]
    assert events.index(TargetEnd(finish_reason="length")) == events.index(tokens[-1]) + 1
    assert of_type(events, Skipped) == [Skipped(position=8, reason="target_ended")]
    summary = stream.summary
    assert summary.target_finish_reason == "length"
    assert summary.skip_counts == {"target_ended": 1}
    assert (summary.finish_counts, summary.usage.generated_tokens) == ({"eos": 4}, 12)
    assert stream.fingerprint == "echo-0"


def test_what_is_skipped_is_said(client: Any) -> None:
    stream = client.watch("ab", target={"max_new_tokens": 7}, every=2, max_pending=2)
    skipped = of_type(list(stream), Skipped)
    assert [(one.position, one.reason) for one in skipped] == [
        (5, "max_pending"),
        (9, "target_ended"),
    ]
    assert stream.summary.skip_counts == {"every": 3, "max_pending": 1, "target_ended": 1}


def test_positions_of_the_prompt_come_first(client: Any) -> None:
    events = list(client.watch("ab", target={"max_new_tokens": 2}, prompt_positions=[0, -1]))
    captured = of_type(events, Captured)
    assert [(one.index, one.place.position) for one in captured] == [(0, 0), (1, 2), (2, 3)]
    everything = list(client.watch("ab", target={"max_new_tokens": 1}, prompt_positions="all"))
    assert len(of_type(everything, Captured)) == 3


def test_everything_is_sent(client: Any, server: EchoServer) -> None:
    target = {
        "temperature": 0.25,
        "top_k": 3,
        "top_p": 0.75,
        "min_p": 0.5,
        "repetition_penalty": 1.5,
        "max_new_tokens": 4,
        "seed": 9,
        "stop": ["."],
    }
    stream = client.watch(
        [1, 97],
        target=target,
        every=3,
        prompt_positions="last",
        max_pending=5,
        tokens_per_second=20,
        num_generated=1,
        num_samples=2,
        temperature=0,
        max_new_tokens=60,
        seed=8,
        score=False,
        model="echo",
        request_id="mine",
    )
    list(stream)
    assert stream.request_id == "mine"
    (call,) = server.service.received
    assert json_format.MessageToDict(call.request, preserving_proto_field_name=True) == {
        "request_id": "mine",
        "model": "echo",
        "prompt": {"token_ids": {"ids": [1, 97]}},
        "target_options": {**target, "seed": "9"},
        "options": {
            "num_samples": 2,
            "temperature": 0.0,
            "max_new_tokens": 60,
            "seed": "8",
            "score": False,
        },
        "every": 3,
        "prompt_positions": {"list": {"positions": [-1]}},
        "max_pending": 5,
        "tokens_per_second": 20.0,
        "num_generated": 1,
    }


@pytest.mark.parametrize("target", [None, {}, {"seed": None, "temperature": 0}])
def test_one_seed_draws_all_of_it_again(
    client: Any, server: EchoServer, target: dict[str, Any] | None
) -> None:
    """Without a seed of its own, the target's is that of the explanations."""
    stream = client.watch("ab", target=target)
    list(stream)
    (call,) = server.service.received
    assert call.request.target_options.seed == call.request.options.seed == stream.seed
    assert not call.request.HasField("prompt_positions")


def test_names_of_a_newer_server(client: Any, server: EchoServer) -> None:
    def newer(*_: Any) -> Iterator[Any]:
        yield pb.WatchResponse(start=pb.StreamStart(fingerprint="echo-0"), prompt_ids=[1])
        yield pb.WatchResponse(
            target_finish_reason=77,  # type: ignore[arg-type]
            skipped=[pb.SkippedToken(position=1, reason=78)],  # type: ignore[arg-type]
        )
        counts = [pb.SkipCount(reason=78, count=1)]  # type: ignore[arg-type]
        yield pb.WatchResponse(end=pb.StreamEnd(), skip_counts=counts)

    server.service._messages = newer  # type: ignore[method-assign]
    stream = client.watch("a")
    assert list(stream)[1:] == [
        TargetEnd(finish_reason="unknown_77"),
        Skipped(position=1, reason="unknown_78"),
    ]
    assert stream.summary.skip_counts == {"unknown_78": 1}
    assert stream.summary.target_finish_reason == "unknown_77"


def test_a_stream_that_ends_early_is_an_error(client: Any, server: EchoServer) -> None:
    def early(*_: Any) -> Iterator[Any]:
        yield pb.WatchResponse(start=pb.StreamStart(fingerprint="echo-0"), prompt_ids=[1])

    server.service._messages = early  # type: ignore[method-assign]
    stream = client.watch("a")
    with pytest.raises(ServerError, match="without its last message"):
        list(stream)
    assert stream.summary is None
