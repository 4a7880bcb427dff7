"""Evidence for an explanation: how near its reconstruction comes to the activation.

a', b' = mse_scale * a / ||a||, mse_scale * b / ||b||
mse    = mean((a' - b')^2) = 2 (1 - cos)        for mse_scale = sqrt(d_model)
fve    = 1 - mse / baseline
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gloss_engine.ar.reconstructor import Reconstructor
from gloss_engine.errors import CheckpointError
from gloss_kernels import scale_to_norm


@dataclass(frozen=True, kw_only=True)
class Score:
    """Evidence of one explanation; fve is None without a baseline."""

    cosine: float
    mse: float
    fve: float | None


class Scorer:
    """Scores explanations against activations.

    Args:
        reconstructor: the AR.
        fve_baseline: strict baseline: the variance of the normalised activations about their
            un-normalised mean; None where it is not known.

    Raises:
        CheckpointError: the AR was trained on raw mse, so directions mean nothing to it.
    """

    def __init__(self, reconstructor: Reconstructor, fve_baseline: float | None) -> None:
        scale = reconstructor.sidecar.mse_scale
        if scale is None:
            raise CheckpointError(
                "sidecar extraction.mse_scale",
                got="null: this AR was trained on raw mse",
                expected="sqrt_d_model or a number",
                fix="Scoring by direction would mean nothing; run without --ar (or --no-score).",
            )
        self.reconstructor, self.fve_baseline, self._scale = reconstructor, fve_baseline, scale

    def score(self, texts: Sequence[str], activations: Tensor) -> list[Score | None]:
        """Score texts[i] against activations[i], and wait for it.

        Args:
            texts: n explanations.
            activations: [n, d_model], raw.

        Returns:
            n scores; None for a text whose prompt is too long for the AR.
        """
        prompts = self.reconstructor.template.encode(texts)
        limit = self.reconstructor.max_prompt_tokens
        fitting = [index for index, prompt in enumerate(prompts) if len(prompt) <= limit]
        vectors = self.reconstructor.reconstruct_ids([prompts[index] for index in fitting])
        scores: list[Score | None] = [None] * len(texts)
        for index, score in zip(fitting, self.compare(vectors, activations[fitting]), strict=True):
            scores[index] = score
        return scores

    def compare(self, reconstructions: Tensor, activations: Tensor) -> list[Score]:
        """Score vectors [n, d_model] against activations [n, d_model], and wait for it."""
        return self.scores(self.measure(reconstructions, activations))

    @torch.inference_mode()
    def measure(self, reconstructions: Tensor, activations: Tensor) -> Tensor:
        """Mean squared error and cosine, [2, n] float64, on the device.

        Args:
            reconstructions: [n, d_model].
            activations: [n, d_model], raw.
        """
        a = scale_to_norm(reconstructions, self._scale).double()
        b = scale_to_norm(activations.to(a.device), self._scale).double()
        mse = (a - b).square().mean(dim=-1)
        return torch.stack((mse, torch.nn.functional.cosine_similarity(a, b, dim=-1)))

    def scores(self, measured: Tensor) -> list[Score]:
        """What `measure` returned, as values."""
        return [
            Score(cosine=c, mse=m, fve=None if not self.fve_baseline else 1 - m / self.fve_baseline)
            for m, c in measured.t().tolist()
        ]
