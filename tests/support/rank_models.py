"""Models that one rank loads for all, and a judge that one rank has: for `test_rank_models.py`.

`torchrun ... rank_models.py FOLDER` does what `run` does; rank 0 writes the tensors to
`FOLDER/found.safetensors`, rank N the rest to `said-N.json`. The test does the same in one process.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from gloss_training.dataset.rows import Rows
from gloss_training.errors import TeacherError
from gloss_training.models.decoder import Decoder
from gloss_training.models.full_pair import FullPair
from gloss_training.models.lora import LoraSettings
from gloss_training.models.lora_pair import LoraPair
from gloss_training.models.model_files import load_language_model
from gloss_training.models.outlines import loaded
from gloss_training.models.reconstructor import from_target
from gloss_training.models.sharding import (
    Ranks,
    ShardingSettings,
    joined,
    leave,
    shard_decoder,
    shard_head,
    whole,
)
from gloss_training.passage import Passage
from gloss_training.rl.rewards import score
from gloss_training.rl.rollout import Rollout
from gloss_training.rl.settings import RewardSettings
from gloss_training.teachers.judging import Judge, rollout_judge
from gloss_training.teachers.world_teacher import WorldTeacher
from support.small_pairs import PROMPT, random_ids

FAMILIES: Final = ("qwen3", "llama3", "gemma3", "gemma3_wrapped")
KINDS: Final = tuple(f"{kind}-{arch}" for kind in ("full", "lora") for arch in FAMILIES)
BROKEN: Final = ("missing", "cut")
NUM_ROWS: Final = 4
SETTINGS: Final = ShardingSettings(timeout_s=60.0)
ROWS: Final = Rows(
    activations=torch.zeros(4, 4),
    explanations=("",) * 4,
    texts=("Ada sings .", "Ben is a baker .", "It is dawn .", "Ada is a pilot ."),
    doc_ids=("a", "b", "c", "d"),
    positions=(2, 4, 3, 4),
    facts=(
        {"hero": "Ada"},
        {"hero": "Ben", "job": "baker"},
        {"time": "dawn"},
        {"hero": "Ada", "job": "pilot"},
    ),
)
SAID: Final = (
    *("The hero is Ada.", "The hero is Ben."),
    *("The hero is Ben, a baker.", "Hm. The hero is Ben."),
    *("", "The hero is Ada."),
    *("The hero is Ada. The hero is Ada, a pilot.", ""),
)
"""Two explanations of each row; an empty one was cut off."""


class Speechless(WorldTeacher):
    """A judge that cannot go on."""

    async def judge(self, pairs: Sequence[tuple[Passage, str]]) -> list[float]:
        raise TeacherError(f"the judge was asked {len(pairs)} times")


def run(folder: Path, ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of the kinds' steps and of the judged rollout; bytes and errors."""
    tensors: dict[str, Tensor] = {}
    said: dict[str, Any] = {}
    for kind in KINDS:
        _steps(kind, folder, ranks, tensors, said)
    for name in BROKEN:
        said[name] = _error(lambda at=folder / name: _loaded(at, ranks))
    with Judge(WorldTeacher(seed=0, num_ending_words=1)) as judge:
        tensors["rewards"] = _rewards(judge, ranks)
    with Judge(Speechless(seed=0, num_ending_words=1)) as judge:
        said["judge"] = _error(lambda: _rewards(judge, ranks))
    return tensors, said


class _Pair:
    """A pair of either kind, spread, and the modules that it is made of."""

    def __init__(self, form: str, folder: Path, ranks: Ranks) -> None:
        self.num_bytes: list[int] = []
        self.modules: list[torch.nn.Module] = []
        self._folder, self._ranks = folder, ranks
        self.pair = self._lora() if form == "lora" else self._full()

    def _lora(self) -> LoraPair:
        options = LoraSettings(rank=3, alpha=6.0)
        pair = LoraPair(self._model(), PROMPT, 2, options, seed=0)
        pair.keep_reference()
        self._spread(pair.decoder)
        shard_head(pair.value_head, self._ranks)
        self.modules.append(pair.value_head)
        return pair

    def _full(self) -> FullPair:
        av, reference = (self._spread(Decoder(self._model())) for _ in range(2))
        ar = from_target(self._model(), 2)
        self._spread(ar.decoder)
        shard_head(ar.value_head, self._ranks)
        self.modules.append(ar.value_head)
        return FullPair(av, reference, ar, PROMPT)

    def _model(self) -> Any:
        model = _loaded(self._folder, self._ranks)
        self.num_bytes.append(real_bytes(model))
        return model

    def _spread(self, decoder: Decoder) -> Decoder:
        shard_decoder(decoder, self._ranks, SETTINGS, torch.float32)
        self.modules.append(decoder)
        return decoder


