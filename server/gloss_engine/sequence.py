"""What the scheduler schedules: items (activations) and the sequences (samples) they fork into.

No tensors: the runner keeps those by slot and by item.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gloss_engine.sampling import SamplingParams


@dataclass(eq=False, kw_only=True)
class Item:
    """One activation of a request, prefilled once whatever its number of samples.

    Attributes:
        request_id: whose it is.
        index: its place in the request.
        item_key: 64-bit coordinate of its draws.
        seed: 64-bit seed of its draws.
        num_samples: sequences to fork.
        num_forked: sequences forked so far.
        suffix_pages: pages that hold its prefilled suffix until the last sample takes them over;
            empty before the prefill and after that.
    """

    request_id: str
    index: int
    item_key: int
    seed: int
    sampling: SamplingParams
    num_samples: int = 1
    num_forked: int = 0
    suffix_pages: list[int] = field(default_factory=list)

    @property
    def prefilled(self) -> bool:
        """Whether the suffix has been computed."""
        return self.num_forked > 0


@dataclass(eq=False, kw_only=True)
class Sequence:
    """One sample of an item while it runs.

    Attributes:
        item: what it explains.
        sample: which sample of the item it is.
        pages: its private pages, enough for its whole limit.
        slot: its row in the runner's state; changes when a hole before it is filled.
        token_ids: what it has generated, where its request has stop strings; else empty.
        cancelled: leaves at the next step.
    """

    item: Item
    sample: int
    pages: list[int]
    slot: int
    cancelled: bool = False
    token_ids: list[int] = field(default_factory=list)
