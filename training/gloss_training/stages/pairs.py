"""What a stage trains: all of a model's weights, or adapters over the target; on how many ranks.

Of several ranks, what is trained is loaded in float32 and spread (its own masters), and computes in
the run's type. One rank loads, a model after the other, each spread before the next. Of one rank
alone, weights are of the run's type and the optimizer has the masters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from gloss_training.models.decoder import Decoder
from gloss_training.models.full_pair import FullPair
from gloss_training.models.lora_pair import AR, AV, LoraPair
from gloss_training.models.model_files import cast_weights, load_language_model
from gloss_training.models.outlines import loaded
from gloss_training.models.prompts import marked_prompt
from gloss_training.models.reconstructor import Reconstructor, from_target, load_reconstructor
from gloss_training.models.sharding import shard_decoder, shard_head
from gloss_training.release.pair_adapters import FOLDER, load_role
from gloss_training.run.context import Context
from gloss_training.seeds import torch_seed

_Module = TypeVar("_Module", bound=torch.nn.Module)


def stored_dtype(run: Context) -> torch.dtype:
    """The type that weights which are trained whole stand in."""
    return run.dtype if run.ranks.count == 1 else torch.float32


def new_lora_pair(run: Context, *, is_checkpointed: bool) -> LoraPair:
    """Adapters that are still the target; not spread yet, so that others can be loaded."""
    model = loaded(run.ranks, lambda: load_language_model(run.target, run.dtype))
    return LoraPair(
        placed(run, model),
        marked_prompt(run.tokenizer(), run.config.prompt),
        run.config.layer_index,
        run.config.lora,
        seed=run.config.seed,
        gradient_checkpointing=is_checkpointed,
    )


@dataclass(frozen=True, kw_only=True)
class NewAr:
    """An AR that has not learnt anything yet.

    Attributes:
        model: the target that it comes from.
        reconstruct: token ids [n, t] and lengths [n] -> [n, d_model], as `Pair.reconstruct`.
        weights: what is trained, by name.
        released: its weights as a checkpoint has them.
        pair: whose adapter it is, where it is one.
    """

    model: Any
    reconstruct: Callable[[Tensor, Tensor], Tensor]
    weights: Mapping[str, torch.nn.Parameter]
    released: Callable[[], Iterator[tuple[str, Tensor]]]
    pair: LoraPair | None = None


def new_ar(run: Context) -> NewAr:
    """What stage ar begins with: the target's first blocks, or an adapter over them."""
    is_checkpointed = run.config.ar.gradient_checkpointing
    torch_seed(run.config.seed, AR)
    if run.config.lora.is_enabled:
        pair = new_lora_pair(run, is_checkpointed=is_checkpointed)
        spread_lora(run, pair)
        return NewAr(
            model=pair.decoder.model,
            reconstruct=pair.reconstruct,
            weights=pair.named(AR),
            released=pair.ar_weights,
            pair=pair,
        )
    model = loaded(run.ranks, run.load_target)
    own = from_target(model, run.config.layer_index, is_checkpointed=is_checkpointed)
    own = placed(run, cast_weights(own, stored_dtype(run)))
    spread_reconstructor(run, own)
    return NewAr(
        model=model,
        reconstruct=own,
        weights=dict(own.named_parameters()),
        released=own.named_weights,
    )


def rl_pair(run: Context) -> FullPair | LoraPair:
    """The pair as RL begins: what stages ar and av have left, with the AV as its reference."""
    root, settings = run.folder.root, run.config.rl
    if run.config.lora.is_enabled:
        lora = new_lora_pair(run, is_checkpointed=settings.gradient_checkpointing)
        for role in (AR, AV):
            load_role(lora, role, root / FOLDER / role)
        lora.keep_reference()
        spread_lora(run, lora)
        return lora
    av = _av_decoder(run, stored_dtype(run), is_checkpointed=settings.gradient_checkpointing)
    # It is not trained, so it needs no float32.
    reference = _av_decoder(run, run.dtype)
    reconstructor = placed(
        run, loaded(run.ranks, lambda: load_reconstructor(root / AR, stored_dtype(run)))
    )
    spread_reconstructor(run, reconstructor)
    prompt = marked_prompt(run.tokenizer(), run.config.prompt)
    return FullPair(av, reference, reconstructor, prompt)


def _av_decoder(run: Context, dtype: torch.dtype, *, is_checkpointed: bool = False) -> Decoder:
    """What stage av has left, spread."""
    folder = run.folder.root / AV
    model = placed(run, loaded(run.ranks, lambda: load_language_model(folder, dtype)))
    decoder = Decoder(model, is_checkpointed=is_checkpointed)
    shard_decoder(decoder, run.ranks, run.config.sharding, run.dtype)
    return decoder


def placed(run: Context, module: _Module) -> _Module:
    """On the run's device where one process has all of it; else spreading moves it there."""
    return module.to(run.device) if run.ranks.count == 1 else module


def spread_lora(run: Context, pair: LoraPair) -> None:
    """Spreads base, adapters and value head over the ranks."""
    shard_decoder(pair.decoder, run.ranks, run.config.sharding, run.dtype)
    shard_head(pair.value_head, run.ranks)


def spread_reconstructor(run: Context, reconstructor: Reconstructor) -> None:
    """Spreads an AR over the ranks."""
    shard_decoder(reconstructor.decoder, run.ranks, run.config.sharding, run.dtype)
    shard_head(reconstructor.value_head, run.ranks, run.dtype)
