"""A tap over several passes: generations, texts in parts, prefixes that are cached already."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from transformers import DynamicCache, Qwen3ForCausalLM, StaticCache

from gloss_engine import TapError, tap
from support.tapped_models import drawn_ids, padded, places_of, tapped_model

LENGTHS = (5, 9, 2)
TEXTS = [drawn_ids(length, seed=length) for length in LENGTHS]
MASKED = padded(TEXTS, "left")
# What transformers calls the KV cache, by version.
CACHE = next(
    name
    for name in ("cache", "past_key_values")
    if name in inspect.signature(Qwen3ForCausalLM.forward).parameters
)


@pytest.fixture(scope="module")
def model() -> Any:
    """Read only."""
    return tapped_model("qwen3", num_layers=3)


@torch.no_grad()
def test_generated_alone_and_beside_the_prompt(model: Any) -> None:
    found = {}
    for name, options in {
        "generated": {"positions": "generated"},
        "last": {"positions": "last"},
        "both": {"positions": "last", "generated": True},
    }.items():
        with tap(model, layer_index=1, **options) as captured:
            model.generate(**MASKED, max_new_tokens=4, do_sample=False)
        assert captured.num_forwards == 4
        found[name] = captured
    assert places_of(found["last"]) == [(0, 4), (1, 8), (2, 1)]
    later = [(row, LENGTHS[row] + step) for step in range(3) for row in range(3)]
    assert places_of(found["generated"]) == later
    assert places_of(found["both"]) == places_of(found["last"]) + later
    assert torch.equal(
        found["both"].activations,
        torch.cat((found["last"].activations, found["generated"].activations)),
    )


@torch.no_grad()
def test_every_text_begins_anew(model: Any) -> None:
    """Passes without a cache, generations one after another: each first pass is a prompt."""
    with tap(model, layer_index=1, positions="last", generated=True) as captured:
        model(drawn_ids(1, 6))
        model.generate(drawn_ids(1, 3), max_new_tokens=3, do_sample=False)
        model.generate(drawn_ids(2, 4), max_new_tokens=2, do_sample=False)
        model(drawn_ids(1, 1))
    assert captured.positions.tolist() == [5, 2, 3, 4, 3, 3, 4, 4, 0]
    assert captured.forwards.tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 6]


@torch.no_grad()
def test_generated_needs_a_cache(model: Any) -> None:
    with (
        pytest.raises(TapError, match="use_cache=False"),
        tap(model, layer_index=1, positions="generated"),
    ):
        model.generate(**MASKED, max_new_tokens=3, do_sample=False, use_cache=False)
    with tap(model, layer_index=1, positions="last") as captured:
        model.generate(**MASKED, max_new_tokens=3, do_sample=False, use_cache=False)
    assert captured.positions.tolist() == [4, 8, 1, 5, 9, 2, 6, 10, 3]


@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_beams_are_sequences_of_their_pass(model: Any, masked: bool) -> None:
    batch = dict(MASKED) if masked else {"input_ids": drawn_ids(3, 9)}
    with tap(model, layer_index=1, positions="last", generated=True) as captured:
        model.generate(**batch, max_new_tokens=3, do_sample=False, num_beams=2)
    lengths = LENGTHS if masked else (9, 9, 9)
    expected = [(row, lengths[row // 2] - 1 + step) for step in range(3) for row in range(6)]
    assert places_of(captured) == expected


@pytest.mark.parametrize("cache_type", [DynamicCache, StaticCache])
@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_a_text_read_in_parts_goes_on(model: Any, cache_type: type, masked: bool) -> None:
    """With a cache of one's own; of its rows only those of the first part are a prompt's."""
    ids, mask = MASKED["input_ids"], MASKED["attention_mask"]
    cache = (
        DynamicCache(config=model.config)
        if cache_type is DynamicCache
        else StaticCache(config=model.config, max_cache_len=16)
    )
    with tap(model, layer_index=1, generated=True) as captured:
        for start, end in ((0, 4), (4, 8), (8, 9)):
            options = {"attention_mask": mask[:, :end]} if masked else {}
            model(ids[:, start:end], **{CACHE: cache}, **options)
    order = torch.argsort(captured.sequences, stable=True)
    lengths = LENGTHS if masked else (9, 9, 9)
    assert captured.positions[order].tolist() == [at for n in lengths for at in range(n)]
    tokens = torch.cat(TEXTS) if masked else ids.flatten()
    assert torch.equal(captured.token_ids[order], tokens)
    with tap(model, layer_index=1) as whole:
        model(ids, **({"attention_mask": mask} if masked else {}))
    scale = float(whole.activations.abs().max())
    assert float((captured.activations[order] - whole.activations).abs().max()) < 2e-5 * scale


@pytest.mark.parametrize(
    ("positions", "generated"),
    [("last", False), ("-3:", False), ("0,-1", False), ("generated", False), (None, True)]
    + [("last", True), ("0:4", True)],
)
@torch.no_grad()
def test_a_prompt_in_chunks_is_refused_where_its_end_counts(
    model: Any, positions: Any, generated: bool
) -> None:
    """Else "last" would be that of the first chunk, and the others' tokens generated ones."""
    options = {"max_new_tokens": 3, "do_sample": False, "prefill_chunk_size": 5}
    with (
        pytest.raises(TapError, match="5 more tokens.*without prefill_chunk_size"),
        tap(model, layer_index=1, positions=positions, generated=generated),
    ):
        model.generate(drawn_ids(1, 12), **options)
    with tap(model, layer_index=1, generated=True) as captured:
        model.generate(drawn_ids(1, 12), **options)
    assert captured.positions.tolist() == list(range(14))
    with tap(model, layer_index=1, positions="3:") as captured:
        model.generate(drawn_ids(1, 12), **options)
    assert captured.positions.tolist() == [3, 4]


