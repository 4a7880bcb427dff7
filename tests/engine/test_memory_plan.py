"""The memory plan against tensors really made; the search for what fits against its own sums."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gloss_engine import memory_sizes as sizes
from gloss_engine.ar.reconstructor import MAX_PROMPT_TOKENS
from gloss_engine.av.stop import stop_table
from gloss_engine.checkpoint import read_spec
from gloss_engine.config import EngineConfig
from gloss_engine.floor import H200
from gloss_engine.kv.allocator import BlockAllocator
from gloss_engine.kv.pool import allocate_pool
from gloss_engine.memory_plan import (
    AR_POSITIONS,
    Setup,
    floor_of,
    most_sequences,
    plan_memory,
    reading_only,
    remedies,
)
from gloss_engine.memory_sizes import Precision
from gloss_engine.models.decoder import Decoder
from gloss_engine.models.registry import spec_from_config
from gloss_engine.models.spec import ModelSpec
from gloss_engine.released import RELEASED_PAIRS
from gloss_engine.released_spec import released_spec
from gloss_engine.scheduler import Scheduler
from gloss_engine.slots import SlotLimits, Slots
from gloss_kernels import Operations
from gloss_kernels.fp8 import Fp8Rows
from support.checkpoints import ARCHITECTURES, Pair
from support.models_made import make_config

GB = 10**9
CPU = torch.device("cpu")
QWEN = released_spec(RELEASED_PAIRS[0])
QWEN_AR = replace(QWEN, layers=QWEN.layers[:21])


def made(spec: ModelSpec, precision: Precision, num_layers: int | None = None) -> Decoder:
    return Decoder(
        spec,
        num_layers=num_layers,
        max_positions=100,
        operations=Operations("reference"),
        device=CPU,
        dtype=torch.float32 if precision.dtype_bytes == 4 else torch.bfloat16,
        quantization=precision.quantization,
    )


def held(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


def weight_bytes(decoder: Decoder) -> int:
    total = 0
    for target in decoder.targets().values():
        parts = (target.values, target.scales) if isinstance(target, Fp8Rows) else (target,)
        total += held(*parts)
    return total


@pytest.mark.parametrize("quantization", ["none", "fp8"])
@pytest.mark.parametrize("dtype_bytes", [2, 4])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_weights_are_those_of_a_decoder(
    arch: str, tied: bool, dtype_bytes: int, quantization: str
) -> None:
    spec = spec_from_config(make_config(arch, num_layers=5, vocab_size=301, tied=tied))
    precision = Precision(dtype_bytes=dtype_bytes, quantization=quantization)
    whole = made(spec, precision)
    assert sizes.decoder_bytes(spec, precision, with_head=True) == weight_bytes(whole)
    assert sizes.rope_bytes(spec, 100) == held(*whole.rope_tables)
    first = replace(spec, layers=spec.layers[:3])
    cut = made(spec, precision, num_layers=3)
    assert sizes.decoder_bytes(first, precision, with_head=False) == weight_bytes(cut)


def test_biases_count() -> None:
    config = make_config("llama3", num_layers=2, vocab_size=301, tied=False)
    config.attention_bias = config.mlp_bias = True
    spec = spec_from_config(config)
    assert spec.qkv_bias and spec.o_bias and spec.mlp_bias
    counted = sizes.decoder_bytes(spec, Precision(), with_head=True)
    assert counted == weight_bytes(made(spec, Precision()))


def test_pages_prefix_and_value_head(pairs: dict[str, Pair]) -> None:
    spec = read_spec(pairs["qwen3"].av)
    pool = allocate_pool(spec, 7, 16, CPU, torch.bfloat16)
    setup = Setup(av=spec, memory_bytes=GB)
    assert setup.page_bytes * 7 == held(pool.keys, pool.values)
    assert sizes.pages_that_fit(held(pool.keys, pool.values), setup.page_bytes) == 7
    assert sizes.pages_that_fit(7 * setup.page_bytes - 1, setup.page_bytes) == 6
    assert sizes.pages_that_fit(-1, setup.page_bytes) == 0
    decoder = made(spec, Precision())
    for target in decoder.targets().values():
        assert isinstance(target, Tensor)
        target.zero_()
    prefix = decoder.compute_prefix(torch.arange(9))
    assert 9 * sizes.token_bytes(spec, 2) == held(prefix.keys, prefix.values)
    assert sizes.value_head_bytes(8) == held(torch.empty(8, 8))
    assert AR_POSITIONS == MAX_PROMPT_TOKENS


@pytest.mark.parametrize(("suffix_len", "new"), [(25, 200), (24, 200), (25, 1), (16, 1), (2, 17)])
def test_a_sequence_reserves_what_the_scheduler_does(suffix_len: int, new: int) -> None:
    scheduler = Scheduler(BlockAllocator(100, 16), 4, suffix_len, 2048)
    assert sizes.sequence_pages(suffix_len, new, 16) == scheduler.pages_needed(new, 1)


def test_state_is_that_of_slots() -> None:
    limits = SlotLimits(num_slots=3, max_new_tokens=200, max_pages=14, vocab_size=QWEN.vocab_size)
    slots = Slots(limits, Operations("reference"), CPU)
    slots.require_presence()
    real = held(*(value for value in vars(slots).values() if isinstance(value, Tensor)))
    stops = held(stop_table([""] * QWEN.vocab_size)) + QWEN.vocab_size
    assert sizes.stop_bytes(QWEN) == stops
    counted = sizes.state_bytes(QWEN, 3, 200, 14) - stops
    assert counted == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize(
    ("index", "billions"),
    # Parameters as published with the text models: 7.62, 11.77, 27.01 and 70.55 billion.
    [(0, 7.616), (1, 11.766), (2, 27.009), (3, 70.554)],
)
def test_weights_of_the_released_pairs(index: int, billions: float) -> None:
    spec = released_spec(RELEASED_PAIRS[index])
    counted = sizes.decoder_bytes(spec, Precision(), with_head=True)
    assert counted == pytest.approx(2 * billions * GB, rel=2e-4)


def test_released_specs_have_their_switches() -> None:
    qwen, gemma, larger, llama = (released_spec(pair) for pair in RELEASED_PAIRS)
    assert qwen.qkv_bias and not qwen.tie_word_embeddings and not qwen.qk_norm
    assert gemma.tie_word_embeddings and gemma.qk_norm and gemma.post_norms
    windows = [layer.window for layer in gemma.layers]
    assert windows[:6] == [1024] * 5 + [None] and windows.count(None) == 8
    assert larger.attention_scale == 168**-0.5 and larger.embed_scale == 5376**0.5
    assert not llama.qkv_bias and llama.rms_norm_eps == 1e-5
    assert llama.ropes[0].inv_freq[-1] < qwen.ropes[0].inv_freq[-1]
    for spec, pair in zip((qwen, gemma, larger, llama), RELEASED_PAIRS, strict=True):
        assert (spec.num_layers, spec.head_dim) == (pair.num_layers, pair.head_dim)
        assert (spec.vocab_size, spec.activation) == (pair.vocab_size, pair.activation)


def test_defaults_are_the_engines() -> None:
    config, setup = EngineConfig(), Setup(av=QWEN, memory_bytes=GB)
    assert setup.max_new_tokens == config.max_new_tokens
    assert setup.max_prefill_tokens == config.max_prefill_tokens
    assert setup.score_batch == config.score_batch
    assert setup.memory_fraction == config.memory_fraction


@pytest.mark.parametrize("gigabytes", [30, 31.7, 80, 141])
@pytest.mark.parametrize("with_ar", [False, True])
def test_the_most_that_fit(gigabytes: float, with_ar: bool) -> None:
    setup = Setup(av=QWEN, ar=QWEN_AR if with_ar else None, memory_bytes=int(gigabytes * GB))
    most = most_sequences(setup)
    plan, more = plan_memory(setup, max(most, 1)), plan_memory(setup, most + 1)
    assert plan.most_sequences == most and plan.fits == (most > 0)
    assert not more.fits and more.missing_bytes == more.total_bytes - setup.usable_bytes > 0
    assert plan.num_pages == plan.num_sequences * 14 + 2 + 1
    by_name = {part.name: part.num_bytes for part in plan.parts}
    assert by_name["pages"] == plan.num_pages * 16 * 57344
    assert [*by_name.values()] == sorted(by_name.values(), reverse=True)


def test_a_target_is_never_quantised() -> None:
    setup = Setup(
        av=QWEN,
        target=QWEN_AR,
        precision=Precision(quantization="fp8"),
        memory_bytes=141 * GB,
    )
    by_name = {part.name: part.num_bytes for part in plan_memory(setup, 1).parts}
    plain = sizes.decoder_bytes(QWEN_AR, Precision(), with_head=False)
    assert by_name["target weights"] == plain
    whole = replace(setup, target=QWEN, target_has_head=True)
    by_name = {part.name: part.num_bytes for part in plan_memory(whole, 1).parts}
    assert by_name["target weights"] == sizes.decoder_bytes(QWEN, Precision(), with_head=True)


def test_a_target_that_only_reads_takes_less() -> None:
    """Its last blocks, its head and its pages are what a plan that does not fit can give up."""
    setup = Setup(
        av=QWEN, target=QWEN, target_has_head=True, target_layers=21, watch_tokens=8 * 5120,
        memory_bytes=42 * GB,
    )  # fmt: skip
    plan = plan_memory(setup, 256)
    by_name = {part.name: part.num_bytes for part in plan.parts}
    assert by_name["target pages"] == 8 * 5120 * 57344
    reads = plan_memory(reading_only(setup), 256)
    assert {part.name: part.num_bytes for part in reads.parts}["target weights"] == (
        sizes.decoder_bytes(QWEN_AR, Precision(), with_head=False)
    )
    assert reads.most_sequences > plan.most_sequences
    assert any("target_generates = false" in remedy.change for remedy in remedies(plan))


def test_long_texts_need_workspace_for_the_ar() -> None:
    setup = Setup(av=QWEN, ar=QWEN_AR, memory_bytes=141 * GB)

    def workspace(changed: Setup) -> int:
        parts = plan_memory(changed, 256).parts
        return next(part.num_bytes for part in parts if part.name == "workspace of a step")

    # 64 texts of 210 tokens: more rows than 2,048 prefilled and 256 decoded.
    assert workspace(setup) == 64 * 210 * (2 * 3584 + 3 * 18944) * 2
    step = (256 + 2048) * (2 * 3584 + 3 * 18944) * 2 + 256 * 152064 * 2
    assert workspace(replace(setup, ar=None)) == workspace(replace(setup, score_batch=8)) == step


def test_remedies_are_the_fewest_that_help() -> None:
    llama = released_spec(RELEASED_PAIRS[3])
    ar = replace(llama, layers=llama.layers[:54])
    setup = Setup(av=llama, ar=ar, memory_bytes=141 * GB)
    plan = plan_memory(setup, 1)
    assert most_sequences(setup) == 0
    (only,) = remedies(plan)
    assert only.change == "--quantization fp8" and only.most_sequences > 1
    smaller = replace(setup, memory_bytes=90 * GB)
    (both,) = remedies(plan_memory(smaller, 1))
    assert both.change == "--quantization fp8 and no --ar (no scores)"
    assert remedies(plan_memory(replace(setup, memory_bytes=24 * GB), 1)) == []


def test_remedies_of_a_batch_too_large() -> None:
    setup = Setup(av=QWEN, memory_bytes=24 * GB)
    most = most_sequences(setup)
    changes = {r.change: r.most_sequences for r in remedies(plan_memory(setup, most + 50))}
    assert changes[f"--batch {most}"] == most
    assert changes["--max-new-tokens 100"] >= most + 50
    assert changes["--quantization fp8"] >= most + 50


def test_the_floor_is_of_what_is_planned() -> None:
    setup = Setup(
        av=QWEN,
        ar=QWEN_AR,
        prompt_len=90,
        prefix_len=70,
        typical_tokens=50,
        precision=Precision(quantization="fp8"),
        memory_bytes=GB,
    )
    floor = floor_of(setup, H200, scored=True)
    assert (floor.spec, floor.ar, floor.quantization) == (QWEN, QWEN_AR, "fp8")
    work = floor.workload
    assert (work.prompt_len, work.prefix_len, work.new_tokens) == (90, 70, 50)
    assert floor_of(setup, H200, scored=False).ar is None
