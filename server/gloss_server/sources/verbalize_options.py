"""What `gloss verbalize` was asked for, wherever the explanations come from, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gloss_server.files.run_state import Option
from gloss_server.sources.explanation_options import ExplanationOptions


@dataclass(frozen=True, kw_only=True)
class VerbalizeOptions(ExplanationOptions):
    """Options of one run, as the command line names them, besides those of every explanation.

    Attributes:
        file: activations, .npy or .parquet.
        output: rows, .jsonl or .parquet.
        layer: layer the activations were read at; None: what the file says.
        allow_layer_mismatch: run on another layer than the AV's.
    """

    file: Path
    output: Path
    layer: int | None = None
    allow_layer_mismatch: bool = False

    def deciding(self) -> dict[str, Option]:
        """What decides the rows, but for seed and source, by its name on the command line."""
        return super().deciding() | {
            "--layer": self.layer,
            "--allow-layer-mismatch": self.allow_layer_mismatch,
        }
