"""The shared loop: its schedule, its updates, and gradients that are no numbers."""

import json
from pathlib import Path

import pytest
import torch

from gloss_training.config import OptimizerConfig
from gloss_training.journal import open_journal
from gloss_training.optimize import MAX_SKIPPED_IN_A_ROW, learning_rate_at, train

CONFIG = OptimizerConfig(num_steps=12, batch_size=1, learning_rate=0.5, num_warmup_steps=4)


def test_schedule_warms_up_and_falls_to_a_tenth() -> None:
    rates = [learning_rate_at(step, CONFIG) for step in range(13)]
    assert rates[:5] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    assert rates[8] == pytest.approx(0.275)
    assert rates[12] == pytest.approx(0.05)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_parabola_goes_down_and_every_step_is_logged(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    with open_journal(tmp_path, "stage", 12) as journal:
        figures = train([weight], CONFIG, journal, lambda step: {"loss": weight.square().sum()})
    lines = [json.loads(line) for line in (tmp_path / "stage.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(12))
    assert lines[0]["loss"] == 9.0
    assert lines[-1]["loss"] < 2.0
    assert figures == {"loss": lines[-1]["loss"], "skipped_steps": 0.0}
    assert lines[5]["learning_rate"] == learning_rate_at(5, CONFIG)


def test_a_nan_gradient_leaves_the_weights_and_is_counted(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    seen: list[float] = []

    def loss(step: int) -> dict[str, torch.Tensor]:
        seen.append(weight.item())
        return {"loss": weight.sum() * (float("nan") if step == 5 else 1.0)}

    with open_journal(tmp_path, "stage", 12) as journal:
        figures = train([weight], CONFIG, journal, loss)
    assert seen[5] == seen[6] != seen[7]
    assert figures["skipped_steps"] == 1.0


def test_gradients_that_stay_nan_end_the_run(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    with (
        open_journal(tmp_path, "stage", 12) as journal,
        pytest.raises(RuntimeError, match=f"{MAX_SKIPPED_IN_A_ROW} steps in a row"),
    ):
        train([weight], CONFIG, journal, lambda step: {"loss": weight.sum() * float("inf")})
    assert weight.item() == 3.0
