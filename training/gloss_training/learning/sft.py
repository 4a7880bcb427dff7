"""What the two supervised stages learn: AR (text to vector) and AV (vector to text).

The texts are a teacher's. Whose weights they are, a model's own or adapters over a frozen base, is
for the stages that call this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gloss_training.batches import rows_of_step
from gloss_training.learning.supervised import Losses, Supervision
from gloss_training.models.prompts import end_of_turn_id
from gloss_training.models.reconstructor import encode_explanations
from gloss_training.models.sharding import ALONE, Ranks
from gloss_training.models.verbalizer import Speaker, encode_responses, injected_rows, response_loss
from gloss_training.scoring import normalized_mse
from gloss_training.settings import AvSettings, PromptSettings, SftSettings


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Rows to learn from.

    Attributes:
        activations: [n, d_model] float32, raw.
        explanations: n of the teacher's texts.
        tokenizer: the target's.
        prompt: how both are put to the models.
        device: where it is learnt.
        seed: of the run; draws the order of the rows.
        ranks: each learns from its share of a step's rows.
    """

    activations: Tensor
    explanations: Sequence[str]
    tokenizer: Any
    prompt: PromptSettings
    device: torch.device
    seed: int
    ranks: Ranks = ALONE

    def rows(self, settings: SftSettings, step: int, use: str) -> list[int]:
        """Rows of a step."""
        return rows_of_step(len(self.explanations), settings.batch_size, step, self.seed, use)

    def micro_batches(self, settings: SftSettings, step: int, use: str) -> Iterator[list[int]]:
        """Rows of this rank's share of a step, as many at a time as one pass takes."""
        rows = self.rows(settings, step, use)
        rows = rows[self.ranks.share(len(rows), f"{use}.batch_size")]
        for start in range(0, len(rows), settings.micro_batch):
            yield rows[start : start + settings.micro_batch]


def ar_supervision(
    lesson: Lesson,
    settings: SftSettings,
    reconstruct: Callable[[Tensor, Tensor], Tensor],
    weights: Mapping[str, torch.nn.Parameter],
) -> Supervision:
    """Minimise the mean normalised mse between reconstructions and activations.

    Args:
        lesson: the rows.
        settings: of the stage.
        reconstruct: token ids [n, t] and lengths [n] -> [n, d_model], as `Pair.reconstruct`.
        weights: what is trained, by name.
    """
    template = lesson.prompt.ar_template
    token_ids, lengths = encode_explanations(lesson.tokenizer, template, lesson.explanations)

    def losses(step: int) -> Iterator[Losses]:
        for chosen in lesson.micro_batches(settings, step, "ar"):
            longest = int(lengths[chosen].max())
            output = reconstruct(
                token_ids[chosen, :longest].to(lesson.device), lengths[chosen].to(lesson.device)
            )
            wanted = lesson.activations[chosen].to(lesson.device)
            yield {"loss": normalized_mse(output, wanted).sum() / settings.batch_size}

    return Supervision(
        stage="ar", weights=weights, losses=losses, units=lambda step: settings.batch_size
    )


def av_supervision(
    lesson: Lesson,
    settings: AvSettings,
    speaker: Speaker,
    weights: Mapping[str, torch.nn.Parameter],
    *,
    injection_scale: float,
    stop_ids: Sequence[int],
) -> Supervision:
    """Minimise the mean cross-entropy of the teacher's tokens, given the injected activation.

    Args:
        lesson: the rows.
        settings: of the stage.
        speaker: the AV.
        weights: what is trained, by name.
        injection_scale: L2 norm of an injected activation.
        stop_ids: what ends a generation; the one that ends a turn ends each response.
    """
    injected = injected_rows(lesson.activations, injection_scale)
    end = end_of_turn_id(lesson.tokenizer, stop_ids)
    responses = encode_responses(lesson.tokenizer, lesson.explanations, end)

    def num_tokens(step: int) -> int:
        return sum(len(responses[row]) for row in lesson.rows(settings, step, "av"))

    def losses(step: int) -> Iterator[Losses]:
        total = num_tokens(step)
        # As many chunks on all ranks, which know each other's rows: nobody has to be asked.
        longest = max(len(responses[row]) for row in lesson.rows(settings, step, "av"))
        for chosen in lesson.micro_batches(settings, step, "av"):
            loss = response_loss(
                speaker,
                injected[chosen].to(lesson.device),
                [responses[row] for row in chosen],
                chunk=settings.vocabulary_chunk,
                num_chunks=1
                if lesson.ranks.count == 1
                else -(-len(chosen) * longest // settings.vocabulary_chunk),
            )
            yield {"loss": loss / total}

    return Supervision(stage="av", weights=weights, losses=losses, units=num_tokens)
