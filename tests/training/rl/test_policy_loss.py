"""The policy loss against hand values and against the enumerated gradient of a tiny policy."""

import math

import pytest
import torch

from gloss_training.rl.advantages import advantages
from gloss_training.rl.policy_loss import PolicyLoss, importance_weights, policy_loss
from gloss_training.rl.settings import AdvantageSettings
from support import enumerated

MASK = torch.tensor([[True, True, False], [True, True, True]])
OLD = torch.tensor([[-0.5, -1.5, 9.0], [-0.2, -2.0, -0.7]], dtype=torch.float64)
NEW = torch.tensor([[-0.4, -1.9, 9.0], [-0.2, -1.5, -0.9]], dtype=torch.float64)
ENGINE = torch.tensor([[-0.6, -1.4, 9.0], [-0.2, -3.0, -0.7]], dtype=torch.float64)
ADVANTAGES = torch.tensor([0.8, -1.2], dtype=torch.float64)


def loss_of(logprobs: torch.Tensor, **options: object) -> PolicyLoss:
    given = {"max_tokens": 5, "num_responses": 4, "importance_cap": 2.0, **options}
    return policy_loss(logprobs, ENGINE, MASK, ADVANTAGES, **given)  # type: ignore[arg-type]


def real_tokens() -> list[tuple[int, int]]:
    return [(int(row), int(step)) for row, step in MASK.nonzero()]


def test_one_update_by_hand() -> None:
    logprobs = OLD.clone().requires_grad_()
    found = loss_of(logprobs)
    loss = float(found.loss.detach())
    weight = {at: min(math.exp(float(OLD[at] - ENGINE[at])), 2.0) for at in real_tokens()}
    expected = -sum(weight[at] * float(ADVANTAGES[at[0]]) for at in real_tokens()) / (4 * 5)
    assert loss == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(found.loss, logprobs)
    for at in real_tokens():
        assert float(gradient[at]) == pytest.approx(
            -weight[at] * float(ADVANTAGES[at[0]]) / 20, rel=1e-12
        )
    assert float(gradient[0, 2]) == 0.0
    ratios = [math.exp(float(OLD[at] - ENGINE[at])) for at in real_tokens()]
    assert found.ratio_mean == pytest.approx(sum(ratios) / 5, rel=1e-12)
    assert found.clipped_share == pytest.approx(1 / 5)
    assert found.k3 == pytest.approx(sum(x - 1 - math.log(x) for x in ratios) / 5, rel=1e-12)


def test_later_updates_by_hand() -> None:
    logprobs = NEW.clone().requires_grad_()
    found = loss_of(logprobs, old_logprobs=OLD, clip_ratio=0.2)
    (gradient,) = torch.autograd.grad(found.loss, logprobs)
    total, num_clipped = 0.0, 0
    for at in real_tokens():
        weight = min(math.exp(float(OLD[at] - ENGINE[at])), 2.0)
        ratio = math.exp(float(NEW[at] - OLD[at]))
        advantage = float(ADVANTAGES[at[0]])
        held = min(max(ratio, 0.8), 1.2)
        gain = min(ratio * advantage, held * advantage)
        total += weight * gain
        is_clipped = gain != ratio * advantage
        num_clipped += is_clipped or math.exp(float(OLD[at] - ENGINE[at])) > 2.0
        expected = 0.0 if is_clipped else -weight * ratio * advantage / 20
        assert float(gradient[at]) == pytest.approx(expected, rel=1e-12)
    assert float(found.loss.detach()) == pytest.approx(-total / 20, rel=1e-12)
    assert found.clipped_share == pytest.approx(num_clipped / 5)


def test_the_loss_and_its_gradient_agree_with_differences() -> None:
    logprobs = NEW.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: loss_of(x, old_logprobs=OLD, clip_ratio=0.5).loss, (logprobs,)
    )


def test_the_first_of_several_updates_is_that_of_one() -> None:
    one, several = OLD.clone().requires_grad_(), OLD.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss_of(one).loss, one)
    (second,) = torch.autograd.grad(
        loss_of(several, old_logprobs=OLD, clip_ratio=0.2).loss, several
    )
    assert torch.equal(first, second)


def test_what_is_not_real_is_not_read() -> None:
    poisoned = OLD.clone()
    poisoned[0, 2] = math.nan
    engine = ENGINE.clone()
    engine[0, 2] = math.inf
    logprobs = poisoned.clone().requires_grad_()
    each = ADVANTAGES[:, None].expand(-1, 3).clone()
    each[0, 2] = math.nan
    found = policy_loss(
        logprobs, engine, MASK, each, max_tokens=5, num_responses=4, importance_cap=2.0
    )
    (gradient,) = torch.autograd.grad(found.loss, logprobs)
    clean = OLD.clone().requires_grad_()
    expected = loss_of(clean)
    assert (found.loss, found.k3, found.ratio_mean) == (
        expected.loss,
        expected.k3,
        expected.ratio_mean,
    )
    assert torch.equal(gradient, torch.autograd.grad(expected.loss, clean)[0])


def test_micro_batches_add_up() -> None:
    whole = float(loss_of(OLD).loss)
    parts = [
        policy_loss(
            OLD[row],
            ENGINE[row],
            MASK[row],
            ADVANTAGES[row],
            max_tokens=5,
            num_responses=4,
            importance_cap=2.0,
        )
        for row in (slice(0, 1), slice(1, 2))
    ]
    assert sum(float(part.loss) for part in parts) == pytest.approx(whole, rel=1e-12)


