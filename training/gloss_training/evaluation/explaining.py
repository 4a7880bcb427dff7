"""Explanations of an AV in the released layout, written by the engine in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from gloss_engine.config import EngineConfig
from gloss_engine.loading import load_engine
from gloss_engine.request import VerbalizeRequest
from gloss_engine.sampling import SamplingParams

USUAL_SLOTS: Final = 256
"""Sequences that run at once where there are many."""


@dataclass(frozen=True, kw_only=True)
class Explanations:
    """One explanation of each of n activations.

    Attributes:
        texts: between the tags; of a response that was not closed, all that came.
        is_closed: whether the closing tag came.
        num_tokens: of each response, tags included.
    """

    texts: tuple[str, ...]
    is_closed: tuple[bool, ...]
    num_tokens: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)


class Explainer:
    """The engine of one AV, for explanations at temperature 1.

    Args:
        av: its directory.
        max_new_tokens: longest response.
        device, dtype: as in EngineConfig.
        num_slots: sequences that run at once.

    Raises:
        GlossError: an AV that the engine does not know, or that finds no room.
    """

    def __init__(
        self,
        av: Path,
        max_new_tokens: int,
        *,
        device: str,
        dtype: str,
        num_slots: int = USUAL_SLOTS,
    ) -> None:
        config = EngineConfig(
            device=device, dtype=dtype, num_slots=num_slots, max_new_tokens=max_new_tokens
        )
        self._engine = load_engine(av, config=config)
        self._max_new_tokens = max_new_tokens

    def explain(self, activations: Tensor, seed: int) -> Explanations:
        """Explains raw activations [n, d_model]; a row that cannot be explained gets "".

        What a row draws hangs on the seed and its place alone.
        """
        sampling = SamplingParams(temperature=1.0, max_new_tokens=self._max_new_tokens, seed=seed)
        request = VerbalizeRequest(activations=activations, sampling=sampling, score=False)
        found = self._engine.verbalize(request)
        return Explanations(
            texts=tuple(each.explanation for each in found),
            is_closed=tuple(each.finish_reason == "closing_tag" for each in found),
            num_tokens=tuple(len(each.token_ids) for each in found),
        )
