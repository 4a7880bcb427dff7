"""The loop of `gloss verbalize --local`: chunks of a file into the engine, finished chunks out.

A chunk is one request. The next ones are submitted while the first still runs, so that slots
never empty at a chunk's border; a chunk is handed on when its last explanation is there. The
draws depend on file row and sample alone: how a file is cut into chunks changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from gloss_engine import Engine, Explanation, SamplingParams, VerbalizeRequest
from gloss_server.activation_file import ActivationChunk
from gloss_server.result_row import Row, result_row


@dataclass(frozen=True, kw_only=True)
class RequestTemplate:
    """What all chunks' requests have in common; see VerbalizeRequest."""

    num_samples: int
    sampling: SamplingParams
    layer_index: int | None
    allow_layer_mismatch: bool
    score: bool

    def request(self, chunk: ActivationChunk) -> VerbalizeRequest:
        """The request of a chunk; a row's draws are those of its place in the file."""
        start, num_rows = chunk.start, len(chunk.activations)
        return VerbalizeRequest(
            activations=chunk.activations,
            num_samples=self.num_samples,
            sampling=self.sampling,
            item_keys=tuple(range(start, start + num_rows)),
            positions=chunk.positions,
            token_ids=chunk.token_ids,
            layer_index=self.layer_index,
            allow_layer_mismatch=self.allow_layer_mismatch,
            score=self.score,
        )


@dataclass(kw_only=True)
class _OpenChunk:
    start: int
    explanations: list[Explanation] = field(default_factory=list)


def finished_chunks(
    engine: Engine,
    chunks: Iterable[ActivationChunk],
    template: RequestTemplate,
    num_ahead: int,
    on_explanations: Callable[[int], None],
) -> Iterator[list[Row]]:
    """Run chunks through an engine.

    Args:
        engine: nothing else may be in flight.
        chunks: what to explain; read as room is made.
        template: how.
        num_ahead: explanations kept in flight, if there are so many: enough that slots, the AR's
            queue and those that wait for a slot never run short.
        on_explanations: hears how many explanations each step brought.

    Yields:
        The rows of a chunk, by index and sample, in the order in which chunks finish.
    """
    waiting = iter(chunks)
    open_chunks: dict[str, _OpenChunk] = {}
    num_open, exhausted = 0, False
    while True:
        while not exhausted and num_open < num_ahead:
            chunk = next(waiting, None)
            if chunk is None:
                exhausted = True
            else:
                request_id = engine.submit(template.request(chunk))
                open_chunks[request_id] = _OpenChunk(start=chunk.start)
                num_open += len(chunk.activations) * template.num_samples
        if not open_chunks:
            return
        out = engine.step()
        for explanation in out.explanations:
            open_chunks[explanation.request_id].explanations.append(explanation)
        num_open -= len(out.explanations)
        on_explanations(len(out.explanations))
        for request_id in out.finished:
            yield _rows(open_chunks.pop(request_id))


def _rows(chunk: _OpenChunk) -> list[Row]:
    in_order = sorted(chunk.explanations, key=lambda e: (e.index, e.sample))
    return [result_row(explanation, chunk.start) for explanation in in_order]
