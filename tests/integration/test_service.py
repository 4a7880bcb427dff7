"""The service on the embedded pair: what callers get, and that it is what the engine gives."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from prometheus_client.parser import text_string_to_metric_families

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine import (
    Engine,
    EngineConfig,
    Explanation,
    SamplingParams,
    VerbalizeRequest,
    load_engine,
)
from gloss_server.embedded import embedded_pair
from support.invariants import checked
from support.server_process import ServerProcess
from support.service_calls import (
    fault,
    reason_of,
    stream_request,
    tensor,
    verbalize_request,
)

SERVICE = "gloss_api.v1.GlossService"
WORK_GAUGES = ("gloss_running", "gloss_waiting", "gloss_kv_pages_used")


@pytest.fixture(autouse=True)
def nothing_is_left(embedded: ServerProcess) -> Iterator[None]:
    with checked(embedded):
        yield


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The same pair in this process."""
    pair = embedded_pair()
    return load_engine(pair.av, pair.ar, EngineConfig(num_threads=1), target=pair.target)


def _local(engine: Engine, rows: np.ndarray, num_samples: int = 1, **sampling: object) -> list:
    request = VerbalizeRequest(
        activations=rows,
        num_samples=num_samples,
        sampling=SamplingParams(**sampling),  # type: ignore[arg-type]
    )
    return engine.verbalize(request)


def _assert_same(got: pb.Explanation, expected: Explanation) -> None:
    assert (got.item_index, got.sample_index) == (expected.index, expected.sample)
    assert tuple(got.token_ids) == expected.token_ids
    assert got.explanation == expected.explanation and got.raw_text == expected.raw_text
    reason = pb.FinishReason.Name(got.finish_reason).removeprefix("FINISH_REASON_").lower()
    assert reason == expected.finish_reason
    flags = [pb.ExplanationFlag.Name(flag) for flag in got.evidence.flags]
    assert flags == [f"EXPLANATION_FLAG_{flag.upper()}" for flag in expected.flags]
    # Another batch, another order of float32 sums.
    assert got.logprob == pytest.approx(expected.logprob, abs=1e-3)
    for name in ("cosine", "mse", "fve"):
        assert getattr(got.evidence, name) == pytest.approx(getattr(expected, name), abs=1e-5)


def test_verbalize_gives_the_engines_explanations(
    embedded: ServerProcess, engine: Engine, story_rows: np.ndarray
) -> None:
    rows = story_rows[:40]
    options = {"temperature": 0.7, "top_p": 0.95, "seed": 11, "max_new_tokens": 60}
    reply = embedded.stub.Verbalize(
        verbalize_request(rows, request_id="the-engines", num_samples=2, **options)
    )
    expected = _local(engine, rows, num_samples=2, **options)
    assert len(reply.explanations) == len(expected) == 80
    for got, wanted in zip(reply.explanations, expected, strict=True):
        _assert_same(got, wanted)
    assert (reply.request_id, reply.seed) == ("the-engines", 11)
    info = embedded.stub.GetModelInfo(pb.GetModelInfoRequest())
    assert reply.fingerprint == info.fingerprint != ""
    num_tokens = sum(len(e.token_ids) for e in expected)
    assert reply.usage.generated_tokens == num_tokens
    assert reply.usage.prefill_tokens == 40 * info.suffix_tokens
    assert reply.usage.prefix_tokens_reused == 40 * info.prefix_tokens
    times = reply.timings
    assert 0 <= times.queue_seconds <= times.first_token_seconds <= times.total_seconds


def test_streams_give_the_same_as_text_that_grows(
    embedded: ServerProcess, engine: Engine, story_rows: np.ndarray
) -> None:
    rows = story_rows[40:52]
    messages = list(embedded.stub.StreamVerbalize(stream_request(rows, num_samples=3, seed=5)))
    assert [m.HasField("start") for m in messages].count(True) == 1 and messages[0].HasField(
        "start"
    )
    assert [m.HasField("end") for m in messages].count(True) == 1 and messages[-1].HasField("end")
    assert messages[0].start.seed == 5 and messages[0].start.request_id
    text: dict[tuple[int, int], str] = {}
    ids: dict[tuple[int, int], list[int]] = {}
    finished: dict[tuple[int, int], pb.Explanation] = {}
    for message in messages:
        for delta in message.deltas:
            key = (delta.item_index, delta.sample_index)
            assert key not in finished, "text after the end"
            text[key] = text.get(key, "") + delta.text
            ids.setdefault(key, []).extend(delta.token_ids)
        for done in message.explanations:
            finished[done.item_index, done.sample_index] = done
    expected = _local(engine, rows, num_samples=3, seed=5)
    assert len(finished) == len(expected) == 36
    for wanted in expected:
        key = (wanted.index, wanted.sample)
        _assert_same(finished[key], wanted)
        assert text[key] == wanted.raw_text and tuple(ids[key]) == wanted.token_ids
    # Text came while it was generated, and a step's tokens came together.
    assert 5 < len(messages) <= max(len(e.token_ids) for e in expected) + 40
    end = messages[-1].end
    assert sum(count.count for count in end.finish_counts) == 36
    assert end.usage.generated_tokens == sum(len(e.token_ids) for e in expected)


