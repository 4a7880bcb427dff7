"""The RL stage on tiny models: what a step does, its guards, its figures, going on after a stop."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gloss_training.errors import NotFiniteError
from gloss_training.learning.progress import Sample, Silence
from gloss_training.models.full_pair import FullPair
from gloss_training.models.pair import Pair
from gloss_training.models.sharding import ALONE
from gloss_training.rl.clock import Clock
from gloss_training.rl.learner import Learned, Learner
from gloss_training.rl.rollout import Rollout
from gloss_training.rl.settings import KlSettings, RewardSettings, RlSettings
from gloss_training.rl.task import RlTask
from gloss_training.rl.trainer import train_rl
from gloss_training.scoring import normalized_mse
from support import rl_runs
from support.rl_runs import (
    SETTINGS,
    PairSampler,
    make_pair,
    make_task,
    same,
    weights_of,
    without_valid,
)

WIDTH = 80


class Log(Silence):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []
        self.clocks: list[Mapping[str, float]] = []
        self.shown: dict[int, list[Sample]] = {}

    def step(
        self, index: int, figures: Mapping[str, float], clock: Mapping[str, float] | None = None
    ) -> None:
        assert clock is not None
        self.figures.append({"step": index, **figures})
        self.clocks.append(clock)

    def samples(self, index: int, samples: object) -> None:
        assert isinstance(samples, list)
        self.shown[index] = samples


class PoisonedPair(FullPair):
    """Its AR or its AV gives NaN in the rollouts of chosen steps, counted by `step`."""

    poisons: str = "ar"
    when: frozenset[int] = frozenset()
    step = -1

    def reconstruct(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        output = super().reconstruct(token_ids, lengths)
        return output * math.nan if self._is_poisoned("ar") else output

    def logits(self, states: Tensor) -> Tensor:
        output = super().logits(states)
        # Only while it learns: the sampler has no gradient.
        return output * math.nan if self._is_poisoned("av") and states.requires_grad else output

    def _is_poisoned(self, what: str) -> bool:
        return what == self.poisons and self.step in self.when


class CountingSampler(PairSampler):
    """Tells a poisoned pair which step it is, and keeps weights as each rollout began."""

    def __init__(self, pair: FullPair, **options: bool) -> None:
        super().__init__(pair, **options)
        self.before: list[dict[str, Tensor]] = []

    def sample(
        self, activations: Tensor, seed: int, settings: RlSettings, rows: Tensor | None = None
    ) -> Rollout:
        assert isinstance(self.pair, FullPair)
        if isinstance(self.pair, PoisonedPair):
            self.pair.step = len(self.before)
        self.before.append(weights_of(self.pair))
        return super().sample(activations, seed, settings, rows)


def poisoned(poisons: str, when: set[int]) -> PoisonedPair:
    pair = make_pair()
    pair.__class__ = PoisonedPair
    assert isinstance(pair, PoisonedPair)
    pair.poisons, pair.when = poisons, frozenset(when)
    return pair


def run(
    folder: Path,
    settings: RlSettings = SETTINGS,
    *,
    pair: FullPair | None = None,
    sampler: PairSampler | None = None,
    task: RlTask | None = None,
    seed: int = 3,
) -> tuple[FullPair, Log, dict[str, float]]:
    pair = make_pair() if pair is None else pair
    log = Log()
    figures = train_rl(
        pair,
        PairSampler(pair) if sampler is None else sampler,
        make_task(WIDTH) if task is None else task,
        settings,
        seed=seed,
        folder=folder,
        progress=log,
    )
    return pair, log, figures


def learn_once(
    settings: RlSettings = SETTINGS, change: Callable[[Rollout], Rollout] = lambda r: r
) -> tuple[FullPair, Rollout, Learned]:
    """One step on a rollout that may be changed first."""
    pair = make_pair()
    task = make_task(WIDTH)
    rows = torch.arange(settings.prompts_per_step)
    rollout = PairSampler(pair).sample(task.activations[rows], 1, settings, rows=rows)
    rollout = change(rollout)
    learner = Learner(pair, task, settings, ALONE)
    return pair, rollout, learner.learn(rollout, 10, Clock(ALONE.device))


def test_a_run_moves_both_models_and_tells_of_each_step(tmp_path: Path) -> None:
    pair = make_pair()
    before = weights_of(pair)
    _, log, figures = run(tmp_path, pair=pair)
    after = weights_of(pair)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert [line["step"] for line in log.figures] == [0, 1, 2, 3]
    expected = {
        *("reward", "reward_reconstruction", "mse", "fve", "kl", "k3", "ratio_mean"),
        *("clipped_share", "policy_loss", "response_tokens", "full_length_rate", "failure_rate"),
        *("dead_groups", "advantage_scale", "av_grad_norm", "ar_grad_norm", "skipped"),
        *("lost_in_rounding", "step"),
    }
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text("utf-8")
    section = page.partition("### What `logs/rl.jsonl`")[2].partition("\n## ")[0]
    assert all(f"`{name}`" in section for name in expected - {"step"})
    for line in log.figures:
        assert line.keys() == expected
        assert all(math.isfinite(value) for value in line.values())
        assert line["reward"] == pytest.approx(-line["mse"], rel=1e-6)
        assert line["k3"] < 1e-8
    assert log.figures[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert log.figures[-1]["kl"] > 1e-4
    assert figures == {
        **{k: v for k, v in log.figures[-1].items() if k != "step"},
        "skipped_steps": 0,
    }
    for clock in log.clocks:
        parts = ("rollout_seconds", "ar_seconds", "av_seconds", "update_seconds", "load_seconds")
        assert sum(clock[name] for name in parts) <= clock["seconds"]
        assert 0.0 < clock["rollout_share"] < 1.0
        assert clock["samples_per_second"] == pytest.approx(12 / clock["seconds"])
    assert list(log.shown) == [1, 3]
    assert all(sample.text.startswith("text ") for sample in log.shown[1])


def test_figures_of_one_rollout_by_hand() -> None:
    def fail_two(rollout: Rollout) -> Rollout:
        return without_valid(rollout, [0, 1, 2, 3, 5])

    pair, rollout, learned = learn_once(change=fail_two)
    figures = learned.figures
    lengths = [len(ids) for ids in rollout.response_ids]
    assert figures["response_tokens"] == pytest.approx(sum(lengths) / 12)
    assert figures["full_length_rate"] == pytest.approx(sum(x == 7 for x in lengths) / 12)
    num_failed = 12 - sum(rollout.is_valid)
    assert figures["failure_rate"] == pytest.approx(num_failed / 12)
    assert num_failed >= 5
    is_valid = torch.tensor(rollout.is_valid)
    alive = is_valid.reshape(3, 4).any(1)
    assert not bool(alive[0])
    assert bool(alive.any())
    assert figures["dead_groups"] == float((~alive).sum())
    assert torch.equal(learned.mse.isnan(), ~is_valid)
    assert figures["mse"] == pytest.approx(float(learned.mse[is_valid].mean()), rel=1e-6)
    # Each is read against its own activation, by the AR as it was before it learnt.
    first = make_pair()
    for index in is_valid.nonzero()[:, 0].tolist():
        read = first.reconstruct(*rl_runs.encode([rollout.explanations[index]]))
        own = rollout.activations[index // 4][None]
        expected = float(normalized_mse(read, own).detach())
        assert float(learned.mse[index]) == pytest.approx(expected, rel=1e-4)
    baseline = make_task(WIDTH).fve_baseline
    assert figures["fve"] == pytest.approx(1 - figures["mse"] / baseline)


def test_equal_seeds_equal_runs(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert same(weights_of(first[0]), weights_of(second[0]))
    assert first[1].figures == second[1].figures
    other = run(tmp_path / "c", seed=4)
    assert first[1].figures[0] != other[1].figures[0]


def test_micro_batches_change_the_memory_and_not_the_step() -> None:
    norms = []
    for size in (1, 5, 12):
        _, _, learned = learn_once(replace(SETTINGS, micro_batch=size))
        norms.append([learned.figures[f"{name}_grad_norm"] for name in ("av", "ar")])
    assert norms[0] == pytest.approx(norms[2], rel=1e-4)
    assert norms[1] == pytest.approx(norms[2], rel=1e-4)


class Stopped(Exception):
    """A run that ends in the middle of a rollout."""


class StoppingSampler(PairSampler):
    def sample(
        self, activations: Tensor, seed: int, settings: RlSettings, rows: Tensor | None = None
    ) -> Rollout:
        if len(self.rows) == 3:
            raise Stopped
        return super().sample(activations, seed, settings, rows)


def test_a_run_that_goes_on_is_the_same_run(tmp_path: Path) -> None:
    whole_pair = make_pair()
    whole_sampler = PairSampler(whole_pair)
    _, whole_log, figures = run(tmp_path / "whole", pair=whole_pair, sampler=whole_sampler)
    pair = make_pair()
    with pytest.raises(Stopped):
        run(tmp_path / "cut", pair=pair, sampler=StoppingSampler(pair))
    # A new process has the pair as RL began, and nothing but the folder besides.
    pair = make_pair()
    sampler = PairSampler(pair)
    _, log, again = run(tmp_path / "cut", pair=pair, sampler=sampler)
    assert [line["step"] for line in log.figures] == [2, 3]
    assert log.figures == whole_log.figures[2:]
    assert sampler.rows == whole_sampler.rows[2:]
    assert again == figures
    assert same(weights_of(pair), weights_of(whole_pair))


def test_a_run_whose_pair_was_not_written_makes_no_step_again(tmp_path: Path) -> None:
    settings = replace(SETTINGS, num_steps=3, checkpoint_every=2)
    whole_pair, _, figures = run(tmp_path, settings)
    pair = make_pair()
    sampler = PairSampler(pair)
    _, log, again = run(tmp_path, settings, pair=pair, sampler=sampler)
    assert sampler.rows == [] and log.figures == []
    assert again == figures
    assert same(weights_of(pair), weights_of(whole_pair))


@pytest.mark.parametrize("poisons", ["ar", "av"])
def test_a_nan_gradient_of_one_model_leaves_both_as_they_were(tmp_path: Path, poisons: str) -> None:
    pair = poisoned(poisons, {1})
    sampler = CountingSampler(pair)
    _, log, figures = run(tmp_path, pair=pair, sampler=sampler)
    assert not same(sampler.before[0], sampler.before[1])
    assert same(sampler.before[1], sampler.before[2])
    assert not same(sampler.before[2], sampler.before[3])
    assert [line["skipped"] for line in log.figures] == [0.0, 1.0, 0.0, 0.0]
    assert figures["skipped_steps"] == 1.0
    assert all(math.isfinite(v) for line in log.figures for v in line.values())


def test_a_skipped_step_leaves_the_moments_as_they_were() -> None:
    pair = poisoned("ar", {1})
    task = make_task(WIDTH)
    learner = Learner(pair, task, SETTINGS, ALONE)
    kept: list[dict[str, Tensor]] = []
    for step in range(3):
        rows = torch.arange(3) + step
        rollout = PairSampler(pair).sample(task.activations[rows], step, SETTINGS, rows=rows)
        pair.step = step
        learned = learner.learn(rollout, step, Clock(ALONE.device))
        assert learned.is_skipped == (step == 1)
        kept.append({name: tensor.clone() for name, tensor in learner.tensors().items()})
    assert same(kept[0], kept[1])
    assert not same(kept[1], kept[2])
    assert any("exp_avg" in name for name in kept[0])


def test_gradients_that_stay_nan_end_the_run_with_the_weights_before_them(
    tmp_path: Path,
) -> None:
    pair = poisoned("av", {1, 2, 3})
    sampler = CountingSampler(pair)
    with pytest.raises(NotFiniteError, match=r"2 steps in a row, up to step 2.*learning_rate"):
        run(tmp_path, pair=pair, sampler=sampler)
    assert same(weights_of(pair), sampler.before[1])


def test_nan_steps_apart_do_not_end_the_run(tmp_path: Path) -> None:
    pair = poisoned("av", {0, 2})
    _, _, figures = run(tmp_path, pair=pair, sampler=CountingSampler(pair))
    assert figures["skipped_steps"] == 2.0


def test_rollouts_without_a_valid_response_are_skipped_and_end_the_run(tmp_path: Path) -> None:
    pair = make_pair()
    before = weights_of(pair)
    log = Log()
    with pytest.raises(NotFiniteError, match=r"no response was closed.*max_new_tokens"):
        train_rl(
            pair,
            PairSampler(pair, closes=False),
            make_task(WIDTH),
            SETTINGS,
            seed=0,
            folder=tmp_path,
            progress=log,
        )
    assert same(weights_of(pair), before)
    assert [line["skipped"] for line in log.figures] == [1.0, 1.0]
    assert log.figures[0]["failure_rate"] == 1.0
    assert "mse" not in log.figures[0]


def test_a_run_too_short_for_max_skipped_that_moved_nothing_is_no_success(tmp_path: Path) -> None:
    pair = make_pair()
    settings = replace(SETTINGS, num_steps=2, max_skipped=10)
    with pytest.raises(NotFiniteError, match=r"no response was closed .* 2 steps in a row"):
        train_rl(
            pair,
            PairSampler(pair, closes=False),
            make_task(WIDTH),
            settings,
            seed=0,
            folder=tmp_path,
        )


def test_failed_responses_stay_in_the_policy_loss_and_out_of_the_ars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Equal rewards: what the policy learns, it learns from the failed sample alone."""
    settings = replace(
        SETTINGS,
        prompts_per_step=1,
        kl=KlSettings(kind="none"),
        reward=RewardSettings(reconstruction=0.0, format=1e-9),
    )

    def all_valid_but(failed: list[int]) -> Callable[[Rollout], Rollout]:
        def change(rollout: Rollout) -> Rollout:
            whole = replace(rollout, is_valid=(True,) * 4, explanations=("11 12",) * 4)
            return without_valid(whole, failed)

        return change

    _, _, learned = learn_once(settings, all_valid_but([]))
    assert learned.figures["av_grad_norm"] == 0.0
    read: list[str] = []
    plain = rl_runs.encode

    def encode(texts: list[str]) -> tuple[Tensor, Tensor]:
        read.extend(texts)
        return plain(texts)

    monkeypatch.setattr(rl_runs, "encode", encode)
    _, _, learned = learn_once(settings, all_valid_but([2]))
    assert learned.figures["av_grad_norm"] > 1e-3
    assert read == ["11 12"] * 3


