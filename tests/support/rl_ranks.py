"""RL steps on as many ranks as there are: what `test_rl_ranks.py` starts.

`torchrun ... rl_ranks.py FOLDER` does for each kind of pair what `run` does, and rank 0 writes what
was found to FOLDER; the test does the same in one process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from gloss_training.learning.progress import Silence
from gloss_training.models.full_pair import FullPair
from gloss_training.models.lora import LoraSettings
from gloss_training.models.lora_pair import LoraPair
from gloss_training.models.pair import Pair
from gloss_training.models.sharding import (
    Ranks,
    ShardingSettings,
    joined,
    leave,
    shard_decoder,
    shard_head,
    whole,
)
from gloss_training.rl.rollout import Rollout
from gloss_training.rl.settings import KlSettings, RlSettings
from gloss_training.rl.trainer import train_rl
from support.models_made import make_config, make_model
from support.rl_runs import PROMPT, SETTINGS, VOCABULARY, PairSampler, make_pair, make_task

KINDS: Final = ("full", "lora")
THREE_STEPS: Final = replace(
    SETTINGS,
    num_steps=3,
    prompts_per_step=4,
    samples_per_prompt=3,
    micro_batch=2,
    vocabulary_chunk=4,
    checkpoint_every=100,
    num_warmup_steps=1,
    kl=KlSettings(kind="exact", weight=0.5),
)


class ByRow(PairSampler):
    """Draws by row and sample alone, so that any number of ranks draws the same.

    Odd rows close few of their responses: ranks have more and fewer valid ones, longer and shorter.
    """

    def load(self, pair: Pair) -> float:
        for _ in pair.av_weights():
            pass
        return 0.0

    def sample(
        self, activations: Tensor, seed: int, settings: RlSettings, rows: Tensor | None = None
    ) -> Rollout:
        assert rows is not None
        ids = [
            torch.randint(
                1 if row % 2 else 0,
                VOCABULARY,
                (settings.samples_per_prompt, settings.max_new_tokens),
                generator=torch.Generator().manual_seed(row),
            )
            for row in rows.tolist()
        ]
        drawn = torch.cat(ids)
        closes = (rows % 2 == 0).repeat_interleave(settings.samples_per_prompt)
        # 1 in the place of a closing id: the response goes on.
        drawn = torch.where(closes[:, None] | (drawn % 12 == 0), drawn, drawn // 6 * 6 + 1)
        return self._rollout(activations, rows, settings, drawn, torch.full(drawn.shape, -4.0))


class Figures(Silence):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[Mapping[str, float]] = []

    def step(
        self, index: int, figures: Mapping[str, float], clock: Mapping[str, float] | None = None
    ) -> None:
        self.lines.append(figures)


def sharded_pair(kind: str, ranks: Ranks) -> FullPair | LoraPair:
    """A pair of either kind, spread over the ranks."""
    settings = ShardingSettings(timeout_s=60.0)
    if kind == "lora":
        config = make_config("qwen3", num_layers=3, vocab_size=VOCABULARY, tied=False)
        options = LoraSettings(rank=3, alpha=6.0)
        pair = LoraPair(make_model("qwen3", config, seed=0), PROMPT, 1, options, seed=0)
        shard_decoder(pair.decoder, ranks, settings, torch.float32)
        shard_head(pair.value_head, ranks)
        return pair
    full = make_pair()
    for decoder in (full.av, full.reference, full.reconstructor.decoder):
        shard_decoder(decoder, ranks, settings, torch.float32)
    shard_head(full.reconstructor.value_head, ranks)
    return full


def run(kind: str, ranks: Ranks, folder: Path) -> dict[str, object]:
    """Three steps; their figures, and the norm of each weight that is trained."""
    pair = sharded_pair(kind, ranks)
    log = Figures()
    task = make_task(80)
    train_rl(
        pair,
        ByRow(pair),
        task,
        THREE_STEPS,
        seed=0,
        folder=folder / kind,
        progress=log,
        ranks=ranks,
    )
    weights = [*pair.av_weights(), *pair.ar_weights()]
    norms = {
        f"{index}.{name}": float(whole(weight).float().norm())
        for index, (name, weight) in enumerate(weights)
    }
    return {"figures": log.lines, "norms": norms}


def main(folder: Path) -> None:
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    with joined(ShardingSettings(timeout_s=60.0), torch.device("cpu")) as ranks:
        found = {kind: run(kind, ranks, folder) for kind in KINDS}
        if ranks.is_first:
            (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave(0)
