"""Training on several ranks: who they are, and models whose weights are spread over them.

Under `torchrun` each rank takes its share of a step's activations, samples and trains on them;
weights, gradients and optimizer state are sharded (FSDP2, `fully_shard`). Weights come from rank 0,
a block at a time, so no other rank ever holds all of a model. Sums go over all ranks, so a step is
the same as one process makes it, up to the order of additions. One process is one rank of one, and
nothing here costs it anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from gloss_engine.errors import GlossError
from gloss_training.errors import TrainingError
from gloss_training.models.decoder import FORWARD_METHODS, Decoder


@dataclass(frozen=True, kw_only=True)
class ShardingSettings:
    """How weights are spread over ranks; without torchrun nothing is.

    Attributes:
        reshards_after_forward: free a block's gathered weights after its forward pass and gather
            them again for the backward pass: less memory, more traffic.
        timeout_s: how long a rank waits for the others before the run ends.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    reshards_after_forward: bool = True
    timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"sharding.timeout_s: got {self.timeout_s}, expected more than 0")


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered, on every rank (all must ask); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of one run, as one of them sees them.

    Attributes:
        index: this process, from 0.
        count: how many there are.
        device: what this process computes on.
    """

    index: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.index == 0

    def share(self, total: int, what: str = "rl.prompts_per_step") -> slice:
        """This rank's part of `total` things, all parts equally large and in order.

        Raises:
            ValueError: they cannot be shared out equally, so ranks would wait for each other.
        """
        if total % self.count:
            raise ValueError(
                f"{what}: got {total} over {self.count} processes, expected a multiple of "
                f"{self.count}"
            )
        size = total // self.count
        return slice(self.index * size, (self.index + 1) * size)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks, without a gradient."""
        total = value.detach().to(self.device).clone()
        if self.count > 1:
            dist.all_reduce(total)
        return total

    def gather(self, value: Tensor) -> Tensor:
        """[n, ...] of each rank, all of one shape -> [count * n, ...] in the ranks' order."""
        own = value.detach().to(self.device).contiguous()
        if self.count == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(parts, own)
        return torch.cat(parts)

    def largest(self, value: int) -> int:
        """The largest of all ranks' values: how often all must call what gathers weights."""
        if self.count == 1:
            return value
        found = torch.tensor(value, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def first(self, work: Callable[[], object]) -> None:
        """Has rank 0 do what is done once, while the others wait; where it fails, all raise.

        Of an error of our own the others raise one of the same kind and text; see `_Failure`.
        """
        error: Exception | None = None
        if self.is_first:
            try:
                work()
            except Exception as failure:
                error = failure
        told: _Failure | None = self.agree(None if error is None else _Failure.of(error))
        if error is not None:
            raise error
        if told is not None:
            raise told.again()

    def collect(self, value: Any) -> list[Any]:
        """What each rank gives, in the ranks' order, on rank 0; nothing on the others."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.gather_object(value, found if self.is_first else None)
        return found if self.is_first else []

    def agree(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        if self.count > 1:
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """What rank 0 could not do, as the others are told.

    Attributes:
        kind: of the error: one of our own, OSError, ValueError, or RuntimeError for all else.
        arguments: its number too, where it is the system's.
    """

    kind: type[Exception]
    arguments: tuple[Any, ...]

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        if isinstance(error, OSError) and error.errno is not None:
            return cls(kind=OSError, arguments=(error.errno, error.strerror or str(error)))
        if isinstance(error, (TrainingError, GlossError)):
            return cls(kind=type(error), arguments=(str(error),))
        plain = next((k for k in (OSError, ValueError) if isinstance(error, k)), RuntimeError)
        return cls(kind=plain, arguments=(str(error),))

    def again(self) -> Exception:
        """An error like it. Ours are made without what their own texts are made of."""
        error = self.kind.__new__(self.kind, *self.arguments)
        error.args = self.arguments
        return error


ALONE = Ranks()
"""One process without torchrun, on the CPU."""


@contextmanager
def joined(settings: ShardingSettings, device: torch.device) -> Iterator[Ranks]:
    """The ranks that `torchrun` started, connected for as long as the context lasts.

    Args:
        settings: how long to wait for each other.
        device: the configured one; each rank takes the accelerator of its number on its machine.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(device=device)
        return
    index = int(os.environ["RANK"])
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, rank=index, world_size=count, timeout=timedelta(seconds=settings.timeout_s)
    )
    try:
        yield Ranks(index=index, count=count, device=device)
    finally:
        dist.destroy_process_group()


def leave(status: int) -> None:
    """End a rank's process, whose work is done or has failed; one process alone just goes on.

    Without Python's own end: a thread of gloo may still drop what it holds of Python then, and
    before 3.12 a thread that Python ends inside C++ aborts the process, and torchrun the run.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def shard_decoder(
    decoder: Decoder, ranks: Ranks, settings: ShardingSettings, dtype: torch.dtype
) -> None:
    """Spreads a decoder's weights over the ranks, a block a unit. Before its optimizer is made.

    They are those of rank 0; the other ranks' decoder may be an outline (`outlines.py`). Nothing
    holds more than its share and one unit, but rank 0 what it has loaded and not spread yet.

    Gradients are summed over ranks in float32, not averaged: losses are divided by what all
    ranks have together. The weights that are trained stay in their own type (float32) and are
    gathered in `dtype`.
    """
    if ranks.count == 1:
        return
    mesh = init_device_mesh(ranks.device.type, (ranks.count,))
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in decoder.blocks:
        _take_weights(block, ranks)
        fully_shard(
            block,
            mesh=mesh,
            mp_policy=policy,
            reshard_after_forward=settings.reshards_after_forward,
        )
        register_fsdp_forward_method(block, "joint")
        _sum_gradients(block)
    _take_weights(decoder, ranks)
    fully_shard(decoder, mesh=mesh, mp_policy=policy)
    for name in FORWARD_METHODS:
        register_fsdp_forward_method(decoder, name)
    _sum_gradients(decoder)


def shard_head(head: torch.nn.Linear, ranks: Ranks, dtype: torch.dtype = torch.float32) -> None:
    """Spreads an AR's value head over the ranks; it computes in `dtype`."""
    if ranks.count == 1:
        return
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    _take_weights(head, ranks)
    fully_shard(head, mesh=init_device_mesh(ranks.device.type, (ranks.count,)), mp_policy=policy)
    _sum_gradients(head)


def _take_weights(module: torch.nn.Module, ranks: Ranks) -> None:
    """Puts rank 0's weights into every rank's module, on its device; what is spread stays.

    A weight that stands in several places, as a tied head does, is one weight in all of them again.
    """
    taken: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for owner in module.modules():
        for name, weight in owner.named_parameters(recurse=False, remove_duplicate=False):
            if isinstance(weight, DTensor):
                continue
            if weight not in taken:
                values = (
                    weight.detach().to(ranks.device)
                    if ranks.is_first
                    else torch.empty_like(weight, device=ranks.device, requires_grad=False)
                )
                dist.broadcast(values, src=0)
                taken[weight] = torch.nn.Parameter(values, requires_grad=weight.requires_grad)
            owner.register_parameter(name, taken[weight])


def _sum_gradients(module: Any) -> None:
    module.set_gradient_divide_factor(1.0)
    # gloo has no pre-multiplied sum.
    module.set_force_sum_reduction_for_comms(True)
