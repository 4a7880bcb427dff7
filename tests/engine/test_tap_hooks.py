"""A tap's hooks: where they go, that they go away, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from gloss_engine import GlossError, TapError, tap
from gloss_engine.capture.blocks import find_blocks
from support.tapped_models import KINDS, PlainHook, blocks_of, drawn_ids, num_hooks, tapped_model

SMALL = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
OTHERS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SMALL)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=48)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32)),
    "experts": lambda: _with_experts(tapped_model("llama3", num_layers=3)),
}


def _with_experts(model: Any) -> Any:
    """As a mixture of experts has them: a list in every block, as long as that of the blocks."""
    for block in model.model.layers:
        block.experts = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    return model


class Wrapper(nn.Module):
    """A module around a model, as training wrappers are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class Homemade(nn.Module):
    """A model that is none of transformers', whose blocks return tuples."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
            return hidden_states + self.linear(hidden_states), None

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(300, 8)
        self.front, self.back = (nn.ModuleList([self.Block(), self.Block()]) for _ in range(2))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden_states = self.embed(input_ids)
        for block in (*self.front, *self.back):
            hidden_states, _ = block(hidden_states)
        return hidden_states


@pytest.fixture(scope="module")
def model() -> Any:
    """Read only."""
    return tapped_model("qwen3", num_layers=3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_blocks_of_a_model_and_of_its_parts(kind: str) -> None:
    model = tapped_model(kind, num_layers=3)
    expected = blocks_of(model)
    for whole in (model, model.model, Wrapper(model), Wrapper(Wrapper(model.model))):
        assert find_blocks(whole) is expected


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_other_layouts_are_found_without_knowing_them(name: str) -> None:
    model = OTHERS[name]().eval()
    mask = torch.ones(2, 5, dtype=torch.int64)
    mask[0, 3:] = 0
    with tap(model, layer_index=1) as captured:
        out = model(drawn_ids(2, 5), attention_mask=mask, output_hidden_states=True)
    assert torch.equal(captured.activations, out.hidden_states[2][mask.bool()])


@torch.no_grad()
def test_a_model_within_another_module_is_tapped_through_it(model: Any) -> None:
    ids, mask = drawn_ids(2, 5), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with tap(model, layer_index=1) as expected:
        model(ids, attention_mask=mask)
    with tap(Wrapper(model), layer_index=1) as captured:
        model(ids, attention_mask=mask)
        Wrapper(model)(ids, attention_mask=mask)
    assert torch.equal(captured.activations, expected.activations.repeat(2, 1))
    assert torch.equal(captured.token_ids, expected.token_ids.repeat(2))


@torch.no_grad()
def test_a_block_of_ones_own() -> None:
    model = Homemade()
    with pytest.raises(TapError, match=r"front of 2, back of 2.*tap\(model, block=module\)"):
        find_blocks(model)
    block = model.back[0]
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    with PlainHook(block) as plain, tap(model, block=block, positions="last") as captured:
        model(drawn_ids(2, 3), mask)
    assert torch.equal(captured.activations, plain.outputs[0][[0, 1], [1, 2]])


@pytest.mark.parametrize("layer_index", [-1, 3, 1.0, True, "1"])
def test_a_block_that_is_not_there(model: Any, layer_index: Any) -> None:
    with (
        pytest.raises(TapError, match=r"layer_index: got .*, expected 0 to 2"),
        tap(model, layer_index=layer_index),
    ):
        raise AssertionError("the block was entered")


def test_what_names_no_one_block(model: Any) -> None:
    for options, message in (
        ({}, "got layer_index=None and no block, expected one of both"),
        ({"layer_index": 1, "block": model.model.layers[1]}, "expected one of both"),
        ({"block": nn.Linear(2, 2)}, "got a Linear that is not one of the model's modules"),
        ({"block": model}, "got a Qwen3ForCausalLM that is not"),
    ):
        with pytest.raises(TapError, match=message), tap(model, **options):
            raise AssertionError("the block was entered")


def test_an_encoder_with_a_decoder_is_refused() -> None:
    config = T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=2)
    with (
        pytest.raises(TapError, match="T5ForConditionalGeneration, an encoder with a decoder"),
        tap(T5ForConditionalGeneration(config), layer_index=1),
    ):
        raise AssertionError("the block was entered")


def test_an_output_that_is_no_residual_stream_is_refused() -> None:
    model = Homemade()
    with pytest.raises(TapError, match=r"got a Tensor of shape \[8\]"):
        block = model.back[1]
        handle = block.register_forward_hook(lambda module, args, output: output[0][0, 0])
        with handle, tap(model, block=block):
            model(drawn_ids(2, 3))


@torch.no_grad()
def test_no_hook_stays_behind(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = num_hooks(model)

    class OursError(Exception):
        pass

    with tap(model, layer_index=1) as captured:
        assert num_hooks(model) == before + 4
        model(drawn_ids(1, 2))
    assert num_hooks(model) == before and len(captured) == 2
    with pytest.raises(OursError), tap(model, layer_index=1):
        raise OursError
    assert num_hooks(model) == before
    with pytest.raises(GlossError), tap(model, layer_index=1, positions="7"):
        model(drawn_ids(1, 2))
    assert num_hooks(model) == before

    def fails(*args: Any, **kwargs: Any) -> None:
        raise OursError

    monkeypatch.setattr(model.model, "register_forward_hook", fails)
    with pytest.raises(OursError), tap(model, layer_index=1):
        raise AssertionError("the block was entered")
    assert num_hooks(model) == before


@torch.no_grad()
def test_taps_stand_within_each_other(model: Any) -> None:
    ids = drawn_ids(2, 4)
    with tap(model, layer_index=2) as outer:
        with (
            tap(model, layer_index=0, positions="last") as inner,
            tap(model, layer_index=2, positions="0") as same,
        ):
            out = model(ids, output_hidden_states=True)
        model(ids)
    assert torch.equal(inner.activations, out.hidden_states[1][:, -1])
    assert torch.equal(outer.activations[:8], outer.activations[8:])
    assert torch.equal(same.activations, outer.activations[[0, 4]])
    assert outer.num_forwards == 2 and inner.num_forwards == same.num_forwards == 1


@torch.no_grad()
def test_results_are_read_at_any_time(model: Any) -> None:
    with tap(model, layer_index=1) as captured:
        for name in ("activations", "norms", "is_usable", "positions", "token_ids"):
            with pytest.raises(TapError, match="got no forward pass yet"):
                getattr(captured, name)
        assert len(captured) == captured.num_forwards == 0
        model(drawn_ids(1, 3))
        first = captured.activations
        assert first.shape == (3, 80)
        model(drawn_ids(2, 4, seed=1))
        assert captured.activations.shape == (11, 80)
    assert torch.equal(captured.activations[:3], first)
    assert captured.forwards.tolist() == [0] * 3 + [1] * 8
    assert captured.sequences.tolist() == [0] * 7 + [1] * 4


def test_no_pass_at_all_is_an_error_but_hides_no_other(model: Any) -> None:
    with (
        pytest.raises(TapError, match=r"model.layers.1 \(Qwen3DecoderLayer\): got no forward pass"),
        tap(model, layer_index=1),
    ):
        pass
    with pytest.raises(ZeroDivisionError), tap(model, layer_index=1):
        raise ZeroDivisionError


@torch.no_grad()
def test_a_block_that_a_pass_leaves_out_is_an_error() -> None:
    model = tapped_model("qwen3", num_layers=3)
    model.config.num_hidden_layers = 2
    with (
        pytest.raises(TapError, match="got a forward pass that did not run it"),
        tap(model, layer_index=2),
    ):
        model(drawn_ids(1, 3))


@torch.no_grad()
def test_a_pass_that_failed_leaves_nothing_for_the_next(model: Any) -> None:
    with tap(model, layer_index=1) as captured:
        for _ in range(2):
            with pytest.raises((TypeError, ValueError)):
                model(attention_mask=torch.zeros(1, 3))
            model(drawn_ids(1, 3))
    assert captured.num_forwards == 2 and len(captured) == 6
