"""The shared loop: updates, micro batches, gradients that are no numbers, exact resume."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gloss_training.errors import NotFiniteError
from gloss_training.learning.optimizer import learning_rate_at
from gloss_training.learning.progress import Silence
from gloss_training.learning.supervised import Losses, Supervision, train
from gloss_training.run.journal import open_journal
from gloss_training.settings import SftSettings
from gloss_training.storage import checkpoints

SETTINGS = SftSettings(
    num_steps=12, batch_size=1, learning_rate=0.5, num_warmup_steps=4, max_skipped=3
)


def one_weight(
    losses: Callable[[torch.Tensor, int], Iterator[torch.Tensor]],
) -> tuple[torch.nn.Parameter, Supervision]:
    weight = torch.nn.Parameter(torch.tensor([3.0]))

    def each(step: int) -> Iterator[Losses]:
        for loss in losses(weight, step):
            yield {"loss": loss}

    supervision = Supervision(
        stage="stage", weights={"w": weight}, losses=each, units=lambda step: 1
    )
    return weight, supervision


def lines_of(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def parabola(weight: torch.Tensor, step: int) -> Iterator[torch.Tensor]:
    yield weight.square().sum()


def test_a_parabola_goes_down_and_every_step_is_logged(tmp_path: Path) -> None:
    _, supervision = one_weight(parabola)
    with open_journal(tmp_path, "stage", 12) as journal:
        figures = train(supervision, SETTINGS, journal, tmp_path / "checkpoints")
    lines = lines_of(tmp_path / "logs" / "stage.jsonl")
    assert [line["step"] for line in lines] == list(range(12))
    assert lines[0]["loss"] == 9.0
    assert lines[-1]["loss"] < 2.0
    assert figures == {"loss": lines[-1]["loss"], "skipped_steps": 0.0}
    assert lines[5]["learning_rate"] == learning_rate_at(5, 0.5, 4, 12)
    clock = lines_of(tmp_path / "logs" / "stage.clock.jsonl")
    assert len(clock) == 12 and min(line["seconds"] for line in clock) > 0


def test_micro_batches_add_up_to_the_whole(tmp_path: Path) -> None:
    def parts(weight: torch.Tensor, step: int) -> Iterator[torch.Tensor]:
        for share in (0.25, 0.5, 0.25):
            yield share * weight.square().sum()

    results = []
    for losses in (parabola, parts):
        weight, supervision = one_weight(losses)
        figures = train(supervision, SETTINGS, Silence(), tmp_path / losses.__name__)
        results.append((weight.item(), figures["loss"]))
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_a_nan_gradient_leaves_the_weights_and_is_counted(tmp_path: Path) -> None:
    seen: list[float] = []

    def losses(weight: torch.Tensor, step: int) -> Iterator[torch.Tensor]:
        seen.append(weight.item())
        yield weight.sum() * (math.nan if step in (5, 6) else 1.0)

    _, supervision = one_weight(losses)
    figures = train(supervision, SETTINGS, Silence(), tmp_path)
    assert seen[5] == seen[6] == seen[7] != seen[8]
    assert figures["skipped_steps"] == 2.0


def test_a_skipped_step_is_a_line_that_every_reader_of_json_takes(tmp_path: Path) -> None:
    def losses(weight: torch.Tensor, step: int) -> Iterator[torch.Tensor]:
        yield weight.sum() * (math.inf if step == 5 else 1.0)

    _, supervision = one_weight(losses)
    with open_journal(tmp_path, "stage", 12) as journal:
        train(supervision, SETTINGS, journal, tmp_path / "checkpoints")
    lines = lines_of(tmp_path / "logs" / "stage.jsonl")
    assert [name for name in lines[4] if name not in lines[5]] == ["loss", "grad_norm"]
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_gradients_that_stay_nan_end_the_stage(tmp_path: Path) -> None:
    def losses(weight: torch.Tensor, step: int) -> Iterator[torch.Tensor]:
        yield weight.sum() * (math.inf if step >= 2 else 1.0)

    weight, supervision = one_weight(losses)
    with pytest.raises(NotFiniteError, match="3 steps in a row, up to step 4.*learning rate"):
        train(supervision, SETTINGS, Silence(), tmp_path)
    assert math.isfinite(weight.item()) and weight.item() != 3.0


def test_a_stage_too_short_for_max_skipped_that_moved_nothing_is_no_success(tmp_path: Path) -> None:
    def losses(weight: torch.Tensor, step: int) -> Iterator[torch.Tensor]:
        yield weight.sum() * math.nan

    _, supervision = one_weight(losses)
    settings = replace(SETTINGS, num_steps=2, num_warmup_steps=0)
    with pytest.raises(NotFiniteError, match="2 steps in a row, up to step 1"):
        train(supervision, settings, Silence(), tmp_path)


def test_a_stopped_stage_goes_on_to_the_bit_with_its_random_state(tmp_path: Path) -> None:
    def noisy(weight: torch.Tensor, step: int) -> Iterator[torch.Tensor]:
        if step == stop:
            raise KeyboardInterrupt
        yield (weight - torch.rand(1)).square().sum()

    settings = SftSettings(num_steps=10, learning_rate=0.1, checkpoint_every=5)
    stop = -1
    torch.manual_seed(7)
    whole, supervision = one_weight(noisy)
    with open_journal(tmp_path / "whole", "stage", 10) as journal:
        train(supervision, settings, journal, tmp_path / "whole" / "checkpoints")

    stop = 8
    torch.manual_seed(7)
    _, supervision = one_weight(noisy)
    root = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt), open_journal(root, "stage", 10) as journal:
        train(supervision, settings, journal, root / "checkpoints")
    assert checkpoints.latest_step(root / "checkpoints") == 5

    stop = -1
    torch.manual_seed(1234)
    weight, supervision = one_weight(noisy)
    with open_journal(root, "stage", 10, first_step=5) as journal:
        train(supervision, settings, journal, root / "checkpoints")
    assert torch.equal(weight, whole)
    logs = [(folder / "logs" / "stage.jsonl").read_bytes() for folder in (root, tmp_path / "whole")]
    assert logs[0] == logs[1]
