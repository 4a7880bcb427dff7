"""Turns between the AV and the target: shares of time, bounded waits, nothing owed for idling."""

from __future__ import annotations

import pytest

from gloss_engine.shares import AV, TARGET, Shares


def _run(shares: Shares, seconds: dict[str, float], total: float) -> list[str]:
    """Both have work all the time; steps take what `seconds` says."""
    turns, elapsed = [], 0.0
    while elapsed < total:
        turn = shares.turn(av=True, target=True)
        assert turn is not None
        shares.end(turn, shares.begin(turn), seconds[turn])
        turns.append(turn)
        elapsed += seconds[turn]
    return turns


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("seconds", [{AV: 8.0, TARGET: 5.0}, {AV: 1.0, TARGET: 30.0}])
def test_each_gets_its_share_of_time(share: float, seconds: dict[str, float]) -> None:
    turns = _run(Shares(share), seconds, 20_000.0)
    took = {name: turns.count(name) * seconds[name] for name in (AV, TARGET)}
    assert took[TARGET] / sum(took.values()) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("seconds", [{AV: 8.0, TARGET: 5.0}, {AV: 1.0, TARGET: 30.0}])
def test_nobody_waits_longer_than_the_bound(share: float, seconds: dict[str, float]) -> None:
    turns = _run(Shares(share), seconds, 5_000.0)
    for mine, other, own in ((TARGET, AV, share), (AV, TARGET, 1 - share)):
        bound = seconds[mine] * (1 - own) / own + seconds[other]
        longest = waited = 0.0
        for turn in turns:
            waited = 0.0 if turn == mine else waited + seconds[turn]
            longest = max(longest, waited)
        assert longest <= bound + 1e-6


def test_who_is_alone_goes_on() -> None:
    shares = Shares(0.5)
    assert shares.turn(av=False, target=False) is None
    for name, wants in (
        (AV, {"av": True, "target": False}),
        (TARGET, {"av": False, "target": True}),
    ):
        for _ in range(3):
            assert shares.turn(**wants) == name
            shares.end(name, shares.begin(name), 1.0)


@pytest.mark.parametrize("first", [AV, TARGET])
def test_nothing_is_owed_for_idling(first: str) -> None:
    """Neither to who joins the other, nor to anybody after both were idle."""
    for pause in (False, True):
        shares = Shares(0.5)
        for _ in range(1000):
            assert shares.turn(av=first == AV, target=first == TARGET) == first
            shares.end(first, shares.begin(first), 1.0)
        if pause:
            assert shares.turn(av=False, target=False) is None
        turns = _run(shares, {AV: 1.0, TARGET: 1.0}, 20.0)
        assert abs(turns.count(AV) - turns.count(TARGET)) <= 2


def test_steps_in_flight_are_charged_what_the_last_took() -> None:
    """With a lag a second step is launched before the first is known; it is not free."""
    shares = Shares(0.5)
    shares.end(TARGET, shares.begin(TARGET), 4.0)
    shares.end(AV, shares.begin(AV), 4.0)
    assert shares.turn(av=True, target=True) == TARGET
    charged = shares.begin(TARGET)
    assert charged == 4.0 and shares.turn(av=True, target=True) == AV
    shares.begin(AV)
    shares.end(TARGET, charged, 1.0)
    assert shares.turn(av=True, target=True) == TARGET


def test_what_a_party_takes_beside_its_steps_counts() -> None:
    """The AR's batches are the AV's time: the target is served until it has had as much."""
    shares = Shares(0.5)
    for name in (TARGET, AV):
        assert shares.turn(av=True, target=True) == name
        shares.end(name, shares.begin(name), 1.0)
    shares.charge(AV, 5.0)
    turns = _run(shares, {AV: 1.0, TARGET: 1.0}, 9.0)
    assert turns[:5] == [TARGET] * 5 and turns[5:].count(AV) >= 1
