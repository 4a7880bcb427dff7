"""AdamW over float32 masters: what is computed in bfloat16 is learnt in float32.

A weight of bfloat16 has 8 bits: an update of less than 1/256 of it is rounded away, step after
step. So weights of 16 bits get a float32 master each. Their gradients are added up in the master,
AdamW moves the master, and the weight is its rounded copy. Weights of float32 are their own
masters, and so are the sharded ones of FSDP2, which computes in 16 bits by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class MasterAdamW:
    """AdamW of one set of weights, with its own clipping and its own guard.

    Args:
        parameters: weights by names that stay the same when a run is resumed.
        learning_rate: until `step` is given another.
        max_grad_norm: longer gradients are scaled down to it.
        weight_decay, betas: of AdamW.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        *,
        learning_rate: float,
        max_grad_norm: float = 1.0,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.98),
    ) -> None:
        assert parameters, "nothing to train"
        self._weights = dict(parameters)
        self._masters = {name: _master(weight) for name, weight in self._weights.items()}
        self._max_grad_norm = max_grad_norm
        # All at once on a GPU, sharded ones too, which torch takes one by one unless it is told.
        is_on_gpu = all(master.device.type == "cuda" for master in self._masters.values())
        self._foreach = True if is_on_gpu else None
        self._adamw = torch.optim.AdamW(
            list(self._masters.values()),
            lr=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
            foreach=self._foreach,
        )

    @property
    def masters(self) -> Mapping[str, Tensor]:
        """The float32 values that are learnt."""
        return self._masters

    def gather(self) -> None:
        """After each backward pass: adds what it left in the weights to the masters' gradients."""
        for name, weight in self._weights.items():
            master = self._masters[name]
            if master is weight or weight.grad is None:
                continue
            if master.grad is None:
                master.grad = weight.grad.float()
            else:
                master.grad.add_(weight.grad)
            weight.grad = None

    def step(self, learning_rate: float) -> float:
        """Moves the weights once and forgets the gradients; the gradients' norm before clipping.

        Where that norm is not finite nothing is moved: no weight and no moment.
        """
        norm = self.clip()
        if math.isfinite(norm):
            self.move(learning_rate)
        self.forget()
        return norm

    def clip(self) -> float:
        """Scales the gradients down to the longest allowed; their norm before."""
        masters = self._masters.values()
        return _norm(
            torch.nn.utils.clip_grad_norm_(masters, self._max_grad_norm, foreach=self._foreach)
        )

    def move(self, learning_rate: float) -> None:
        """Moves the weights by the gradients, which must be finite."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self._round()

    def forget(self) -> None:
        """Drops the gradients."""
        self._adamw.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """All that a resumed run needs: masters and moments, by name."""
        found = {f"master.{name}": master.detach() for name, master in self._masters.items()}
        for name, master in self._masters.items():
            for key, value in self._adamw.state.get(master, {}).items():
                found[f"{key}.{name}"] = value
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `tensors` gave. KeyError for tensors of other weights."""
        with torch.no_grad():
            for name, master in self._masters.items():
                master.copy_(tensors[f"master.{name}"])
        state: dict[Tensor, dict[str, Any]] = {}
        for name, master in self._masters.items():
            moments = {
                key: tensors[f"{key}.{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in tensors
            }
            if moments:
                state[master] = {
                    key: value if key == "step" else value.to(master.device).clone()
                    for key, value in moments.items()
                }
        self._adamw.state.clear()
        self._adamw.state.update(state)
        self._round()

    def _round(self) -> None:
        """The weights of 16 bits become what their masters are, rounded."""
        with torch.no_grad():
            for name, weight in self._weights.items():
                if self._masters[name] is not weight:
                    weight.copy_(self._masters[name])


def learning_rate_at(
    step: int, learning_rate: float, num_warmup_steps: int, num_steps: int
) -> float:
    """Linear warm-up, then cosine from `learning_rate` to a tenth of it at the last step."""
    if step < num_warmup_steps:
        return learning_rate * (step + 1) / num_warmup_steps
    span = max(1, num_steps - num_warmup_steps)
    progress = min(1.0, (step - num_warmup_steps) / span)
    return learning_rate * (0.1 + 0.45 * (1.0 + math.cos(math.pi * progress)))


def _master(weight: torch.nn.Parameter) -> Tensor:
    if weight.dtype == torch.float32:
        return weight
    return weight.detach().float().clone().requires_grad_(True)


def _norm(norm: Tensor) -> float:
    """As a number; FSDP2's norm is spread over the ranks until it is asked for."""
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return float(whole)
