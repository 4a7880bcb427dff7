"""Explanations of texts from an engine in this process: `gloss explain --local`, and watch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gloss_engine import Engine, ItemError, RequestError, load_engine
from gloss_engine.checkpoint import fingerprint
from gloss_engine.text_request import ExplainRequest, WatchRequest
from gloss_server.command_error import CommandError
from gloss_server.embedded import embedded_pair
from gloss_server.files.run_state import Option
from gloss_server.sources.engine_events import EngineEvents, item_error
from gloss_server.sources.explanation_options import ExplanationOptions
from gloss_server.sources.local_models import LocalModels
from gloss_server.sources.text_source import Came, TextFailed, is_of_text
from gloss_server.terminal import RunProgress

_NUM_TEXTS = 64
"""Short texts of few positions fill the slots, too."""


@dataclass(frozen=True, kw_only=True)
class LocalTexts(LocalModels):
    """A pair, the model that it explains, and how to run them. See TextSource.

    Attributes:
        target: directory of that model; without av and target the embedded ones.
    """

    target: Path | None = None

    def check(self, options: ExplanationOptions) -> None:
        """See TextSource; the checkpoints themselves are examined when they are loaded."""
        self.config(options)
        self.pair(options)
        self._target()

    def deciding(self, options: ExplanationOptions) -> dict[str, Option]:
        """See TextSource."""
        return super().deciding(options) | {"--target": fingerprint(self._target())}

    def open(
        self, options: ExplanationOptions, progress: RunProgress, max_watch_tokens: int = 0
    ) -> EngineTexts:
        """See TextSource. A model that only reads is loaded up to the block that it is read at."""
        watched: dict[str, Any] = {"target_generates": False}
        if max_watch_tokens:
            watched = {"max_watch_tokens": max_watch_tokens, "num_watches": 1}
        config, (av, ar) = self.config(options, **watched), self.pair(options)
        with progress.stage("Loading the checkpoints"):
            engine = load_engine(av, ar, config, target=self._target())
        with progress.stage("Warming up"):
            engine.warm_up()
        return EngineTexts(engine, 3 * config.num_slots + config.score_batch)

    def _target(self) -> Path:
        """The model that is read.

        Raises:
            CommandError: options that contradict each other.
        """
        if self.av is None:
            if self.target is not None:
                raise CommandError(
                    "--target without --av: name the AV that explains it, or neither"
                )
            return embedded_pair().target
        if self.target is None:
            raise CommandError(
                "--av without --target: a text is read by the model that the AV explains; name its "
                "directory"
            )
        return self.target


class EngineTexts:
    """An engine that explains texts; a text is one request. See TextRunner.

    Args:
        engine: nothing else may be in flight.
        num_ahead: enough that slots, the AR's queue and those that wait never run short.
    """

    def __init__(self, engine: Engine, num_ahead: int) -> None:
        assert engine.info is not None
        self.num_texts, self.num_ahead = _NUM_TEXTS, num_ahead
        self.max_watch_tokens = engine.info.max_watch_tokens
        self._engine, self._events = engine, EngineEvents(engine.info)
        self._failed: list[Came] = []

    def submit(self, row: int, request: ExplainRequest | WatchRequest) -> None:
        """See TextRunner."""
        engine = self._engine
        try:
            if isinstance(request, ExplainRequest):
                request_id = engine.submit_explain(request)
            else:
                request_id = engine.submit_watch(request)
        except RequestError as error:
            if not is_of_text(error.field):
                raise
            failure = item_error(ItemError.of_request(error))
            self._failed.append(Came(row=row, event=TextFailed(error=failure)))
        else:
            self._events.begin(request_id, row)

    def advance(self) -> list[Came]:
        """One step of the engine."""
        failed, self._failed = self._failed, []
        return failed or self._events.of(self._engine.step())

    def close(self) -> None:
        """Nothing outlives this process."""
