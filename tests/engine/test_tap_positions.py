"""Which rows a tap takes: positions among padding, masks of every kind, and what has no mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gloss_engine import Positions, RequestError, TapError, tap
from gloss_engine.capture.forward_inputs import ForwardInputs
from support.tapped_models import PlainHook, drawn_ids, padded, places_of, tapped_model

LENGTHS = (5, 9, 2)
TEXTS = [drawn_ids(length, seed=length) for length in LENGTHS]
MASKED = padded(TEXTS, "left")


@pytest.fixture(scope="module")
def model() -> Any:
    """Read only."""
    return tapped_model("qwen3", num_layers=3)


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
    assert places_of(captured) == wanted
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


@pytest.mark.parametrize(
    "wrong",
    ["", "some", "1:2:0", "1;2", "generate"]
    + [None, [], 1.0, True, (1, 2.5), slice(None, None, -1), {1}, b"12", object()],
)
def test_positions_that_are_none_are_refused(model: Any, wrong: Any) -> None:
    with pytest.raises(RequestError, match="positions"), tap(model, layer_index=1, positions=wrong):
        raise AssertionError("the block was entered")


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (1, [1]),
        (-1, [4]),
        ([3, 0], [0, 3]),
        (range(1, 3), [1, 2]),
        (slice(0, 4, 2), [0, 2]),
        (slice(-2, None), [3, 4]),
        (np.array([4, 1]), [1, 4]),
        (np.int64(2), [2]),
        (torch.tensor([2]), [2]),
    ],
)
@torch.no_grad()
def test_positions_in_any_form_of_python(model: Any, positions: Any, expected: list[int]) -> None:
    with tap(model, layer_index=1, positions=positions) as captured:
        model(TEXTS[0][None])
    assert captured.positions.tolist() == expected


@pytest.mark.parametrize(
    ("positions", "expected"), [("all", [0, 1]), ("last", [1]), ("0,-1", [0, 1]), ("-1:", [1])]
)
@torch.no_grad()
def test_a_sequence_that_is_all_padding_has_no_rows(
    model: Any, positions: str, expected: list[int]
) -> None:
    ids, mask = drawn_ids(2, 4), torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0]])
    with tap(model, layer_index=0, positions=positions) as captured:
        model(input_ids=ids, attention_mask=mask)
    assert places_of(captured) == [(1, at) for at in expected]
    assert captured.token_ids.tolist() == ids[1, 1:3][expected].tolist()


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
    assert places_of(captured) == [(row, at) for row in range(3) for at in range(LENGTHS[row])]
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
    assert places_of(static) == places_of(dynamic)
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


def test_of_masks_by_kind_of_layer_that_of_full_attention_counts() -> None:
    inputs = ForwardInputs(0)
    spread = _spread(MASKED["attention_mask"], torch.bool)
    inputs.add(0, {"attention_mask": {"linear_attention": None, "full_attention": spread}})
    assert (inputs.real_tokens(3, 9)[0] == MASKED["attention_mask"].numpy()).all()


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
    assert (inputs.real_tokens(3, 9)[0] == MASKED["attention_mask"].numpy()).all()


class _Prompted(nn.Module):
    """Puts two vectors before every text, as a prompt that was learned."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        embeds = self.model.model.embed_tokens(input_ids)
        before = torch.ones(len(input_ids), 2, embeds.shape[2])
        return self.model(
            inputs_embeds=torch.cat((before, embeds), dim=1),
            attention_mask=torch.nn.functional.pad(attention_mask, (2, 0), value=1),
        )


@torch.no_grad()
def test_what_a_wrapper_puts_before_the_text_is_part_of_it(model: Any) -> None:
    prompted = _Prompted(model)
    with tap(prompted, layer_index=1) as captured:
        prompted(**MASKED)
    lengths = [length + 2 for length in LENGTHS]
    assert places_of(captured) == [(row, at) for row in range(3) for at in range(lengths[row])]
    assert captured.token_ids.tolist() == [-1] * sum(lengths)
