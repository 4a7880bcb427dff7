"""Explain on the embedded pair: what was read, and that its explanations are those of the rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from transformers import AutoTokenizer

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.embedded import embedded_pair
from support.edits import edit_weights
from support.server_process import ServerProcess
from support.service_calls import fault, reason_of, verbalize_request
from support.text_calls import (
    STORY,
    Captured,
    Told,
    capture_request,
    chat,
    explain_request,
    listed,
    sliced,
    tokens,
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded_pair().target)


def _verbalized(
    server: ServerProcess, content: Any, places: list[pb.TokenPosition], **options: Any
) -> list[pb.Explanation]:
    """The same rows, captured, and explained as activations of the caller's own."""
    positions = listed(*(place.position for place in places))
    read = Captured.by(server.stub.Capture(capture_request(content, positions=positions)))
    request = verbalize_request(read.activations, **options)
    for place in places:
        request.items.add(item_key=place.position, position=place.position, token_id=place.token_id)
    return list(server.stub.Verbalize(request).explanations)


def _assert_same(told: Told, expected: list[pb.Explanation]) -> None:
    assert len(told.explanations) == len(expected) > 0
    for got, wanted in zip(told.in_order(), expected, strict=True):
        assert (got.item_index, got.sample_index) == (wanted.item_index, wanted.sample_index)
        assert got.token_ids == wanted.token_ids and got.explanation == wanted.explanation
        assert got.evidence.flags == wanted.evidence.flags
        # Another batch, another order of float32 sums.
        assert got.logprob == pytest.approx(wanted.logprob, abs=1e-3)
        assert got.evidence.fve == pytest.approx(wanted.evidence.fve, abs=1e-4)


def test_a_text_is_explained_as_its_rows_would_be(embedded: ServerProcess, tokenizer: Any) -> None:
    request = explain_request(request_id="mine", seed=11, num_samples=2, max_new_tokens=60)
    told = Told.by(embedded.stub.Explain(request))
    assert told.start is not None and told.end is not None
    assert (told.start.request_id, told.start.seed) == ("mine", 11)
    info = embedded.stub.GetModelInfo(pb.GetModelInfoRequest())
    assert told.start.fingerprint == info.fingerprint
    assert told.ids == tokenizer(STORY).input_ids
    assert [place.position for place in told.places] == list(range(len(told.ids)))
    assert [place.token_id for place in told.places] == told.ids
    assert [place.token for place in told.places] == [tokenizer.decode([i]) for i in told.ids]
    assert {place.layer_index for place in told.places} == {info.layer_index}
    expected = _verbalized(
        *(embedded, STORY, told.places), seed=11, num_samples=2, max_new_tokens=60
    )
    _assert_same(told, expected)
    assert told.end.usage.generated_tokens == sum(len(e.token_ids) for e in expected)
    assert told.end.usage.prefill_tokens == len(told.ids) * info.suffix_tokens
    times = told.end.timings
    assert 0 <= times.queue_seconds <= times.first_token_seconds <= times.total_seconds
    assert all(not e.HasField("lag_seconds") for e in told.explanations.values())
    # What a step brought came together.
    assert told.num_messages < 140


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (listed(-1), [28]),
        (listed(7, 3, -29, 3), [0, 3, 7]),
        (sliced(start=-4), [25, 26, 27, 28]),
        (sliced(start=2, stop=20, step=9), [2, 11]),
        (sliced(step=10), [0, 10, 20]),
    ],
)
def test_chosen_positions(
    embedded: ServerProcess, positions: pb.PositionSelection, expected: list[int]
) -> None:
    request = explain_request(positions=positions, seed=3)
    told = Told.by(embedded.stub.Explain(request))
    assert len(told.ids) == 29 and [p.position for p in told.places] == expected
    # The draws are the position's, whatever else is chosen.
    whole = Told.by(embedded.stub.Explain(explain_request(seed=3)))
    for index, position in enumerate(expected):
        assert told.explanations[index, 0].token_ids == whole.explanations[position, 0].token_ids


