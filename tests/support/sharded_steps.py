"""A few steps of training on as many ranks as there are: what `test_sharding.py` starts.

`torchrun ... sharded_steps.py FOLDER` does for each kind of pair what `run` does, and rank 0 writes
what was found to `FOLDER/found-2.safetensors`; the test does the same in one process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from gloss_training.models.decoder import Decoder
from gloss_training.models.lora import LoraSettings
from gloss_training.models.lora_pair import LoraPair
from gloss_training.models.sharding import (
    Ranks,
    ShardingSettings,
    joined,
    leave,
    shard_decoder,
    shard_head,
    whole,
)
from gloss_training.storage import checkpoints
from support.small_pairs import PROMPT, made, random_ids

KINDS: Final = ("lora", "full")
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


def run(folder: Path, ranks: Ranks) -> dict[str, Tensor]:
    """For each kind NUM_STEPS steps, saved before the last; and, where the other number of ranks
    has saved there, the last step from that."""
    found: dict[str, Tensor] = {}
    for kind in KINDS:
        steps(kind, ranks, found, f"{kind}.whole", save=folder / f"{kind}-{ranks.count}")
        resume(folder, kind, ranks, found)
    return found


def resume(folder: Path, kind: str, ranks: Ranks, found: dict[str, Tensor]) -> None:
    """The last step from what the other number of ranks has saved, if it has."""
    other = folder / f"{kind}-{3 - ranks.count}"
    if other.exists():
        steps(kind, ranks, found, f"{kind}.resumed", load=other)


def steps(
    kind: str,
    ranks: Ranks,
    found: dict[str, Tensor],
    name: str,
    *,
    save: Path | None = None,
    load: Path | None = None,
) -> None:
    """Updates of one global batch each; losses and all weights, gathered, go to `found`.

    The last rank's share of the batch has no valid response but in the last step, where all are.
    At NAN_STEP an advantage in the first rank's share is NaN.
    """
    trained = Trained(kind, ranks)
    parameters = trained.parameters()
    # All weights at once, as on a GPU.
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, foreach=True)
    if load is not None:
        _take_back(load, parameters, optimizer)
    for step in range(NUM_STEPS - 1 if load else 0, NUM_STEPS):
        if save is not None and step == NUM_STEPS - 1:
            checkpoints.save(save, step, _tensors(parameters, optimizer), {}, ranks=ranks)
        losses = _backward(trained, ranks, _batch(step, ranks, trained.head.in_features))
        norm = whole(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        if torch.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found[f"{name}.losses.{step}"] = losses
        found[f"{name}.norm.{step}"] = norm.detach().clone()
        for index, parameter in enumerate(parameters):
            found[f"{name}.weights.{step}.{index}"] = whole(parameter.detach()).clone()


def _batch(step: int, ranks: Ranks, width: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(step)
    rows = torch.randn(NUM_ROWS, width, generator=generator)
    advantages = torch.randn(NUM_ROWS, generator=generator)
    if step == NAN_STEP:
        advantages[1] = float("nan")
    responses = random_ids(NUM_ROWS, 6, seed=step)
    lengths = torch.tensor([6, 3, 5, 4, 6, 2, 6, 1])
    is_valid = torch.arange(NUM_ROWS) < (NUM_ROWS // 2 if step + 1 < NUM_STEPS else NUM_ROWS)
    own = ranks.share(NUM_ROWS)
    return rows[own], advantages[own], responses[own], lengths[own], is_valid[own]


def _tensors(
    parameters: Sequence[torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for index, parameter in enumerate(parameters):
        tensors[f"master.{index}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}.{index}"] = value
    return tensors


@torch.no_grad()
def _take_back(
    folder: Path, parameters: Sequence[torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    newest = checkpoints.latest(folder)
    assert newest is not None
    read = checkpoints.load(newest, _tensors(parameters, optimizer)).tensors
    for index, parameter in enumerate(parameters):
        parameter.copy_(read.pop(f"master.{index}"))
        keys = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}.{index}" in read]
        if keys:
            optimizer.state[parameter] = {key: read.pop(f"{key}.{index}") for key in keys}
    assert not read


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


def main(folder: str) -> None:
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    with joined(ShardingSettings(timeout_s=60.0), torch.device("cpu")) as ranks:
        found = run(Path(folder), ranks)
        if ranks.is_first:
            save_file(found, Path(folder) / f"found-{ranks.count}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
    leave(0)
