"""Explaining a text: what is sent, the events of its stream, and the result of all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import (
    Captured,
    Explanation,
    FailedPrecondition,
    InvalidRequest,
    ItemError,
    ServerError,
    TextDelta,
    TextOpened,
    TokenPlace,
)
from support.echo_server import EchoServer
from support.echo_service import Fault

Change = Callable[[list[Any]], None]
OPTIONS = {
    "num_samples": 2,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.75,
    "min_p": 0.25,
    "repetition_penalty": 1.5,
    "max_new_tokens": 7,
    "seed": 2**64 - 1,
    "stop": ["a", "b"],
    "score": False,
}


def test_a_text_is_one_call(client: Any, server: EchoServer) -> None:
    result = client.explain("ab", num_samples=2, seed=4)
    assert server.service.methods() == ["Explain"]
    assert result.token_ids == (1, 97, 98)
    assert result.places == (
        TokenPlace(position=0, token_id=1, token="<s>", norm=0.5, layer_index=2),
        TokenPlace(position=1, token_id=97, token="a", norm=1.5, layer_index=2),
        TokenPlace(position=2, token_id=98, token="b", norm=2.5, layer_index=2),
    )
    order = [(one.index, one.sample) for one in result.explanations]
    assert order == [(index, sample) for index in range(3) for sample in range(2)]
    for one in result.explanations:
        assert one.place == result.places[one.index]
        draw = 4 + 7 * one.index + 3 * one.sample
        assert one.token_ids == (draw, draw + 1, draw + 2)
        assert (one.cosine, one.error, one.lag_seconds) == (0.5, None, None)
    assert (result.seed, result.fingerprint) == (4, "echo-0")
    assert result.request_id == server.service.received[0].request.request_id
    assert (result.finish_counts, result.usage.generated_tokens) == ({"eos": 6}, 18)
    assert result.timings.total_seconds == 1


def test_draws_belong_to_positions(client: Any) -> None:
    """Of a selection, places and indices are those of what was read."""
    whole = client.explain("abcdef", seed=1)
    part = client.explain("abcdef", seed=1, positions=slice(-2, None))
    assert [place.position for place in part.places] == [5, 6]
    assert [one.index for one in part.explanations] == [0, 1]
    for one, same in zip(part.explanations, whole.explanations[-2:], strict=True):
        assert (one.token_ids, one.place) == (same.token_ids, same.place)


def test_everything_is_sent(client: Any, server: EchoServer) -> None:
    chat = [{"role": "user", "content": "hi"}]
    mine = {"model": "echo", "request_id": "mine", "priority": "batch"}
    client.explain(chat, positions="1:3", **mine, **OPTIONS)
    client.explain([1, 99], positions=None)
    first, second = (call.request for call in server.service.received)
    assert json_format.MessageToDict(first, preserving_proto_field_name=True) == {
        "priority": "PRIORITY_BATCH",
        "request_id": "mine",
        "model": "echo",
        "input": {"chat": {"messages": chat}},
        "positions": {"slice": {"start": 1, "stop": 3}},
        "options": {**OPTIONS, "seed": str(OPTIONS["seed"])},
    }
    assert list(second.input.token_ids.ids) == [1, 99]
    assert not second.HasField("positions")
    assert second.request_id
    assert [name.name for name, _ in second.options.ListFields()] == ["seed"]


@pytest.mark.parametrize("method", ["explain", "stream_explain"])
@pytest.mark.parametrize("priority", ["high", "BATCH", ""])
def test_a_wrong_priority_is_refused_here(
    client: Any, server: EchoServer, method: str, priority: str
) -> None:
    said = f"priority: got '{priority}', expected interactive or batch"
    with pytest.raises(InvalidRequest, match=said) as caught:
        getattr(client, method)("ab", priority=priority)
    assert caught.value.field == "priority" and server.service.received == []


def test_a_bad_activation_fails_alone(client: Any) -> None:
    """The character "!" has no finite one."""
    *good, failed = client.explain("ab!", seed=0).explanations
    assert failed.error == ItemError(
        code="INVALID_ARGUMENT", reason="NON_FINITE_VECTOR", message="an item: NON_FINITE_VECTOR"
    )
    assert failed.place.token == "!"
    assert [one.error for one in good] == [None] * 3


@pytest.mark.parametrize("length", [7, 8, 9, 40])
def test_a_long_texts_tokens_come_in_several_messages(client: Any, length: int) -> None:
    text = "abcdefghij" * 4
    for stream in (client.stream_explain(text[:length]), client.watch(text[:length])):
        opened, *others = stream
        token_ids = (1, *map(ord, text[:length]))
        assert opened == TextOpened(token_ids=token_ids, tokens=("<s>", *text[:length]))
        assert not any(isinstance(event, TextOpened) for event in others)


def test_a_server_that_is_older_than_tokens_is_understood(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.echo_texts._parts", lambda tokens: [[]])
    for stream in (client.stream_explain("ab"), client.watch("ab")):
        events = list(stream)
        assert events[0] == TextOpened(token_ids=(1, 97, 98), tokens=())
        assert sum(isinstance(event, TextOpened) for event in events) == 1


def test_what_came_together_can_be_taken_together(client: Any) -> None:
    stream = client.stream_explain("abc")
    assert stream.ready() == []
    batches = [[event, *stream.ready()] for event in stream]
    assert [event for batch in batches for event in batch][1:] == list(
        client.stream_explain("abc", seed=stream.seed)
    )[1:]
    # As the echo sends them: what is known of the text, two captures and two more, three tokens of
    # four explanations, and those.
    sizes = [1, 2, 2, 4, 4, 4, 4]
    assert [len(batch) for batch in batches] == sizes
    assert stream.ready() == []


def test_a_stream_brings_all_of_it(client: Any) -> None:
    stream = client.stream_explain("ab!", num_samples=2, seed=4)
    assert (stream.seed, stream.fingerprint, stream.summary) == (4, None, None)
    events = list(stream)
    result = client.explain("ab!", num_samples=2, seed=4)
    assert events[0] == TextOpened(token_ids=result.token_ids, tokens=("<s>", "a", "b", "!"))
    captured = [event for event in events if isinstance(event, Captured)]
    assert captured == [Captured(index=i, place=place) for i, place in enumerate(result.places)]
    done = [event for event in events if isinstance(event, Explanation)]
    assert len(done) == 8
    assert tuple(sorted(done, key=lambda one: (one.index, one.sample))) == result.explanations
    for one in done:
        deltas = [
            event
            for event in events
            if isinstance(event, TextDelta)
            and (event.index, event.sample) == (one.index, one.sample)
        ]
        assert " ".join(delta.text for delta in deltas) == one.raw_text
        assert events.index(captured[one.index]) < events.index(one)
    assert (stream.fingerprint, stream.summary.finish_counts) == ("echo-0", {"eos": 8})
    assert stream.summary.usage == result.usage
    assert list(stream) == []


def test_a_server_without_a_target(client: Any, server: EchoServer) -> None:
    fault = Fault(code=grpc.StatusCode.FAILED_PRECONDITION, reason="NO_TARGET", message="no target")
    server.service.faults = deque([fault] * 2)
    for call in (client.explain, lambda text, **more: list(client.stream_explain(text, **more))):
        with pytest.raises(FailedPrecondition, match="NO_TARGET: no target") as caught:
            call("a", request_id="mine")
        assert caught.value.request_id == "mine"


def changed(
    messages: Callable[..., Any], change: Callable[[list[Any]], None]
) -> Callable[..., Any]:
    """A stream with something other than it should have."""

    def again(*args: Any) -> Iterator[Any]:
        made = list(messages(*args))
        change(made)
        yield from made

    return again


def without_an_explanation(made: list[Any]) -> None:
    del made[-2].explanations[0]


def without_the_first(made: list[Any]) -> None:
    del made[0]


def without_the_last(made: list[Any]) -> None:
    del made[-1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_an_explanation, "got 2 explanations, expected 3"),
        (without_the_first, "without its first message"),
        (without_the_last, "without its last message"),
    ],
)
def test_a_stream_with_something_missing_is_an_error(
    client: Any, server: EchoServer, change: Change, said: str
) -> None:
    service = server.service
    service._messages = changed(service._messages, change)  # type: ignore[method-assign]
    with pytest.raises(ServerError, match=said):
        client.explain("ab")


def test_names_of_a_newer_server(client: Any, server: EchoServer) -> None:
    """A number without a name here is said as such; it is no error."""

    def newer(made: list[Any]) -> None:
        made[-2].explanations[0].finish_reason = 77
        made[-1].end.finish_counts.append(pb.FinishCount(finish_reason=77, count=2))

    service = server.service
    service._messages = changed(service._messages, newer)  # type: ignore[method-assign]
    result = client.explain("ab")
    assert [one.finish_reason for one in result.explanations][-1] == "unknown_77"
    assert result.finish_counts == {"eos": 3, "unknown_77": 2}