def test_a_seed_is_drawn_and_returned(embedded: ServerProcess, story_rows: np.ndarray) -> None:
    first = embedded.stub.Verbalize(verbalize_request(story_rows[:2]))
    other = embedded.stub.Verbalize(verbalize_request(story_rows[:2]))
    again = embedded.stub.Verbalize(verbalize_request(story_rows[:2], seed=first.seed))
    assert first.seed != other.seed
    assert [e.token_ids for e in again.explanations] == [e.token_ids for e in first.explanations]


def test_item_keys_decide_the_draws(embedded: ServerProcess, story_rows: np.ndarray) -> None:
    whole = embedded.stub.Verbalize(verbalize_request(story_rows[:6], seed=9))
    part = verbalize_request(story_rows[4:6], seed=9)
    part.items.extend(pb.ActivationItem(item_key=key) for key in (4, 5))
    reply = embedded.stub.Verbalize(part)
    for got, wanted in zip(reply.explanations, whole.explanations[4:], strict=True):
        assert got.token_ids == wanted.token_ids


@pytest.mark.parametrize("dtype", ["BFLOAT16", "FLOAT16"])
def test_narrow_activations(embedded: ServerProcess, story_rows: np.ndarray, dtype: str) -> None:
    rows = story_rows[:3]
    if dtype == "BFLOAT16":
        bits = rows.view(np.uint32) & np.uint32(0xFFFF0000)
        rounded, data = bits.view(np.float32), (bits >> 16).astype("<u2").tobytes()
    else:
        rounded, data = rows.astype(np.float16).astype(np.float32), rows.astype("<f2").tobytes()
    request = verbalize_request(rounded, seed=3)
    wide = embedded.stub.Verbalize(request)
    request.activations.dtype = pb.TensorDtype.Value(f"TENSOR_DTYPE_{dtype}")
    request.activations.data = data
    narrow = embedded.stub.Verbalize(request)
    assert [e.token_ids for e in narrow.explanations] == [e.token_ids for e in wide.explanations]


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "NON_FINITE_VECTOR"), (np.inf, "NON_FINITE_VECTOR"), (0, None)]
)
def test_a_bad_row_fails_alone(
    embedded: ServerProcess, story_rows: np.ndarray, num_rows: int, value: float, reason: str | None
) -> None:
    rows = story_rows[:num_rows].copy()
    bad = num_rows // 2
    if reason is None:
        rows[bad], reason = 0, "ZERO_VECTOR"
    else:
        rows[bad, 7] = value
    reply = embedded.stub.Verbalize(verbalize_request(rows, num_samples=2))
    assert len(reply.explanations) == 2 * num_rows
    for explanation in reply.explanations:
        assert explanation.HasField("error") == (explanation.item_index == bad)
        if explanation.item_index == bad:
            assert explanation.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            assert reason_of(explanation.error) == reason
            assert explanation.finish_reason == pb.FINISH_REASON_ERROR
        else:
            assert explanation.explanation


def test_positions_and_tokens_raise_flags(embedded: ServerProcess, story_rows: np.ndarray) -> None:
    request = verbalize_request(story_rows[:2], score=False)
    request.items.add(position=0, layer_index=2)
    request.items.add()
    first, second = embedded.stub.Verbalize(request).explanations
    assert list(first.evidence.flags) == [pb.EXPLANATION_FLAG_EARLY_POSITION]
    assert not second.evidence.flags and not second.evidence.HasField("cosine")


