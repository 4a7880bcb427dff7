"""Explanations from an engine in this process: `gloss verbalize --local`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gloss_engine import Engine, Explanation, VerbalizeRequest, load_engine
from gloss_engine.validation import validate
from gloss_server.files.activation_chunk import ActivationChunk
from gloss_server.sources.explainer import Advance, FinishedChunk, RequestTemplate
from gloss_server.sources.local_models import LocalModels
from gloss_server.sources.verbalize_options import VerbalizeOptions
from gloss_server.terminal import RunProgress


@dataclass(frozen=True, kw_only=True)
class LocalExplainer(LocalModels):
    """An AV, perhaps its AR, and how to run them. See Explainer for what it can do."""

    def check(self, options: VerbalizeOptions) -> None:
        """See Explainer; the checkpoints themselves are examined when they are loaded."""
        self.config(options)
        self.pair(options)

    def open(
        self, options: VerbalizeOptions, template: RequestTemplate, progress: RunProgress
    ) -> EngineRunner:
        """See Explainer.

        Raises:
            GlossError: a checkpoint that cannot be used.
        """
        config, (av, ar) = self.config(options), self.pair(options)
        with progress.stage("Loading the checkpoint"):
            engine = load_engine(av, ar, config)
        with progress.stage("Warming up"):
            engine.warm_up()
        num_ahead = 3 * config.num_slots + config.score_batch
        return EngineRunner(engine, template, num_ahead, f"the model that {av.name} explains")


@dataclass(kw_only=True)
class _OpenChunk:
    start: int
    explanations: list[Explanation] = field(default_factory=list)


class EngineRunner:
    """An engine that explains chunks; a chunk is one request. See Runner.

    Args:
        engine: nothing else may be in flight.
        template: how.
        num_ahead: enough that slots, the AR's queue and those that wait never run short.
        explains: for messages.
    """

    def __init__(
        self, engine: Engine, template: RequestTemplate, num_ahead: int, explains: str = "the model"
    ) -> None:
        self.d_model, self.num_ahead, self.explains = engine.facts.d_model, num_ahead, explains
        self._engine, self._template = engine, template
        self._open: dict[str, _OpenChunk] = {}

    def check(self) -> None:
        """See Runner."""
        engine, rows = self._engine, np.ones((1, self.d_model), np.float32)
        probe = self._request(ActivationChunk(start=0, activations=rows))
        validate(probe, engine.facts, engine.scheduler, engine.scores is not None)

    def submit(self, chunk: ActivationChunk) -> None:
        """See Runner."""
        request_id = self._engine.submit(self._request(chunk))
        self._open[request_id] = _OpenChunk(start=chunk.start)

    def advance(self) -> Advance:
        """One step of the engine."""
        out = self._engine.step()
        for explanation in out.explanations:
            self._open[explanation.request_id].explanations.append(explanation)
        ended = [self._open.pop(request_id) for request_id in out.finished]
        return Advance(
            num_new=len(out.explanations),
            finished=[
                FinishedChunk(start=chunk.start, explanations=chunk.explanations) for chunk in ended
            ],
        )

    def close(self) -> None:
        """Nothing outlives this process."""

    def _request(self, chunk: ActivationChunk) -> VerbalizeRequest:
        start, num_rows, template = chunk.start, len(chunk.activations), self._template
        return VerbalizeRequest(
            activations=chunk.activations,
            num_samples=template.num_samples,
            sampling=template.sampling,
            item_keys=tuple(range(start, start + num_rows)),
            positions=chunk.positions,
            token_ids=chunk.token_ids,
            layer_index=template.layer_index,
            allow_layer_mismatch=template.allow_layer_mismatch,
            score=template.score,
        )
