"""Every KL estimator's expected gradient against full enumeration; k1 in the loss has none."""

import math

import pytest
import torch

from gloss_training.rl.divergence import exact_kl, k1_reward_to_go, k2
from gloss_training.rl.policy_loss import policy_loss
from gloss_training.rl.settings import KlSettings
from support import enumerated


@pytest.fixture
def logits() -> torch.Tensor:
    return enumerated.draw_logits(0).requires_grad_()


REFERENCE = enumerated.draw_logits(7)
MASK = enumerated.mask()


def of_each_token(logits: torch.Tensor) -> torch.Tensor:
    """Gradient of each prefix's KL, prefixes held: by a loop over the 13 prefixes."""
    chances = enumerated.prefix_probabilities(logits)
    total = torch.zeros((), dtype=torch.float64)
    for row, chance in enumerate(chances):
        p, q = logits[row].softmax(-1), REFERENCE[row].softmax(-1)
        total = total + chance * sum(p[i] * (p[i] / q[i]).log() for i in range(4))
    return enumerated.gradient(total, logits)


def of_the_response(logits: torch.Tensor) -> torch.Tensor:
    """Gradient of the KL between the two distributions over 40 responses."""
    p, q = enumerated.probabilities(logits), enumerated.probabilities(REFERENCE)
    return enumerated.gradient((p * (p / q).log()).sum(), logits)


def expected_of(per_token: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Expected gradient of a term that stands in the loss, responses drawn from the policy."""
    chances = enumerated.probabilities(logits).detach()
    return enumerated.gradient((chances * per_token.masked_fill(~MASK, 0.0).sum(1)).sum(), logits)


def test_exact_kl_in_the_loss(logits: torch.Tensor) -> None:
    rows = enumerated.prefix_rows()
    found = expected_of(exact_kl(logits[rows], REFERENCE[rows], MASK), logits)
    torch.testing.assert_close(found, of_each_token(logits), rtol=1e-10, atol=1e-12)


def test_k2_in_the_loss_has_the_gradient_of_the_exact_one(logits: torch.Tensor) -> None:
    terms = k2(enumerated.logprobs(logits), enumerated.logprobs(REFERENCE), MASK)
    torch.testing.assert_close(
        expected_of(terms, logits), of_each_token(logits), rtol=1e-10, atol=1e-12
    )


def test_k1_in_the_reward_has_the_gradient_of_the_responses_kl(logits: torch.Tensor) -> None:
    logprobs = enumerated.logprobs(logits)
    to_go = k1_reward_to_go(logprobs, enumerated.logprobs(REFERENCE), MASK)
    chances = enumerated.probabilities(logits).detach()
    loss = policy_loss(
        logprobs,
        logprobs.detach(),
        MASK,
        -to_go * chances[:, None],
        max_tokens=1,
        num_responses=1,
        importance_cap=math.inf,
    ).loss
    found = enumerated.gradient(loss, logits)
    expected = of_the_response(logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    # The two true gradients differ: what a token does to the KL
    # of later ones is in the response's alone.
    cosine = torch.cosine_similarity(expected.flatten(), of_each_token(logits).flatten(), dim=0)
    assert 0.5 < float(cosine) < 0.95


def test_k1_in_the_loss_pulls_nowhere_and_is_refused(logits: torch.Tensor) -> None:
    k1 = enumerated.logprobs(logits) - enumerated.logprobs(REFERENCE)
    assert float(expected_of(k1, logits).norm()) < 1e-12
    assert float(of_the_response(logits).norm()) > 0.1
    for kind in ("k1", "k1_loss"):
        with pytest.raises(ValueError, match="expected gradient in the loss is zero"):
            KlSettings(kind=kind)


def test_values_by_hand() -> None:
    p, q = [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.4, 0.1]
    logits = torch.tensor([p, p], dtype=torch.float64).log() + 3.0
    reference = torch.tensor([q, q], dtype=torch.float64).log() - 1.0
    mask = torch.tensor([True, False])
    found = exact_kl(logits, reference, mask)
    expected = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert found.tolist() == [pytest.approx(expected, rel=1e-12), 0.0]
    assert exact_kl(logits, logits, mask).tolist() == [0.0, 0.0]

    own = torch.tensor([[-1.0, -2.0, 5.0]], dtype=torch.float64)
    other = torch.tensor([[-1.5, -1.0, math.nan]], dtype=torch.float64)
    real = torch.tensor([[True, True, False]])
    assert k2(own, other, real).tolist() == [[0.125, 0.5, 0.0]]
    assert k1_reward_to_go(own, other, real).tolist() == [[-0.5, -1.0, 0.0]]


def test_the_cost_to_go_is_a_constant(logits: torch.Tensor) -> None:
    logprobs = enumerated.logprobs(logits)
    assert not k1_reward_to_go(logprobs, enumerated.logprobs(REFERENCE), MASK).requires_grad
