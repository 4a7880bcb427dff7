"""A micro batch's loss on a real model: its terms, its parts, its length, its log."""

import math
from dataclasses import replace

import pytest
import torch

from gloss_training.models.full_pair import FullPair
from gloss_training.models.sharding import ALONE
from gloss_training.rl.divergence import k1_reward_to_go
from gloss_training.rl.policy_pass import PolicyPass, policy_pass
from gloss_training.rl.responses import Responses, micro_batches
from gloss_training.rl.settings import KlSettings, RlSettings
from gloss_training.rl.tally import Tally
from support.rl_runs import INJECTION_SCALE, SETTINGS, PairSampler, make_pair, make_task

HOT = replace(SETTINGS, temperature=1.3)


@pytest.fixture(scope="module")
def pair() -> FullPair:
    """Its AV has moved away from its reference."""
    pair = make_pair()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in pair.av_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.05 * parameter.std() * noise)
    return pair


@pytest.fixture(scope="module")
def responses(pair: FullPair) -> Responses:
    activations = make_task(80).activations[:3]
    rollout = PairSampler(pair).sample(activations, 4, HOT, rows=torch.arange(3))
    assert 0 < sum(rollout.is_valid) < len(rollout)
    return Responses.of(rollout, INJECTION_SCALE, torch.device("cpu"))


VALUES = torch.randn(12, generator=torch.Generator().manual_seed(6))


def run(
    pair: FullPair,
    responses: Responses,
    settings: RlSettings,
    *,
    values: torch.Tensor = VALUES,
    measures_kl: bool = False,
) -> PolicyPass:
    return policy_pass(
        pair,
        responses,
        values,
        settings,
        num_responses=12,
        old_logprobs=None,
        measures_kl=measures_kl,
        ranks=ALONE,
    )


