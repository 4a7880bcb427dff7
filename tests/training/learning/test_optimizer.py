"""AdamW over masters: schedule, 16-bit weights that learn in float32, gradients without a value."""

from __future__ import annotations

import math

import pytest
import torch

from gloss_training.learning.optimizer import MasterAdamW, learning_rate_at


def parameter(values: list[float], dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def test_schedule_warms_up_and_falls_to_a_tenth() -> None:
    rates = [learning_rate_at(step, 0.5, 4, 12) for step in range(13)]
    assert rates[:5] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    assert rates[8] == pytest.approx(0.275)
    assert rates[12] == pytest.approx(0.05)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_float32_weights_are_their_own_masters_and_move_as_adamw_moves_them() -> None:
    ours, theirs = parameter([1.0, -2.0, 3.0]), parameter([1.0, -2.0, 3.0])
    optimizer = MasterAdamW({"w": ours}, learning_rate=0.1, weight_decay=0.01)
    assert optimizer.masters["w"] is ours
    reference = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(5):
        for weight in (ours, theirs):
            weight.grad = torch.tensor([0.3, -0.1, 0.2]) * (step + 1)
        optimizer.gather()
        optimizer.step(0.1)
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        reference.step()
    assert torch.equal(ours, theirs)


def test_small_updates_gather_in_the_master_where_the_weight_would_lose_them() -> None:
    """At 1.0 bfloat16's next values are 1/128 away: each update of 1/1024 is rounded away."""
    weight = parameter([1.0] * 4, torch.bfloat16)
    lost = parameter([1.0] * 4, torch.bfloat16)
    optimizer = MasterAdamW({"w": weight}, learning_rate=2**-10)
    plain = torch.optim.AdamW([lost], lr=2**-10, betas=(0.9, 0.98), weight_decay=0.0)
    for _ in range(19):
        for each in (weight, lost):
            each.grad = torch.full((4,), -0.25, dtype=torch.bfloat16)
        optimizer.gather()
        optimizer.step(2**-10)
        plain.step()
    master = optimizer.masters["w"]
    assert master.dtype == torch.float32
    assert not torch.equal(master, master.to(torch.bfloat16).float())
    torch.testing.assert_close(master, torch.full((4,), 1.0 + 19 / 1024), rtol=1e-4, atol=0)
    assert torch.equal(weight, master.to(torch.bfloat16))
    assert (weight > 1.01).all()
    assert torch.equal(lost, torch.ones(4, dtype=torch.bfloat16))


def test_gradients_of_micro_batches_are_added_up_in_float32() -> None:
    """1 + 256 times 1/512: in bfloat16 every one of the small ones would be lost."""
    weight = parameter([0.0], torch.bfloat16)
    optimizer = MasterAdamW({"w": weight}, learning_rate=1.0, max_grad_norm=1e9)
    for value in (1.0, *[1 / 512] * 256):
        weight.grad = torch.tensor([value], dtype=torch.bfloat16)
        optimizer.gather()
        assert weight.grad is None
    assert optimizer.step(1.0) == pytest.approx(1.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_without_a_value_moves_nothing_and_is_forgotten(
    dtype: torch.dtype, bad: float
) -> None:
    weight = parameter([1.0, 2.0], dtype)
    optimizer = MasterAdamW({"w": weight}, learning_rate=0.1)

    def step(first: float) -> float:
        weight.grad = torch.tensor([first, 0.5], dtype=dtype)
        optimizer.gather()
        return optimizer.step(0.1)

    step(0.5)
    before = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    assert not math.isfinite(step(bad))
    assert all(torch.equal(t, before[name]) for name, t in optimizer.tensors().items())
    assert math.isfinite(step(0.5))
    assert not torch.equal(optimizer.tensors()["master.w"], before["master.w"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_taken_back_goes_on_to_the_bit(dtype: torch.dtype) -> None:
    def run(optimizer: MasterAdamW, weight: torch.nn.Parameter, steps: range) -> None:
        for step in steps:
            weight.grad = torch.tensor([0.1, -0.3], dtype=dtype) * (step + 1)
            optimizer.gather()
            optimizer.step(0.01)

    whole = parameter([1.0, 2.0], dtype)
    optimizer = MasterAdamW({"w": whole}, learning_rate=0.01)
    run(optimizer, whole, range(3))
    kept = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    run(optimizer, whole, range(3, 6))
    resumed = parameter([9.0, 9.0], dtype)
    second = MasterAdamW({"w": resumed}, learning_rate=0.01)
    second.load(kept)
    run(second, resumed, range(3, 6))
    assert torch.equal(whole, resumed)
    assert all(torch.equal(t, second.tensors()[n]) for n, t in optimizer.tensors().items())
