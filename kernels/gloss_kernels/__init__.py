"""The operations of the engine's inner loop.

`reference/` defines every operation in plain PyTorch and is what runs on a CPU; it needs no triton.
The modules beside it are the Triton kernels with their wrappers, under the same names.
`operations` binds one of both. Signatures are safe inside a captured graph: lengths, positions and
tables are device tensors, and the only host integers are static upper bounds. This package knows
nothing of models, requests or checkpoints.
"""

from gloss_kernels.operations import BACKENDS, Operations
from gloss_kernels.packed_plan import PackedPlan
from gloss_kernels.reference.advance import FINISH_NAMES, Finish
from gloss_kernels.reference.decode_plan import DecodePlan
from gloss_kernels.scale_to_norm import scale_to_norm

__all__ = [
    "BACKENDS",
    "FINISH_NAMES",
    "DecodePlan",
    "Finish",
    "Operations",
    "PackedPlan",
    "scale_to_norm",
]