def test_a_control_trains_the_ar_alone(tmp_path: Path) -> None:
    pair = make_pair()
    before = weights_of(pair)
    sampler = PairSampler(pair)
    _, log, _ = run(tmp_path, replace(SETTINGS, trains_av=False), pair=pair, sampler=sampler)
    after = weights_of(pair)
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("av."), name
    assert "av_grad_norm" not in log.figures[0]
    assert log.figures[0]["ar_grad_norm"] > 0
    # Once when the run begins; the AV never changes.
    assert sampler.num_loads == 1


def test_several_updates_of_one_rollout_clip_against_the_first() -> None:
    one, _, first = learn_once()
    two, _, second = learn_once(replace(SETTINGS, updates_per_rollout=3, clip_ratio=1e-6))
    assert not same(weights_of(one), weights_of(two))
    # The later updates' ratios have moved from 1, so that about half their tokens are clipped
    # (those that went the way of their advantage); ratios to the engine stay those of the first.
    assert first.figures["clipped_share"] == 0.0
    assert 0.2 < second.figures["clipped_share"] < 0.6
    assert second.figures["ratio_mean"] == pytest.approx(1.0, abs=1e-5)


def test_a_judge_is_asked_once_a_step_and_its_term_is_kept_apart(tmp_path: Path) -> None:
    asked: list[int] = []

    def judge(rollout: Rollout) -> Tensor:
        asked.append(len(rollout))
        scores = torch.full((len(rollout),), 0.25)
        scores[0] = torch.nan
        return scores

    settings = replace(
        SETTINGS, reward=RewardSettings(judge=2.0, brevity=0.5), updates_per_rollout=2
    )
    _, log, _ = run(tmp_path, settings, task=make_task(WIDTH, judge=judge))
    assert asked == [12] * 4
    for line in log.figures:
        assert line["reward_judge"] == pytest.approx(0.5)
        assert 0 <= line["unjudged_rate"] <= 0.25
        total = sum(value for name, value in line.items() if name.startswith("reward_"))
        assert line["reward"] == pytest.approx(total, rel=1e-5)
    unasked = run(tmp_path / "b", SETTINGS, task=make_task(WIDTH, judge=judge))
    assert len(asked) == 4
    assert not {"reward_judge", "unjudged_rate"} & unasked[1].figures[0].keys()


def test_the_sampler_is_given_the_weights_after_each_update(tmp_path: Path) -> None:
    class Loads(CountingSampler):
        def load(self, pair: Pair) -> float:
            assert isinstance(pair, FullPair)
            self.loaded = weights_of(pair)
            return super().load(pair)

        def sample(self, *arguments: object, **options: object) -> Rollout:
            assert isinstance(self.pair, FullPair)
            assert same(self.loaded, weights_of(self.pair))
            return super().sample(*arguments, **options)  # type: ignore[arg-type]

    pair = make_pair()
    sampler = Loads(pair)
    run(tmp_path, pair=pair, sampler=sampler)
    assert sampler.num_loads == 1 + SETTINGS.num_steps
