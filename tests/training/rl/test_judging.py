"""The judge as the RL stage calls it: each explanation with the text it is about."""

from __future__ import annotations

import torch

from gloss_training.dataset.rows import Rows
from gloss_training.rl.rollout import Rollout
from gloss_training.teachers.judging import Judge, rollout_judge
from gloss_training.teachers.world_teacher import WorldTeacher

ROWS = Rows(
    activations=torch.zeros(3, 4),
    explanations=("", "", ""),
    texts=("Ada sings .", "Ben is a baker .", "It is dawn ."),
    doc_ids=("a", "b", "c"),
    positions=(2, 4, 3),
    facts=({"hero": "Ada"}, {"hero": "Ben", "job": "baker"}, {"time": "dawn"}),
)


def test_every_explanation_is_judged_by_its_own_text() -> None:
    rollout = Rollout(
        rows=torch.tensor([1, 0]),
        activations=torch.zeros(2, 4),
        samples_per_prompt=2,
        response_ids=((1,), (1,), (1,), (1,)),
        logprobs=((0.0,), (0.0,), (0.0,), (0.0,)),
        explanations=("The hero is Ben, a baker.", "The hero is Ben", "The hero is Ada.", "Hm."),
        is_valid=(True, False, True, True),
        seconds=0.0,
    )
    with Judge(WorldTeacher(seed=0, num_ending_words=1)) as judge:
        scores = rollout_judge(judge, ROWS)(rollout)
    assert scores.dtype == torch.float32
    assert scores[[0, 2, 3]].tolist() == [1.0, 1.0, 0.0]
    # Nobody is asked about a response that was cut off.
    assert scores[1].isnan()
