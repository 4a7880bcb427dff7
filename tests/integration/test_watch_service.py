"""Watch on the embedded pair: what the target says, what of it is explained, what is skipped."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.embedded import embedded_pair
from support.server_process import ServerProcess
from support.text_calls import (
    STORY,
    Told,
    chat,
    explain_request,
    listed,
    sliced,
    tokens,
    watch_request,
)

GREEDY = {"temperature": 0.0, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded_pair().target)


def _watch(server: ServerProcess, content: Any = STORY, **fields: Any) -> Told:
    return Told.by(server.stub.Watch(watch_request(content, **fields)))


def _ids(told: Told) -> list[int]:
    return [token.token_id for token in told.said]


def test_the_target_goes_on_as_in_transformers(embedded: ServerProcess, tokenizer: Any) -> None:
    told = _watch(embedded, target_options=GREEDY)
    model = AutoModelForCausalLM.from_pretrained(embedded_pair().target, dtype=torch.float32)
    prompt = tokenizer(STORY, return_tensors="pt").input_ids
    expected = model.generate(prompt, max_new_tokens=24, do_sample=False)[0].tolist()
    assert told.ids == prompt[0].tolist() and told.ids + _ids(told) == expected
    assert [token.position for token in told.said] == list(range(len(told.ids), len(expected)))
    assert STORY + "".join(token.text for token in told.said) == tokenizer.decode(expected)
    assert told.finish_reason == pb.FINISH_REASON_LENGTH
    assert [place.position for place in told.places] == [token.position for token in told.said]
    assert [place.token_id for place in told.places] == _ids(told)
    assert len(told.explanations) == 24 and not told.skipped and not told.skip_counts
    assert all(0 < e.lag_seconds < 30 for e in told.explanations.values())


def test_what_it_explains_is_what_explain_explains(embedded: ServerProcess) -> None:
    told = _watch(embedded, target_options=GREEDY, options={"seed": 5, "num_samples": 2})
    assert told.start is not None and told.start.seed == 5
    positions = sliced(start=len(told.ids))
    request = explain_request(
        tokens(told.ids + _ids(told)), positions=positions, seed=5, num_samples=2
    )
    expected = Told.by(embedded.stub.Explain(request))
    assert len(told.explanations) == 48
    for key, explanation in expected.explanations.items():
        got = told.explanations[key]
        assert got.token_ids == explanation.token_ids
        assert got.evidence.cosine == pytest.approx(explanation.evidence.cosine, abs=1e-4)
        place, wanted = got.token_position, explanation.token_position
        assert (place.position, place.token_id) == (wanted.position, wanted.token_id)
        assert place.norm == pytest.approx(wanted.norm, rel=1e-4)


def test_a_seed_repeats_all_of_it(embedded: ServerProcess) -> None:
    """The one that the server names is the target's as well."""
    target = {"max_new_tokens": 12}
    first = _watch(embedded, target_options=target)
    assert first.start is not None
    again = _watch(embedded, target_options=target, options={"seed": first.start.seed})
    other = _watch(embedded, target_options=target | {"seed": 1}, options={"seed": 2})
    assert _ids(first) == _ids(again) and _ids(other)
    texts = [[e.explanation for e in told.in_order()] for told in (first, again)]
    assert texts[0] == texts[1]


def test_every_third_token_and_some_of_the_prompt(embedded: ServerProcess) -> None:
    told = _watch(
        embedded, target_options=GREEDY, every=3, prompt_positions=listed(-1, 4), max_pending=20
    )
    length = len(told.ids)
    expected = [4, length - 1, *range(length, length + 24, 3)]
    assert sorted(place.position for place in told.places) == expected
    # What the caller chose to leave out is not told one by one.
    assert not told.skipped and told.skip_counts == {pb.SKIP_REASON_EVERY: 16}


def test_what_there_is_no_time_for_is_named(embedded: ServerProcess) -> None:
    told = _watch(embedded, target_options=GREEDY, max_pending=1)
    explained = {place.position for place in told.places}
    skipped = {one.position for one in told.skipped}
    assert {one.reason for one in told.skipped} == {pb.SKIP_REASON_MAX_PENDING}
    assert skipped and not explained & skipped
    assert explained | skipped == {token.position for token in told.said}
    assert told.skip_counts == {pb.SKIP_REASON_MAX_PENDING: len(skipped)}
    assert len(told.explanations) == len(explained) >= 1


