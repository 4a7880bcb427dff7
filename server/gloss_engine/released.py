"""The four NLA pairs that were released, and how to recognise one.

Their sidecars carry no FVE baseline; this table does. A pair is recognised by its shape, never by
a name or a path. Which baseline wins (sidecar, flag, this table) is decided where scores are made.
"""

from __future__ import annotations

from dataclasses import dataclass

from gloss_engine.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class ReleasedPair:
    """One released AV and AR.

    Attributes:
        name: the target model.
        d_model: width of the activations.
        num_layers: blocks of the AV (and of the target).
        layer_index: K; activations are the output of block K.
        marker_char, marker_id: the injection token.
        injection_scale: L2 norm of an injected activation.
        num_heads, num_kv_heads, head_dim: attention geometry.
        intermediate_size: width of the gated MLP.
        vocab_size: rows of the head.
        window: sliding window of the layers that have one, or None.
        activation: of the MLP's gate.
        fve_baseline: strict baseline, to the two digits published: the variance of activations,
            scaled to norm sqrt(d_model), about their mean, per component.
    """

    name: str
    d_model: int
    num_layers: int
    layer_index: int
    marker_char: str
    marker_id: int
    injection_scale: float
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    window: int | None
    activation: str
    fve_baseline: float

    @property
    def short_name(self) -> str:
        """What commands call it: `qwen2.5-7b`."""
        return self.name.lower().removesuffix("-instruct").removesuffix("-it")


RELEASED_PAIRS = (
    ReleasedPair(
        name="Qwen2.5-7B-Instruct",
        d_model=3584,
        num_layers=28,
        layer_index=20,
        marker_char="\u320e",
        marker_id=149705,
        injection_scale=150.0,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        intermediate_size=18944,
        vocab_size=152064,
        window=None,
        activation="silu",
        fve_baseline=0.72,
    ),
    ReleasedPair(
        name="Gemma-3-12B-it",
        d_model=3840,
        num_layers=48,
        layer_index=32,
        marker_char="\u321c",
        marker_id=246566,
        injection_scale=80000.0,
        num_heads=16,
        num_kv_heads=8,
        head_dim=256,
        intermediate_size=15360,
        vocab_size=262208,
        window=1024,
        activation="gelu_tanh",
        fve_baseline=0.03,
    ),
    ReleasedPair(
        name="Gemma-3-27B-it",
        d_model=5376,
        num_layers=62,
        layer_index=41,
        marker_char="\u321c",
        marker_id=246566,
        injection_scale=60000.0,
        num_heads=32,
        num_kv_heads=16,
        head_dim=128,
        intermediate_size=21504,
        vocab_size=262208,
        window=1024,
        activation="gelu_tanh",
        fve_baseline=0.06,
    ),
    ReleasedPair(
        name="Llama-3.3-70B-Instruct",
        d_model=8192,
        num_layers=80,
        layer_index=53,
        marker_char="\u33a1",
        marker_id=105565,
        injection_scale=30.0,
        num_heads=64,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=28672,
        vocab_size=128256,
        window=None,
        activation="silu",
        fve_baseline=0.92,
    ),
)


def pair_called(short_name: str) -> ReleasedPair:
    """The released pair with this short name, in any case.

    Raises:
        CheckpointError: no pair is called so.
    """
    pairs = {pair.short_name: pair for pair in RELEASED_PAIRS}
    if short_name.lower() not in pairs:
        raise CheckpointError(
            "pair",
            got=repr(short_name),
            expected=f"one of {', '.join(pairs)}",
            fix="Any other pair is described by its own directories.",
        )
    return pairs[short_name.lower()]


def released_pair(
    *, d_model: int, num_layers: int, layer_index: int | None, marker_id: int | None
) -> ReleasedPair | None:
    """The released pair of this shape, or None.

    Args:
        d_model: width of the activations.
        num_layers: blocks of the AV.
        layer_index: K from the sidecar.
        marker_id: id of the injection token.
    """
    shape = (d_model, num_layers, layer_index, marker_id)
    for pair in RELEASED_PAIRS:
        if shape == (pair.d_model, pair.num_layers, pair.layer_index, pair.marker_id):
            return pair
    return None


def released_baseline(
    *, d_model: int, num_layers: int, layer_index: int | None, marker_id: int | None
) -> float | None:
    """The strict FVE baseline of the released pair of this shape, or None (see released_pair)."""
    pair = released_pair(
        d_model=d_model, num_layers=num_layers, layer_index=layer_index, marker_id=marker_id
    )
    return None if pair is None else pair.fve_baseline
