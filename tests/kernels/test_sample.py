"""Sampling against the exact filtered distribution in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from gloss_kernels.reference.philox import philox_uniform
from gloss_kernels.reference.sample import _invert, sample

# A token's share of the unit interval is a float32 sum of float32 probabilities; 1e-6 is some 16
# units in the last place of 1.
EDGE = 1e-6
# The draws are fixed, so a p-value is a number, not a chance: it stays above this or never does.
MIN_P_VALUE = 1e-3
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cold": {"temperature": 0.6},
    "hot": {"temperature": 2.5},
    "top_k": {"top_k": 11},
    "top_k_one": {"top_k": 1},
    "top_k_all": {"top_k": 10_000},
    "top_p": {"top_p": 0.7},
    "top_p_tiny": {"top_p": 1e-6},
    "min_p": {"min_p": 0.1},
    "penalty": {"penalty": 1.7},
    "penalty_below_one": {"penalty": 0.6},
    "k_then_p": {"top_k": 12, "top_p": 0.8},
    "p_then_min": {"top_p": 0.9, "min_p": 0.08},
    "k_then_min": {"top_k": 30, "min_p": 0.15},
    "all": {"temperature": 1.4, "top_k": 40, "top_p": 0.85, "min_p": 0.05, "penalty": 1.3},
}


def _logits(vocab_size: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(vocab_size, generator=generator) * spread


def _presence(vocab_size: int) -> Tensor:
    """Every third token, likely and unlikely ones alike."""
    return torch.arange(vocab_size) % 3 == 1


def _bitmap(present: Tensor) -> Tensor:
    """[vocab_size] bool as the sampler's words [1, ceil(vocab_size / 32)] int32."""
    padded = torch.zeros(-(-present.shape[0] // 32) * 32, dtype=torch.int64)
    padded[: present.shape[0]] = present
    return (padded.view(1, -1, 32) << torch.arange(32)).sum(-1).to(torch.int32)


def penalised(logits: Tensor, penalty: float) -> Tensor:
    exact = logits.double()
    scaled = torch.where(exact > 0, exact / penalty, exact * penalty)
    return torch.where(_presence(logits.shape[0]), scaled, exact)


def distribution(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    penalty: float = 1.0,
) -> Tensor:
    """The filtered distribution of one row [vocab_size], normalised, by the definition."""
    probs = torch.softmax(penalised(logits, penalty) / temperature, dim=-1)
    keep = torch.ones_like(probs, dtype=torch.bool)
    if 0 < top_k < probs.shape[0]:
        keep &= probs >= probs.sort(descending=True).values[top_k - 1]
    if top_p < 1:
        kept = torch.where(keep, probs, 0.0)
        above = torch.stack([kept[probs > p].sum() for p in probs])
        keep &= above < top_p * kept.sum()
    keep &= probs >= min_p * probs.max()
    kept = torch.where(keep, probs, 0.0)
    return kept / kept.sum()


def draw(logits: Tensor, uniforms: Tensor, settings: dict[str, Any]) -> Tensor:
    """Tokens of one row's logits for many uniforms; only what `settings` names is passed."""
    tokens = []
    for part in uniforms.split(8192):
        n = part.shape[0]
        names = {"top_k": "top_ks", "top_p": "top_ps", "min_p": "min_ps", "penalty": "penalties"}
        columns: dict[str, Any] = {
            names[name]: torch.full((n,), value)
            for name, value in settings.items()
            if name in names
        }
        if "penalty" in settings:
            columns["presence"] = _bitmap(_presence(logits.shape[0])).expand(n, -1)
        tokens.append(
            sample(
                logits.repeat(n, 1),
                part,
                temperatures=torch.full((n,), settings.get("temperature", 1.0)),
                any_greedy=False,
                **columns,
            )[0]
        )
    return torch.cat(tokens)


def _uniforms(n: int, seed: int = 1) -> Tensor:
    zero = torch.zeros(1, dtype=torch.int64)
    return philox_uniform(torch.tensor([seed]), zero, zero, torch.arange(n))


@pytest.mark.parametrize("name", SETTINGS)
def test_draws_follow_the_filtered_distribution(name: str) -> None:
    logits = _logits(300)
    probs = distribution(logits, **SETTINGS[name])
    num_draws = 60_000
    counts = torch.bincount(draw(logits, _uniforms(num_draws), SETTINGS[name]), minlength=300)
    assert counts[probs == 0].sum() == 0, "a dropped token was drawn"
    expected = probs * num_draws
    often = expected >= 5
    observed, wanted = counts[often].double(), expected[often]
    if (~often).any() and expected[~often].sum() > 0:
        observed = torch.cat((observed, counts[~often].sum().double().unsqueeze(0)))
        wanted = torch.cat((wanted, expected[~often].sum().unsqueeze(0)))
    if observed.shape[0] == 1:
        assert observed.item() == num_draws
        return
    assert stats.chisquare(observed.numpy(), wanted.numpy()).pvalue > MIN_P_VALUE


def _wrong_orders() -> dict[str, Callable[[Tensor], Tensor]]:
    def min_p_before_top_p(logits: Tensor) -> Tensor:
        kept = distribution(logits, min_p=0.08)
        return distribution(torch.where(kept > 0, kept.log(), -1e9), top_p=0.9)

    def top_p_before_top_k(logits: Tensor) -> Tensor:
        kept = distribution(logits, top_p=0.8)
        return distribution(torch.where(kept > 0, kept.log(), -1e9), top_k=12)

    return {"p_then_min": min_p_before_top_p, "k_then_p": top_p_before_top_k}


@pytest.mark.parametrize("name", _wrong_orders())
def test_the_order_of_the_filters_shows(name: str) -> None:
    """The settings above tell the stated order from the other one."""
    logits = _logits(300)
    stated, swapped = distribution(logits, **SETTINGS[name]), _wrong_orders()[name](logits)
    assert not torch.equal(stated > 0, swapped > 0)


@pytest.mark.parametrize("vocab_size", [1, 2, 127, 128, 129, 1000])
@pytest.mark.parametrize("name", ["plain", "top_k", "top_p", "all"])
def test_inversion_is_exact(vocab_size: int, name: str) -> None:
    _check_inversion(_logits(vocab_size, seed=vocab_size), SETTINGS[name])


@pytest.mark.parametrize(("spread", "top_p"), [(0.3, 0.9), (0.02, 0.97), (4.0, 0.9)])
def test_a_top_p_that_needs_more_than_the_candidates(spread: float, top_p: float) -> None:
    logits = _logits(3000, seed=4, spread=spread)
    num_kept = int((distribution(logits, top_p=top_p) > 0).sum())
    assert (num_kept > 1024) == (spread < 4), f"{num_kept} tokens make a poor case"
    _check_inversion(logits, {"top_p": top_p}, num_points=4096)


def test_a_top_k_beyond_the_candidates() -> None:
    logits = _logits(3000, seed=5, spread=0.5)
    _check_inversion(logits, {"top_k": 2000}, num_points=4096)
    _check_inversion(logits, {"top_k": 1500, "top_p": 0.99}, num_points=4096)


def _check_inversion(logits: Tensor, settings: dict[str, Any], num_points: int = 1 << 14) -> None:
    """Every uniform of a fine grid gives the token that a float64 running sum gives."""
    uniforms = ((torch.arange(num_points) + 0.5) / num_points).float()
    extreme = torch.tensor([2.0**-24, 1 - 2.0**-24])
    uniforms = torch.cat((uniforms, extreme))
    running = distribution(logits, **settings).cumsum(0)
    exact = uniforms.double()
    expected = torch.searchsorted(running, exact * running[-1], right=True)
    tokens = draw(logits, uniforms, settings)
    off = (tokens != expected).nonzero().squeeze(1)
    for row in off.tolist():
        assert (running - exact[row]).abs().min() < EDGE, f"u = {float(exact[row])!r}"
    # Edges within 1e-6 of a grid point are rare: at most a few in a hundred points a vocabulary.
    assert off.numel() <= 4 + 2 * EDGE * num_points * logits.shape[0]


def test_tokens_of_equal_probability_are_kept_together() -> None:
    logits = torch.full((200,), -3.0)
    logits[[5, 70, 130, 199]] = 2.0
    logits[9] = 4.0
    uniforms = ((torch.arange(2000) + 0.5) / 2000).float()
    for settings in ({"top_k": 2}, {"top_k": 4}, {"top_p": 0.6}, {"top_k": 3, "top_p": 0.999}):
        assert set(draw(logits, uniforms, settings).tolist()) == {5, 9, 70, 130, 199}, settings
    assert set(draw(logits, uniforms, {"top_k": 1}).tolist()) == {9}
    assert set(draw(logits, uniforms, {"top_k": 6}).tolist()) == set(range(200))


def test_dropped_tokens_are_never_drawn_at_a_blocks_edge() -> None:
    """Rounding may put the target a hair before a block that begins with dropped tokens.

    The blocks weigh 1, 3 * 2^-52, 1 and 2^-51. The third running sum is rounded up by 2^-52, so
    what stands before the third block comes out larger than the target, u times the total, which
    is exactly 1 + 3 * 2^-52.
    """
    weights = torch.zeros(1, 4 * 128)
    weights[0, [0, 130, 300, 400]] = torch.tensor([1.0, 3 * 2.0**-52, 1.0, 2.0**-51])
    assert int(_invert(weights, torch.tensor([0.5]))) == 300


@pytest.mark.parametrize("vocab_size", [1, 127, 128, 129, 1000])
@pytest.mark.parametrize("uniforms", [False, True])
def test_greedy_is_the_first_maximum(vocab_size: int, uniforms: bool) -> None:
    logits = torch.randn(9, vocab_size, generator=torch.Generator().manual_seed(vocab_size))
    logits[1] = 0.25
    logits[2, vocab_size // 2 :] = logits[2].max() + 1
    logits[3] = -torch.arange(vocab_size).float()
    logits[4] = torch.arange(vocab_size).float()
    expected = torch.tensor([row.tolist().index(float(row.max())) for row in logits])
    tokens, _, finite = sample(
        logits.clone(),
        torch.full((9,), 0.9) if uniforms else None,
        temperatures=torch.zeros(9),
        top_ks=torch.full((9,), 3),
    )
    assert torch.equal(tokens, expected) and finite.all()


def test_greedy_and_drawn_rows_side_by_side() -> None:
    logits = _logits(300).repeat(4, 1)
    uniforms = torch.tensor([0.3, 0.3, 0.9, 0.9])
    tokens, _, _ = sample(logits.clone(), uniforms, temperatures=torch.tensor([0.0, 1.0, 0.0, 1.0]))
    drawn = draw(_logits(300), uniforms[[1, 3]], {})
    assert tokens[[0, 2]].tolist() == [int(_logits(300).argmax())] * 2
    assert torch.equal(tokens[[1, 3]], drawn)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_logprob_is_of_the_untruncated_softmax(temperature: float, penalty: float) -> None:
    logits = _logits(300, seed=3)
    n = 500
    tokens, logprobs, _ = sample(
        logits.repeat(n, 1),
        _uniforms(n),
        temperatures=torch.full((n,), temperature),
        top_ks=torch.full((n,), 20),
        top_ps=torch.full((n,), 0.9),
        min_ps=torch.full((n,), 0.01),
        penalties=torch.full((n,), penalty),
        presence=_bitmap(_presence(300)).expand(n, -1),
    )
    exact = torch.log_softmax(penalised(logits, penalty) / (temperature or 1.0), dim=-1)
    assert logprobs.dtype == torch.float32
    # float32 softmax: 1e-6 relative on a probability is 1e-6 absolute on its logarithm.
    torch.testing.assert_close(logprobs.double(), exact[tokens], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [0, 128, 299])
@pytest.mark.parametrize("filters", [False, True])
def test_a_non_finite_row_is_flagged_and_alone(bad: float, at: int, filters: bool) -> None:
    logits = torch.stack([_logits(300, seed=s) for s in range(6)])
    columns: dict[str, Any] = {"temperatures": torch.tensor([1.0, 0.0, 1.0, 0.0, 0.7, 1.0])}
    if filters:
        columns |= {
            "top_ks": torch.full((6,), 7),
            "top_ps": torch.full((6,), 0.8),
            "min_ps": torch.full((6,), 0.02),
            "penalties": torch.full((6,), 1.2),
            "presence": _bitmap(_presence(300)).expand(6, -1),
        }
    clean = sample(logits.clone(), _uniforms(6), **columns)
    logits[[2, 3], at] = bad
    tokens, logprobs, finite = sample(logits, _uniforms(6), **columns)
    assert finite.tolist() == [True, True, False, False, True, True]
    assert ((tokens >= 0) & (tokens < 300)).all(), "a flagged row still indexes tables"
    others = [0, 1, 4, 5]
    assert torch.equal(tokens[others], clean[0][others])
    assert torch.equal(logprobs[others], clean[1][others])
    assert clean[2].all()


@pytest.mark.parametrize("temperature", [1e-6, 1e-3])
def test_temperatures_near_zero_are_nearly_greedy(temperature: float) -> None:
    logits = _logits(300, seed=6)
    tokens = draw(logits, _uniforms(50), {"temperature": temperature})
    assert set(tokens.tolist()) == {int(logits.argmax())}


def test_filters_of_each_row_are_its_own() -> None:
    """Rows that use no filter, some or all of them, in one call, as each alone."""
    logits = _logits(300, seed=8)
    uniforms = torch.tensor([0.98, 0.6, 0.99, 0.97, 0.95])
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "penalty": 1.0}
    rows = [neutral | SETTINGS[name] for name in ("plain", "top_k", "top_p", "min_p", "all")]
    together = sample(
        logits.repeat(5, 1),
        uniforms,
        temperatures=torch.tensor([row["temperature"] for row in rows]),
        top_ks=torch.tensor([row["top_k"] for row in rows]),
        top_ps=torch.tensor([row["top_p"] for row in rows]),
        min_ps=torch.tensor([row["min_p"] for row in rows]),
        penalties=torch.tensor([row["penalty"] for row in rows]),
        presence=_bitmap(_presence(300)).expand(5, -1),
    )[0]
    names = ("plain", "top_k", "top_p", "min_p", "all")
    alone = [draw(logits, uniforms[i : i + 1], SETTINGS[name]) for i, name in enumerate(names)]
    assert torch.equal(together, torch.cat(alone))
    assert together.unique().numel() > 2, "the rows cannot be told apart"
