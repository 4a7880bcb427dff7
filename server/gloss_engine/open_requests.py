"""Verbalize requests in flight: what each asked for, its results, and when the last one is out.

What runs is the scheduler's, when it is scored the score queue's.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gloss_engine.av.flags import activation_flags, text_flags
from gloss_engine.av.verbalizer import ExplanationReader
from gloss_engine.errors import ItemError
from gloss_engine.facts import ModelFacts
from gloss_engine.request import Explanation, StepOutput, VerbalizeRequest
from gloss_engine.sequence import Item, Sequence

_NON_FINITE_OUTPUT = ItemError(
    code="INTERNAL",
    reason="NON_FINITE_OUTPUT",
    message="the model's logits were NaN or infinite for this activation; the others went on",
)


@dataclass(eq=False, kw_only=True)
class OpenRequest:
    """A request until its last explanation is out.

    Attributes:
        request: as it was submitted.
        activations: [n, d_model] float32, and the L2 norms of its rows.
        seed: the caller's, or the one drawn.
        num_open: explanations that are still to come.
        scored: whether they get evidence.
    """

    request: VerbalizeRequest
    activations: Tensor
    norms: list[float]
    seed: int
    num_open: int
    scored: bool


class OpenRequests:
    """The verbalize requests of one engine; `in` asks whether a request is in flight.

    Args:
        reader: turns ids into text.
        facts: what the checkpoints say.

    Attributes:
        ready: explanations that go out with the next step.
    """

    def __init__(self, reader: ExplanationReader, facts: ModelFacts) -> None:
        self.reader, self.facts = reader, facts
        self.ready: list[Explanation] = []
        self._open: dict[str, OpenRequest] = {}

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._open

    def __len__(self) -> int:
        return len(self._open)

    def __getitem__(self, request_id: str) -> OpenRequest:
        return self._open[request_id]

    def add(self, request_id: str, opened: OpenRequest) -> None:
        """Take a request in."""
        self._open[request_id] = opened

    def fail(self, request_id: str, index: int, sample: int, error: ItemError) -> None:
        """A sample that has an error instead of an explanation."""
        seed = self._open[request_id].seed
        self.ready.append(
            Explanation(request_id=request_id, index=index, sample=sample, seed=seed, error=error)
        )

    def drop(self, items: list[Item]) -> None:
        """Samples of cancelled items that never started."""
        for item in items:
            for sample in range(item.num_forked, item.num_samples):
                self.ready.append(
                    Explanation(
                        request_id=item.request_id,
                        index=item.index,
                        sample=sample,
                        seed=item.seed,
                        finish_reason="cancelled",
                    )
                )

    def explain(self, sequence: Sequence, reason: str) -> Explanation | None:
        """The explanation in what a sequence has generated; None where it failed.

        Args:
            sequence: ended.
            reason: why, one of FINISH_REASONS.
        """
        item = sequence.item
        if reason == "error":
            self.fail(item.request_id, item.index, sequence.sample, _NON_FINITE_OUTPUT)
            return None
        raw_text, extracted = self.reader.read(sequence.token_ids)
        flags = text_flags(extracted) + self._flags(self._open[item.request_id], item.index)
        return Explanation(
            request_id=item.request_id,
            index=item.index,
            sample=sequence.sample,
            seed=item.seed,
            explanation=extracted.text,
            raw_text=raw_text,
            token_ids=tuple(sequence.token_ids),
            logprob=sequence.logprob,
            finish_reason=reason,
            flags=tuple(flags),
        )

    def hand_out(self, out: StepOutput) -> None:
        """Move what is ready to a step's output, and close requests after their last result."""
        for explanation in self.ready:
            out.explanations.append(explanation)
            opened = self._open[explanation.request_id]
            opened.num_open -= 1
            if opened.num_open == 0:
                del self._open[explanation.request_id]
                out.finished.append(explanation.request_id)
        self.ready.clear()

    def _flags(self, opened: OpenRequest, index: int) -> list[str]:
        """Warnings about an activation."""
        request, facts = opened.request, self.facts
        return activation_flags(
            opened.norms[index],
            facts.norm_median,
            None if request.positions is None else request.positions[index],
            facts.min_position,
            None if request.token_ids is None else request.token_ids[index],
            facts.special_ids,
            facts.unknown_id,
        )
