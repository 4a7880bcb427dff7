"""Which rows a tap takes: positions among padding, masks of every kind, and KV caches."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, Qwen3ForCausalLM, StaticCache

from gloss_engine import Captured, Positions, RequestError, TapError, tap
from gloss_engine.capture.forward_inputs import ForwardInputs
from support.tapped_models import PlainHook, drawn_ids, padded, tapped_model

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


def _places(captured: Captured) -> list[tuple[int, int]]:
    return list(zip(captured.sequences.tolist(), captured.positions.tolist(), strict=True))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ("all", [range(5), range(9), range(2)]),
        ("last", [[4], [8], [1]]),
        ("1:4", [[1, 2, 3], [1, 2, 3], [1]]),
        ("::3", [[0, 3], [0, 3, 6], [0]]),
        ("-3:", [[2, 3, 4], [6, 7, 8], [0, 1]]),
        ("-1,0,1,0", [[0, 1, 4], [0, 1, 8], [0, 1]]),
        ("3:", [[3, 4], range(3, 9), []]),
        ("40:", [[], [], []]),
        (Positions(start=-2, step=2), [[3], [7], [0]]),
    ],
)
@torch.no_grad()
def test_positions_count_real_tokens(
    model: Any, side: str, positions: str | Positions, expected: list[Any]
) -> None:
    batch = padded(TEXTS, side)
    with (
        PlainHook(model.model.layers[1]) as plain,
        tap(model, layer_index=1, positions=positions) as captured,
    ):
        model(**batch)
    wanted = [(row, at) for row, places in enumerate(expected) for at in places]
    assert _places(captured) == wanted
    offsets = [9 - length if side == "left" else 0 for length in LENGTHS]
    rows = [plain.outputs[0][row, offsets[row] + at] for row, at in wanted]
    assert captured.activations.shape == (len(wanted), 80)
    assert torch.equal(captured.activations, torch.stack(rows) if rows else torch.empty(0, 80))
    assert captured.token_ids.tolist() == [int(TEXTS[row][at]) for row, at in wanted]
    assert captured.norms.shape == captured.is_usable.shape == (len(wanted),)


@torch.no_grad()
def test_a_listed_position_that_a_text_lacks_is_refused(model: Any) -> None:
    for positions in ("0,2", "-3"):
        with (
            pytest.raises(RequestError, match="the text has 2 tokens") as error,
            tap(model, layer_index=1, positions=positions),
        ):
            model(**MASKED)
        assert error.value.reason == "POSITION_OUT_OF_RANGE"


@pytest.mark.parametrize("wrong", ["", "some", "1:2:0", "1;2", "generate"])
def test_positions_that_are_none_are_refused(model: Any, wrong: str) -> None:
    with pytest.raises(RequestError, match="positions"), tap(model, layer_index=1, positions=wrong):
        raise AssertionError("the block was entered")


@torch.no_grad()
def test_a_sequence_that_is_all_padding_has_no_rows(model: Any) -> None:
    ids, mask = drawn_ids(2, 4), torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0]])
    with tap(model, layer_index=0) as captured:
        model(input_ids=ids, attention_mask=mask)
    assert _places(captured) == [(1, 0), (1, 1)]
    assert captured.token_ids.tolist() == ids[1, 1:3].tolist()


@torch.no_grad()
def test_inputs_may_be_given_in_any_way(model: Any) -> None:
    """By position, as a mask of another type, to the base model, or as embeddings without ids."""
    ids, mask = MASKED["input_ids"], MASKED["attention_mask"]
    with tap(model, layer_index=1) as captured:
        model(ids, mask)
        model(ids, attention_mask=mask.bool())
        model.model(ids, mask.float())
        model(inputs_embeds=model.model.embed_tokens(ids), attention_mask=mask)
    assert captured.forwards.bincount().tolist() == [16] * 4
    for number in range(1, 4):
        mine = captured.forwards == number
        assert torch.equal(captured.activations[mine], captured.activations[:16])
        assert torch.equal(captured.positions[mine], captured.positions[:16])
    assert captured.token_ids[:48].tolist() == torch.cat(TEXTS).tolist() * 3
    assert captured.token_ids[48:].tolist() == [-1] * 16


def _spread(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A causal mask over keys and queries [num_sequences, 1, num_tokens, num_tokens]."""
    num_tokens = mask.shape[1]
    allowed = mask.bool()[:, None, None, :] & torch.ones(num_tokens, num_tokens).tril().bool()
    if dtype == torch.bool:
        return allowed
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@torch.no_grad()
def test_a_mask_over_keys_and_queries_tells_padding(side: str, dtype: torch.dtype) -> None:
    attention = "eager" if dtype.is_floating_point else "sdpa"
    model = tapped_model("llama3", num_layers=2, attention=attention)
    batch = padded(TEXTS, side)
    with tap(model, layer_index=0) as captured:
        model(batch["input_ids"], attention_mask=_spread(batch["attention_mask"], dtype))
    assert _places(captured) == [(row, at) for row in range(3) for at in range(LENGTHS[row])]
    assert torch.equal(captured.token_ids, torch.cat(TEXTS))