def test_a_layer_mismatch_can_be_allowed(embedded: ServerProcess, story_rows: np.ndarray) -> None:
    request = verbalize_request(story_rows[:1])
    request.items.add(layer_index=1)
    with pytest.raises(grpc.RpcError) as caught:
        embedded.stub.Verbalize(request)
    assert fault(caught.value) == ("INVALID_ARGUMENT", "LAYER_MISMATCH", "items[0].layer_index")
    assert "hidden_states[3]" in caught.value.details()
    request.allow_layer_mismatch = True
    assert embedded.stub.Verbalize(request).explanations[0].explanation


def test_reconstruct_and_score(
    embedded: ServerProcess, engine: Engine, story_rows: np.ndarray
) -> None:
    assert engine.scores is not None
    scorer = engine.scores.scorer
    texts = ["The hero is Leo, a tailor.", "", "He eats fish."]
    reply = embedded.stub.Reconstruct(pb.ReconstructRequest(texts=[*texts, "a " * 8000]))
    rows = np.frombuffer(reply.activations.data, "<f4").reshape(reply.activations.shape)
    expected = scorer.reconstructor.reconstruct(texts).numpy()
    np.testing.assert_allclose(rows[:3], expected, rtol=1e-4, atol=1e-5)
    assert not rows[3].any()
    (failure,) = reply.failures
    assert (failure.item_index, reason_of(failure.error)) == (3, "TEXT_TOO_LONG")
    given = story_rows[:3].copy()
    given[1] = 0
    scored = embedded.stub.Score(pb.ScoreRequest(texts=texts, activations=tensor(given)))
    assert [result.HasField("error") for result in scored.results] == [False, True, False]
    assert reason_of(scored.results[1].error) == "ZERO_VECTOR"
    wanted = scorer.score([texts[0]], torch.from_numpy(given[:1]))[0]
    assert wanted is not None
    assert scored.results[0].cosine == pytest.approx(wanted.cosine, abs=1e-5)
    assert scored.results[0].fve == pytest.approx(wanted.fve, abs=1e-4)


def test_reconstruct_in_half(embedded: ServerProcess) -> None:
    request = pb.ReconstructRequest(texts=["He eats fish."])
    wide = embedded.stub.Reconstruct(request).activations
    exact = np.frombuffer(wide.data, "<f4")
    request.dtype = pb.TENSOR_DTYPE_BFLOAT16
    half = embedded.stub.Reconstruct(request).activations
    assert half.dtype == pb.TENSOR_DTYPE_BFLOAT16 and list(half.shape) == [1, 128]
    near = (np.frombuffer(half.data, "<u2").astype(np.uint32) << 16).view(np.float32)
    # Rounded to nearest: half a step of 8 bits.
    np.testing.assert_allclose(near, exact, rtol=2.0**-8)


def test_the_same_request_twice_is_one_run(embedded: ServerProcess, story_rows: np.ndarray) -> None:
    before = embedded.wait_idle().generated_tokens
    request = verbalize_request(story_rows[:8], request_id="twice")
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(embedded.stub.Verbalize, [request] * 4))
    replies.append(embedded.stub.Verbalize(request))
    assert len({reply.SerializeToString(deterministic=True) for reply in replies}) == 1
    made = embedded.wait_idle().generated_tokens - before
    assert made == replies[0].usage.generated_tokens
    request.activations.data = request.activations.data[::-1]
    with pytest.raises(grpc.RpcError) as caught:
        embedded.stub.Verbalize(request)
    assert fault(caught.value) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED", "request_id")


def test_a_stream_can_be_read_again(embedded: ServerProcess, story_rows: np.ndarray) -> None:
    request = stream_request(story_rows[:5], request_id="again")

    def read() -> list[tuple[int, str, str]]:
        text: dict[int, str] = {}
        result = []
        for message in embedded.stub.StreamVerbalize(request):
            for delta in message.deltas:
                text[delta.item_index] = text.get(delta.item_index, "") + delta.text
            result += [(e.item_index, e.raw_text, text[e.item_index]) for e in message.explanations]
        return sorted(result)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: read(), range(2))
    assert len(first) == 5 and first == second == read()
    assert all(raw == text for _, raw, text in first)


def test_many_callers_at_once(
    embedded: ServerProcess, engine: Engine, story_rows: np.ndarray
) -> None:
    """Whatever else is in the batch, everyone gets the draws of his own seed."""
    expected = [
        tuple(_local(engine, story_rows[i : i + 1], seed=i)[0].token_ids) for i in range(48)
    ]

    def call(i: int) -> tuple[int, ...]:
        reply = embedded.stub.Verbalize(verbalize_request(story_rows[i : i + 1], seed=i))
        return tuple(reply.explanations[0].token_ids)

    with ThreadPoolExecutor(48) as pool:
        assert list(pool.map(call, range(48))) == expected


