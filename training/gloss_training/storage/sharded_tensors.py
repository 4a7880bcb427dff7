"""Tensors that are spread over ranks, on the disk: each rank writes its own part.

In the format of torch.distributed.checkpoint. Any number of ranks reads them again, also one; and
what one process wrote is spread over several.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

_MOMENT: Final = re.compile(r"(^|/)exp_avg(_sq)?\.")


def write_sharded(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors of the same names on all ranks; all must call it.

    What is not sharded is taken to be equal on all ranks, and written once.

    Raises:
        OSError: a rank could not write its part; all ranks raise.
    """
    try:
        save(dict(tensors), checkpoint_id=folder)
    except CheckpointException as error:
        failures = [failure for failure, _ in error.failures.values()]
        system = next((each for each in failures if isinstance(each, OSError)), None)
        raise system or OSError(0, str(failures[0])) from error


def read_sharded(folder: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reads all tensors of a folder; all ranks must call it.

    Args:
        folder: what `write_sharded` wrote, on any number of ranks.
        like: tensors as `tensors` has them here now, sharded or not: what is read is spread as they
            are. An optimizer's moments, which may not be there yet, are spread as its weights
            (`exp_avg.NAME` as `master.NAME`).
    """
    stored = FileSystemReader(folder).read_metadata().state_dict_metadata
    found: dict[str, Tensor] = {}
    for name, facts in stored.items():
        assert isinstance(facts, TensorStorageMetadata), f"{name} is no tensor"
        place = like.get(name, like.get(_MOMENT.sub(r"\1master.", name)))
        if isinstance(place, DTensor) and place.shape == facts.size:
            found[name] = torch.zeros_like(place, dtype=facts.properties.dtype)
        else:
            found[name] = torch.zeros(facts.size, dtype=facts.properties.dtype)
    with warnings.catch_warnings():
        # That one process reads what several wrote is as meant.
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        load(found, checkpoint_id=folder, no_dist=not dist.is_initialized())
    return found


def spread(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, which all ranks have, spread as in `read_sharded`."""
    found = {}
    for name, tensor in tensors.items():
        place = like.get(name, like.get(_MOMENT.sub(r"\1master.", name)))
        if isinstance(place, DTensor) and place.shape == tensor.shape:
            mesh, placements = place.device_mesh, place.placements
            tensor = distribute_tensor(
                tensor.to(mesh.device_type), mesh, placements, src_data_rank=None
            )
        found[name] = tensor
    return found
