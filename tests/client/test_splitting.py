"""Batches over the server's limits: pieces give what one call would give, in no more calls."""

from __future__ import annotations

from collections import deque
from typing import Any

import grpc
import numpy as np
import pytest

from gloss_client import Explanation, InconsistentReply, InvalidRequest, Limits, TextDelta
from gloss_client.pieces import Load, Piece, Plan
from support.echo_server import EchoServer, echo_server
from support.echo_service import EchoService, Fault

LIMITS = Limits(
    max_items=10,
    max_samples=64,
    max_new_tokens=200,
    max_request_bytes=32 << 20,
    max_reply_bytes=3 << 20,
    max_queued_explanations=4096,
    max_queued_tokens=4096 * 200,
    default_deadline_seconds=120.0,
    max_text_tokens=4096,
    max_watch_tokens=1024,
    watch_max_pending=64,
    watch_deadline_seconds=600.0,
)


def small(server: EchoServer, max_items: int) -> None:
    """Lets the server take few items."""
    server.service.limits.max_items = max_items


def starts(server: EchoServer) -> list[int]:
    """First item keys of the calls that came in; of whole batches 0."""
    requests = [
        getattr(call.request, "request", call.request)
        for call in server.service.received
        if call.method.endswith("Verbalize")
    ]
    return [request.items[0].item_key if request.items else 0 for request in requests]


def test_ids_of_pieces_are_no_longer_than_a_server_takes(
    client: Any, server: EchoServer, rows: np.ndarray
) -> None:
    """An id of 128 characters holds for a batch, however it goes out."""
    small(server, 100)
    assert client.model_info().limits.max_items == 100
    for last in "ab":
        client.verbalize(rows, seed=7, request_id="i" * 127 + last)
    sent = [
        call.request.request_id for call in server.service.received if call.request.ListFields()
    ]
    assert len(set(sent)) == len(sent) == 4
    assert all(len(request_id) <= 128 for request_id in sent)


def test_pieces_give_what_one_call_gives(client: Any, server: EchoServer, rows: np.ndarray) -> None:
    """150 rows are over what goes out without asking; the limits allow them whole, then do not."""
    whole = client.verbalize(rows, num_samples=2, seed=7, request_id="whole")
    assert server.service.methods() == ["GetModelInfo", "Verbalize"]
    small(server, 13)
    with_new_limits = client.model_info()
    assert with_new_limits.limits.max_items == 13
    pieces = client.verbalize(rows, num_samples=2, seed=7, request_id="cut")
    assert pieces.explanations == whole.explanations
    assert (pieces.seed, pieces.request_id) == (7, "cut")
    assert pieces.usage == whole.usage
    assert sorted(starts(server)[1:]) == list(range(0, 150, 13))
    cut = [call.request.request_id for call in server.service.received if call.request.ListFields()]
    assert "cut.13-26" in cut
    assert len(set(cut)) == len(cut)


def test_several_pieces_are_under_way_at_once_but_not_all(
    client: Any, server: EchoServer, rows: np.ndarray
) -> None:
    small(server, 10)
    server.service.step_seconds = 0.02
    client.verbalize(rows)
    assert server.service.most_in_flight == 4


def test_the_queue_bounds_what_is_under_way(
    client: Any, server: EchoServer, rows: np.ndarray
) -> None:
    """20 explanations may wait: two pieces of 5 rows with 2 samples at a time."""
    server.service.limits.max_queued_explanations = 20
    server.service.step_seconds = 0.01
    client.verbalize(rows[:70], num_samples=2)
    sizes = {call.request.activations.shape[0] for call in server.service.received[1:]}
    assert sizes == {5}
    assert server.service.most_in_flight == 2


def test_own_columns_go_with_their_rows(client: Any, server: EchoServer, rows: np.ndarray) -> None:
    small(server, 40)
    keys = list(range(1000, 1150))
    positions = [None if index % 3 else index for index in range(150)]
    whole = client.verbalize(rows, seed=1, item_keys=keys, positions=positions)
    assert [done.explanation.split()[1] for done in whole.explanations] == list(map(str, keys))
    for call in server.service.received[1:]:
        for item in call.request.items:
            index = item.item_key - 1000
            assert item.HasField("position") == (index % 3 == 0)
            assert item.position in (0, index)
            assert not item.HasField("layer_index")


