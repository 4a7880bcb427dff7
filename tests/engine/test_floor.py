"""The floor: the figures it must give for Qwen2.5-7B on an H200, and how it answers to its inputs.

Expected figures were computed apart from this code, without prefill attention and prefill logits,
which cost 0.1%; the tolerance is their rounding and that.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from gloss_engine.floor import H200, Ceilings, Floor, Workload, linear_shapes, weights_of
from gloss_engine.models.spec import LayerSpec, ModelSpec
from gloss_engine.released import RELEASED_PAIRS
from gloss_engine.released_spec import released_spec

QWEN = released_spec(RELEASED_PAIRS[0])
QWEN_AR = replace(QWEN, layers=QWEN.layers[:21])
PLAIN, FP8 = Floor(spec=QWEN), Floor(spec=QWEN, quantization="fp8")


def test_weights_of_the_7b() -> None:
    assert 28 * weights_of(linear_shapes(QWEN)) == pytest.approx(6.525e9, rel=1e-3)
    assert QWEN.vocab_size * QWEN.d_model == pytest.approx(0.545e9, rel=1e-3)


@pytest.mark.parametrize(
    ("floor", "batch", "step_ms", "rate"),
    [
        (PLAIN, 1, 3.29, 2.5),
        (PLAIN, 64, 3.37, 150),
        (PLAIN, 256, 4.91, 371),
        (PLAIN, 512, 9.82, 371),
        (FP8, 1, 1.77, 4.7),
        (FP8, 64, 1.85, 271),
        (FP8, 256, 3.16, 585),
        (FP8, 512, 6.31, 585),
    ],
)
def test_the_7b_on_an_h200(floor: Floor, batch: int, step_ms: float, rate: float) -> None:
    assert floor.step_seconds(batch) * 1e3 == pytest.approx(step_ms, abs=0.005)
    assert floor.explanations_per_second(batch) == pytest.approx(rate, abs=0.05, rel=4e-3)


def test_one_explanation_alone() -> None:
    assert PLAIN.single_explanation_seconds() == pytest.approx(0.395, abs=5e-4)
    assert FP8.single_explanation_seconds() == pytest.approx(0.213, abs=5e-4)


def test_scoring_is_work_too() -> None:
    # "About 230 and 375".
    assert replace(PLAIN, ar=QWEN_AR).explanations_per_second(256) == pytest.approx(230, rel=0.01)
    assert replace(FP8, ar=QWEN_AR).explanations_per_second(256) == pytest.approx(375, rel=0.01)
    assert PLAIN.scoring_seconds(256) == 0
    seconds = replace(PLAIN, ar=QWEN_AR).scoring_seconds(256)
    assert 1.2e12 < seconds / 256 * H200.flop_per_second < 1.4e12
    # Alone it is the AR's weights that take the time, not its 130 rows.
    weights = 2 * 21 * weights_of(linear_shapes(QWEN))
    alone = replace(PLAIN, ar=QWEN_AR).scoring_seconds(1)
    assert alone == pytest.approx(weights / H200.bytes_per_second, rel=0.01)


def test_a_step_by_hand() -> None:
    """Small enough to count: one block, every figure a whole number."""
    spec = ModelSpec(
        architecture="llama",
        d_model=8,
        layers=(LayerSpec(),),
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        intermediate_size=16,
        vocab_size=32,
        rms_norm_eps=1e-6,
        attention_scale=0.5,
        ropes=(),
        max_positions=64,
    )
    # 8x16 + 8x8 + 8x32 + 16x8 weights; the head has 8x32.
    work = Workload(prompt_len=10, prefix_len=6, new_tokens=8, ar_tokens=5)
    slow_memory = Floor(
        spec=spec,
        ceilings=Ceilings(bytes_per_second=1.0, flop_per_second=1e9, fp8_flop_per_second=1e9),
        workload=work,
        dtype_bytes=4,
    )
    keys = 6 + 3 * 8
    assert slow_memory.step_seconds(3) == 4 * 576 + 4 * 256 + 2 * 4 * 4 * keys + 2 * 3 * 32 * 4
    assert replace(slow_memory, quantization="fp8").step_seconds(3) == (
        slow_memory.step_seconds(3) - 3 * 576
    )
    slow_products = replace(
        slow_memory,
        ceilings=Ceilings(bytes_per_second=1e9, flop_per_second=1.0, fp8_flop_per_second=2.0),
    )
    products = 2 * 3 * 576 + 2 * 3 * 256 + 3 * 4 * 2 * 4 * (6 + 8)
    assert slow_products.step_seconds(3) == pytest.approx(products)
    fp8 = replace(slow_products, quantization="fp8")
    assert fp8.step_seconds(3) == pytest.approx(products - 3 * 576)
    # 12 suffix rows that see 6 + 2.5 keys on average; logits of 3 rows.
    prefill = 2 * 12 * 576 + 2 * 3 * 256 + 12 * 4 * 2 * 4 * 8.5
    assert slow_products.prefill_seconds(3) == pytest.approx(prefill)
    scored = replace(slow_products, ar=spec)
    assert scored.scoring_seconds(3) == pytest.approx(2 * 15 * 576 + 15 * 4 * 2 * 4 * 3)


def test_a_window_hides_keys() -> None:
    def with_window(window: int) -> Floor:
        return replace(PLAIN, spec=replace(QWEN, layers=(LayerSpec(window=window),) * 28))

    assert with_window(185).step_seconds(256) == PLAIN.step_seconds(256)
    assert with_window(185).prefill_seconds(256) == PLAIN.prefill_seconds(256)
    # 85 own keys are all of a window of 85: what is saved is one read of the prefix.
    saved = PLAIN.step_seconds(256) - with_window(85).step_seconds(256)
    assert saved == pytest.approx(57344 * 100 / H200.bytes_per_second, rel=1e-3)
    halved = PLAIN.step_seconds(256) - with_window(40).step_seconds(256)
    assert halved == pytest.approx(57344 * (100 + 256 * 45) / H200.bytes_per_second, rel=1e-3)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"got 'int8', expected one of none, fp8"):
        replace(PLAIN, quantization="int8")
    with pytest.raises(ValueError, match="expected a prompt longer than its shared part"):
        Workload(prompt_len=100, prefix_len=100)
    with pytest.raises(ValueError, match="0 new"):
        Workload(new_tokens=0)
