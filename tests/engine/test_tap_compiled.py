"""Taps and torch.compile: before it they work, behind it they say so instead of capturing nothing.

Dynamo does not look whether a module that had no hook has got one since, so a hook behind a model
that has been compiled never fires.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CompileConfig

from gloss_engine import TapError, tap
from support.tapped_models import drawn_ids, padded, tapped_model

BATCH = padded([drawn_ids(5), drawn_ids(3, seed=1)], "left")
# Compiled with the backend "eager" or "aot_eager" a model runs the operations that it ran before.
SAME = {"rtol": 0.0, "atol": 0.0}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Compiled code outlives the model it was made for."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def model() -> Any:
    return tapped_model("qwen3", num_layers=2)


@pytest.fixture
def small() -> Any:
    """One block: compiling takes seconds for each."""
    return tapped_model("qwen3", num_layers=1)


def _compiled(function: Callable[..., Any]) -> Any:
    return torch.compile(function, backend="eager")


def _compile_forward(module: Any) -> None:
    module.forward = _compiled(module.forward)


@pytest.mark.parametrize("part", ["", "model", "model.layers.1"])
@pytest.mark.parametrize(
    ("compile_module", "how"),
    [
        (lambda module: module.compile(backend="eager"), r"module\.compile\(\)"),
        (_compile_forward, r"torch\.compile\(module\.forward\)"),
    ],
)
def test_a_compiled_part_on_the_way_is_refused(
    model: Any, part: str, compile_module: Callable[[Any], None], how: str
) -> None:
    compile_module(model.get_submodule(part))
    with (
        pytest.raises(TapError, match=f"{part or 'model'} .*got a module compiled by {how}"),
        tap(model, layer_index=1),
    ):
        raise AssertionError("the block was entered")


def test_a_wrapper_of_compiled_code_is_refused(model: Any) -> None:
    with (
        pytest.raises(TapError, match=r"compiled by torch\.compile\(module\)"),
        tap(_compiled(model), layer_index=1),
    ):
        raise AssertionError("the block was entered")
    base = model.model
    model.model = _compiled(base)
    with (
        pytest.raises(TapError, match=r"model \(OptimizedModule\): got a module"),
        tap(model, layer_index=1),
    ):
        raise AssertionError("the block was entered")


@torch.no_grad()
def test_what_is_not_on_the_way_or_is_kept_from_compiling_may_be_so(model: Any) -> None:
    model.model.layers[0].compile(backend="eager")
    model.forward = torch.compiler.disable(model.forward)
    with tap(model, layer_index=1) as captured:
        model(**BATCH)
    assert len(captured) == 8


@torch.no_grad()
def test_a_model_compiled_behind_the_tap(small: Any) -> None:
    """One graph up to the end of the decoder; and the hook is gone with the tap."""
    with tap(small, layer_index=0) as expected:
        out = small(**BATCH)
    with tap(small, layer_index=0) as captured:
        compiled = torch.compile(small, backend="aot_eager")
        torch._dynamo.utils.counters.clear()
        for _ in range(2):
            torch.testing.assert_close(compiled(**BATCH).logits, out.logits, **SAME)
        breaks = torch._dynamo.utils.counters["graph_break"]
        assert len(breaks) == 1 and "tap takes rows outside" in next(iter(breaks))
    assert captured.forwards.tolist() == [0] * 8 + [1] * 8
    torch.testing.assert_close(captured.activations, expected.activations.repeat(2, 1), **SAME)
    torch.testing.assert_close(captured.token_ids, expected.token_ids.repeat(2))
    torch.testing.assert_close(captured.positions, expected.positions.repeat(2))
    compiled(**BATCH)
    assert len(captured) == 16


@pytest.mark.parametrize(
    "compile_part",
    [
        lambda model: model.compile(backend="eager"),
        lambda model: [block.compile(backend="eager") for block in model.model.layers],
        _compile_forward,
    ],
    ids=["model", "blocks", "forward"],
)
@torch.no_grad()
def test_parts_compiled_behind_the_tap(small: Any, compile_part: Callable[[Any], Any]) -> None:
    with tap(small, layer_index=0) as expected:
        small(**BATCH)
    with tap(small, layer_index=0, positions="1:") as captured:
        compile_part(small)
        small(**BATCH)
    wanted = expected.positions >= 1
    torch.testing.assert_close(captured.activations, expected.activations[wanted], **SAME)


@torch.no_grad()
def test_a_compiled_function_around_the_model(small: Any) -> None:
    """It leaves no mark on the model: the hooks show that it has passed them by."""

    def logits(ids: Tensor) -> Tensor:
        return small(input_ids=ids).logits

    function, ids = _compiled(logits), drawn_ids(1, 4)
    with tap(small, layer_index=0) as captured:
        function(ids)
    assert len(captured) == 4
    function(ids)
    with (
        pytest.raises(TapError, match="compiled code passed by the hook"),
        tap(small, layer_index=0),
    ):
        function(ids)
    torch._dynamo.reset()
    function(ids)
    with (
        pytest.raises(TapError, match="got no forward pass within the with block"),
        tap(small, layer_index=0),
    ):
        function(ids)
    torch._dynamo.reset()
    with tap(small, layer_index=0) as captured:
        function(ids)
    assert len(captured) == 4


def test_a_graph_that_must_be_whole_says_why_it_cannot(small: Any) -> None:
    function = torch.compile(small, backend="eager", fullgraph=True)
    with (
        torch.no_grad(),
        pytest.raises(torch._dynamo.exc.Unsupported, match="compile without fullgraph=True"),
        tap(small, layer_index=0),
    ):
        function(**BATCH)


@torch.no_grad()
def test_generations_that_transformers_compiles(small: Any) -> None:
    """With a static cache, decoding but not the prompt; one tap after another, and none behind."""
    config = CompileConfig(backend="eager", mode=None)
    config._compile_all_devices = True
    options = {"max_new_tokens": 4, "do_sample": False, "cache_implementation": "static"}
    with tap(small, layer_index=0, generated=True) as expected:
        small.generate(**BATCH, **options)
    for _ in range(2):
        with tap(small, layer_index=0, generated=True) as captured:
            small.generate(**BATCH, **options, compile_config=config)
            assert hasattr(small, "_compiled_call"), "nothing was compiled: the test shows nothing"
        assert torch.equal(captured.positions, expected.positions)
        assert torch.equal(captured.token_ids, expected.token_ids)
        # transformers attends in another way when it is compiled.
        scale = float(expected.activations.abs().max())
        difference = captured.activations - expected.activations
        assert float(difference.abs().max()) < 2e-5 * scale
        assert torch.equal(difference[:8], torch.zeros(8, 80))
    small.generate(**BATCH, **options, compile_config=config)
    with (
        pytest.raises(TapError, match=r"generate\(\) with a static cache.*del model\._compiled"),
        tap(small, layer_index=0),
    ):
        raise AssertionError("the block was entered")
