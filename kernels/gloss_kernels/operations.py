"""The operations of the inner loop as one implementation offers them: chosen once, at start-up.

`reference` is plain PyTorch: the definition of every operation, and what runs on a CPU. `triton` is
this package's kernels, for CUDA. Both have the same signatures; the reference documents them.
"""

from __future__ import annotations

from gloss_kernels.reference.advance import advance
from gloss_kernels.reference.embed_inject import embed_inject
from gloss_kernels.reference.gated_activation import gated_activation, gated_activation_fp8
from gloss_kernels.reference.hook_gather import hook_gather
from gloss_kernels.reference.linear_fp8 import linear_fp8, quantize_fp8
from gloss_kernels.reference.packed_attention import packed_attention
from gloss_kernels.reference.paged_decode_attention import paged_decode_attention
from gloss_kernels.reference.philox import philox_uniform
from gloss_kernels.reference.qkv_rope_store import qkv_rope_store
from gloss_kernels.reference.rms_norm import rms_norm, rms_norm_fp8
from gloss_kernels.reference.sample import sample

BACKENDS = ("reference", "triton")


class Operations:
    """Every operation of one backend, under the names of the reference.

    Attributes:
        backend: the name of the implementation.
        interpreted: whether kernels run in Triton's interpreter, on a CPU.
    """

    def __init__(self, backend: str) -> None:
        assert backend in BACKENDS, backend
        self.backend, self.interpreted = backend, False
        self.embed_inject, self.hook_gather = embed_inject, hook_gather
        self.quantize_fp8, self.linear_fp8 = quantize_fp8, linear_fp8
        self.rms_norm, self.rms_norm_fp8 = rms_norm, rms_norm_fp8
        self.qkv_rope_store = qkv_rope_store
        self.gated_activation = gated_activation
        self.gated_activation_fp8 = gated_activation_fp8
        self.packed_attention = packed_attention
        self.paged_decode_attention = paged_decode_attention
        self.philox_uniform, self.sample, self.advance = philox_uniform, sample, advance
        if backend == "triton":
            self._use_triton()

    def _use_triton(self) -> None:
        """Put the kernels in the reference's place; triton is imported here and nowhere else."""
        from gloss_kernels.advance import advance
        from gloss_kernels.embed_inject import embed_inject
        from gloss_kernels.gated_activation import gated_activation, gated_activation_fp8
        from gloss_kernels.hook_gather import hook_gather
        from gloss_kernels.launch import INTERPRETED
        from gloss_kernels.linear_fp8 import linear_fp8, quantize_fp8
        from gloss_kernels.packed_attention import packed_attention
        from gloss_kernels.paged_decode_attention import paged_decode_attention
        from gloss_kernels.philox import philox_uniform
        from gloss_kernels.qkv_rope_store import qkv_rope_store
        from gloss_kernels.rms_norm import rms_norm, rms_norm_fp8
        from gloss_kernels.sample import sample

        self.interpreted = bool(INTERPRETED.value)
        self.packed_attention = packed_attention
        self.paged_decode_attention = paged_decode_attention
        self.embed_inject, self.hook_gather = embed_inject, hook_gather
        self.quantize_fp8, self.linear_fp8 = quantize_fp8, linear_fp8
        self.rms_norm, self.rms_norm_fp8 = rms_norm, rms_norm_fp8
        self.qkv_rope_store = qkv_rope_store
        self.gated_activation = gated_activation
        self.gated_activation_fp8 = gated_activation_fp8
        self.philox_uniform, self.sample, self.advance = philox_uniform, sample, advance
