"""Who goes next where two priorities wait: interactive first, but for batch's share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class Turns:
    """Batch saves up while interactive goes, and goes when it has saved enough for what it has.

    So over any stretch in which both wait batch gets its share of the work, neither waits for ever,
    and the order depends on nothing but what came when. Who had nothing to do is owed nothing.

    Attributes:
        batch_share: of the work that is done while both wait, between 0 and 1.
        credit: what batch has saved up: `batch_share` of interactive work; its own costs the rest.
    """

    batch_share: float
    credit: float = 0.0

    def is_batch(self, interactive: int, batch: int) -> bool:
        """Whether batch goes next.

        Args:
            interactive, batch: the work that each would do next; 0 where it waits for nothing.
        """
        return batch > 0 and (interactive == 0 or self.credit >= batch * (1 - self.batch_share))

    def interactive_went(self, work: int, *, batch_waits: bool) -> None:
        """Interactive has done some work, beside waiting batch work or alone."""
        self.credit = self.credit + work * self.batch_share if batch_waits else 0.0

    def batch_went(self, work: int, *, interactive_waits: bool) -> None:
        """Batch has done some work; what nobody else waited for costs nothing."""
        if interactive_waits:
            self.credit -= work * (1 - self.batch_share)
