"""Where the explanations of `gloss verbalize` come from: what a source of them must be able to do.

`local_explainer.py` runs an engine in this process, `service_explainer.py` asks a server. All that
they share, from reading the input to continuing a killed run, is `commands/verbalize/command.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gloss_engine.sampling import SamplingParams
from gloss_server.files.activation_chunk import ActivationChunk
from gloss_server.files.result_row import Explained
from gloss_server.files.run_state import Option
from gloss_server.sources.verbalize_options import VerbalizeOptions
from gloss_server.terminal import RunProgress


@dataclass(frozen=True, kw_only=True)
class RequestTemplate:
    """What all chunks' requests have in common; see VerbalizeRequest. The seed is always stated."""

    num_samples: int
    sampling: SamplingParams
    layer_index: int | None
    allow_layer_mismatch: bool
    score: bool

    @property
    def seed(self) -> int:
        """Of the draws."""
        assert self.sampling.seed is not None
        return self.sampling.seed


@dataclass(frozen=True, kw_only=True)
class FinishedChunk:
    """A chunk whose last explanation is there.

    Attributes:
        start: file row of its first row.
        explanations: all of them, in any order; their index counts from `start`.
    """

    start: int
    explanations: Sequence[Explained]


@dataclass(frozen=True, kw_only=True)
class Advance:
    """What came since the last one.

    Attributes:
        num_new: explanations that ended.
        finished: chunks of which they were the last.
    """

    num_new: int
    finished: list[FinishedChunk] = field(default_factory=list)


class Runner(Protocol):
    """Explains chunks, several at once.

    Attributes:
        d_model: width of the activations it explains.
        explains: what it explains with, for messages.
        num_ahead: explanations to keep in flight, so that it never runs short.
    """

    d_model: int
    explains: str
    num_ahead: int

    def check(self) -> None:
        """Refuse at once what the template would be refused for.

        Raises:
            CommandError, GlossError: what was got, what was expected.
        """

    def submit(self, chunk: ActivationChunk) -> None:
        """Take a chunk; a row's draws are those of its place in the file."""

    def advance(self) -> Advance:
        """Wait until something happened to what was submitted.

        Raises:
            SourceLost: it cannot go on.
        """

    def close(self) -> None:
        """Give up what is in flight."""


class Explainer(Protocol):
    """A source of explanations that has not been opened."""

    def check(self, options: VerbalizeOptions) -> None:
        """Refuse what cannot work before anything is read.

        Raises:
            CommandError, GlossError: what was got, what was expected.
        """

    def scores(self, options: VerbalizeOptions) -> bool:
        """Whether explanations will be scored."""

    def deciding(self, options: VerbalizeOptions) -> dict[str, Option]:
        """What of it decides rows, by its name on the command line; a rerun must have the same."""

    def open(
        self, options: VerbalizeOptions, template: RequestTemplate, progress: RunProgress
    ) -> Runner:
        """Make it ready to run."""
