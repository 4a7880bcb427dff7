"""What a rollout teaches: the AR's pass, rewards, advantages, the AV's passes, both updates.

The AR's forward pass that gives the rewards is also the one it learns from. Where one of the two
gradients is not finite neither is used, and all weights and moments stay as they were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from gloss_training.batches import places_of
from gloss_training.learning.optimizer import MasterAdamW
from gloss_training.models.pair import Pair
from gloss_training.models.sharding import Ranks
from gloss_training.rl.advantages import advantages
from gloss_training.rl.clock import Clock
from gloss_training.rl.figures import describe_responses, describe_rewards
from gloss_training.rl.policy_pass import policy_pass
from gloss_training.rl.responses import Responses, micro_batches
from gloss_training.rl.rewards import Rewards, score
from gloss_training.rl.rollout import Rollout
from gloss_training.rl.settings import RlSettings
from gloss_training.rl.tally import Tally
from gloss_training.rl.task import RlTask
from gloss_training.scoring import normalized_mse
from gloss_training.storage import checkpoints

_BETAS: Final = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What became of one rollout.

    Attributes:
        is_skipped: no valid response, or a gradient that is not finite: it moved nothing.
        has_moved: whether the weights are others than before; of several updates the first may.
        figures: equal runs, equal figures.
        mse: [n] of the reconstructions; NaN for failed responses.
    """

    is_skipped: bool
    has_moved: bool
    figures: dict[str, float]
    mse: Tensor


