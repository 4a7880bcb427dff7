"""The loop of `gloss verbalize`: chunks of a file into a runner, rows of finished chunks out.

The next chunks are submitted while the first still run, so that slots never empty at a chunk's
border; a chunk is handed on when its last explanation is there. The draws depend on file row and
sample alone: how a file is cut into chunks changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from gloss_server.files.activation_chunk import ActivationChunk
from gloss_server.files.result_row import Row, result_row
from gloss_server.sources.explainer import FinishedChunk, RequestTemplate, Runner


def finished_chunks(
    runner: Runner,
    chunks: Iterable[ActivationChunk],
    template: RequestTemplate,
    on_explanations: Callable[[int], None],
) -> Iterator[list[Row]]:
    """Run chunks.

    Args:
        runner: nothing else may be in flight.
        chunks: what to explain; read as room is made.
        template: how; the runner's own.
        on_explanations: hears how many explanations came, each time some may have.

    Yields:
        The rows of a chunk, by index and sample, in the order in which chunks finish.
    """
    waiting = iter(chunks)
    num_open, num_chunks, exhausted = 0, 0, False
    while True:
        while not exhausted and num_open < runner.num_ahead:
            chunk = next(waiting, None)
            if chunk is None:
                exhausted = True
            else:
                runner.submit(chunk)
                num_open += len(chunk.activations) * template.num_samples
                num_chunks += 1
        if not num_chunks:
            return
        came = runner.advance()
        num_open -= came.num_new
        on_explanations(came.num_new)
        for finished in came.finished:
            num_chunks -= 1
            yield _rows(finished, template.seed)


def _rows(chunk: FinishedChunk, seed: int) -> list[Row]:
    in_order = sorted(chunk.explanations, key=lambda e: (e.index, e.sample))
    return [result_row(one, chunk.start + one.index, seed) for one in in_order]
