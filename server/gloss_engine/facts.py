"""What an engine knows of the checkpoints it runs, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the engine needs to know of its checkpoints.

    Attributes:
        d_model: width of the activations.
        layer_index: K, or None where the checkpoint does not say.
        prefix_len, suffix_len: prompt tokens computed once, and per activation.
        max_new_tokens: most tokens a request may ask for.
        norm_median, min_position: for flags; None where not known.
        special_ids, unknown_id: for flags; target_special_ids, target_unknown_id: the same of
            tokens that the target read itself.
    """

    d_model: int
    layer_index: int | None
    prefix_len: int
    suffix_len: int
    max_new_tokens: int
    norm_median: float | None = None
    min_position: int | None = None
    special_ids: frozenset[int] = frozenset()
    unknown_id: int | None = None
    target_special_ids: frozenset[int] = frozenset()
    target_unknown_id: int | None = None
