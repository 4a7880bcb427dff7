"""Rollouts from the engine in this process, which has the AV's weights as training left them.

The prompt's prefix is computed once for all, and the samples of an activation share their prefill.
After each update `load` copies the weights into the engine and compares checksums: a rollout of
other weights than the trainer's would only show as a mismatch of log-probabilities.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from gloss_engine.config import EngineConfig
from gloss_engine.engine import Engine
from gloss_engine.loading import load_engine
from gloss_engine.request import Explanation, VerbalizeRequest
from gloss_engine.sampling import SamplingParams
from gloss_engine.weight_checksum import weights_checksum
from gloss_training.errors import RolloutError
from gloss_training.models.pair import Pair
from gloss_training.rl.rollout import Rollout
from gloss_training.rl.settings import RlSettings

MOST_SLOTS: Final = 512
"""Responses that run at once at most: beyond that a step's time goes with its rows."""


class Sampler:
    """The engine of an AV under training.

    Args:
        engine: of the AV alone; nothing else runs in it.
    """

    def __init__(self, engine: Engine) -> None:
        assert engine.weights is not None
        self.engine, self._dtype = engine, engine.weights.dtype

    @classmethod
    def of(
        cls,
        av: Path,
        settings: RlSettings,
        *,
        device: str = "auto",
        dtype: str = "auto",
        num_ranks: int = 1,
    ) -> Sampler:
        """The sampler of an AV in the released layout, with room for one rollout.

        Args:
            av: its directory.
            settings: the RL stage's.
            device, dtype: as in EngineConfig.
            num_ranks: processes that share a step's activations, each with a sampler.
        """
        num_prompts = max(1, settings.prompts_per_step // num_ranks)
        num_responses = num_prompts * settings.samples_per_prompt
        config = EngineConfig(
            device=device,
            dtype=dtype,
            num_slots=min(num_responses, MOST_SLOTS),
            max_new_tokens=settings.max_new_tokens,
        )
        engine = load_engine(av, config=config)
        engine.warm_up()
        return cls(engine)

    def sample(
        self, activations: Tensor, seed: int, settings: RlSettings, rows: Tensor | None = None
    ) -> Rollout:
        """One step's responses.

        What a response draws hangs on the seed, its activation's place and its sample alone.

        Args:
            activations: [num_prompts, d_model] float32, raw.
            seed: of the draws, 0 to 2^64 - 1.
            settings: how many, how long and how hot.
            rows: [num_prompts] int64, which rows of the data they are; None: their places.

        Raises:
            RolloutError: a response that could not be made: an activation of zeros or not finite,
                logits that are not finite.
        """
        started = time.perf_counter()
        request = VerbalizeRequest(
            activations=activations,
            num_samples=settings.samples_per_prompt,
            sampling=SamplingParams(
                temperature=settings.temperature,
                max_new_tokens=settings.max_new_tokens,
                seed=seed,
            ),
            score=False,
            token_logprobs=True,
        )
        responses = self.engine.verbalize(request)
        _check(responses)
        is_valid = tuple(each.finish_reason == "closing_tag" for each in responses)
        return Rollout(
            rows=torch.arange(len(activations)) if rows is None else rows,
            activations=activations,
            samples_per_prompt=settings.samples_per_prompt,
            response_ids=tuple(each.token_ids for each in responses),
            logprobs=tuple(each.token_logprobs for each in responses),
            explanations=tuple(
                each.explanation if valid else ""
                for each, valid in zip(responses, is_valid, strict=True)
            ),
            is_valid=is_valid,
            seconds=time.perf_counter() - started,
        )

    @torch.no_grad()
    def load(self, pair: Pair) -> float:
        """Give the engine the AV's weights, and check that it has them.

        Returns:
            The share of the change since the last load that was lost when float32 weights were
            rounded to the engine's type, 0 to 1; 0 where the engine is in float32.

        Raises:
            RolloutError: the engine's weights are not the trainer's.
            WeightsError: other names or shapes than the engine's.
        """
        lost = self.engine.update_weights(_Again(pair.av_weights))
        expected = weights_checksum(pair.av_weights(), dtype=self._dtype)
        got = self.engine.weights_checksum()
        if got != expected:
            raise RolloutError(
                f"stage rl: got weights of checksum {got} in the engine, expected the trainer's "
                f"{expected}; the pair's weights changed while they were copied"
            )
        return lost


@dataclass(frozen=True)
class _Again:
    """Weights that are made as they are read, as often as they are."""

    weights: Callable[[], Iterator[tuple[str, Tensor]]]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self.weights()


def _check(responses: list[Explanation]) -> None:
    """Refuse a rollout with responses that could not be made."""
    failed = [each for each in responses if each.error is not None]
    if failed and failed[0].error is not None:
        first = failed[0]
        raise RolloutError(
            f"stage rl: got {failed[0].error.reason} for {len(failed)} of {len(responses)} "
            f"responses of a rollout, the first sample {first.sample} of activation {first.index}; "
            "expected a response each. Lower rl.av_learning_rate, which may have moved the AV too "
            "far, and look for rows in the data that are zero or not finite"
        )
