"""A call that is always one request: it is never cut into pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.pieces import Load, Piece

Request = TypeVar("Request", pb.ExplainRequest, pb.WatchRequest)


@dataclass(frozen=True, kw_only=True)
class WholeCall(Generic[Request]):
    """What Explain and Watch have in common. See Cut.

    Attributes:
        message: the request.
    """

    message: Request

    @property
    def id(self) -> str:
        """The call's id."""
        return self.message.request_id

    @property
    def seed(self) -> int:
        """Seed of the explanations' draws."""
        return self.message.options.seed

    def load(self, d_model: int | None) -> Load:
        return Load(item_bytes=[self.message.ByteSize()], reply_bytes=0)

    def request_id(self, piece: Piece) -> str:
        return self.id

    def request(self, piece: Piece) -> Request:
        return self.message
