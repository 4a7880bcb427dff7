"""Requests for explanations in flight: their activations, their results, and when the last is out.

A request of activations has all its rows from the start; one of text gets them when the target has
read it, and a Watch gets more while its target generates. What runs is the scheduler's, when it is
scored the score queue's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gloss_engine.av.flags import activation_flags, text_flags
from gloss_engine.av.verbalizer import ExplanationReader
from gloss_engine.errors import NON_FINITE_OUTPUT, ItemError
from gloss_engine.facts import ModelFacts
from gloss_engine.request import Explaining, Explanation, StepOutput, VerbalizeRequest
from gloss_engine.sequence import Item, Sequence
from gloss_engine.text_request import TokenPlace


@dataclass(eq=False, kw_only=True)
class OpenRow:
    """One activation of a request.

    Attributes:
        activation: [d_model] float32, on the host or the device.
        norm: its L2 norm.
        item_key: coordinate of its draws.
        position, token_id: where it was read; None where not known.
        place: the same, where the target read it itself.
        since: when its token was there, monotonic seconds; of a Watch only.
        buffer_place: its place in the prefill buffer, 0: none.
        num_open: samples that are still to come.
    """

    activation: Tensor
    norm: float
    item_key: int
    position: int | None = None
    token_id: int | None = None
    place: TokenPlace | None = None
    since: float | None = None
    buffer_place: int = 0
    num_open: int = 0


@dataclass(eq=False, kw_only=True)
class OpenRequest:
    """A request until its last explanation is out.

    Attributes:
        request: how to explain.
        seed: the caller's, or the one drawn.
        scored: whether explanations get evidence.
        token_logprobs: whether they get the log-probability of each token.
        grows: whether more activations may come.
        rows: its activations; their place is the index of their explanations.
        num_unfinished: of them, those with samples to come.
        error: why it ends early as a whole, or None.
    """

    request: Explaining
    seed: int
    scored: bool
    token_logprobs: bool = False
    grows: bool = False
    rows: list[OpenRow] = field(default_factory=list)
    num_unfinished: int = 0
    error: ItemError | None = None


class OpenRequests:
    """The requests for explanations of one engine; `in` asks whether a request is in flight.

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
        self._closed: dict[str, ItemError | None] = {}

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._open

    def __len__(self) -> int:
        return len(self._open) + len(self._closed)

    def __getitem__(self, request_id: str) -> OpenRequest:
        return self._open[request_id]

    def add(self, request_id: str, opened: OpenRequest) -> None:
        """Take a request in."""
        self._open[request_id] = opened

    def extend(self, request_id: str, rows: Rows[OpenRow]) -> range:
        """Give a request more activations; the indices they get."""
        opened = self._open[request_id]
        first = len(opened.rows)
        for row in rows:
            row.num_open = opened.request.num_samples
        opened.rows += rows
        opened.num_unfinished += len(rows)
        return range(first, len(opened.rows))

    def close(self, request_id: str, error: ItemError | None = None) -> None:
        """No more activations will come: the request ends with the last explanation of those.

        Args:
            error: why there are no more; the request ends with it.
        """
        opened = self._open[request_id]
        opened.grows, opened.error = False, error
        if opened.num_unfinished == 0:
            self._end(request_id)

    def fail(self, request_id: str, index: int, sample: int, error: ItemError) -> None:
        """A sample that has an error instead of an explanation."""
        opened = self._open[request_id]
        self.ready.append(
            Explanation(
                request_id=request_id,
                index=index,
                sample=sample,
                seed=opened.seed,
                error=error,
                place=opened.rows[index].place,
            )
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
                        place=self._open[item.request_id].rows[item.index].place,
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
            self.fail(item.request_id, item.index, sequence.sample, NON_FINITE_OUTPUT)
            return None
        row = self._open[item.request_id].rows[item.index]
        raw_text, extracted = self.reader.read(sequence.token_ids)
        return Explanation(
            request_id=item.request_id,
            index=item.index,
            sample=sequence.sample,
            seed=item.seed,
            explanation=extracted.text,
            raw_text=raw_text,
            token_ids=tuple(sequence.token_ids),
            logprob=sequence.logprob,
            token_logprobs=tuple(sequence.token_logprobs),
            finish_reason=reason,
            flags=(*text_flags(extracted), *self._flags(row)),
            place=row.place,
        )

    def hand_out(self, out: StepOutput) -> None:
        """Move what is ready to a step's output, and close requests after their last result."""
        now = time.monotonic()
        for explanation in self.ready:
            opened = self._open[explanation.request_id]
            row = opened.rows[explanation.index]
            if row.since is not None and explanation.error is None:
                explanation = replace(explanation, lag_seconds=now - row.since)
            out.explanations.append(explanation)
            row.num_open -= 1
            if row.num_open == 0:
                opened.num_unfinished -= 1
                if opened.num_unfinished == 0 and not opened.grows:
                    self._end(explanation.request_id)
        self.ready.clear()
        out.finished += self._closed
        out.failed |= {name: error for name, error in self._closed.items() if error is not None}
        self._closed.clear()

    def _end(self, request_id: str) -> None:
        self._closed[request_id] = self._open.pop(request_id).error

    def _flags(self, row: OpenRow) -> list[str]:
        """Warnings about an activation."""
        facts = self.facts
        return activation_flags(
            row.norm,
            facts.norm_median,
            row.position,
            facts.min_position,
            row.token_id,
            facts.special_ids if row.place is None else facts.target_special_ids,
            facts.unknown_id if row.place is None else facts.target_unknown_id,
        )


def given_rows(request: VerbalizeRequest, activations: Tensor) -> list[OpenRow]:
    """The activations of a checked request, [n, d_model] float32, with what it says of each."""
    norms = torch.linalg.vector_norm(activations, dim=-1).tolist()
    keys, positions, token_ids = request.item_keys, request.positions, request.token_ids
    return [
        OpenRow(
            activation=activations[index],
            norm=norm,
            item_key=index if keys is None else int(keys[index]),
            position=None if positions is None else positions[index],
            token_id=None if token_ids is None else token_ids[index],
        )
        for index, norm in enumerate(norms)
    ]
