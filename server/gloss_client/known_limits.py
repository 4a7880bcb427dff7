"""What a client remembers of the model it talks to."""

from __future__ import annotations

from gloss_client.model_info import ModelInfo


class KnownLimits:
    """The last GetModelInfo reply, for as long as answers come from the same checkpoints.

    One attribute, replaced whole: threads may share it without a lock.
    """

    def __init__(self) -> None:
        self.info: ModelInfo | None = None

    def answered_by(self, fingerprint: str) -> None:
        """Forgets them when other checkpoints answer."""
        if self.info is not None and fingerprint != self.info.fingerprint:
            self.info = None
