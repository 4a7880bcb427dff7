"""Advantages: zero sums, the leave-one-out mean, failed samples, dead groups, scales, residues."""

import math
from dataclasses import replace

import pytest
import torch

from gloss_training.rl.advantages import advantages, with_failures
from gloss_training.rl.settings import AdvantageSettings

PLAIN = AdvantageSettings(scale="none")
NAN = math.nan


def drawn(num_prompts: int, num_samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_prompts, num_samples, generator=torch.Generator().manual_seed(seed))


def all_valid(rewards: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(rewards, dtype=torch.bool)


def test_each_reward_is_held_against_the_mean_of_the_others() -> None:
    rewards = drawn(3, 5)
    values = advantages(rewards, all_valid(rewards), PLAIN).values
    for prompt in range(3):
        for sample in range(5):
            row = rewards[prompt].tolist()
            others = row[:sample] + row[sample + 1 :]
            expected = row[sample] - sum(others) / 4
            assert values[prompt, sample].item() == pytest.approx(expected, abs=1e-6)
    # The same by the closed form: G / (G - 1) of the distance from the group's mean.
    closed = 5 / 4 * (rewards - rewards.mean(1, keepdim=True))
    torch.testing.assert_close(values, closed, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", ["none", "batch", "group"])
def test_groups_sum_to_zero_failed_samples_included(scale: str) -> None:
    rewards = drawn(6, 7)
    is_valid = drawn(6, 7, seed=1) > -0.5
    assert 0 < int((~is_valid).sum()) < 30
    values = advantages(rewards, is_valid, AdvantageSettings(scale=scale)).values
    torch.testing.assert_close(values.sum(1), torch.zeros(6), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", ["none", "batch", "group"])
def test_a_constant_group_gets_exactly_zero(scale: str) -> None:
    rewards = torch.tensor([[-0.7123] * 7, [0.1] * 7])
    values = advantages(rewards, all_valid(rewards), AdvantageSettings(scale=scale, floor=1e-6))
    assert torch.equal(values.values, torch.zeros(2, 7))


def test_a_failed_sample_gets_the_worst_valid_reward_less_the_margin() -> None:
    rewards = torch.tensor([[-1.0, -0.2, NAN, -0.6], [NAN, -3.0, 99.0, 99.0]])
    is_valid = torch.tensor([[True, True, False, True], [False, True, False, False]])
    filled = with_failures(rewards, is_valid, 0.25)
    expected = [[-1.0, -0.2, -1.25, -0.6], [-3.25, -3.0, -3.25, -3.25]]
    torch.testing.assert_close(filled, torch.tensor(expected))
    values = advantages(rewards, is_valid, replace(PLAIN, failure_margin=0.25)).values
    # It is below every other of its group, and so stays in the policy loss.
    assert values[0, 2] == values[0].min() < 0
    assert values[0, 2].item() == pytest.approx(-1.25 - (-1.0 - 0.2 - 0.6) / 3)
    torch.testing.assert_close(values[1], torch.tensor([-1 / 12, 0.25, -1 / 12, -1 / 12]))


def test_failed_samples_stay_out_of_the_deviation() -> None:
    rewards = torch.tensor([[-0.50, -0.53, -0.47, NAN], [-0.48, -0.52, -0.50, -0.50]])
    is_valid = ~rewards.isnan()
    settings = AdvantageSettings(floor=1e-6, failure_margin=2.0)
    known = [-0.50, -0.53, -0.47, -0.48, -0.52, -0.50, -0.50]
    mean = math.fsum(known) / 7
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in known) / 7)
    found = advantages(rewards, is_valid, settings)
    assert found.scale == pytest.approx(deviation, rel=1e-5)
    # The group without a failure is as if the other one had none.
    expected = (-0.48 - (-0.52 - 0.50 - 0.50) / 3) / deviation
    assert found.values[1, 0].item() == pytest.approx(expected, rel=1e-4)
    # With the margin inside the deviation, a gap of two deviations would shrink sixteenfold.
    assert float(found.values[1, 0] - found.values[1, 1]) > 1.5


def test_each_group_may_have_its_own_deviation() -> None:
    rewards = torch.tensor([[0.0, 2.0], [0.0, 20.0], [5.0, 5.0]])
    settings = AdvantageSettings(scale="group", floor=0.5)
    found = advantages(rewards, all_valid(rewards), settings)
    torch.testing.assert_close(found.values[:2], torch.tensor([[-2.0, 2.0], [-2.0, 2.0]]))
    assert torch.equal(found.values[2], torch.zeros(2))
    assert found.scale == pytest.approx((1.0 + 10.0 + 0.5) / 3)


def test_the_floor_holds_and_a_scale_of_none_divides_by_one() -> None:
    rewards = torch.tensor([[0.0, 0.002]])
    found = advantages(rewards, all_valid(rewards), AdvantageSettings(floor=0.05))
    assert found.scale == pytest.approx(0.05)
    torch.testing.assert_close(found.values, torch.tensor([[-0.04, 0.04]]))
    assert advantages(rewards, all_valid(rewards), PLAIN).scale == 1.0


def test_a_dead_group_gets_zero_is_counted_and_changes_nobody_else() -> None:
    rewards = torch.tensor([[NAN] * 3, [-0.1, -0.2, -0.6], [NAN] * 3])
    found = advantages(rewards, ~rewards.isnan(), AdvantageSettings())
    alone = advantages(rewards[1:2], torch.ones(1, 3, dtype=torch.bool), AdvantageSettings())
    assert (found.num_dead_groups, alone.num_dead_groups) == (2, 0)
    assert torch.equal(found.values[[0, 2]], torch.zeros(2, 3))
    assert torch.equal(found.values[1], alone.values[0])
    nothing = advantages(rewards[:1], torch.zeros(1, 3, dtype=torch.bool), AdvantageSettings())
    assert nothing.num_dead_groups == 1
    assert torch.equal(nothing.values, torch.zeros(1, 3))


def test_order_and_units_do_not_matter() -> None:
    rewards = drawn(4, 6)
    is_valid = drawn(4, 6, seed=3) > -1.0
    settings = AdvantageSettings(floor=1e-6, failure_margin=0.25)
    values = advantages(rewards, is_valid, settings).values
    prompts, samples = torch.randperm(4), torch.randperm(6)
    moved = advantages(rewards[prompts][:, samples], is_valid[prompts][:, samples], settings)
    torch.testing.assert_close(moved.values, values[prompts][:, samples])
    other = advantages(3.0 * rewards - 7.0, is_valid, replace(settings, failure_margin=0.75))
    torch.testing.assert_close(other.values, values, rtol=1e-4, atol=1e-5)


def test_equal_rewards_far_from_zero_leave_no_residue() -> None:
    """In float32 seven equal rewards and one beside them once gave an advantage of 7428."""
    rewards = torch.tensor([[-1.2345678] * 7 + [-1.2345679]])
    values = advantages(rewards, all_valid(rewards), AdvantageSettings(scale="group")).values
    assert float(values.abs().max()) < 1e-4


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        advantages(torch.zeros(3, 1), torch.ones(3, 1, dtype=torch.bool), PLAIN)