def _loaded(folder: Path, ranks: Ranks) -> Any:
    def load() -> Any:
        assert ranks.is_first, "only the first rank reads a model"
        return load_language_model(folder)

    return loaded(ranks, load)


def _steps(
    kind: str, folder: Path, ranks: Ranks, tensors: dict[str, Tensor], said: dict[str, Any]
) -> None:
    """Two updates of AV and AR; weights and buffers before them, losses, norms, bytes."""
    form, _, arch = kind.partition("-")
    made = _Pair(form, folder / arch, ranks)
    pair = made.pair
    said[f"{kind}.loaded"] = made.num_bytes
    said[f"{kind}.spread"] = sum(real_bytes(module) for module in made.modules)
    for index, module in enumerate(made.modules):
        named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers())
        for name, value in named:
            tensors[f"{kind}.start.{index}.{name}"] = whole(value.detach()).clone()
    weights = [*pair.av_parameters(), *pair.ar_parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    for step in range(2):
        loss = _loss(pair, ranks, step)
        loss.backward()
        norm = whole(torch.nn.utils.clip_grad_norm_(weights, 1.0)).detach()
        optimizer.step()
        optimizer.zero_grad()
        tensors[f"{kind}.figures.{step}"] = torch.stack([ranks.sum(loss), norm])


def _loss(pair: FullPair | LoraPair, ranks: Ranks, step: int) -> Tensor:
    """What this rank's share of the rows adds to the AV's and the AR's loss."""
    own = ranks.share(NUM_ROWS)
    width = pair.model.config.get_text_config().hidden_size
    rows = torch.randn(NUM_ROWS, width, generator=torch.Generator().manual_seed(step))[own]
    ids = random_ids(NUM_ROWS, 6, seed=step)[own]
    logits = pair.logits(pair.response_states(rows, ids))
    other = pair.reference_logits(pair.reference_states(rows, ids))
    spoken = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="sum")
    away = (logits - other).square().sum()
    read = pair.reconstruct(ids, torch.full((len(ids),), 6))
    return (spoken / 6 + away + (read - rows).square().mean(-1).sum()) / NUM_ROWS


def real_bytes(module: torch.nn.Module) -> int:
    """Of the memory behind a module's weights on this rank."""
    locals_ = [w.to_local() if isinstance(w, DTensor) else w for w in module.parameters()]
    storages = {w.untyped_storage().data_ptr(): w for w in locals_ if not w.is_meta}
    return sum(w.untyped_storage().nbytes() for w in storages.values())


def _rewards(judge: Judge, ranks: Ranks) -> Tensor:
    """[rows, 2] rewards of the explanations of all ranks, each asking about its own."""
    own = ranks.share(NUM_ROWS)
    said = SAID[2 * own.start : 2 * own.stop]
    rollout = Rollout(
        rows=torch.arange(NUM_ROWS)[own],
        activations=ROWS.activations[own],
        samples_per_prompt=2,
        response_ids=((1, 2),) * len(said),
        logprobs=((0.0, 0.0),) * len(said),
        explanations=said,
        is_valid=tuple(bool(text) for text in said),
        seconds=0.0,
    )
    judged = rollout_judge(judge if ranks.is_first else None, ROWS, ranks)(rollout)
    mse = torch.where(torch.tensor(rollout.is_valid), 0.5, math.nan)
    rewards = score(rollout, mse, RewardSettings(judge=2.0), judged, max_new_tokens=4)
    return ranks.gather(rewards.total.reshape(-1, 2))


def _error(work: Callable[[], object]) -> list[str]:
    """Kind and text of what `work` raises."""
    try:
        work()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


def main(folder: Path) -> None:
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    with joined(SETTINGS, torch.device("cpu")) as ranks:
        tensors, said = run(folder, ranks)
        if ranks.is_first:
            save_file(tensors, folder / "found.safetensors")
        (folder / f"said-{ranks.index}.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave(0)