def test_model_info(embedded: ServerProcess, engine: Engine) -> None:
    info = embedded.stub.GetModelInfo(pb.GetModelInfoRequest())
    assert engine.info is not None
    assert info.fingerprint == engine.info.fingerprint
    assert (info.model, info.layer_index, info.d_model) == ("embedded", 2, 128)
    assert info.fve_baseline_source == pb.BASELINE_SOURCE_SIDECAR
    assert "{injection_char}" in info.av.template and "{explanation}" in info.ar.template
    assert (info.target.architecture, info.target.num_layers) == ("qwen3", 4)
    assert not info.target.template and info.target_generates
    limits = info.limits
    assert (limits.max_text_tokens, limits.max_watch_tokens) == (512, 511)
    assert (limits.watch_max_pending, limits.watch_deadline_seconds) == (64, 600)
    assert (info.device, info.dtype, info.kernels) == ("cpu", "float32", "reference")
    assert info.quantization == "none" and not info.batch_invariant
    assert info.limits.max_reply_bytes < 4 << 20 and info.limits.max_items > 0


def test_stats_and_metrics_agree(embedded: ServerProcess, story_rows: np.ndarray) -> None:
    embedded.stub.Verbalize(verbalize_request(story_rows[:9]))
    stats = embedded.wait_idle()
    assert stats.state == pb.SERVING_STATE_SERVING
    names = {quantiles.name for quantiles in stats.latencies}
    # The server is shared: Watches of other tests may be part of its last minute.
    assert names - {"watch_lag"} == {
        "queue",
        "first_token",
        "inter_token",
        "end_to_end",
        "engine_step",
    }
    for quantiles in stats.latencies:
        assert 0 <= quantiles.p50 <= quantiles.p90 <= quantiles.p95 <= quantiles.p99
    url = f"http://{embedded.ports['metrics']}/metrics"
    with urlopen(url) as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    samples = {(s.name, tuple(s.labels.items())): s.value for f in families for s in f.samples}
    assert samples["gloss_generated_tokens_total", ()] == stats.generated_tokens
    by_reason = {count.name: count.count for count in stats.explanations}
    for reason, count in by_reason.items():
        assert samples["gloss_explanations_total", (("finish_reason", reason),)] == count
    gauges = {name: v for (name, _), v in samples.items() if name in WORK_GAUGES and v == 0}
    assert gauges.keys() == set(WORK_GAUGES)
    assert not [key for key, v in samples.items() if key[0] in WORK_GAUGES and v]


def test_health_and_reflection(embedded: ServerProcess) -> None:
    for address in (embedded.address, embedded.ports["admin"]):
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", SERVICE):
                reply = health.Check(health_pb2.HealthCheckRequest(service=name))
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
            statuses = health.List(health_pb2.HealthListRequest()).statuses
            assert {"", SERVICE} < statuses.keys()
            assert {s.status for s in statuses.values()} == {reply.status}
            with pytest.raises(grpc.RpcError) as caught:
                health.Check(health_pb2.HealthCheckRequest(service="nobody"))
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    database = ProtoReflectionDescriptorDatabase(embedded.channel)
    assert SERVICE in list(database.get_services())
    found = database.FindFileContainingSymbol(SERVICE)
    assert "Verbalize" in [method.name for method in found.service[0].method]


def test_the_admin_port_serves_health_alone(embedded: ServerProcess) -> None:
    with grpc.insecure_channel(embedded.ports["admin"]) as channel:
        call = channel.unary_unary(f"/{SERVICE}/GetModelInfo")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_explanations_and_activations_are_not_logged(
    embedded: ServerProcess, story_rows: np.ndarray
) -> None:
    reply = embedded.stub.Verbalize(verbalize_request(story_rows[:2], request_id='"log" <1>'))
    text = reply.explanations[0].explanation
    assert len(text) > 20

    def lines() -> list[dict[str, Any]]:
        return [line for line in embedded.events("call") if line["request_id"] == '"log" <1>']

    embedded.wait_for(lambda: bool(lines()))
    (line,) = lines()
    assert (line["method"], line["code"], line["num_items"]) == ("Verbalize", "OK", 2)
    assert line["num_tokens"] == reply.usage.generated_tokens and line["seconds"] > 0
    assert text[:20] not in embedded.output()
