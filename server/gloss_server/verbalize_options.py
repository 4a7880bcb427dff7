"""What `gloss verbalize` was asked for, wherever the explanations come from, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gloss_engine.sampling import SamplingParams
from gloss_server.run_state import Option


@dataclass(frozen=True, kw_only=True)
class VerbalizeOptions:
    """Options of one run, as the command line names them.

    Attributes:
        file: activations, .npy or .parquet.
        output: rows, .jsonl or .parquet.
        samples: explanations per activation.
        temperature, top_p, top_k, min_p, repetition_penalty, max_new_tokens: as in SamplingParams.
        seed: of the draws; None: that of the run that is continued, else one is drawn.
        score: None: wherever there is an AR.
        layer: layer the activations were read at; None: what the file says.
        allow_layer_mismatch: run on another layer than the AV's.
    """

    file: Path
    output: Path
    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 200
    seed: int | None = None
    score: bool | None = None
    layer: int | None = None
    allow_layer_mismatch: bool = False

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
            "--layer": self.layer,
            "--allow-layer-mismatch": self.allow_layer_mismatch,
        }
