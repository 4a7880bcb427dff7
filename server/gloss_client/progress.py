"""Which pieces of a batch wait, and what came of those that are done. Sends nothing itself."""

from __future__ import annotations

from collections import deque

from gloss_client.call import Part
from gloss_client.deadline import Deadline
from gloss_client.errors import GlossClientError, InvalidRequest
from gloss_client.pieces import Piece, Plan

_TOO_LARGE = ("BATCH_TOO_LARGE", "REPLY_TOO_LARGE")


class Progress:
    """Pieces of one batch on their way. For one thread, or under its user's lock.

    Args:
        plan: the pieces.
        deadline: of the whole batch.

    Attributes:
        in_flight: most pieces under way at once.
        num_planned: pieces there were at first.
    """

    def __init__(self, plan: Plan, deadline: Deadline) -> None:
        self.in_flight, self.deadline = plan.in_flight, deadline
        self.num_planned = len(plan.pieces)
        self._waiting = deque(plan.pieces)
        self._sent_after: dict[Piece, float] = {}
        self._parts: list[Part] = []

    def next(self) -> Piece | None:
        """The next piece to send; None where none waits."""
        if not self._waiting:
            return None
        piece = self._waiting.popleft()
        self._sent_after[piece] = self.deadline.elapsed()
        return piece

    def sent_after(self, piece: Piece) -> float:
        """Seconds from the beginning of the call until the piece was sent."""
        return self._sent_after[piece]

    def answered(self, piece: Piece, reply: object) -> None:
        """A piece came back."""
        self._parts.append(Part(piece, reply, self._sent_after[piece]))

    def refused(self, piece: Piece, error: GlossClientError) -> None:
        """A piece failed before anything of it came back.

        One that was too large for the server goes again as two halves: the plan went by an
        estimate, or by limits that are not those of this server.

        Raises:
            GlossClientError: `error`, where halves would not help.
        """
        too_large = isinstance(error, InvalidRequest) and error.reason in _TOO_LARGE
        if not too_large or len(piece) < 2:
            raise error
        self._waiting.extendleft(reversed(piece.halves()))

    def parts(self) -> list[Part]:
        """All answered pieces, in the order of their items."""
        return sorted(self._parts, key=lambda part: part.piece.start)