@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "gemma3-wrapped"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_static_cache_tells_padding_too(kind: str, attention: str) -> None:
    """There `generate` passes masks over keys and queries, and a count in a tensor."""
    model = tapped_model(kind, num_layers=4, attention=attention)
    found = []
    for cache in ("dynamic", "static"):
        with tap(model, layer_index=2, generated=True) as captured:
            model.generate(**MASKED, max_new_tokens=11, do_sample=False, cache_implementation=cache)
        found.append(captured)
    dynamic, static = found
    assert _places(static) == _places(dynamic)
    assert torch.equal(static.token_ids, dynamic.token_ids)
    # The same sums over more keys, all but some of weight zero.
    scale = float(dynamic.activations.abs().max())
    assert float((static.activations - dynamic.activations).abs().max()) < 2e-5 * scale


@torch.no_grad()
def test_inputs_that_tell_nothing_certain_are_refused(model: Any) -> None:
    ids = drawn_ids(2, 4)
    with (
        pytest.raises(TapError, match=r"attention_mask: got shape \[2, 1, 1, 4\]"),
        tap(model, layer_index=0),
    ):
        # The model lets it pass, by broadcasting.
        model(ids, attention_mask=_spread(torch.ones(2, 4), torch.bool)[:, :, -1:])
    with pytest.raises(TapError, match="cu_seq_lens_q"), tap(model, layer_index=0):
        model(drawn_ids(1, 4), cu_seq_lens_q=torch.tensor([0, 2, 4]))


def test_a_mask_that_is_no_tensor_is_refused() -> None:
    """As flex attention makes them; but what a model makes of no mask says nothing new."""
    block_mask = object()
    inputs = ForwardInputs(0)
    inputs.add(0, {"input_ids": MASKED["input_ids"]})
    inputs.add(1, {"attention_mask": {"full_attention": block_mask}})
    real, before = inputs.real_tokens(3, 9)
    assert real.all() and before is None
    inputs = ForwardInputs(0)
    inputs.add(0, {"attention_mask": {"sliding_attention": block_mask}})
    with pytest.raises(TapError, match="attention_mask: got a object, expected a tensor"):
        inputs.real_tokens(3, 9)
    inputs.add(1, {"attention_mask": MASKED["attention_mask"]})
    assert torch.equal(inputs.real_tokens(3, 9)[0], MASKED["attention_mask"].bool())


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
    assert _places(found["last"]) == [(0, 4), (1, 8), (2, 1)]
    later = [(row, LENGTHS[row] + step) for step in range(3) for row in range(3)]
    assert _places(found["generated"]) == later
    assert _places(found["both"]) == _places(found["last"]) + later
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
    assert _places(captured) == expected


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


@torch.no_grad()
def test_a_prefix_that_is_cached_counts_and_is_not_read(model: Any) -> None:
    """Each text has a copy of the prefix's cache, and so none of them goes on with another."""
    prefix = DynamicCache(config=model.config)
    model(drawn_ids(1, 5), **{CACHE: prefix})
    with tap(model, layer_index=1) as captured:
        for length in (3, 2):
            model(drawn_ids(1, length), **{CACHE: copy.deepcopy(prefix)})
    assert captured.positions.tolist() == [5, 6, 7, 5, 6]
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
