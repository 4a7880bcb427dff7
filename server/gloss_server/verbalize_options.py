"""What `gloss verbalize` was asked for, as one value, and what the engine needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gloss_engine import EngineConfig, SamplingParams
from gloss_engine.checkpoint import fingerprint
from gloss_server.command_error import CommandError
from gloss_server.embedded import embedded_pair
from gloss_server.run_state import Option


@dataclass(frozen=True, kw_only=True)
class VerbalizeOptions:
    """Options of one run, as the command line names them.

    Attributes:
        file: activations, .npy or .parquet.
        output: rows, .jsonl or .parquet.
        av, ar: checkpoint directories; both None: the embedded pair.
        device, dtype, injection_mode, fve_baseline: as in EngineConfig.
        samples: explanations per activation.
        temperature, top_p, top_k, min_p, repetition_penalty, max_new_tokens: as in SamplingParams.
        seed: of the draws; None: that of the run that is continued, else one is drawn.
        score: None: wherever there is an AR.
        layer: layer the activations were read at; None: what the file says.
        allow_layer_mismatch: run on another layer than the AV's.
    """

    file: Path
    output: Path
    av: Path | None = None
    ar: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    injection_mode: str = "replace"
    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 200
    seed: int | None = None
    score: bool | None = None
    fve_baseline: float | None = None
    layer: int | None = None
    allow_layer_mismatch: bool = False

    def checkpoints(self) -> tuple[Path, Path | None]:
        """The AV, and the AR if explanations are scored.

        Raises:
            CommandError: options that contradict each other.
        """
        if self.av is None and self.ar is not None:
            raise CommandError("--ar without --av: name the AV that belongs to it, or neither")
        if self.av is None:
            pair = embedded_pair()
            return pair.av, None if self.score is False else pair.ar
        if self.score and self.ar is None:
            raise CommandError("--score needs an AR: add --ar DIR, or leave --score out")
        return self.av, None if self.score is False else self.ar

    def engine_config(self) -> EngineConfig:
        """Settings of the engine that runs them.

        Raises:
            ConfigError: a setting that cannot be used.
        """
        return EngineConfig(
            device=self.device,
            dtype=self.dtype,
            injection_mode=self.injection_mode,
            max_new_tokens=self.max_new_tokens,
            fve_baseline=self.fve_baseline,
        )

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

    def deciding(self, av: Path, ar: Path | None, config: EngineConfig) -> dict[str, Option]:
        """Everything but the seed that decides the rows, by its name on the command line.

        Device and dtype are those that `auto` stands for, checkpoints their fingerprints.
        """
        return {
            "--av": fingerprint(av),
            "--ar": None if ar is None else fingerprint(ar),
            "--device": config.resolve_device().type,
            "--dtype": str(config.resolve_dtype()).removeprefix("torch."),
            "--injection-mode": self.injection_mode,
            "--samples": self.samples,
            "--temperature": self.temperature,
            "--top-p": self.top_p,
            "--top-k": self.top_k,
            "--min-p": self.min_p,
            "--repetition-penalty": self.repetition_penalty,
            "--max-new-tokens": self.max_new_tokens,
            "--fve-baseline": self.fve_baseline,
            "--layer": self.layer,
            "--allow-layer-mismatch": self.allow_layer_mismatch,
        }