def test_columns_without_keys_get_the_rows_own(
    client: Any, server: EchoServer, rows: np.ndarray
) -> None:
    small(server, 40)
    client.verbalize(rows, layer_index=2)
    for call in server.service.received[1:]:
        assert {item.layer_index for item in call.request.items} == {2}
    assert sorted(starts(server)) == [0, 40, 80, 120]


def test_limits_are_asked_for_once(client: Any, server: EchoServer, rows: np.ndarray) -> None:
    small(server, 100)
    for _ in range(3):
        client.verbalize(rows)
    assert server.service.methods().count("GetModelInfo") == 1
    server.service.fingerprint = "echo-1"
    client.verbalize(rows[:2])
    client.verbalize(rows)
    assert server.service.methods().count("GetModelInfo") == 2


def test_a_refused_size_is_halved_until_it_is_taken(
    client: Any, server: EchoServer, rows: np.ndarray
) -> None:
    """33 rows go out without asking; this server takes 9."""
    expected = client.verbalize(rows[:33], seed=2)
    small(server, 9)
    server.service.received.clear()
    halved = client.verbalize(rows[:33], seed=2)
    assert halved.explanations == expected.explanations
    assert "GetModelInfo" not in server.service.methods()
    # 33 = 16 + 17; 16 = 8 + 8; 17 = 8 + 9.
    assert len(server.service.received) == 7


def test_a_reply_too_large_is_halved(client: Any, server: EchoServer, rows: np.ndarray) -> None:
    """The server's guess of a reply, 100 bytes an explanation, is over its limit for 64 samples."""
    server.service.limits.max_reply_bytes = 64 * 100 * 3
    result = client.verbalize(rows[:6], num_samples=64, max_new_tokens=1)
    assert len(result.explanations) == 6 * 64
    assert [call.request.activations.shape[0] for call in server.service.received] == [6, 3, 3]


def test_one_item_that_is_too_large_is_an_error(
    client: Any, server: EchoServer, rows: np.ndarray
) -> None:
    server.service.limits.max_reply_bytes = 1000
    with pytest.raises(InvalidRequest, match="REPLY_TOO_LARGE"):
        client.verbalize(rows[:2], num_samples=64)


