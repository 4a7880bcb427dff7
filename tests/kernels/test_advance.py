"""What a token does to a sequence: stops in their order of precedence, counters in place."""

from __future__ import annotations

import pytest
import torch

from gloss_kernels import FINISH_NAMES, Finish
from gloss_kernels.reference.advance import advance

EOS, TAG_END, PLAIN = 3, 2, 0


def _table() -> torch.Tensor:
    """Two states and a final one over five tokens: 1 opens, 2 closes what 1 opened."""
    table = torch.zeros(3, 5, dtype=torch.uint8)
    table[:2, 1] = 1
    table[1, TAG_END] = 2
    table[1, EOS] = 2
    table[2] = 2
    return table


def _is_eos() -> torch.Tensor:
    is_eos = torch.zeros(5, dtype=torch.bool)
    is_eos[EOS] = True
    return is_eos


@pytest.mark.parametrize(
    ("token", "state", "generated", "finite", "expected"),
    [
        (PLAIN, 0, 0, True, Finish.RUNNING),
        (PLAIN, 1, 0, True, Finish.RUNNING),
        (TAG_END, 0, 0, True, Finish.RUNNING),
        (TAG_END, 1, 0, True, Finish.CLOSING_TAG),
        (PLAIN, 0, 6, True, Finish.LENGTH),
        (PLAIN, 0, 5, True, Finish.RUNNING),
        (PLAIN, 0, 9, True, Finish.LENGTH),
        (TAG_END, 1, 6, True, Finish.CLOSING_TAG),
        (EOS, 0, 6, True, Finish.EOS),
        (EOS, 1, 6, True, Finish.EOS),
        (EOS, 1, 6, False, Finish.ERROR),
        (PLAIN, 0, 0, False, Finish.ERROR),
    ],
)
def test_precedence(token: int, state: int, generated: int, finite: bool, expected: Finish) -> None:
    codes = advance(
        torch.tensor([token]),
        torch.tensor([finite]),
        stop_states=torch.tensor([state]),
        num_generated=torch.tensor([generated]),
        limits=torch.tensor([7]),
        stop_table=_table(),
        is_eos=_is_eos(),
    )
    assert codes.dtype == torch.int64 and codes.tolist() == [expected]


def test_state_is_updated_in_place_also_through_views() -> None:
    states = torch.tensor([0, 1, 1, 9])
    generated = torch.tensor([0, 4, 6, 9])
    codes = advance(
        torch.tensor([1, TAG_END, PLAIN]),
        torch.tensor([True, True, True]),
        stop_states=states[:3],
        num_generated=generated[:3],
        limits=torch.tensor([7, 7, 7]),
        stop_table=_table(),
        is_eos=_is_eos(),
    )
    assert states.tolist() == [1, 2, 0, 9]
    assert generated.tolist() == [1, 5, 7, 9]
    assert codes.tolist() == [Finish.RUNNING, Finish.CLOSING_TAG, Finish.LENGTH]


def test_no_rows() -> None:
    none = torch.empty(0, dtype=torch.int64)
    codes = advance(
        none,
        torch.empty(0, dtype=torch.bool),
        stop_states=none.clone(),
        num_generated=none.clone(),
        limits=none,
        stop_table=_table(),
        is_eos=_is_eos(),
    )
    assert codes.shape == (0,)


def test_names() -> None:
    names = {"running", "eos", "closing_tag", "length", "error"}
    assert set(FINISH_NAMES.values()) == names and len(FINISH_NAMES) == len(Finish)
