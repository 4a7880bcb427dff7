"""The operations of the engine's inner loop, one name each.

`reference/` defines every operation in plain PyTorch and is what runs on a CPU; it needs no
triton. Signatures are safe inside a captured graph: lengths, positions and tables are device
tensors, and the only host integers are static upper bounds. This package knows nothing of models,
requests or checkpoints.
"""

from gloss_kernels.reference.advance import FINISH_NAMES, Finish, advance
from gloss_kernels.reference.decode_plan import DecodePlan
from gloss_kernels.reference.embed_inject import embed_inject, scale_to_norm
from gloss_kernels.reference.gated_activation import gated_activation
from gloss_kernels.reference.packed_attention import packed_attention
from gloss_kernels.reference.paged_decode_attention import paged_decode_attention
from gloss_kernels.reference.philox import philox_uniform
from gloss_kernels.reference.qkv_rope_store import qkv_rope_store
from gloss_kernels.reference.rms_norm import rms_norm
from gloss_kernels.reference.sample import sample

__all__ = [
    "FINISH_NAMES",
    "DecodePlan",
    "Finish",
    "advance",
    "embed_inject",
    "gated_activation",
    "packed_attention",
    "paged_decode_attention",
    "philox_uniform",
    "qkv_rope_store",
    "rms_norm",
    "sample",
    "scale_to_norm",
]
