"""Whose turn it is on the device: the AV's step or the target's, by their shares of time.

Stride scheduling: each party has a clock that runs by the time it took over its share, and who is
behind goes next. So over any stretch in which both have work each gets its share, but for one step,
and neither waits for the other longer than

    own step * (1 - share) / share + one step of the other,

the AR's batches counting as the AV's time.

Who had nothing to do is owed nothing for it.
"""

from __future__ import annotations

from dataclasses import dataclass

AV, TARGET = "av", "target"


@dataclass(kw_only=True)
class _Party:
    share: float
    clock: float = 0.0
    guess: float = 0.0
    had_work: bool = False


class Shares:
    """Takes turns.

    Args:
        target_share: of the time in which both have work, between 0 and 1.
    """

    def __init__(self, target_share: float) -> None:
        assert 0 < target_share < 1
        self._parties = {
            AV: _Party(share=1 - target_share),
            TARGET: _Party(share=target_share),
        }

    def turn(self, *, av: bool, target: bool) -> str | None:
        """Who goes next, of those that have work; None where nobody has."""
        wants = {AV: av, TARGET: target}
        clocks = {name: party.clock for name, party in self._parties.items()}
        busy = [clocks[name] for name, p in self._parties.items() if wants[name] and p.had_work]
        now = min(busy, default=max(clocks.values()))
        for name, party in self._parties.items():
            if wants[name] and not party.had_work:
                party.clock = max(party.clock, now)
            party.had_work = wants[name]
        # A tie goes to the target: its token is small, and somebody may be watching.
        waiting = [name for name in (TARGET, AV) if wants[name]]
        return min(waiting, key=lambda name: self._parties[name].clock, default=None)

    def begin(self, name: str) -> float:
        """A step was launched: it is charged what the one before took, until it is known.

        Returns:
            The charge, for `end`.
        """
        party = self._parties[name]
        party.clock += party.guess / party.share
        return party.guess

    def charge(self, name: str, seconds: float) -> None:
        """Time that a party took apart from its steps."""
        self._parties[name].clock += seconds / self._parties[name].share

    def end(self, name: str, charged: float, seconds: float) -> None:
        """A step took so long."""
        party = self._parties[name]
        party.clock += (seconds - charged) / party.share
        party.guess = seconds
