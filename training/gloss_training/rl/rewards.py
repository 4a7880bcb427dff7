"""The reward of a response: a sum of weighted terms, each kept apart for the log.

Reconstruction is -mse of the AR. The others are about the text: its form, its length, how much it
repeats itself, and what a judge thinks of it. A term of weight 0 is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from gloss_training.rl.rollout import Rollout
from gloss_training.rl.settings import RewardSettings

_SENTENCE: Final = re.compile(r"\S.*?(?:[.!?…。！？]+[\"'”’»)\]]*(?=\s|$)|$)", re.DOTALL)
_WHOLE: Final = re.compile(r"[.!?…。！？]+[\"'”’»)\]]*$")
_TAG: Final = re.compile(r"</?explanation>")
_GRAM: Final = 3


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """Rewards of a rollout's responses.

    Attributes:
        total: [n] float32, the sum of the terms; NaN for a failed response, which has none.
        terms: name -> [n] float32, weighted.
        num_unjudged: valid responses without a score; None where nobody was asked.
    """

    total: Tensor
    terms: dict[str, Tensor]
    num_unjudged: int | None = None


def score(
    rollout: Rollout,
    mse: Tensor,
    settings: RewardSettings,
    judged: Tensor | None,
    max_new_tokens: int,
) -> Rewards:
    """Rewards of each response.

    Args:
        rollout: n responses.
        mse: [n] of the reconstruction; NaN for failed responses.
        settings: the terms' weights.
        judged: [n] scores of 0 to 1, NaN where the judge gave none; None: nobody was asked.
        max_new_tokens: longest response.

    Raises:
        ValueError: a weight for the judge, but no scores.
    """
    if settings.judge > 0 and judged is None:
        raise ValueError(
            f"rl.reward.judge: got {settings.judge} and no scores; name a judge or set it to 0"
        )
    is_valid = torch.tensor(rollout.is_valid)
    values: dict[str, Tensor] = {}
    if settings.reconstruction > 0:
        values["reconstruction"] = -mse.detach().float().cpu()
    if settings.format > 0:
        values["format"] = torch.tensor([form(text) for text in rollout.explanations])
    if settings.brevity > 0:
        excess = [max(0, len(ids) - settings.free_tokens) for ids in rollout.response_ids]
        values["brevity"] = -torch.tensor(excess) / max_new_tokens
    if settings.repetition > 0:
        values["repetition"] = -torch.tensor([repeated(ids) for ids in rollout.response_ids])
    num_unjudged = None
    if settings.judge > 0 and judged is not None:
        num_unjudged = int((judged.cpu().isnan() & is_valid).sum())
        values["judge"] = _neutral_where_missing(judged.float().cpu(), rollout.samples_per_prompt)
    terms = {
        name: (getattr(settings, name) * value).masked_fill(~is_valid, torch.nan)
        for name, value in values.items()
    }
    total = torch.zeros(len(rollout)).masked_fill(~is_valid, torch.nan)
    return Rewards(total=sum(terms.values(), total), terms=terms, num_unjudged=num_unjudged)


def form(explanation: str) -> float:
    """0 to 1: half for one pair of tags around something, half for the share of whole sentences.

    A whole sentence ends with a mark and does not begin with a small letter.
    """
    text = explanation.strip()
    if not text or _TAG.search(text):
        return 0.0
    sentences = [match.group().strip() for match in _SENTENCE.finditer(text)]
    whole = [bool(_WHOLE.search(each)) and not each[0].islower() for each in sentences]
    return 0.5 + 0.5 * sum(whole) / len(whole)


def repeated(token_ids: Sequence[int]) -> float:
    """Share of a response's trigrams that it has said before, 0 to 1."""
    grams = [tuple(token_ids[i : i + _GRAM]) for i in range(len(token_ids) - _GRAM + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def _neutral_where_missing(judged: Tensor, samples: int) -> Tensor:
    """[n] with each missing score set to the mean of its activation's others, else to 0.

    So a judge that failed neither pays nor costs: advantages are against those others.
    """
    groups = judged.reshape(-1, samples)
    filled = torch.where(groups.isnan(), groups.nanmean(1, keepdim=True), groups)
    return filled.nan_to_num(nan=0.0).reshape(-1)
