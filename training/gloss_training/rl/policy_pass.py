"""What one micro batch of responses adds to the AV's loss: the policy's part and the KL's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gloss_training.models.pair import Pair
from gloss_training.models.sharding import Ranks
from gloss_training.rl.divergence import k1_reward_to_go, k2
from gloss_training.rl.policy_loss import PolicyLoss, importance_weights, policy_loss
from gloss_training.rl.responses import Responses
from gloss_training.rl.settings import RlSettings
from gloss_training.rl.tally import Tally
from gloss_training.rl.vocabulary import Reference, TokenTerms, token_terms


@dataclass(frozen=True, kw_only=True)
class PolicyPass:
    """A micro batch's part of the step.

    Attributes:
        loss: scalar, with a gradient; parts add up to the step's loss.
        policy: the policy loss in it.
        logprobs: [n, t] of the AV, a constant.
        num_tokens: real ones.
        kl: its sum over tokens, nats, float64: exact, or k1's where only that was computed; None:
            not measured.
    """

    loss: Tensor
    policy: PolicyLoss
    logprobs: Tensor
    num_tokens: int
    kl: Tensor | None

    def describe(self, tally: Tally) -> None:
        """Means over tokens, for the log."""
        count = self.num_tokens
        tally.add("ratio_mean", self.policy.ratio_mean * count, count)
        tally.add("clipped_share", self.policy.clipped_share * count, count)
        tally.add("k3", self.policy.k3 * count, count)
        if self.kl is not None:
            tally.add("kl", self.kl, count)


def policy_pass(
    pair: Pair,
    responses: Responses,
    advantages: Tensor,
    settings: RlSettings,
    *,
    num_responses: int,
    old_logprobs: Tensor | None,
    measures_kl: bool,
    ranks: Ranks,
) -> PolicyPass:
    """The AV's forward pass over a micro batch and its loss.

    Args:
        pair: whose AV it is.
        responses: the micro batch.
        advantages: [n].
        settings: the stage's.
        num_responses: of the whole step, on all ranks.
        old_logprobs: [n, t] before the first update on these; None: this is the first.
        measures_kl: whether to run the reference though no loss asks for it.
        ranks: all of them call the vocabulary's heads equally often.
    """
    kind = settings.kl.kind if settings.kl.weight > 0 else "none"
    terms = _terms(pair, responses, settings, kind, measures_kl, ranks)
    mask = responses.mask
    logprobs = _spread(terms.logprobs, mask)
    each = advantages[:, None].expand(mask.shape)
    if kind == "k1_reward":
        assert terms.reference_logprobs is not None
        to_go = k1_reward_to_go(logprobs, _spread(terms.reference_logprobs, mask), mask)
        each = each - settings.kl.weight * to_go
    policy = policy_loss(
        logprobs,
        responses.engine_logprobs,
        mask,
        each,
        max_tokens=settings.max_new_tokens,
        num_responses=num_responses,
        importance_cap=settings.importance_cap,
        clip_ratio=None if old_logprobs is None else settings.clip_ratio,
        old_logprobs=old_logprobs,
    )
    loss = policy.loss
    if kind == "exact":
        assert terms.kl is not None
        loss = loss + _share(terms.kl.sum(), settings, num_responses)
    elif kind == "k2":
        assert terms.reference_logprobs is not None
        penalty = k2(logprobs, _spread(terms.reference_logprobs, mask), mask)
        # Drawn by the engine: the same weights as the policy's make its mean the AV's.
        cap = settings.importance_cap
        weights = importance_weights(logprobs, responses.engine_logprobs, mask, cap)
        loss = loss + _share((weights * penalty).sum(), settings, num_responses)
    return PolicyPass(
        loss=loss,
        policy=policy,
        logprobs=logprobs.detach(),
        num_tokens=int(responses.lengths.sum()),
        kl=_measured(terms),
    )


def _terms(
    pair: Pair,
    responses: Responses,
    settings: RlSettings,
    kind: str,
    measures_kl: bool,
    ranks: Ranks,
) -> TokenTerms:
    """Terms of the real tokens, in their order."""
    places = responses.places()
    states = pair.response_states(responses.rows, responses.token_ids)[places]
    reference = None
    if kind != "none" or measures_kl:
        other = pair.reference_states(responses.rows, responses.token_ids)[places]
        has_kl = kind in ("exact", "none")
        reference = Reference(states=other, head=pair.reference_logits, has_kl=has_kl)
    chunk = settings.vocabulary_chunk
    return token_terms(
        states,
        responses.token_ids[places],
        pair.logits,
        temperature=settings.temperature,
        chunk=chunk,
        reference=reference,
        num_chunks=ranks.largest(-(-len(states) // chunk)),
    )


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """[m] values of the real tokens -> [n, t], 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=mask.device).masked_scatter(
        mask, values
    )


def _share(total: Tensor, settings: RlSettings, num_responses: int) -> Tensor:
    """A sum of tokens' KL as a part of the loss."""
    return settings.kl.weight * total / (num_responses * settings.max_new_tokens)


def _measured(terms: TokenTerms) -> Tensor | None:
    if terms.kl is not None:
        return terms.kl.detach().sum().double()
    if terms.reference_logprobs is not None:
        return (terms.logprobs.detach() - terms.reference_logprobs).sum().double()
    return None
