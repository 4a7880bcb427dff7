"""What there is room for, and what of it is taken.

A call takes what it may need before anything of it runs, gives back what it no longer needs, and
the rest when it ends. Counts only; nothing here waits.
"""

from __future__ import annotations

from collections.abc import Mapping

from gloss_server.front.call_error import CallError


class Lease:
    """What one call has taken of a room.

    Args:
        room: whose.
        amounts: how much of each thing, in the room's order.
    """

    def __init__(self, room: Room, amounts: tuple[int, ...]) -> None:
        self._room, self._amounts = room, list(amounts)

    @property
    def left(self) -> tuple[int, ...]:
        """What has not been given back."""
        return tuple(self._amounts)

    @property
    def is_empty(self) -> bool:
        """Whether all has been given back."""
        return not any(self._amounts)

    def give_back(self, *amounts: int) -> None:
        """So much is no longer needed."""
        for index, amount in enumerate(amounts):
            assert 0 <= amount <= self._amounts[index], "more than was taken"
            self._amounts[index] -= amount
            self._room.taken[index] -= amount

    def close(self) -> None:
        """Give back what is left."""
        self.give_back(*self._amounts)


class Room:
    """Things of which only so many may be in flight.

    Args:
        bounds: the most of each, by its name in the plural.

    Attributes:
        bounds: the most of each, in the room's order.
        taken: how much of each is in flight.
    """

    def __init__(self, bounds: Mapping[str, int]) -> None:
        self._names, self.bounds = tuple(bounds), tuple(bounds.values())
        self.taken = [0] * len(bounds)

    def check(self, *amounts: int, field: str, retry_after: float) -> None:
        """Refuse what there is no room for.

        Args:
            amounts: how much of each thing a call may need.
            field: the request's field that decides it.
            retry_after: seconds until there may be room.

        Raises:
            CallError: BATCH_TOO_LARGE where there never will be, else QUEUE_FULL.
        """
        for more, most, name in zip(amounts, self.bounds, self._names, strict=True):
            if more > most:
                raise CallError(
                    "BATCH_TOO_LARGE",
                    f"{field}: the call asks for up to {more} {name}, expected at most {most} in "
                    "flight at any time; send several calls",
                    field,
                )
        bounded = zip(self.taken, amounts, self.bounds, self._names, strict=True)
        for in_flight, more, most, name in bounded:
            if in_flight + more > most:
                raise CallError(
                    "QUEUE_FULL",
                    f"{in_flight} {name} are in flight, and with this call's {more} they would be "
                    f"more than {most}; come back later",
                    retry_after=retry_after,
                )

    def take(self, *amounts: int) -> Lease:
        """Take what was checked."""
        for index, amount in enumerate(amounts):
            self.taken[index] += amount
        return Lease(self, amounts)
