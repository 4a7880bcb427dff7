"""A linear layer whose weight is 8-bit, quantised row by row while it is loaded.

    w_oj ~ w8_oj * t_o,   t_o = max_j |w_oj| / 448       (e4m3; one scale an output channel)

A channel's scale hangs on its own row alone, so rows can be quantised wherever a packed weight is
cut and whenever they arrive: `fill` takes them as they come from a file, and the 16-bit weights of
a model never stand beside the 8-bit ones. The product is `gloss_kernels`' business.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gloss_engine.errors import CheckpointError
from gloss_engine.models.spec import ModelSpec
from gloss_kernels import Operations
from gloss_kernels.fp8 import FP8_DTYPE, Fp8Rows, quantize_rows

_CHUNK_ELEMENTS = 1 << 24
"""Weights quantised at once: 64 MiB in float32, of which there are a few copies for a moment."""

_ALIGNMENT, _MOST_GATED = 16, 32768
"""Limits of `gloss_kernels.linear_fp8` and `.gated_activation`; to import those needs triton."""

_LEAST_CAPABILITY = (8, 9)
_FIX = "Load it without quantization."


class Fp8Linear:
    """y = x W^T + b with x and W in 8 bits, y and b in the model's type.

    Attributes:
        weight: [out_features, in_features] with a scale for each output channel.
        bias: [out_features] or None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        device: torch.device,
        dtype: torch.dtype,
        operations: Operations,
    ) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.operations, self.dtype = operations, dtype
        self.weight = Fp8Rows(
            values=torch.empty(out_features, in_features, device=device, dtype=FP8_DTYPE),
            scales=torch.empty(out_features, 1, device=device, dtype=torch.float32),
        )
        self.bias = torch.empty(out_features, device=device, dtype=dtype) if bias else None

    def parts(self, sizes: tuple[int, ...]) -> list[Fp8Rows]:
        """The weight of each packed projection, for a loader to fill: views of its rows."""
        values, scales = self.weight.values.split(sizes), self.weight.scales.split(sizes)
        return [Fp8Rows(values=v, scales=s) for v, s in zip(values, scales, strict=True)]

    def pack(self) -> None:
        """Nothing: the scaled product reads the weight as it was loaded, on every device."""

    def __call__(self, rows: Tensor | Fp8Rows) -> Tensor:
        """[num_tokens, in_features] to [num_tokens, out_features].

        Args:
            rows: quantised by what made them; else they are quantised here.
        """
        if isinstance(rows, Tensor):
            rows = self.operations.quantize_fp8(rows)
        return self.operations.linear_fp8(rows, self.weight, self.bias, dtype=self.dtype)


def shape_of(target: Tensor | Fp8Rows) -> torch.Size:
    """The shape of the tensor that a target stands for."""
    return (target.values if isinstance(target, Fp8Rows) else target).shape


@torch.no_grad()
def fill(target: Tensor | Fp8Rows, tensor: Tensor) -> None:
    """Put a loaded tensor where the decoder wants it, in the target's type and on its device.

    Args:
        target: from `Decoder.targets`. `Fp8Rows` are quantised from the tensor's own type, in
            chunks of rows, on the target's device.
        tensor: of the target's shape, finite, on any device.
    """
    if isinstance(target, Tensor):
        target.copy_(tensor)
        return
    step = max(1, _CHUNK_ELEMENTS // tensor.shape[1])
    for start in range(0, tensor.shape[0], step):
        chunk = slice(start, start + step)
        rows = quantize_rows(tensor[chunk].to(target.values.device))
        target.values[chunk].copy_(rows.values)
        target.scales[chunk].copy_(rows.scales)


def check_fp8(spec: ModelSpec, operations: Operations, device: torch.device) -> None:
    """Refuse what the kernels cannot run in 8 bits; the reference runs everything.

    Raises:
        CheckpointError: a width that is no multiple of 16, an MLP too wide for the fused gate, or
            a GPU without products in 8 bits.
    """
    if operations.backend == "reference":
        return
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) < _LEAST_CAPABILITY:
            raise CheckpointError(
                "quantization",
                got=f"fp8 on {torch.cuda.get_device_name(device)} "
                f"(compute capability {major}.{minor})",
                expected="compute capability 8.9 (Ada), 9.0 (Hopper) or later",
                fix=_FIX,
            )
    check_fp8_widths(spec)


def check_fp8_widths(spec: ModelSpec) -> None:
    """Refuse shapes that no fp8 kernel runs; see `check_fp8`."""
    query_width = spec.num_heads * spec.head_dim
    widths = {
        "hidden_size": spec.d_model,
        "the width of all heads": query_width,
        "the width of q, k and v": query_width + 2 * spec.num_kv_heads * spec.head_dim,
        "intermediate_size": spec.intermediate_size,
    }
    for name, width in widths.items():
        if width % _ALIGNMENT:
            raise _unfit(spec, name, width, f"a multiple of {_ALIGNMENT}, as fp8 products need")
    if spec.intermediate_size > _MOST_GATED:
        width = spec.intermediate_size
        raise _unfit(spec, "intermediate_size", width, f"at most {_MOST_GATED} for fp8")


def _unfit(spec: ModelSpec, name: str, got: int, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{spec.architecture}: {name}",
        got=got,
        expected=expected,
        fix=_FIX,
    )