def whole_table(pair: FullPair, responses: Responses) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, t, vocabulary] log-probabilities of AV and reference at the temperature."""
    states = pair.response_states(responses.rows, responses.token_ids)
    other = pair.reference_states(responses.rows, responses.token_ids)
    return (
        (pair.logits(states) / HOT.temperature).log_softmax(-1),
        (pair.reference_logits(other) / HOT.temperature).log_softmax(-1),
    )


def expected_loss(pair: FullPair, responses: Responses, kl: KlSettings) -> torch.Tensor:
    """The same loss by its definition, over the whole table at once."""
    log_p, log_q = whole_table(pair, responses)
    ids, mask = responses.token_ids[..., None], responses.mask
    own, other = log_p.gather(-1, ids)[..., 0], log_q.gather(-1, ids)[..., 0]
    each = VALUES[:, None].expand(mask.shape)
    penalty = torch.zeros(())
    if kl.kind == "k1_reward":
        each = each - kl.weight * k1_reward_to_go(own, other, mask)
    elif kl.kind == "k2":
        penalty = (own - other).square() / 2
    elif kl.kind == "exact":
        penalty = (log_p.exp() * (log_p - log_q)).sum(-1)
    # The responses are the AV's own: every weight is 1.
    ratio = (own - own.detach()).exp()
    total = (-ratio * each + kl.weight * penalty)[mask].sum()
    return total / (12 * HOT.max_new_tokens)


@pytest.mark.parametrize("kind", ["none", "exact", "k2", "k1_reward"])
def test_loss_and_gradient_by_definition(pair: FullPair, responses: Responses, kind: str) -> None:
    kl = KlSettings(kind=kind, weight=0.7)
    found = run(pair, responses, replace(HOT, kl=kl)).loss
    expected = expected_loss(pair, responses, kl)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    parameters = list(pair.av_parameters())
    for left, right in zip(
        torch.autograd.grad(found, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        assert float((left - right).norm()) <= 1e-4 * float(right.norm())


def test_kinds_of_kl_pull_in_different_ways(pair: FullPair, responses: Responses) -> None:
    """So that the comparison above is one."""
    losses = {
        kind: float(expected_loss(pair, responses, KlSettings(kind=kind, weight=0.7)).detach())
        for kind in ("none", "exact", "k2", "k1_reward")
    }
    assert len({round(value, 4) for value in losses.values()}) == 4


@pytest.mark.parametrize("size", [1, 5, 12])
def test_micro_batches_add_up_in_value_and_gradient(
    pair: FullPair, responses: Responses, size: int
) -> None:
    settings = replace(HOT, kl=KlSettings(kind="exact", weight=0.7))
    parameters = list(pair.av_parameters())
    whole = run(pair, responses, settings).loss
    expected = torch.autograd.grad(whole, parameters)
    total = 0.0
    sums = [torch.zeros_like(p) for p in parameters]
    for chosen in micro_batches(responses.mask.sum(1).tolist(), size):
        part = run(pair, responses.take(chosen), settings, values=VALUES[chosen])
        total += float(part.loss.detach())
        for held, gradient in zip(sums, torch.autograd.grad(part.loss, parameters), strict=True):
            held.add_(gradient)
    assert total == pytest.approx(float(whole.detach()), rel=1e-5)
    for left, right in zip(sums, expected, strict=True):
        assert float((left - right).norm()) <= 1e-4 * float(right.norm())


def test_the_figures_are_those_of_all_tokens(pair: FullPair, responses: Responses) -> None:
    log_p, log_q = whole_table(pair, responses)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)[responses.mask]
    tally = Tally()
    for chosen in micro_batches(responses.mask.sum(1).tolist(), 5):
        settings = replace(HOT, kl=KlSettings(kind="exact"))
        run(pair, responses.take(chosen), settings, values=VALUES[chosen]).describe(tally)
    figures = tally.means(ALONE)
    assert figures["kl"] == pytest.approx(float(kl.detach().mean()), rel=1e-5)
    assert figures["kl"] > 0.001
    # The sampler had the same weights, and the temperature.
    assert figures["ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert 0.0 <= figures["k3"] < 1e-8
    assert figures["clipped_share"] == 0.0


def test_without_a_kl_in_the_loss_it_is_measured_where_asked(
    pair: FullPair, responses: Responses
) -> None:
    settings = replace(HOT, kl=KlSettings(kind="none"))
    assert run(pair, responses, settings).kl is None
    measured = run(pair, responses, settings, measures_kl=True)
    exact = run(pair, responses, replace(HOT, kl=KlSettings(kind="exact")))
    assert measured.kl == pytest.approx(exact.kl)
    assert torch.equal(measured.loss, run(pair, responses, settings).loss)
    weightless = replace(HOT, kl=KlSettings(kind="exact", weight=0.0))
    assert run(pair, responses, weightless).kl is None


def test_a_reference_equal_to_the_av_costs_nothing(responses: Responses) -> None:
    same = make_pair()
    found = run(same, responses, replace(HOT, kl=KlSettings(kind="exact", weight=5.0)))
    plain = run(same, responses, replace(HOT, kl=KlSettings(kind="none")))
    assert found.kl == pytest.approx(0.0, abs=1e-5)
    torch.testing.assert_close(found.loss, plain.loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["none", "exact", "k2", "k1_reward"])
def test_a_micro_batch_asks_nothing_of_its_device(responses: Responses, kind: str) -> None:
    """A host that reads a number waits for all it has launched. On "meta" there is none to read."""
    pair = make_pair()
    for decoder in (pair.av, pair.reference):
        decoder.to("meta")
    tensors = {
        name: getattr(responses, name).to("meta")
        for name in ("rows", "token_ids", "mask", "engine_logprobs")
    }
    part = replace(responses, **tensors).take(torch.tensor([4, 0, 7]))
    settings = replace(HOT, kl=KlSettings(kind=kind))
    found = run(pair, part, settings, values=VALUES[:3].to("meta"), measures_kl=True)
    found.loss.backward()
    found.describe(Tally())
    assert found.loss.is_meta and found.policy.k3.is_meta


def test_responses_know_their_tokens() -> None:
    pair = make_pair()
    activations = make_task(80).activations[:2]
    rollout = PairSampler(pair).sample(activations, 1, SETTINGS, rows=torch.tensor([4, 2]))
    found = Responses.of(rollout, INJECTION_SCALE, torch.device("cpu"))
    for index, (ids, logprobs) in enumerate(
        zip(rollout.response_ids, rollout.logprobs, strict=True)
    ):
        real = found.mask[index]
        assert found.token_ids[index][real].tolist() == list(ids)
        assert found.engine_logprobs[index][real].tolist() == list(logprobs)
        assert not bool(real[len(ids) :].any())
        torch.testing.assert_close(
            found.rows[index],
            activations[index // 4] * (INJECTION_SCALE / activations[index // 4].norm()),
        )
    assert math.isclose(float(found.rows.norm(dim=1).mean()), INJECTION_SCALE, rel_tol=1e-5)


def test_micro_batches_hold_each_once_the_longest_first() -> None:
    lengths = [3, 9, 1, 9, 4, 2, 7]
    batches = micro_batches(lengths, 3)
    assert [batch.tolist() for batch in batches] == [[1, 3, 6], [4, 0, 5], [2]]
