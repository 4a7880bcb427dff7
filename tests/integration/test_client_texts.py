"""gloss_client against the real service: texts explained, watched and captured."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from gloss_client import (
    AsyncClient,
    Captured,
    Client,
    Explanation,
    InvalidRequest,
    Skipped,
    TargetEnd,
    TargetToken,
    TextOpened,
)
from support.server_process import ServerProcess

STORY = (
    "Leo is a tailor. He meets Hugo. What will happen next? He eats fish. Then he stops. He waits "
    "in the old village."
)


def test_an_explained_text_is_its_rows_explained(embedded: ServerProcess) -> None:
    """Captured, and sent back as activations of the caller's own: the same explanations."""
    with Client(embedded.address) as client:
        result = client.explain(STORY, positions="8:20:3", num_samples=2, seed=7)
        rows = client.capture([STORY], positions=slice(8, 20, 3))
        places = [place.position for place in result.places]
        assert places == [8, 11, 14, 17]
        assert [place.position for place in rows.places] == places
        sent = client.verbalize(
            rows.activations, num_samples=2, seed=7, item_keys=places, positions=places
        )
    assert len(result.explanations) == 8
    for one, same in zip(result.explanations, sent.explanations, strict=True):
        assert (one.index, one.sample, one.token_ids) == (same.index, same.sample, same.token_ids)
        assert one.cosine == pytest.approx(same.cosine, abs=1e-5)
        assert one.place == result.places[one.index]
        assert one.place.token_id == result.token_ids[one.place.position]
    assert result.usage.generated_tokens == sum(len(e.token_ids) for e in result.explanations)


def test_three_forms_of_a_text(embedded: ServerProcess) -> None:
    with Client(embedded.address) as client:
        info = client.model_info()
        assert info.target is not None
        assert info.target_generates
        text = client.explain(STORY, positions=-1, seed=1, max_new_tokens=4)
        ids = client.explain(text.token_ids, positions=[-1], seed=1, max_new_tokens=4)
        assert ids.token_ids == text.token_ids
        assert ids.explanations == text.explanations
        with pytest.raises(InvalidRequest) as caught:
            client.explain([10**6], positions="last")
    assert caught.value.reason == "INVALID_TOKEN_IDS"


def test_a_watch_says_what_becomes_of_every_token(embedded: ServerProcess) -> None:
    with Client(embedded.address) as client:
        options: dict[str, Any] = {"seed": 3, "target": {"max_new_tokens": 12}, "every": 2}
        stream = client.watch(STORY, prompt_positions="last", max_pending=2, **options)
        events = list(stream)
        again = [e for e in client.watch(STORY, **options) if isinstance(e, TargetToken)]
    assert isinstance(events[0], TextOpened)
    tokens = [event for event in events if isinstance(event, TargetToken)]
    assert again == tokens
    first = len(events[0].token_ids)
    assert [token.position for token in tokens] == list(range(first, first + len(tokens)))
    captured = {event.index: event.place for event in events if isinstance(event, Captured)}
    skipped = [event for event in events if isinstance(event, Skipped)]
    asked = {first - 1, *range(first, first + len(tokens), 2)}
    met = [place.position for place in captured.values()] + [one.position for one in skipped]
    assert sorted(met) == sorted(asked)
    done = [event for event in events if isinstance(event, Explanation)]
    assert {one.index: one.place for one in done} == captured
    assert all(one.lag_seconds is not None and 0 < one.lag_seconds < 60 for one in done)
    (end,) = [event for event in events if isinstance(event, TargetEnd)]
    summary = stream.summary
    assert summary is not None
    assert summary.target_finish_reason == end.finish_reason
    assert summary.skip_counts.pop("every", 0) == len(tokens) // 2
    assert sum(summary.skip_counts.values()) == len(skipped)
    assert sum(summary.finish_counts.values()) == len(done)


def test_captures_in_pieces(embedded: ServerProcess) -> None:
    """Over what goes out without asking; a text that is too long fails alone."""
    texts = [f"Leo is {'a tailor. He is ' * (index % 5)}old." for index in range(100)]
    with Client(embedded.address) as client:
        longest = client.model_info().limits.max_text_tokens
        whole = client.capture([*texts, [5] * (longest + 1)], positions="-2:")
        halves = client.capture(texts, positions="-2:", wire_dtype="bfloat16")
    assert list(whole.failures) == [100]
    assert whole.failures[100].reason == "TEXT_TOO_LONG"
    assert whole.input_index == tuple(index for index in range(100) for _ in range(2))
    np.testing.assert_allclose(halves.activations, whole.activations, rtol=2**-8)
    norms = np.linalg.norm(whole.activations, axis=1)
    np.testing.assert_allclose(norms, [place.norm for place in whole.places], rtol=1e-5)


def test_leaving_a_watch_frees_the_server(embedded: ServerProcess) -> None:
    async def leave() -> None:
        async with AsyncClient(embedded.address) as client:
            target = {"max_new_tokens": 200}
            async with client.watch(STORY, target=target, tokens_per_second=5) as stream:
                async for event in stream:
                    if isinstance(event, TargetToken):
                        break

    began = time.monotonic()
    asyncio.run(leave())
    embedded.wait_idle()
    assert time.monotonic() - began < 20