class Learner:
    """Both optimizers of a pair, and how it learns.

    Args:
        pair: trained in place.
        task: what it is trained on.
        settings: the stage's.
        ranks: sums go over all of them.
    """

    def __init__(self, pair: Pair, task: RlTask, settings: RlSettings, ranks: Ranks) -> None:
        self.pair, self.task, self.settings, self.ranks = pair, task, settings, ranks
        self.device = pair.ar_parameters()[0].device
        self._rates = {"ar": settings.ar_learning_rate}
        parameters = {"ar": pair.ar_parameters()}
        if settings.trains_av:
            self._rates["av"] = settings.av_learning_rate
            parameters["av"] = pair.av_parameters()
        self.optimizers = {
            name: _optimizer(parameters[name], rate, settings.max_grad_norm)
            for name, rate in self._rates.items()
        }

    def learn(self, rollout: Rollout, step: int, clock: Clock) -> Learned:
        """Updates both models from one rollout, as often as the settings say."""
        tally = Tally()
        describe_responses(rollout, self.settings.max_new_tokens, tally)
        num_valid = int(self.ranks.sum(torch.tensor(sum(rollout.is_valid))))
        if num_valid == 0:
            nothing = torch.full((len(rollout),), torch.nan)
            return self._learned(tally, nothing, num_updates=0, is_skipped=True)
        with clock.phase("ar_seconds"):
            mse = self._ar_pass(rollout, num_valid)
        rewards = self._rewards(rollout, mse, clock)
        describe_rewards(rewards, mse, rollout, tally)
        values = self._advantages(rewards, rollout, tally)
        responses = Responses.of(rollout, self.task.injection_scale, self.device)
        old_logprobs: Tensor | None = None
        for update in range(self.settings.updates_per_rollout):
            if update > 0:
                with clock.phase("ar_seconds"):
                    self._ar_pass(rollout, num_valid)
            if self.settings.trains_av:
                with clock.phase("av_seconds"):
                    old_logprobs = self._av_pass(responses, values, old_logprobs, tally)
            with clock.phase("update_seconds"):
                if not self._update(step, tally):
                    return self._learned(tally, mse, num_updates=update, is_skipped=True)
        return self._learned(tally, mse, num_updates=update + 1, is_skipped=False)

    def tensors(self) -> dict[str, Tensor]:
        """All weights that are trained, and both optimizers' moments."""
        found: dict[str, Tensor] = {}
        for name, optimizer in self.optimizers.items():
            found.update(checkpoints.named(name, optimizer.tensors()))
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `tensors` gave."""
        for name, optimizer in self.optimizers.items():
            optimizer.load(checkpoints.part(tensors, name))

    def _learned(self, tally: Tally, mse: Tensor, *, num_updates: int, is_skipped: bool) -> Learned:
        figures = tally.means(self.ranks)
        if "mse" in figures:
            figures["fve"] = 1.0 - figures["mse"] / self.task.fve_baseline
        figures["skipped"] = float(is_skipped)
        return Learned(is_skipped=is_skipped, has_moved=num_updates > 0, figures=figures, mse=mse)

    def _ar_pass(self, rollout: Rollout, num_valid: int) -> Tensor:
        """Gradients of the AR's loss; the mse [n] of each response, NaN where it failed."""
        texts, targets, valid = self._valid(rollout)
        token_ids, lengths = self.task.encode(texts)
        order, found = [], []
        for chosen in micro_batches(lengths.tolist(), self.settings.micro_batch):
            longest = int(lengths[chosen].max())
            read = (token_ids[chosen, :longest], lengths[chosen])
            output = self.pair.reconstruct(*(part.to(self.device) for part in read))
            each = normalized_mse(output, targets[chosen].to(output.device))
            is_real = chosen < len(valid)
            each_real = each[places_of(is_real, each.device)]
            # What has no weight stays in the graph: all ranks go through the backward pass.
            (each_real.sum() / num_valid + 0.0 * each.sum()).backward()
            self.optimizers["ar"].gather()
            order.append(valid[chosen[is_real]])
            found.append(each_real.detach().float())
        mse = torch.full((len(rollout),), torch.nan)
        mse[torch.cat(order)] = torch.cat(found).cpu()
        return mse

    def _valid(self, rollout: Rollout) -> tuple[list[str], Tensor, Tensor]:
        """Valid explanations, their activations and their places in the rollout.

        A rank with fewer than another has some of no weight appended: all ranks call the AR
        equally often.
        """
        valid = torch.tensor([i for i, ok in enumerate(rollout.is_valid) if ok], dtype=torch.int64)
        texts = [rollout.explanations[index] for index in valid.tolist()]
        targets = rollout.activations[valid // rollout.samples_per_prompt]
        missing = self.ranks.largest(len(valid)) - len(valid)
        filler = rollout.activations[:1].expand(missing, -1)
        return texts + [""] * missing, torch.cat([targets, filler]), valid

    def _rewards(self, rollout: Rollout, mse: Tensor, clock: Clock) -> Rewards:
        judged = None
        if self.settings.reward.judge > 0 and self.task.judge is not None:
            with clock.phase("judge_seconds"):
                judged = self.task.judge(rollout)
        return score(rollout, mse, self.settings.reward, judged, self.settings.max_new_tokens)

    def _advantages(self, rewards: Rewards, rollout: Rollout, tally: Tally) -> Tensor:
        """[n] advantages of this rank's responses; the deviation is that of all ranks'."""
        samples = rollout.samples_per_prompt
        found = advantages(
            self.ranks.gather(rewards.total.reshape(-1, samples)),
            self.ranks.gather(torch.tensor(rollout.is_valid).reshape(-1, samples)),
            self.settings.advantages,
        )
        # Every rank has the same figure of all.
        tally.add("dead_groups", found.num_dead_groups, 1)
        tally.add("advantage_scale", found.scale, 1)
        size = len(rollout) // samples
        own = found.values[self.ranks.index * size : (self.ranks.index + 1) * size]
        return own.reshape(-1)

    def _av_pass(
        self, responses: Responses, values: Tensor, old_logprobs: Tensor | None, tally: Tally
    ) -> Tensor:
        """Gradients of the AV's loss; log-probabilities [n, t] before the first update."""
        seen = torch.zeros_like(responses.engine_logprobs)
        num_responses = len(responses.lengths) * self.ranks.count
        batches = micro_batches(responses.lengths.tolist(), self.settings.micro_batch)
        loss = torch.zeros((), dtype=torch.float64, device=seen.device)
        values = values.to(seen.device)
        for index, rows in enumerate(batches):
            part = responses.take(rows)
            chosen, span = rows.to(seen.device), slice(part.mask.shape[1])
            result = policy_pass(
                self.pair,
                part,
                values[chosen],
                self.settings,
                num_responses=num_responses,
                old_logprobs=None if old_logprobs is None else old_logprobs[chosen, span],
                # Without a KL in the loss one micro batch, of middling length, tells it for all.
                measures_kl=index == len(batches) // 2,
                ranks=self.ranks,
            )
            result.loss.backward()
            self.optimizers["av"].gather()
            seen[chosen, span] = result.logprobs
            loss += result.policy.loss.detach()
            result.describe(tally)
        tally.add("policy_loss", self.ranks.count * loss, 1)
        return seen if old_logprobs is None else old_logprobs

    def _update(self, step: int, tally: Tally) -> bool:
        """Moves both models, or neither where a gradient is not finite; whether it did."""
        norms = {name: optimizer.clip() for name, optimizer in self.optimizers.items()}
        moves = all(math.isfinite(norm) for norm in norms.values())
        warm = min(1.0, (step + 1) / max(self.settings.num_warmup_steps, 1))
        for name, optimizer in self.optimizers.items():
            tally.add(f"{name}_grad_norm", norms[name], 1)
            if moves:
                optimizer.move(warm * self._rates[name])
            optimizer.forget()
        return moves


def _optimizer(
    parameters: Sequence[torch.nn.Parameter], learning_rate: float, max_grad_norm: float
) -> MasterAdamW:
    return MasterAdamW(
        {f"{index:05d}": parameter for index, parameter in enumerate(parameters)},
        learning_rate=learning_rate,
        max_grad_norm=max_grad_norm,
        betas=_BETAS,
    )
