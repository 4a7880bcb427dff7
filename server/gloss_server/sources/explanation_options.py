"""How a command asks for explanations, wherever they come from and whatever they are of."""

from __future__ import annotations

from dataclasses import dataclass

from gloss_engine.sampling import SamplingParams
from gloss_server.command_error import CommandError
from gloss_server.files.run_state import Option


@dataclass(frozen=True, kw_only=True)
class ExplanationOptions:
    """Options that the commands share, as the command line names them.

    Attributes:
        samples: explanations per activation.
        temperature, top_p, top_k, min_p, repetition_penalty, max_new_tokens: as in SamplingParams.
        seed: of the draws; None: that of the run that is continued, else one is drawn.
        score: None: wherever there is an AR.
    """

    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 200
    seed: int | None = None
    score: bool | None = None

    def check(self) -> None:
        """Refuse what no source takes.

        Raises:
            CommandError, RequestError: a setting that cannot be used.
        """
        self.sampling(self.seed or 0)
        if self.samples < 1:
            raise CommandError(f"--samples: got {self.samples}, expected 1 or more")

    def sampling(self, seed: int) -> SamplingParams:
        """How tokens are drawn.

        Raises:
            RequestError: a setting that cannot be used.
        """
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            max_new_tokens=self.max_new_tokens,
            seed=seed,
        )

    def deciding(self) -> dict[str, Option]:
        """What decides the rows, but for seed and source, by its name on the command line."""
        return {
            "--samples": self.samples,
            "--temperature": self.temperature,
            "--top-p": self.top_p,
            "--top-k": self.top_k,
            "--min-p": self.min_p,
            "--repetition-penalty": self.repetition_penalty,
            "--max-new-tokens": self.max_new_tokens,
        }
