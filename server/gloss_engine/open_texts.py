"""Text requests in flight: how many results each still lacks, and results that wait to go out.

What the AR makes of a text is the score queue's; which requests there are besides is the engine's.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gloss_engine.request import StepOutput, TextRequest, TextResult
from gloss_engine.score_queue import ScoreQueue
from gloss_engine.validation import item_errors


class OpenTexts:
    """The text requests of one engine; `in` asks whether a request is in flight.

    Attributes:
        ready: results that go out with the next step.
    """

    def __init__(self) -> None:
        self._num_open: dict[str, int] = {}
        self.ready: list[TextResult] = []

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._num_open

    def __len__(self) -> int:
        return len(self._num_open)

    def add(
        self,
        request_id: str,
        request: TextRequest,
        activations: Tensor | None,
        scores: ScoreQueue,
        step: int,
    ) -> None:
        """Queue a checked request's texts for the AR; a bad row of `activations` fails alone.

        Args:
            activations: [n, d_model] float32 to compare with, or None.
            step: the engine's count of steps.
        """
        self._num_open[request_id] = len(request.texts)
        norms = (
            [] if activations is None else torch.linalg.vector_norm(activations, dim=-1).tolist()
        )
        errors = item_errors(norms)
        for index, text in enumerate(request.texts):
            result = TextResult(request_id=request_id, index=index)
            if index in errors:
                self.ready.append(replace(result, error=errors[index]))
                continue
            activation = None if activations is None else activations[index]
            scores.add_text(result, text, activation, step)

    def hand_out(self, out: StepOutput) -> None:
        """Move what is ready to a step's output, and close requests after their last result."""
        for result in self.ready:
            out.texts.append(result)
            self._num_open[result.request_id] -= 1
            if self._num_open[result.request_id] == 0:
                del self._num_open[result.request_id]
                out.finished.append(result.request_id)
        self.ready.clear()