def test_a_target_that_ends_by_itself(embedded: ServerProcess, tokenizer: Any) -> None:
    """Its last token is not run, so it has no activation."""
    stop = "."
    told = _watch(embedded, target_options=GREEDY | {"stop": [stop]})
    assert told.finish_reason == pb.FINISH_REASON_STOP and told.said[-1].text == stop
    assert [one.position for one in told.skipped] == [told.said[-1].position]
    assert told.skip_counts == {pb.SKIP_REASON_TARGET_ENDED: 1}
    assert len(told.places) == len(told.said) - 1
    answered = _watch(embedded, chat(("user", STORY)), target_options={"max_new_tokens": 400})
    if answered.finish_reason == pb.FINISH_REASON_EOS:
        assert answered.said[-1].token_id == tokenizer.eos_token_id
    begun = [{"role": "user", "content": STORY}]
    text = tokenizer.apply_chat_template(begun, tokenize=False, add_generation_prompt=True)
    assert answered.ids == tokenizer(text, add_special_tokens=False).input_ids


def test_a_pace(embedded: ServerProcess) -> None:
    began = time.monotonic()
    told = _watch(embedded, target_options=GREEDY | {"max_new_tokens": 8}, tokens_per_second=20.0)
    assert time.monotonic() - began >= 7 / 20
    assert len(told.said) == 8 and len(told.explanations) == 8


def test_the_target_speaks_while_it_is_explained(embedded: ServerProcess) -> None:
    """Tokens, texts and explanations come in turns, not one after the other."""
    target = GREEDY | {"max_new_tokens": 36}
    brief = {"max_new_tokens": 6}
    request = watch_request(target_options=target, options=brief, tokens_per_second=20)
    kinds = []
    for message in embedded.stub.Watch(request):
        kinds += ["token"] * bool(message.target_tokens) + ["done"] * bool(message.explanations)
    assert "done" in kinds[: len(kinds) - 1 - kinds[::-1].index("token")]


def test_the_same_watch_twice_is_one_run(embedded: ServerProcess) -> None:
    before = embedded.wait_idle()
    target = GREEDY | {"max_new_tokens": 10}
    request = watch_request(request_id="watched twice", target_options=target)

    def read(_: int) -> list[bytes]:
        told = Told.by(embedded.stub.Watch(request))
        assert told.start is not None and len(told.said) == 10
        found = [told.start, *told.places, *told.in_order()]
        said = "".join(token.text for token in told.said).encode()
        return [said, *(message.SerializeToString(deterministic=True) for message in found)]

    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(read, range(3)))
    replies.append(read(0))
    assert replies[1:] == replies[:1] * 3
    assert embedded.wait_idle().target_tokens_generated - before.target_tokens_generated == 10


def test_many_watches_at_once(embedded: ServerProcess) -> None:
    """More than the target has slots for, each as if it were alone."""

    def call(number: int) -> list[int]:
        options = {"seed": number, "max_new_tokens": 5}
        told = _watch(embedded, target_options=options, options=options, max_pending=2)
        return _ids(told)

    alone = [call(number) for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(call, range(10))) == alone


def test_stats_and_metrics_tell_of_it(embedded: ServerProcess) -> None:
    before = embedded.wait_idle()
    told = _watch(embedded, target_options={"max_new_tokens": 10}, every=2)
    after = embedded.wait_idle()
    assert after.target_tokens_generated - before.target_tokens_generated == len(told.said)
    assert after.captured - before.captured == len(told.places)
    assert after.reading == after.watching == 0
    counts = {count.name: count.count for count in after.skipped}
    assert counts["every"] > 0
    assert told.start is not None
    name = told.start.request_id

    def lines() -> list[dict[str, Any]]:
        return [line for line in embedded.events("call") if line["request_id"] == name]

    embedded.wait_for(lambda: bool(lines()))
    (line,) = lines()
    assert line["method"] == "Watch" and line["code"] == "OK"
    assert (line["num_text_tokens"], line["num_target_tokens"]) == (29, len(told.said))
    assert STORY[:20] not in embedded.output()
