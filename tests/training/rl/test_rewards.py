"""Reward terms: each by hand, weighted, apart, and none of them for a failed response."""

import math
from collections.abc import Sequence

import pytest
import torch

from gloss_training.rl.rewards import form, repeated, score
from gloss_training.rl.rollout import Rollout
from gloss_training.rl.settings import RewardSettings

NAN = math.nan


def rollout_of(
    explanations: Sequence[str], lengths: Sequence[int], is_valid: Sequence[bool]
) -> Rollout:
    ids = tuple(tuple(range(length)) for length in lengths)
    return Rollout(
        rows=torch.arange(len(ids) // 2),
        activations=torch.zeros(len(ids) // 2, 4),
        samples_per_prompt=2,
        response_ids=ids,
        logprobs=tuple((0.0,) * length for length in lengths),
        explanations=tuple(explanations),
        is_valid=tuple(is_valid),
        seconds=1.0,
    )


FOUR = rollout_of(
    ["It rains. Ben sings.", "ben sings", "", "A b."], [30, 4, 40, 12], [True, True, False, True]
)
MSE = torch.tensor([0.5, 1.5, NAN, 0.25])


def test_reconstruction_alone_is_minus_the_mse() -> None:
    found = score(FOUR, MSE, RewardSettings(), None, 40)
    assert list(found.terms) == ["reconstruction"]
    torch.testing.assert_close(found.total, torch.tensor([-0.5, -1.5, NAN, -0.25]), equal_nan=True)


def test_terms_are_weighted_kept_apart_and_add_up() -> None:
    settings = RewardSettings(
        reconstruction=2.0, format=0.5, brevity=0.4, free_tokens=10, repetition=0.1, judge=3.0
    )
    judged = torch.tensor([0.5, 1.0, NAN, 0.2])
    found = score(FOUR, MSE, settings, judged, 40)
    expected = {
        "reconstruction": [-1.0, -3.0, NAN, -0.5],
        "format": [0.5, 0.25, NAN, 0.5],
        "brevity": [-0.4 * 20 / 40, 0.0, NAN, -0.4 * 2 / 40],
        "repetition": [0.0, 0.0, NAN, 0.0],
        "judge": [1.5, 3.0, NAN, 0.6],
    }
    assert list(found.terms) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(
            found.terms[name], torch.tensor(values), equal_nan=True, msg=name
        )
    total = torch.stack([*found.terms.values()]).sum(0)
    torch.testing.assert_close(found.total, total, equal_nan=True)


def test_a_reconstruction_of_no_weight_is_left_out() -> None:
    found = score(FOUR, MSE, RewardSettings(reconstruction=0.0, format=1.0), None, 40)
    assert list(found.terms) == ["format"]
    assert found.total.tolist()[:2] == [1.0, 0.5]


def test_a_judge_that_gave_no_score_neither_pays_nor_costs() -> None:
    rollout = rollout_of(["A."] * 6, [3] * 6, [True] * 6)
    judged = torch.tensor([0.75, NAN, NAN, NAN, 0.25, 0.5])
    found = score(rollout, torch.zeros(6), RewardSettings(judge=1.0), judged, 10)
    assert found.terms["judge"].tolist() == [0.75, 0.75, 0.0, 0.0, 0.25, 0.5]
    assert found.num_unjudged == 3
    assert score(rollout, torch.zeros(6), RewardSettings(), None, 10).num_unjudged is None


def test_a_weight_for_a_judge_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rl\.reward\.judge"):
        score(FOUR, MSE, RewardSettings(judge=1.0), None, 40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The hero is Ben. It rains.", 1.0),
        ("The text ends with “a red kite”.", 1.0),
        ("It breaks off (he said “no.”) Then it rains!", 1.0),
        ("The hero is Ben. it rains.", 0.75),
        ("The hero is Ben. It rains", 0.75),
        ("rain", 0.5),
        ("Pi is 3.14 here.", 1.0),
        ("", 0.0),
        ("  ", 0.0),
        ("It rains. <explanation> It rains.", 0.0),
        ("川は広い。空は青い。", 1.0),
    ],
)
def test_form(text: str, expected: float) -> None:
    assert form(text) == expected


def test_repetition_is_the_share_of_trigrams_said_before() -> None:
    assert repeated([1, 2, 3, 4, 5]) == 0.0
    assert repeated([1, 2]) == 0.0
    assert repeated([]) == 0.0
    assert repeated([7] * 12) == pytest.approx(1 - 1 / 10)
    assert repeated([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)


def test_a_term_has_no_gradient() -> None:
    mse = MSE.clone().requires_grad_()
    assert not score(FOUR, mse, RewardSettings(), None, 40).total.requires_grad
