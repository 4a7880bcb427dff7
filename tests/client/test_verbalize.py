"""One call: what is sent, what comes back, what is refused here."""

from __future__ import annotations

from collections import deque
from typing import Any

import grpc
import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import InvalidRequest, ItemError, ServerError, TextDelta, Usage
from gloss_client.verbalize_call import VerbalizeCall
from support.echo_server import EchoServer
from support.echo_service import Fault


def test_a_small_batch_is_one_call(client: Any, server: EchoServer, rows: np.ndarray) -> None:
    result = client.verbalize(rows[:3], num_samples=2, seed=4)
    assert server.service.methods() == ["Verbalize"]
    order = [(done.index, done.sample) for done in result.explanations]
    assert order == [(index, sample) for index in range(3) for sample in range(2)]
    first = result.explanations[0]
    assert first.explanation == first.raw_text == f"{rows[0].sum():g} 0 4"
    assert first.token_ids == (4, 5, 6)
    assert (first.logprob, first.finish_reason) == (-1.5, "closing_tag")
    assert (first.cosine, first.mse, first.fve) == (0.5, 0.0, None)
    assert (first.flags, first.error) == (("no_fve_baseline",), None)
    assert (result.seed, result.fingerprint) == (4, "echo-0")
    assert result.usage == Usage(prefill_tokens=0, prefix_tokens_reused=0, generated_tokens=18)
    timings = result.timings
    assert (timings.queue_seconds, timings.first_token_seconds, timings.total_seconds) == (
        pytest.approx(0.25),
        pytest.approx(0.5),
        pytest.approx(1.0),
    )


def test_a_bad_row_fails_alone(client: Any, rows: np.ndarray) -> None:
    bad = rows[:3].copy()
    bad[1, 0] = np.nan
    good, failed, also_good = client.verbalize(bad).explanations
    assert failed.error == ItemError(
        code="INVALID_ARGUMENT",
        reason="NON_FINITE_VECTOR",
        message="an item: NON_FINITE_VECTOR",
    )
    assert (failed.finish_reason, failed.explanation, failed.cosine) == ("error", "", None)
    assert good.error is None
    assert also_good.error is None


def test_every_option_is_sent(client: Any, server: EchoServer, rows: np.ndarray) -> None:
    options = {
        "num_samples": 2,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.75,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "max_new_tokens": 7,
        "seed": 2**64 - 1,
        "score": False,
    }
    client.verbalize(
        rows[:2],
        **options,
        stop=("a", "b"),
        item_keys=np.array([9, 2**63], np.uint64),
        layer_index=np.int64(2),
        positions=[0, None],
        token_ids=(None, 7),
        allow_layer_mismatch=True,
        model="echo",
        request_id="mine",
        priority="batch",
    )
    request = server.service.received[0].request
    assert request.priority == pb.PRIORITY_BATCH
    for name, value in options.items():
        assert getattr(request.options, name) == value
    assert list(request.options.stop) == ["a", "b"]
    assert (request.model, request.request_id) == ("echo", "mine")
    assert request.allow_layer_mismatch
    first, second = request.items
    assert (first.item_key, first.layer_index, first.position) == (9, 2, 0)
    assert (second.item_key, second.layer_index, second.token_id) == (2**63, 2, 7)
    assert not second.HasField("position")
    assert not first.HasField("token_id")


def test_what_is_not_stated_is_the_servers_default(
    client: Any, server: EchoServer, rows: np.ndarray
) -> None:
    client.verbalize(rows[:2])
    request = server.service.received[0].request
    assert [field.name for field, _ in request.options.ListFields()] == ["seed"]
    assert not request.items
    assert not request.model
    assert request.priority == pb.PRIORITY_UNSPECIFIED


def test_calls_without_a_seed_differ_and_say_theirs(client: Any, rows: np.ndarray) -> None:
    results = [client.verbalize(rows[:1]) for _ in range(3)]
    assert len({result.seed for result in results}) == 3
    assert len({result.request_id for result in results}) == 3
    again = client.verbalize(rows[:1], seed=results[0].seed)
    assert again.explanations == results[0].explanations


