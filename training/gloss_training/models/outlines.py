"""A model that one rank has loaded, as the others first see it: all of it but its weights.

So a machine's memory holds a model once, whatever the number of ranks on it. The weights follow as
they are spread (`sharding.py`): a block at a time, each rank keeping its share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch

from gloss_training.models.sharding import Ranks

_Module = TypeVar("_Module", bound=torch.nn.Module)


def loaded(ranks: Ranks, load: Callable[[], _Module]) -> _Module:
    """What `load` makes on rank 0, which alone calls it; on the others its outline.

    All ranks must call it. Where rank 0 cannot load, all raise the same error.
    """
    found: list[_Module] = []
    ranks.first(lambda: found.append(load()))
    if ranks.count == 1:
        return found[0]
    told = ranks.agree(outline(found[0]) if ranks.is_first else None)
    return found[0] if ranks.is_first else told


def outline(module: _Module) -> _Module:
    """A copy whose weights have shape and type alone, on the meta device; tied ones stay tied.

    Buffers, which are small and often in no file, are copied as they are: rotary frequencies, the
    scale of Gemma's embeddings.
    """
    hollow = {
        id(weight): torch.nn.Parameter(
            torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad
        )
        for weight in module.parameters()
    }
    return copy.deepcopy(module, dict(hollow))
