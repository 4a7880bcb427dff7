"""What is made of results: conditions with their margins, a page, plots."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gloss_training.errors import ConfigError, RunFolderError
from gloss_training.evaluation.plots import curves
from gloss_training.evidence.acceptance import judge_results
from gloss_training.evidence.arms import ARMS, BASES
from gloss_training.evidence.experiment import Experiment, share_stages
from gloss_training.evidence.results import read_results, result_path, write_result
from gloss_training.evidence.summary import summarise
from gloss_training.run.config import read_config

GOOD = {
    "sft": {"fve": 0.05, "fve_fresh_ar": 0.04, "fve_shuffled": -0.3, "claim_precision": 0.97},
    "ar_only": {"fve": 0.1, "fve_fresh_ar": 0.04, "fve_shuffled": -0.3, "claim_precision": 0.97},
    "rl_kl": {"fve": 0.5, "fve_fresh_ar": 0.55, "fve_shuffled": -0.6, "claim_precision": 0.92},
}


def result(arm: str, seed: int, **changes: float) -> dict[str, Any]:
    figures = {**GOOD.get(arm, GOOD["rl_kl"]), **changes}
    config = read_config("smoke", [*BASES[ARMS[arm].base], *ARMS[arm].settings])
    return {
        "arm": arm,
        "seed": seed,
        "is_oracle": ARMS[arm].is_oracle,
        "figures": figures,
        "missing": {"paraphrase_retention": "nobody reworded"},
        "seconds": {"rl": 60.0},
        "config": config.plain(),
        "command": "gloss-train evidence",
        "commit": "",
        "machine": {"processor": "a chip", "threads": 1, "cores": 2, "torch": "2"},
        "curves": [{"step": s, "reward": 0.1 * s, "kl": 0.01} for s in range(3 - 3 * seed)],
    }


def results(seeds: int) -> list[dict[str, Any]]:
    return [result(arm, seed) for arm in GOOD for seed in range(seeds)]


def test_three_good_seeds_hold_and_two_are_undecided() -> None:
    assert [verdict.holds for verdict in judge_results(results(3))] == [True] * 5
    assert [verdict.holds for verdict in judge_results(results(2))] == [None] * 5
    verdicts = judge_results(results(3))
    assert verdicts[0].margins == {seed: pytest.approx(0.25) for seed in range(3)}
    assert verdicts[2].margins == {seed: pytest.approx(0.6) for seed in range(3)}


@pytest.mark.parametrize(
    ("arm", "changes", "failed"),
    [
        ("rl_kl", {"fve": 0.24}, [0, 1]),
        ("sft", {"fve": 0.31}, [0]),
        ("ar_only", {"fve": 0.31}, [1]),
        ("rl_kl", {"fve_shuffled": 0.01}, [2]),
        ("rl_kl", {"fve_fresh_ar": 0.2}, [3]),
        ("rl_kl", {"claim_precision": 0.84}, [4]),
    ],
)
def test_one_bad_seed_fails_its_condition_alone(
    arm: str, changes: dict[str, float], failed: list[int]
) -> None:
    kept = [r for r in results(3) if (r["arm"], r["seed"]) != (arm, 1)]
    verdicts = judge_results([*kept, result(arm, 1, **changes)])
    assert [i for i, verdict in enumerate(verdicts) if verdict.holds is False] == failed
    assert all(verdicts[index].margins[1] < 0 for index in failed)
    one = judge_results([r for r in [*kept, result(arm, 1, **changes)] if r["seed"] == 1])
    assert [i for i, verdict in enumerate(one) if verdict.holds is False] == failed


def test_the_page_has_all_and_keeps_the_oracle_apart(tmp_path: Path) -> None:
    for each in [*results(3), result("rl_quality", 0, fve=0.77), result("plain_lm_sft", 0)]:
        write_result(tmp_path, each)
    write_result(tmp_path, {**result("rl_kl", 1), "figures": {**GOOD["rl_kl"], "fve": 0.2}})
    summarise(tmp_path)
    page = (tmp_path / "summary.md").read_text(encoding="utf-8")
    conditions = page.split("## Arms")[0]
    assert "| FVE gained over SFT | ≥ 0.2 | 0: 0.450, 1: 0.150, 2: 0.450 | -0.050 | **no** |" in (
        conditions
    )
    assert conditions.count("| yes |") == 3
    headline, oracle = page.split("## With an oracle in the reward")
    assert "0.770" not in headline and "0.770" in oracle
    assert "| rl_kl | mean | 0.400 |" in headline
    assert "paraphrase_retention: nobody reworded" in page
    for name in ("fve-against-truth.png", "curves-seed-0.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in page
    before = page, (tmp_path / "curves-seed-0.png").read_bytes()
    summarise(tmp_path)
    after = (tmp_path / "summary.md").read_text("utf-8"), (tmp_path / "curves-seed-0.png")
    assert before == (after[0], after[1].read_bytes())
    assert [r["arm"] for r in read_results(tmp_path)][:4] == ["sft"] * 3 + ["rl_kl"]


def test_arms_differ_in_rl_alone_so_that_they_can_share() -> None:
    for name, arm in ARMS.items():
        shared = read_config("evidence", BASES[arm.base]).plain()
        own = read_config("evidence", [*BASES[arm.base], *arm.settings]).plain()
        assert {key for key in own if own[key] != shared[key]} <= {"rl"}, name
        assert (own["rl"]["reward"]["judge"] > 0) == arm.is_oracle


def test_shared_stages_are_links_and_records_copies(tmp_path: Path) -> None:
    for stage in ("target", "data", "ar", "av"):
        (tmp_path / "base" / stage).mkdir(parents=True)
        for end in ("json", "settings.json"):
            record = tmp_path / "base" / "stages" / f"{stage}.{end}"
            record.parent.mkdir(exist_ok=True)
            record.write_text("{}")
    (tmp_path / "base" / "av" / "weights").write_text("w")
    for _ in range(2):
        share_stages(tmp_path / "base", tmp_path / "arm")
    assert (tmp_path / "arm" / "av").is_symlink()
    assert (tmp_path / "arm" / "av" / "weights").read_text() == "w"
    assert len([*(tmp_path / "arm" / "stages").iterdir()]) == 8


def test_shared_stages_may_be_moved(tmp_path: Path) -> None:
    for stage in ("target", "data", "ar", "av"):
        (tmp_path / "old" / "base" / stage).mkdir(parents=True)
        (tmp_path / "old" / "base" / stage / "file").write_text(stage)
        for end in ("json", "settings.json"):
            record = tmp_path / "old" / "base" / "stages" / f"{stage}.{end}"
            record.parent.mkdir(exist_ok=True)
            record.write_text("{}")
    share_stages(tmp_path / "old" / "base", tmp_path / "old" / "arm")
    (tmp_path / "old").rename(tmp_path / "new")
    assert (tmp_path / "new" / "arm" / "av" / "file").read_text() == "av"
    # One that leads nowhere, or elsewhere, is made anew.
    (tmp_path / "elsewhere").mkdir()
    for wrong in ("nowhere", "elsewhere"):
        (tmp_path / "new" / "arm" / "av").unlink()
        (tmp_path / "new" / "arm" / "av").symlink_to(tmp_path / wrong)
        share_stages(tmp_path / "new" / "base", tmp_path / "new" / "arm")
        assert (tmp_path / "new" / "arm" / "av" / "file").read_text() == "av"


def test_curves_keep_what_is_drawn(tmp_path: Path) -> None:
    assert curves(tmp_path / "rl.jsonl") == []
    line = {"step": 0, "reward": -0.123456789, "mse": 1.0, "k3": 1e-4}
    (tmp_path / "rl.jsonl").write_text(json.dumps(line) + "\n")
    assert curves(tmp_path / "rl.jsonl") == [{"step": 0, "reward": -0.12346, "k3": 1e-4}]


def test_results_of_other_settings_are_refused_and_the_same_ones_kept(tmp_path: Path) -> None:
    experiment = Experiment(
        root=tmp_path, config="smoke", overrides=(), console=Console(quiet=True)
    )
    write_result(experiment.results, {**result("rl_kl", 0), "curves": []})
    before = result_path(experiment.results, "rl_kl", 0).read_bytes()
    experiment.run([0], ["rl_kl"])
    assert result_path(experiment.results, "rl_kl", 0).read_bytes() == before
    assert (experiment.results / "summary.md").exists()
    assert not (tmp_path / "seed-0").exists()
    other = replace(experiment, overrides=("rl.num_steps=4",))
    with pytest.raises(RunFolderError, match=r"rl_kl-seed-0.json .*rl.num_steps: 3 -> 4"):
        other.run([0], ["rl_kl"])
    result_path(experiment.results, "rl_kl", 0).write_text("")
    with pytest.raises(RunFolderError, match=r"rl_kl-seed-0.json: got a damaged .* remove it"):
        experiment.run([0], ["rl_kl"])


def test_an_arm_that_is_none_is_refused_before_anything_runs(tmp_path: Path) -> None:
    experiment = Experiment(
        root=tmp_path / "run", config="smoke", overrides=(), console=Console(quiet=True)
    )
    with pytest.raises(ConfigError, match=r"got rl_k1, expected some of sft, rl_kl"):
        experiment.run([0], ["sft", "rl_k1"])
    assert not (tmp_path / "run").exists()
    assert result_path(experiment.results, "rl", 2).name == "rl-seed-2.json"