def test_no_response_pays_for_its_length() -> None:
    """A token's gradient is that of its advantage alone, in a response of 2 tokens or of 9."""
    lengths = torch.tensor([2, 9])
    mask = torch.arange(9) < lengths[:, None]
    logprobs = torch.full((2, 9), -1.0, requires_grad=True)
    found = policy_loss(
        logprobs,
        torch.full((2, 9), -1.0),
        mask,
        torch.tensor([1.0, 1.0]),
        max_tokens=9,
        num_responses=2,
        importance_cap=2.0,
    )
    (gradient,) = torch.autograd.grad(found.loss, logprobs)
    assert set(gradient[mask].tolist()) == {gradient[0, 0].item()}


def test_the_expected_gradient_is_that_of_the_expected_reward() -> None:
    logits = enumerated.draw_logits(0).requires_grad_()
    rewards = enumerated.draw_rewards(1)
    probabilities = enumerated.probabilities(logits)
    assert float(probabilities.detach().sum()) == pytest.approx(1.0, abs=1e-12)
    logprobs = enumerated.logprobs(logits)
    found = policy_loss(
        logprobs,
        logprobs.detach(),
        enumerated.mask(),
        rewards * probabilities.detach(),
        max_tokens=1,
        num_responses=1,
        importance_cap=math.inf,
    )
    expected = enumerated.gradient((probabilities * rewards).sum(), logits)
    assert float(expected.norm()) > 0.1
    torch.testing.assert_close(
        -enumerated.gradient(found.loss, logits), expected, rtol=1e-10, atol=1e-12
    )


def test_leaving_the_sample_out_of_its_baseline_keeps_the_gradient_exact() -> None:
    """Every pair of responses as a group of two: the estimate's mean is the true gradient."""
    logits = enumerated.draw_logits(2).requires_grad_()
    rewards = enumerated.draw_rewards(3)
    probabilities = enumerated.probabilities(logits)
    number = len(enumerated.RESPONSES)
    pairs = torch.cartesian_prod(torch.arange(number), torch.arange(number))
    values = advantages(
        rewards[pairs], torch.ones_like(pairs, dtype=torch.bool), AdvantageSettings(scale="none")
    ).values
    chance = (probabilities[pairs[:, 0]] * probabilities[pairs[:, 1]]).detach()
    logprobs = enumerated.logprobs(logits)[pairs.reshape(-1)]
    found = policy_loss(
        logprobs,
        logprobs.detach(),
        enumerated.mask()[pairs.reshape(-1)],
        (values.double() * chance[:, None]).reshape(-1),
        max_tokens=1,
        num_responses=2,
        importance_cap=math.inf,
    )
    expected = enumerated.gradient((probabilities * rewards).sum(), logits)
    torch.testing.assert_close(
        -enumerated.gradient(found.loss, logits), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("cap", [math.inf, 1.3])
def test_weights_against_another_sampler(cap: float) -> None:
    """One step, sampled from mu: uncapped weights give p's own gradient, capped ones are mu's."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(1, 4, generator=generator, dtype=torch.float64).requires_grad_()
    mu = torch.randn(1, 4, generator=generator, dtype=torch.float64).softmax(-1)[0]
    gains = torch.randn(4, generator=generator, dtype=torch.float64)
    p = logits.softmax(-1)[0]
    logprobs = p.log()[:, None]
    found = policy_loss(
        logprobs,
        mu.log()[:, None],
        torch.ones(4, 1, dtype=torch.bool),
        gains * mu,
        max_tokens=1,
        num_responses=1,
        importance_cap=cap,
    )
    (gradient,) = torch.autograd.grad(-found.loss, logits, retain_graph=True)
    weights = [min(float(p[i].detach() / mu[i]), cap) for i in range(4)]
    assert (max(weights) == cap) == (cap < math.inf)
    expected = torch.zeros(1, 4, dtype=torch.float64)
    for i in range(4):
        (score,) = torch.autograd.grad(p[i].log(), logits, retain_graph=True)
        expected += mu[i].detach() * weights[i] * gains[i] * score
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    if cap == math.inf:
        (true,) = torch.autograd.grad((p * gains).sum(), logits)
        torch.testing.assert_close(gradient, true, rtol=1e-10, atol=1e-12)


def test_a_huge_ratio_meets_the_cap_and_not_infinity() -> None:
    weights = importance_weights(
        torch.tensor([[0.0, -1.0]]), torch.tensor([[-2000.0, -1.0]]), MASK[:1, :2], 2.0
    )
    torch.testing.assert_close(weights, torch.tensor([[2.0, 1.0]]))


def test_weights_are_constants() -> None:
    logprobs = OLD.clone().requires_grad_()
    assert not importance_weights(logprobs, ENGINE, MASK, 2.0).requires_grad


def test_k3_is_the_kl_from_the_engine() -> None:
    """Over all tokens of one step, weighted by mu: sum of mu log(mu / p)."""
    mu = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    p = torch.tensor([0.4, 0.1, 0.25, 0.25], dtype=torch.float64)
    each = [
        policy_loss(
            p.log()[i].reshape(1, 1),
            mu.log()[i].reshape(1, 1),
            torch.ones(1, 1, dtype=torch.bool),
            torch.zeros(1),
            max_tokens=1,
            num_responses=1,
            importance_cap=2.0,
        ).k3
        for i in range(4)
    ]
    expected = float((mu * (mu / p).log()).sum())
    assert sum(float(mu[i]) * each[i] for i in range(4)) == pytest.approx(expected, rel=1e-12)
    assert min(each) >= 0.0
