"""A tap's rows are the block's output, to the last bit, and stand where it says they do.

For every architecture at its first, a middle and its last block: in one batch, padded on either
side, and while a generation runs on its KV cache.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gloss_engine import Captured, tap
from gloss_kernels import Operations
from support.backends import ON_GPU
from support.tapped_models import (
    KINDS,
    NUM_LAYERS,
    PlainHook,
    blocks_of,
    drawn_ids,
    padded,
    tapped_model,
)

LAYERS = (0, 3, NUM_LAYERS - 1)
# Float32 sums in another order, for other shapes, through six blocks: about 1e-6 of the largest.
TOLERANCE = 2e-5


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    """A model of every kind in turn. Read only."""
    return tapped_model(request.param)


def assert_near(got: Tensor, expected: Tensor) -> None:
    """Equal up to float32 rounding, in proportion to the largest value."""
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) < TOLERANCE * float(expected.abs().max())


def rows_of(captured: Captured, sequence: int) -> Tensor:
    """What was captured of one sequence, by position."""
    mine = captured.sequences == sequence
    assert captured.positions[mine].tolist() == list(range(int(mine.sum())))
    return captured.activations[mine]


@pytest.mark.parametrize("layer_index", LAYERS)
@torch.no_grad()
def test_rows_are_the_blocks_output_bit_for_bit(model: Any, layer_index: int) -> None:
    ids = drawn_ids(3, 9)
    with (
        PlainHook(blocks_of(model)[layer_index]) as plain,
        tap(model, layer_index=layer_index) as captured,
    ):
        out = model(input_ids=ids, output_hidden_states=True)
    assert captured.activations.dtype == captured.norms.dtype == torch.float32
    assert torch.equal(captured.activations, plain.outputs[0].flatten(0, 1))
    entry = out.hidden_states[layer_index + 1].flatten(0, 1)
    if layer_index == NUM_LAYERS - 1:
        # transformers puts the final norm's output in the place of the last block's.
        assert torch.equal(out.hidden_states[-1].flatten(0, 1), entry)
        assert float((captured.activations - entry).abs().max()) > 0.1
    else:
        assert torch.equal(captured.activations, entry)
    assert captured.sequences.tolist() == [row for row in range(3) for _ in range(9)]
    assert captured.positions.tolist() == list(range(9)) * 3
    assert torch.equal(captured.token_ids, ids.flatten())
    assert captured.forwards.tolist() == [0] * 27 and captured.num_forwards == 1
    assert captured.is_usable.all() and len(captured) == 27


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("layer_index", LAYERS)
@torch.no_grad()
def test_padding_is_left_out_and_changes_no_row(model: Any, layer_index: int, side: str) -> None:
    texts = [drawn_ids(length, seed=length) for length in (5, 11, 1)]
    batch = padded(texts, side)
    with (
        PlainHook(blocks_of(model)[layer_index]) as plain,
        tap(model, layer_index=layer_index) as captured,
    ):
        model(**batch)
    real = batch["attention_mask"].bool()
    assert torch.equal(captured.activations, plain.outputs[0][real])
    assert torch.equal(captured.token_ids, torch.cat(texts))
    for number, text in enumerate(texts):
        with tap(model, layer_index=layer_index) as alone:
            model(input_ids=text[None])
        assert_near(rows_of(captured, number), alone.activations)


@pytest.mark.parametrize("layer_index", LAYERS)
@torch.no_grad()
def test_a_generation_gives_the_rows_of_a_whole_pass(model: Any, layer_index: int) -> None:
    """Past the window of Gemma's local layers; the last token drawn is never run."""
    texts = [drawn_ids(length, seed=length) for length in (4, 7)]
    batch = padded(texts, "left")
    with tap(model, layer_index=layer_index, generated=True) as captured:
        tokens = model.generate(**batch, max_new_tokens=8, do_sample=False)
    new = tokens[:, 7:]
    assert captured.num_forwards == new.shape[1] == 8
    assert captured.forwards.bincount().tolist() == [4 + 7, *[2] * 7]
    for number, text in enumerate(texts):
        whole = torch.cat((text, new[number, :-1]))
        assert torch.equal(captured.token_ids[captured.sequences == number], whole)
        with tap(model, layer_index=layer_index) as once:
            model(input_ids=whole[None])
        assert_near(rows_of(captured, number), once.activations)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_rows_of_any_type_come_as_float32(dtype: torch.dtype) -> None:
    """Exactly, but for float64, which is rounded."""
    model = tapped_model("qwen3", num_layers=2).to(dtype)
    with PlainHook(model.model.layers[1]) as plain, tap(model, layer_index=1) as captured:
        model(input_ids=drawn_ids(2, 5))
    assert plain.outputs[0].dtype == dtype and captured.activations.dtype == torch.float32
    expected = plain.outputs[0].flatten(0, 1)
    if dtype == torch.float64:
        assert torch.equal(captured.activations, expected.float())
    else:
        assert torch.equal(captured.activations.to(dtype), expected)
        assert torch.equal(captured.activations, expected.to(torch.float32))


