"""Checkpoints that a command runs in this process, and how: `--local`.

What is made of them is for `local_explainer.py` (activations) and `local_texts.py` (texts).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gloss_engine import EngineConfig
from gloss_engine.checkpoint import fingerprint
from gloss_server.command_error import CommandError
from gloss_server.embedded import embedded_pair
from gloss_server.files.run_state import Option
from gloss_server.sources.explanation_options import ExplanationOptions


@dataclass(frozen=True, kw_only=True)
class LocalModels:
    """Checkpoints and how to run them.

    Attributes:
        av, ar: checkpoint directories; both None: the embedded pair.
        device, dtype, quantization, batch_invariant, injection_mode, fve_baseline: as in
            EngineConfig.
    """

    av: Path | None = None
    ar: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "none"
    batch_invariant: bool = False
    injection_mode: str = "replace"
    fve_baseline: float | None = None

    def pair(self, options: ExplanationOptions) -> tuple[Path, Path | None]:
        """The AV, and the AR if explanations are scored.

        Raises:
            CommandError: options that contradict each other.
        """
        if self.av is None and self.ar is not None:
            raise CommandError("--ar without --av: name the AV that belongs to it, or neither")
        if self.av is None:
            pair = embedded_pair()
            return pair.av, None if options.score is False else pair.ar
        if options.score and self.ar is None:
            raise CommandError("--score needs an AR: add --ar DIR, or leave --score out")
        return self.av, None if options.score is False else self.ar

    def scores(self, options: ExplanationOptions) -> bool:
        """Whether explanations will be scored."""
        return self.pair(options)[1] is not None

    def deciding(self, options: ExplanationOptions) -> dict[str, Option]:
        """What of it decides rows, by its name on the command line. Device and dtype are those
        that `auto` stands for."""
        config, (av, ar) = self.config(options), self.pair(options)
        return {
            "--av": fingerprint(av),
            "--ar": None if ar is None else fingerprint(ar),
            "--device": config.resolve_device().type,
            "--dtype": str(config.resolve_dtype()).removeprefix("torch."),
            # Not set where there is none, as in the runs of versions without these options.
            "--quantization": None if self.quantization == "none" else self.quantization,
            "--batch-invariant": self.batch_invariant or None,
            "--injection-mode": self.injection_mode,
            "--fve-baseline": self.fve_baseline,
        }

    def config(self, options: ExplanationOptions, **more: Any) -> EngineConfig:
        """The engine's settings; `more` are those that only some commands have.

        Raises:
            ConfigError: a setting that cannot be used.
        """
        return EngineConfig(
            device=self.device,
            dtype=self.dtype,
            quantization=self.quantization,
            batch_invariant=self.batch_invariant,
            injection_mode=self.injection_mode,
            max_new_tokens=options.max_new_tokens,
            fve_baseline=self.fve_baseline,
            **more,
        )
