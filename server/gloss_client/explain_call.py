"""A text whose activations are to be explained: its request, and the result of its stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.errors import ServerError
from gloss_client.fields import check_known
from gloss_client.generation import (
    ExplanationOptions,
    Priority,
    generation_options,
    name_call,
    num_samples,
    priority_value,
)
from gloss_client.positions import Positions, position_selection
from gloss_client.results import Explanation, StreamSummary
from gloss_client.text_input import Text, text_input
from gloss_client.text_results import Captured, ExplainEvent, ExplainResult, TextOpened
from gloss_client.text_states import ExplainState
from gloss_client.whole_call import WholeCall


class ExplainOptions(ExplanationOptions, total=False):
    """Keyword arguments of `explain` and `stream_explain`, besides those of every explanation.

    Attributes:
        positions: which positions of the text: "all" (default), "last", "START:STOP[:STEP]",
            "i,j,k", a position, a slice or several positions; negative ones count from the end.
            What an explanation draws depends on its position, not on which others are chosen.
        priority: "interactive" (default) where somebody waits; "batch" begins after those.
    """

    positions: Positions | None
    priority: Priority


class ExplainCall(WholeCall[pb.ExplainRequest]):
    """A text to explain, checked as far as that goes without a server."""

    method = "Explain"

    @classmethod
    def of(cls, text: Text, **options: Unpack[ExplainOptions]) -> ExplainCall:
        """Checks a caller's arguments.

        Raises:
            InvalidRequest: what was got, what was expected.
            TypeError: an argument that does not exist.
        """
        check_known(options, ExplainOptions)
        message = pb.ExplainRequest(
            input=text_input(text, "text"), options=generation_options(options)
        )
        name_call(message, options)
        if "priority" in options:
            message.priority = priority_value(options["priority"])
        positions = options.get("positions")
        if positions is not None:
            message.positions.CopyFrom(position_selection(positions, "positions"))
        return cls(message=message)

    def state(self) -> ExplainState:
        return ExplainState()

    def result(
        self,
        events: Iterable[ExplainEvent],
        fingerprint: str | None,
        summary: StreamSummary | None,
    ) -> ExplainResult:
        """The events of a stream that came to its end, in order; without its deltas, too.

        Raises:
            ServerError: explanations are missing.
        """
        assert fingerprint is not None
        assert summary is not None
        token_ids: tuple[int, ...] = ()
        places, explanations = [], []
        for event in events:
            if isinstance(event, TextOpened):
                token_ids = event.token_ids
            elif isinstance(event, Captured):
                places.append(event.place)
            elif isinstance(event, Explanation):
                explanations.append(event)
        expected = len(places) * num_samples(self.message.options)
        if len(explanations) != expected:
            raise ServerError(
                f"the stream: got {len(explanations)} explanations, expected {expected}",
                request_id=self.id,
            )
        return ExplainResult(
            token_ids=token_ids,
            places=tuple(places),
            explanations=tuple(sorted(explanations, key=lambda one: (one.index, one.sample))),
            seed=self.seed,
            fingerprint=fingerprint,
            request_id=self.id,
            finish_counts=summary.finish_counts,
            usage=summary.usage,
            timings=summary.timings,
        )