def test_the_three_forms_of_a_text(embedded: ServerProcess, tokenizer: Any) -> None:
    turns = [{"role": "user", "content": STORY}, {"role": "assistant", "content": "He waits."}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    for content, ids in (
        (tokens(tokenizer(STORY).input_ids), tokenizer(STORY).input_ids),
        (
            chat(("user", STORY), ("assistant", "He waits.")),
            tokenizer(rendered, add_special_tokens=False).input_ids,
        ),
    ):
        request = explain_request(content, positions=listed(-1, 0), max_new_tokens=8)
        told = Told.by(embedded.stub.Explain(request))
        assert told.ids == ids and len(told.explanations) == 2
    flags = told.explanations[0, 0].evidence.flags
    assert pb.EXPLANATION_FLAG_SPECIAL_TOKEN in flags, "<|user|> is one"
    unknown = Told.by(embedded.stub.Explain(explain_request("xylophone", max_new_tokens=4)))
    assert pb.EXPLANATION_FLAG_UNKNOWN_TOKEN in unknown.explanations[0, 0].evidence.flags


def test_the_same_request_twice_is_one_run(embedded: ServerProcess) -> None:
    before = embedded.wait_idle()
    request = explain_request(request_id="explained twice", positions=sliced(step=3))

    def read(_: int) -> list[bytes]:
        told = Told.by(embedded.stub.Explain(request))
        assert told.start is not None
        found = [told.start, *told.places, *told.in_order()]
        return [message.SerializeToString(deterministic=True) for message in found]

    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(read, range(3)))
    replies.append(read(0))
    assert replies[1:] == replies[:1] * 3
    after = embedded.wait_idle()
    assert after.target_tokens_read - before.target_tokens_read == 29
    assert after.captured - before.captured == 10
    with pytest.raises(grpc.RpcError) as caught:
        list(embedded.stub.Explain(explain_request(request_id="explained twice")))
    assert fault(caught.value) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED", "request_id")


def test_many_texts_at_once(embedded: ServerProcess) -> None:
    """Whatever else is read and explained, everyone gets the draws of his own seed."""
    words = STORY.split()
    texts = [" ".join(words[: 3 + number]) for number in range(12)]

    def call(number: int) -> list[list[int]]:
        request = explain_request(texts[number], seed=number, positions=sliced(start=-2))
        told = Told.by(embedded.stub.Explain(request))
        return [list(explanation.token_ids) for explanation in told.in_order()]

    alone = [call(number) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(call, range(12))) == alone


def test_an_activation_without_a_direction_fails_alone(
    tmp_path: Path, copy_of: Any, tokenizer: Any
) -> None:
    """A word whose embedding is broken spoils its own position; what stands before is explained."""
    target, bad = copy_of(embedded_pair().target), tokenizer("village").input_ids[0]

    def poison(name: str, weight: torch.Tensor) -> torch.Tensor:
        if "embed_tokens" in name:
            weight = weight.clone()
            weight[bad] = 3e38  # finite, as a checkpoint must be; its norm is not
        return weight

    edit_weights(target, poison)
    with ServerProcess(tmp_path / "log", {"target": target}).wait_ready() as server:
        told = Told.by(server.stub.Explain(explain_request("He waits in the old village")))
        assert [bool(told.explanations[i, 0].explanation) for i in range(6)] == [True] * 5 + [False]
        error = told.explanations[5, 0].error
        assert reason_of(error) == "NON_FINITE_VECTOR"
        assert error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert told.explanations[5, 0].finish_reason == pb.FINISH_REASON_ERROR
        assert server.wait_idle().captured == 6
        read = Captured.by(server.stub.Capture(capture_request("He waits in the old village")))
        assert len(read.rows) == 5 and reason_of(read.failures[0]) == "NON_FINITE_VECTOR"