@pytest.mark.parametrize("wire_dtype", ["float32", "bfloat16", "float16"])
def test_wire_dtypes(client: Any, server: EchoServer, rows: np.ndarray, wire_dtype: str) -> None:
    """The rows fit every type, so the explanations are the same."""
    got = client.verbalize(rows[:5], seed=1, wire_dtype=wire_dtype)
    assert got.explanations == client.verbalize(rows[:5].astype(np.float64), seed=1).explanations
    sizes = [len(call.request.activations.data) for call in server.service.received]
    assert sizes == [5 * 8 * (4 if wire_dtype == "float32" else 2), 5 * 8 * 4]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"item_keys": [1]}, "item_keys"),
        ({"item_keys": [1, -1]}, "items[1].item_key"),
        ({"positions": [0, 2**40]}, "items[1].position"),
        ({"layer_index": [1, 2, 3]}, "layer_index"),
        ({"layer_index": 1.5}, "layer_index"),
        ({"token_ids": ["a", None]}, "items[0].token_id"),
        ({"num_samples": 1.5}, "num_samples"),
        ({"seed": -1}, "seed"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop": "abc"}, "stop"),
        ({"stop": ["\ud800"]}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"wire_dtype": "float64"}, "wire_dtype"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"model": "\ud800"}, "model"),
        ({"request_id": 5}, "request_id"),
        ({"priority": "high"}, "priority"),
    ],
)
@pytest.mark.parametrize("method", ["verbalize", "stream_verbalize"])
def test_what_cannot_be_sent_is_refused_here(
    client: Any,
    server: EchoServer,
    rows: np.ndarray,
    method: str,
    options: dict[str, Any],
    field: str,
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        getattr(client, method)(rows[:2], **options)
    assert caught.value.field == field
    assert server.service.received == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 2**64}, "seed: got 18446744073709551616, expected a whole number, 0 to 2^64 - 1"),
        ({"seed": "a"}, "seed: got 'a', expected a whole number, 0 to 2^64 - 1"),
        ({"item_keys": [-1]}, "items[0].item_key: got -1, expected a whole number, 0 to 2^64 - 1"),
        ({"top_k": 2**31}, "top_k: got 2147483648, expected a whole number, -2^31 to 2^31 - 1"),
        ({"top_p": "x"}, "top_p: got 'x', expected a number"),
        ({"temperature": 10**400}, f"temperature: got 1{'0' * 79}, expected a number"),
        ({"score": "x"}, "score: got 'x', expected True or False"),
        ({"model": 5}, "model: got 5, expected a string that UTF-8 can hold"),
        ({"stop": [1]}, "stop: got [1], expected a sequence of strings that UTF-8 can hold"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_our_words(
    rows: np.ndarray, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        VerbalizeCall.of(rows[:1], stream=False, **options)
    assert caught.value.message == said


def test_an_unknown_argument_is_a_type_error(client: Any, rows: np.ndarray) -> None:
    with pytest.raises(TypeError, match="'temprature'"):
        client.verbalize(rows[:1], temprature=0)


@pytest.mark.parametrize("method", ["verbalize", "stream_verbalize"])
def test_odd_shapes_are_refused_before_anything_is_sent(
    client: Any, server: EchoServer, method: str
) -> None:
    for shape in ((8,), (0, 8), (1, 1, 8)):
        with pytest.raises(InvalidRequest):
            getattr(client, method)(np.zeros(shape, np.float32))
    assert server.service.received == []


def test_a_reply_with_something_missing_is_an_error(
    client: Any, server: EchoServer, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = server.service.verbalized

    def cut(request: Any, context: Any) -> Any:
        reply = whole(request, context)
        del reply.explanations[-1]
        return reply

    monkeypatch.setattr(server.service, "verbalized", cut)
    with pytest.raises(ServerError, match="got 2 explanations, expected 3"):
        client.verbalize(rows[:3])


def test_reconstruct(client: Any) -> None:
    result = client.reconstruct(["ab", "fail", ""])
    np.testing.assert_array_equal(
        result.activations, np.stack([np.arange(8) + 2, np.zeros(8), np.arange(8)])
    )
    assert result.activations.dtype == np.float32
    assert list(result.failures) == [1]
    assert result.failures[1].reason == "TEXT_TOO_LONG"
    halved = client.reconstruct(["ab"], wire_dtype="bfloat16")
    np.testing.assert_array_equal(halved.activations, result.activations[:1])


def test_score(client: Any, rows: np.ndarray) -> None:
    pair = np.stack([rows[0], np.zeros(8, np.float32)])
    scored, failed = client.score(["abc", "x"], pair).scores
    assert (scored.cosine, scored.mse, scored.fve) == (rows[0].sum(), 3.0, None)
    assert scored.error is None
    assert failed.error is not None
    assert failed.error.reason == "ZERO_VECTOR"
    assert failed.cosine is None


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("abc", "expected a sequence"),
        ([], "at least one"),
        (["a", 3], r"texts\[1\]: got int"),
        (["\ud800"], "surrogate"),
        (["a"], "got 1 for 2 activations"),
    ],
)
def test_texts_that_make_no_batch_are_refused(
    client: Any, rows: np.ndarray, texts: Any, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        client.score(texts, rows[:2])


def test_model_info_and_stats(client: Any) -> None:
    info = client.model_info()
    assert (info.model, info.d_model, info.layer_index) == ("echo", 8, 2)
    assert (info.ar, info.norm_median) == (None, None)
    assert (info.fve_baseline, info.fve_baseline_source) == (0.5, "setting")
    assert info.limits.max_items == 1024
    assert (info.target.num_layers, info.target_generates) == (4, True)
    limits = info.limits
    assert (limits.max_text_tokens, limits.max_watch_tokens) == (4096, 1024)
    assert (limits.watch_max_pending, limits.watch_deadline_seconds) == (64, 600)
    stats = client.stats()
    assert (stats.state, stats.rejections) == ("serving", {"QUEUE_FULL": 2})
    assert (stats.latencies["queue"].p50, stats.mean_mse) == (0.25, None)
    assert (stats.reading, stats.watching, stats.captured) == (3, 1, 20)
    assert (stats.target_tokens_read, stats.target_tokens_generated) == (40, 30)
    assert stats.skipped == {"max_pending": 7}


def test_names_of_a_newer_server(client: Any, server: EchoServer, rows: np.ndarray) -> None:
    """A number without a name here is said as such; it is no error."""
    whole = server.service.verbalized

    def newer(request: Any, context: Any) -> Any:
        reply = whole(request, context)
        reply.explanations[0].finish_reason = 77
        reply.explanations[0].evidence.flags.append(78)
        return reply

    server.service.verbalized = newer  # type: ignore[method-assign]
    (done,) = client.verbalize(rows[:1]).explanations
    assert done.finish_reason == "unknown_77"
    assert done.flags == ("no_fve_baseline", "unknown_78")


def test_a_stream_brings_text_and_explanations(client: Any, rows: np.ndarray) -> None:
    stream = client.stream_verbalize(rows[:3], num_samples=2, seed=4)
    assert (stream.seed, stream.fingerprint, stream.summary) == (4, None, None)
    events = list(stream)
    unary = client.verbalize(rows[:3], num_samples=2, seed=4)
    done = [event for event in events if not isinstance(event, TextDelta)]
    assert tuple(done) == unary.explanations
    for one in done:
        deltas = [
            event
            for event in events
            if isinstance(event, TextDelta)
            and (event.index, event.sample) == (one.index, one.sample)
        ]
        assert " ".join(delta.text for delta in deltas) == one.raw_text
        assert sum((delta.token_ids for delta in deltas), ()) == one.token_ids
    assert stream.fingerprint == "echo-0"
    assert stream.summary.finish_counts == {"eos": 6}
    assert stream.summary.usage.generated_tokens == 18
    assert list(stream) == []


def test_a_stream_that_fails_raises_and_then_is_over(
    client: Any, server: EchoServer, rows: np.ndarray
) -> None:
    fault = Fault(code=grpc.StatusCode.INTERNAL, reason="INTERNAL", after=2)
    server.service.faults = deque([fault])
    stream = client.stream_verbalize(rows[:2])
    assert isinstance(next(stream), TextDelta)
    with pytest.raises(ServerError) as caught:
        list(stream)
    assert caught.value.request_id == stream.request_id
    assert list(stream) == []
    assert stream.summary is None