@torch.no_grad()
def test_drafts_are_no_prompt_in_chunks(model: Any) -> None:
    """They are several tokens at once too, but the logits of all of them are asked for."""
    text = drawn_ids(1, 6, seed=4)
    with tap(model, layer_index=1, positions="last", generated=True) as captured:
        model.generate(text, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3)
    assert captured.positions.tolist()[0] == 5
    assert max(captured.forwards.bincount()) > 1, "no drafts: the test shows nothing"


@torch.no_grad()
def test_a_prefix_that_is_cached_counts_and_is_not_read(model: Any) -> None:
    """Texts with caches of their own, or with one that is cut back: none goes on with another."""
    prefixes = []
    for length in (5, 6):
        prefixes.append(DynamicCache(config=model.config))
        model(drawn_ids(1, length), **{CACHE: prefixes[-1]})
    prefix = prefixes[0]
    with tap(model, layer_index=1) as captured:
        model(drawn_ids(1, 3), **{CACHE: copy.deepcopy(prefix)})
        model(drawn_ids(1, 2), **{CACHE: prefixes[1]})
        prefixes[1].crop(-2)
        model(drawn_ids(1, 1), **{CACHE: prefixes[1]})
    assert captured.positions.tolist() == [5, 6, 7, 6, 7, 6]
    for positions, expected in (("6:", [6]), ("-1,5", [5, 6]), ("last", [6])):
        with tap(model, layer_index=1, positions=positions) as captured:
            model(drawn_ids(1, 2), **{CACHE: copy.deepcopy(prefix)})
        assert captured.positions.tolist() == expected
    with (
        pytest.raises(TapError, match="got 4, expected 5 to 6"),
        tap(model, layer_index=1, positions="4,5"),
    ):
        model(drawn_ids(1, 2), **{CACHE: copy.deepcopy(prefix)})


@torch.no_grad()
def test_padding_of_a_cached_prefix_does_not_count(model: Any) -> None:
    ids, mask = MASKED["input_ids"], MASKED["attention_mask"]
    cache = DynamicCache(config=model.config)
    model(ids[:, :6], attention_mask=mask[:, :6], **{CACHE: cache})
    with tap(model, layer_index=1) as captured:
        model(ids[:, 6:], attention_mask=mask, **{CACHE: cache})
    places = [(0, 2), (0, 3), (0, 4), (1, 6), (1, 7), (1, 8), (2, 0), (2, 1)]
    assert places_of(captured) == places


@torch.no_grad()
def test_drafts_that_were_not_accepted_are_read_again(model: Any) -> None:
    """Assisted generation runs drafts ahead; the last row of a position is that of the text."""
    text = drawn_ids(1, 6, seed=4)
    with tap(model, layer_index=1, generated=True) as captured:
        tokens = model.generate(
            text,
            max_new_tokens=8,
            do_sample=False,
            assistant_model=tapped_model("qwen3", num_layers=1),
        )
    last = {at: row for row, at in enumerate(captured.positions.tolist())}
    final = [last[at] for at in range(tokens.shape[1] - 1)]
    assert len(captured) > len(final), "every draft was accepted: the test shows nothing"
    assert captured.token_ids[final].tolist() == tokens[0, :-1].tolist()
    with tap(model, layer_index=1) as whole:
        model(tokens[:, :-1])
    scale = float(whole.activations.abs().max())
    assert float((captured.activations[final] - whole.activations).abs().max()) < 2e-5 * scale
