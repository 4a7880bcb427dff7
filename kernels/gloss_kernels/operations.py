"""The operations of the inner loop as one implementation offers them: chosen once, at start-up.

`reference` is plain PyTorch: the definition of every operation, and what runs on a CPU. `triton` is
this package's kernels, for CUDA. Both have the same signatures; the reference documents them.
"""

from __future__ import annotations

import torch

from gloss_kernels.reference.rms_norm import rms_norm, rms_norm_fp8

BACKENDS = ("reference", "triton")


class Operations:
    """Every operation of one backend, under the names of the reference.

    Attributes:
        backend: the name of the implementation.
    """

    def __init__(self, backend: str) -> None:
        assert backend in BACKENDS, backend
        self.backend = backend
        self.rms_norm, self.rms_norm_fp8 = rms_norm, rms_norm_fp8
        if backend == "triton":
            self._use_triton()

    def _use_triton(self) -> None:
        """Put the kernels in the reference's place; triton is imported here and nowhere else."""
        from gloss_kernels.rms_norm import rms_norm, rms_norm_fp8

        self.rms_norm, self.rms_norm_fp8 = rms_norm, rms_norm_fp8

    @classmethod
    def of(cls, device: torch.device) -> Operations:
        """The kernels on CUDA, the reference elsewhere."""
        return cls("triton" if device.type == "cuda" else "reference")
