"""A few steps of training on as many ranks as there are: what `test_sharding.py` starts.

`torchrun ... sharded_steps.py KIND FOLDER` trains and writes `FOLDER/found.safetensors` from rank
0; without torchrun it is one process that does the same to the same batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from gloss_training.decoder import Decoder
from gloss_training.lora import LoraSettings
from gloss_training.lora_pair import LoraPair
from gloss_training.sharding import (
    Ranks,
    ShardingSettings,
    joined,
    shard_decoder,
    shard_head,
    whole,
)
from support.small_pairs import PROMPT, made, random_ids

NUM_ROWS: Final = 8
NUM_STEPS: Final = 3
LAYER_INDEX: Final = 3
MICRO_BATCH: Final = 2
NAN_STEP: Final = 1


class Trained:
    """AV and AR of either kind: adapters over one base, or two models with all their weights."""

    def __init__(self, kind: str, ranks: Ranks, *, dtype: torch.dtype = torch.float32) -> None:
        settings = ShardingSettings(reshards_after_forward=True, timeout_s=60.0)
        if kind == "lora":
            options = LoraSettings(rank=3, alpha=6.0)
            self.pair = LoraPair(
                made("qwen3"), PROMPT, LAYER_INDEX, options, seed=0, gradient_checkpointing=True
            )
            self.av = self.ar = self.pair.decoder
            self.head = self.pair.value_head
        else:
            self.av, self.ar = Decoder(made("gemma3")), Decoder(made("gemma3", seed=1))
            self.head = torch.nn.Linear(72, 72, bias=False)
            torch.nn.init.eye_(self.head.weight)
        self.kind = kind
        for decoder in {id(d): d for d in (self.av, self.ar)}.values():
            shard_decoder(decoder, ranks, settings, dtype)
        shard_head(self.head, ranks)

    def states(self, rows: Tensor, responses: Tensor) -> Tensor:
        if self.kind == "lora":
            return self.pair.response_states(rows, responses)
        return self.av.response_states(PROMPT, rows, responses)

    def reconstruct(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        if self.kind == "lora":
            return self.pair.reconstruct(token_ids, lengths)
        states = self.ar.last_states(token_ids, lengths, LAYER_INDEX + 1)
        reconstruction: Tensor = self.head(states.float())
        return reconstruction

    def parameters(self) -> Sequence[torch.nn.Parameter]:
        if self.kind == "lora":
            return [*self.pair.av_parameters(), *self.pair.ar_parameters()]
        decoders = (*self.av.parameters(), *self.ar.parameters())
        return [*decoders, *self.head.parameters()]


def steps(kind: str, ranks: Ranks) -> dict[str, Tensor]:
    """NUM_STEPS updates of one global batch each; losses and all weights, gathered.

    The last rank's share of the batch has no valid response but in the last step, where all are.
    At NAN_STEP a row of the first rank's share is NaN.
    """
    trained = Trained(kind, ranks)
    parameters = trained.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    found: dict[str, Tensor] = {}
    width = trained.head.in_features
    for step in range(NUM_STEPS):
        generator = torch.Generator().manual_seed(step)
        rows = torch.randn(NUM_ROWS, width, generator=generator)
        advantages = torch.randn(NUM_ROWS, generator=generator)
        if step == NAN_STEP:
            advantages[1] = float("nan")
        responses = random_ids(NUM_ROWS, 6, seed=step)
        lengths = torch.tensor([6, 3, 5, 4, 6, 2, 6, 1])
        is_valid = torch.arange(NUM_ROWS) < (NUM_ROWS // 2 if step + 1 < NUM_STEPS else NUM_ROWS)
        own = ranks.share(NUM_ROWS)
        losses = _backward(
            trained,
            ranks,
            (rows[own], advantages[own], responses[own], lengths[own], is_valid[own]),
        )
        norm = whole(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        if torch.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found[f"losses.{step}"] = losses
        found[f"norm.{step}"] = norm.detach().clone()
        for index, parameter in enumerate(parameters):
            found[f"weights.{step}.{index}"] = whole(parameter.detach()).clone()
    return found


def _backward(trained: Trained, ranks: Ranks, batch: tuple[Tensor, ...]) -> Tensor:
    """Gradients of the AV's and the AR's losses over the whole batch; both losses."""
    rows, advantages, responses, lengths, is_valid = batch
    num_valid = ranks.sum(is_valid.sum())
    totals = torch.zeros(2)
    for start in range(0, len(rows), MICRO_BATCH):
        span = slice(start, start + MICRO_BATCH)
        states = trained.states(rows[span], responses[span])
        logits = trained.av.logits(states)
        logprobs = logits.log_softmax(-1).gather(-1, responses[span][..., None])[..., 0]
        loss = -(logprobs.sum(-1) * advantages[span]).sum() / (NUM_ROWS * 6)
        loss.backward()
        totals[0] += loss.detach()
    valid = torch.nonzero(is_valid)[:, 0]
    for start in range(0, ranks.largest(len(valid)), MICRO_BATCH):
        chosen = valid[start : start + MICRO_BATCH]
        padded = chosen if len(chosen) else torch.zeros(1, dtype=torch.int64)
        output = trained.reconstruct(responses[padded], lengths[padded])
        mse = (output - rows[padded]).square().mean(-1)
        loss = (mse * (1.0 if len(chosen) else 0.0)).sum() / num_valid
        loss.backward()
        totals[1] += loss.detach()
    return ranks.sum(totals)


def main(arguments: list[str]) -> None:
    kind, folder = arguments
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    with joined(ShardingSettings(timeout_s=60.0), torch.device("cpu")) as ranks:
        found: dict[str, Any] = steps(kind, ranks)
        if ranks.is_first:
            save_file(found, Path(folder) / f"found-{ranks.count}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1:])