def test_a_large_reply_is_cut_by_its_estimate(
    client: Any, server: EchoServer, rows: np.ndarray
) -> None:
    """150 rows of 8 samples of 200 tokens: 1024 + 200 x 32 bytes an explanation, 3 MiB a reply."""
    client.verbalize(rows, num_samples=8)
    sizes = sorted(call.request.activations.shape[0] for call in server.service.received[1:])
    assert sizes == [150 - 2 * 52, *[(3 << 20) // (8 * (1024 + 200 * 32))] * 2]
    server.service.received.clear()
    list(client.stream_verbalize(rows, num_samples=8))
    assert server.service.methods() == ["StreamVerbalize"]


def test_a_large_request_is_cut_by_its_bytes(connect: Any) -> None:
    service = EchoService(d_model=4096)
    service.limits.max_request_bytes = 1 << 20
    with echo_server(service, max_message_bytes=1 << 20) as server:
        client = connect(server.address)
        wide = np.random.default_rng(0).standard_normal((300, 4096)).astype(np.float32)
        result = client.verbalize(wide, seed=0)
        halved = client.verbalize(wide, seed=0, wire_dtype="bfloat16")
    assert len(result.explanations) == len(halved.explanations) == 300
    sizes = [call.request.activations.shape[0] for call in service.received[1:]]
    assert sum(sizes) == 600
    # 983,040 bytes for items of 16,432 and of 8,240.
    assert sorted(set(sizes)) == sorted({59, 300 - 5 * 59, 119, 300 - 2 * 119})


def test_the_first_failure_ends_the_batch(
    client: Any, server: EchoServer, rows: np.ndarray
) -> None:
    """By the caller's index, not the piece's."""
    small(server, 40)
    fault = Fault(
        code=grpc.StatusCode.INVALID_ARGUMENT, reason="INVALID_FIELD", field="items[3].position"
    )
    client.model_info()
    for method in ("verbalize", "stream_verbalize"):
        server.service.received.clear()
        server.service.faults = deque([fault] * 4)
        with pytest.raises(InvalidRequest) as caught:
            list(getattr(client, method)(rows, request_id="batch"))
        assert caught.value.field in {f"items[{start + 3}].position" for start in (0, 40, 80, 120)}
        assert caught.value.request_id.startswith("batch.")


def test_two_checkpoints_in_one_batch_are_an_error(
    client: Any, server: EchoServer, rows: np.ndarray
) -> None:
    small(server, 40)
    whole = server.service.verbalized

    def replaced(request: Any, context: Any) -> Any:
        reply = whole(request, context)
        reply.fingerprint = "echo-1" if request.items[0].item_key else "echo-0"
        return reply

    server.service.verbalized = replaced  # type: ignore[method-assign]
    with pytest.raises(InconsistentReply, match="echo-0 and echo-1"):
        client.verbalize(rows)


@pytest.mark.parametrize("max_items", [13, 150])
def test_streams_in_pieces_give_what_one_call_gives(
    client: Any, server: EchoServer, rows: np.ndarray, max_items: int
) -> None:
    expected = client.verbalize(rows, num_samples=2, seed=7)
    small(server, max_items)
    client.model_info()
    server.service.received.clear()
    stream = client.stream_verbalize(rows, num_samples=2, seed=7)
    events = list(stream)
    assert len(server.service.received) == -(-150 // max_items)
    done = [event for event in events if isinstance(event, Explanation)]
    done.sort(key=lambda one: (one.index, one.sample))
    assert tuple(done) == expected.explanations
    texts: dict[tuple[int, int], list[str]] = {}
    for event in events:
        if isinstance(event, TextDelta):
            texts.setdefault((event.index, event.sample), []).append(event.text)
    assert {(one.index, one.sample): one.raw_text.split(" ") for one in done} == texts
    assert stream.summary.finish_counts == {"eos": 300}
    assert stream.summary.usage == expected.usage


def test_a_refused_stream_is_halved(client: Any, server: EchoServer, rows: np.ndarray) -> None:
    small(server, 9)
    events = list(client.stream_verbalize(rows[:33], seed=2))
    done = sorted((e for e in events if isinstance(e, Explanation)), key=lambda one: one.index)
    assert tuple(done) == client.verbalize(rows[:33], seed=2).explanations


def test_texts_in_pieces(client: Any, server: EchoServer, rows: np.ndarray) -> None:
    texts = ["x" * (index % 11) for index in range(150)]
    texts[77] = "fail"
    whole = client.reconstruct(texts)
    scores = client.score(texts, rows)
    small(server, 40)
    client.model_info()
    server.service.received.clear()
    cut = client.reconstruct(texts)
    np.testing.assert_array_equal(cut.activations, whole.activations)
    assert cut.failures == whole.failures
    assert list(cut.failures) == [77]
    assert client.score(texts, rows) == scores
    assert sorted(server.service.methods()) == ["Reconstruct"] * 4 + ["Score"] * 4


def test_a_plan_keeps_within_every_limit() -> None:
    load = Load(item_bytes=[10] * 25, reply_bytes=0)
    plan = Plan.within(LIMITS, load, max_in_flight=4)
    assert plan.pieces == (Piece(0, 10), Piece(10, 20), Piece(20, 25))
    assert plan.in_flight == 4


def test_an_item_over_every_limit_goes_alone() -> None:
    """The server says what is wrong with it."""
    load = Load(item_bytes=[10, 1 << 30, 10, 10], reply_bytes=1 << 30)
    plan = Plan.within(LIMITS, load, max_in_flight=4)
    assert plan.pieces == tuple(Piece(index, index + 1) for index in range(4))
    load = Load(item_bytes=[10] * 3, reply_bytes=0, explanations=5000, tokens=5000 * 200)
    plan = Plan.within(LIMITS, load, max_in_flight=4)
    assert plan.pieces == tuple(Piece(index, index + 1) for index in range(3))
    assert plan.in_flight == 1


@pytest.mark.parametrize(
    ("num_items", "item_bytes", "reply_bytes", "fits"),
    [
        (64, 10, 10, True),
        (65, 10, 10, False),
        (64, 48_000, 10, True),
        (64, 50_000, 10, False),
        (64, 10, 49_152, True),
        (64, 10, 49_153, False),
    ],
)
def test_what_goes_out_without_asking(
    num_items: int, item_bytes: int, reply_bytes: int, fits: bool
) -> None:
    load = Load(item_bytes=[item_bytes] * num_items, reply_bytes=reply_bytes)
    assert load.fits_one_call() is fits