@pytest.mark.parametrize("backend", ["reference", "triton"])
@torch.no_grad()
def test_the_engine_copies_the_same_bits(backend: str) -> None:
    """hook_gather as the engine calls it, over the same hidden states."""
    model = tapped_model("gemma3", num_layers=2)
    batch = padded([drawn_ids(6), drawn_ids(3)], "left")
    with (
        PlainHook(model.model.layers[0]) as plain,
        tap(model, layer_index=0, positions="::2") as captured,
    ):
        model(**batch)
    rows = torch.tensor([0, 2, 4, 9, 11])
    hidden_states = plain.outputs[0].flatten(0, 1)
    if ON_GPU and backend == "triton":
        hidden_states, rows = hidden_states.cuda(), rows.cuda()
    raw, norms = Operations(backend).hook_gather(hidden_states, rows)
    assert captured.positions.tolist() == [0, 2, 4, 0, 2]
    assert torch.equal(captured.activations.view(torch.int32), raw.cpu().view(torch.int32))
    torch.testing.assert_close(captured.norms, norms.cpu(), rtol=2e-6, atol=0)
    if backend == "reference":
        assert torch.equal(captured.norms, norms)


@torch.no_grad()
def test_rows_without_a_direction_are_flagged() -> None:
    """A hook that was there before may change the output; the tap sees what goes on from it."""
    model = tapped_model("qwen2", num_layers=2)
    bad = {0: 0.0, 2: torch.nan, 3: torch.inf, 5: 3e38}

    def spoil(module: Any, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        for token, value in bad.items():
            output[0, token] = value
        return output

    handle = model.model.layers[0].register_forward_hook(spoil)
    with tap(model, layer_index=0) as captured:
        model(input_ids=drawn_ids(1, 7))
    handle.remove()
    assert captured.is_usable.tolist() == [token not in bad for token in range(7)]
    assert captured.activations[0].count_nonzero() == 0
    assert captured.activations[2].isnan().all()


def test_rows_belong_to_no_graph_and_no_mode() -> None:
    """Not to autograd's in training, and after inference mode autograd may use them."""
    model = tapped_model("llama3", num_layers=2).train()
    with tap(model, layer_index=0) as captured:
        loss = model(input_ids=drawn_ids(2, 4), labels=drawn_ids(2, 4)).loss
        loss.backward()
    rows = captured.activations
    assert not rows.requires_grad and rows.shape[0] == 8
    with torch.inference_mode(), tap(model, layer_index=0) as captured:
        model(input_ids=drawn_ids(1, 3))
    rows = captured.activations
    assert not rows.is_inference() and not captured.positions.is_inference()
    weight = torch.ones(rows.shape[1], requires_grad=True)
    (rows @ weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_blocks_that_autograd_runs_again_count_once(use_reentrant: bool) -> None:
    model = tapped_model("qwen3", num_layers=3).train()
    # transformers has renamed it.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    with tap(model, layer_index=1) as captured:
        model(input_ids=drawn_ids(2, 4), labels=drawn_ids(2, 4)).loss.backward()
    assert captured.num_forwards == 1 and len(captured) == 8


@torch.no_grad()
def test_the_output_may_be_changed_in_place_behind_the_block() -> None:
    model = tapped_model("qwen3", num_layers=3)

    def shift(module: Any, args: tuple[Tensor, ...]) -> None:
        args[0].add_(100.0)

    ids = drawn_ids(1, 5)
    with tap(model, layer_index=0) as expected:
        model(input_ids=ids)
    handle = model.model.layers[1].register_forward_pre_hook(shift)
    with tap(model, layer_index=0) as captured:
        model(input_ids=ids)
    handle.remove()
    assert torch.equal(captured.activations, expected.activations)
