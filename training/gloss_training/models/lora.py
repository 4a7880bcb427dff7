"""Low-rank adapters: several by name over one frozen base, at most one of them active.

A layer with adapter (A, B) gives x W^T + (alpha / rank) x A^T B^T. B begins at zero, so an adapter
begins as the base. Adapters are float32 and compute in the type of what they are given; merging
happens in float32. Files are in peft's format (`release/adapter_files.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from gloss_training.models.sharding import whole
from gloss_training.seeds import stream_seed

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Training adapters over one frozen base in place of all weights.

    Attributes:
        rank: of the adapters; 0 trains all weights.
        alpha: an adapter's product is multiplied by alpha / rank.
        target_modules: names of the blocks' linear layers that get adapters.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    rank: int = 0
    alpha: float = 32.0
    target_modules: tuple[str, ...] = LINEAR_LAYERS

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"lora.rank: got {self.rank}, expected 0 (all weights) or more")
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha: got {self.alpha}, expected more than 0")
        unknown = sorted(set(self.target_modules) - set(LINEAR_LAYERS))
        if unknown or not self.target_modules:
            raise ValueError(
                f"lora.target_modules: got {unknown or 'none'}, expected some of "
                f"{', '.join(LINEAR_LAYERS)}"
            )

    @property
    def is_enabled(self) -> bool:
        return self.rank > 0


class LoraLinear(torch.nn.Linear):
    """A frozen linear layer with adapters. Its weight and bias are the replaced layer's own."""

    def __init__(self, base: torch.nn.Linear, choice: AdapterChoice) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.lora_a = torch.nn.ParameterDict()
        self.lora_b = torch.nn.ParameterDict()
        self.scales: dict[str, float] = {}
        self._choice = choice

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., out], the active adapter's part added where it has one."""
        output = functional.linear(inputs, self.weight, self.bias)
        name = self._choice.active
        if name is None or name not in self.scales:
            return output
        narrow = functional.linear(inputs, self.lora_a[name].to(inputs.dtype))
        update = functional.linear(narrow, self.lora_b[name].to(inputs.dtype))
        return torch.add(output, update, alpha=self.scales[name])

    def update(self, name: str) -> Tensor:
        """What adapter `name` adds to the weight: [out, in] float32."""
        low, high = whole(self.lora_a[name].detach()), whole(self.lora_b[name].detach())
        return (high.float() @ low.float()) * self.scales[name]

    def merged(self, name: str) -> Tensor:
        """The weight with adapter `name` added, float32; where it has none, the weight itself."""
        weight = whole(self.weight.detach())
        return weight.float() + self.update(name) if name in self.scales else weight


class AdapterChoice:
    """Which adapter is active, shared by all layers of one base."""

    def __init__(self) -> None:
        self.active: str | None = None


class Adapters:
    """The adapters of one base, whose weights are frozen when this is made.

    Args:
        text: the text part of a transformers model; its layers are replaced in place.
        target_modules: names of the linear layers that can have adapters.
    """

    def __init__(self, text: Any, target_modules: tuple[str, ...]) -> None:
        text.requires_grad_(False)
        self._choice = AdapterChoice()
        self.layers: dict[str, LoraLinear] = {}
        for path, module in list(text.layers.named_modules()):
            owner, _, name = path.rpartition(".")
            if name in target_modules and isinstance(module, torch.nn.Linear):
                layer = LoraLinear(module, self._choice)
                setattr(text.layers.get_submodule(owner), name, layer)
                self.layers[path] = layer
        self.num_blocks: dict[str, int] = {}

    def add(self, name: str, *, rank: int, alpha: float, num_blocks: int, seed: int) -> None:
        """A new adapter of the first `num_blocks` blocks, equal to the base until it is trained.

        A is drawn as peft does, uniform in +-1 / sqrt(in), on the CPU from `seed`, name and place.
        """
        assert name not in self.num_blocks, f"adapter {name} is there already"
        self.num_blocks[name] = num_blocks
        for path, layer in self._within(num_blocks):
            device = layer.weight.device
            generator = torch.Generator().manual_seed(stream_seed(seed, f"lora-{name}-{path}"))
            bound = layer.in_features**-0.5
            drawn = torch.empty(rank, layer.in_features).uniform_(
                -bound, bound, generator=generator
            )
            layer.lora_a[name] = torch.nn.Parameter(drawn.to(device))
            layer.lora_b[name] = torch.nn.Parameter(
                torch.zeros(layer.out_features, rank, device=device)
            )
            layer.scales[name] = alpha / rank

    def remove(self, name: str) -> None:
        """Forgets an adapter; one that is not there is no matter."""
        for _, layer in self._within(self.num_blocks.pop(name, 0)):
            del layer.lora_a[name], layer.lora_b[name], layer.scales[name]

    def keep(self, name: str, frozen_name: str) -> None:
        """Keeps adapter `name` as it is now under another name, never to be trained."""
        self.num_blocks[frozen_name] = self.num_blocks[name]
        for _, layer in self._within(self.num_blocks[name]):
            for pair in (layer.lora_a, layer.lora_b):
                copy = pair[name].detach().clone()
                pair[frozen_name] = torch.nn.Parameter(copy, requires_grad=False)
            layer.scales[frozen_name] = layer.scales[name]

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """Makes an adapter (None: the base alone) the active one within the context."""
        assert name is None or name in self.num_blocks, f"there is no adapter {name}"
        before, self._choice.active = self._choice.active, name
        try:
            yield
        finally:
            self._choice.active = before

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For a block that is run again in the backward pass: with today's adapter then too."""
        return nullcontext(), self.use(self._choice.active)

    def tensors(self, name: str) -> dict[str, torch.nn.Parameter]:
        """An adapter's parameters: `layers.0.self_attn.q_proj.lora_A.weight`, ... in order."""
        found: dict[str, torch.nn.Parameter] = {}
        for path, layer in self._within(self.num_blocks[name]):
            found[f"layers.{path}.lora_A.weight"] = layer.lora_a[name]
            found[f"layers.{path}.lora_B.weight"] = layer.lora_b[name]
        return found

    def merged(self, name: str, weights: Iterator[tuple[str, Tensor]]) -> Iterator[Any]:
        """The weights of `Decoder.named_weights` with adapter `name` merged, one at a time.

        What is merged is float32: whoever casts it does so once, and can tell what that loses.
        """
        by_name = {f"model.layers.{path}.weight": layer for path, layer in self.layers.items()}
        for weight_name, weight in weights:
            layer = by_name.get(weight_name)
            merged = whole(weight.detach()) if layer is None else layer.merged(name)
            yield weight_name, merged

    @torch.no_grad()
    def lost_share(self, name: str) -> float:
        """How much of an adapter the cast of merged weights loses: |cast(W + D) - W - D| / |D|.

        0 in float32 up to rounding; 1 where every change is too small for the weight's type.
        """
        lost = total = 0.0
        for _, layer in self._within(self.num_blocks[name]):
            update = layer.update(name)
            wanted = whole(layer.weight.detach()).float() + update
            cast = wanted.to(layer.weight.dtype).float()
            lost += float((cast - wanted).double().square().sum())
            total += float(update.double().square().sum())
        return (lost / total) ** 0.5 if total else 0.0

    def _within(self, num_blocks: int) -> Iterator[tuple[str, LoraLinear]]:
        for path, layer in self.layers.items():
            if int(path.partition(".")[0]) < num_blocks:
                yield path, layer
