"""An activation to explain, and one sample of it while it runs. Host state only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gloss_engine.sampling import SamplingParams

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False, kw_only=True)
class Item:
    """One activation of a request.

    Attributes:
        request_id: the request it belongs to.
        index: its place in the request.
        item_key: its coordinate of the draws.
        seed: the request's.
        sampling: the request's.
        num_samples: sequences to fork from it.
        activation: [d_model] float32, for the runner; the scheduler never looks at it.
        place: its row of the prefill buffer, where it has been written; 0: it has none yet and
            `activation` is written when its prefill starts.
        priority: the request's.
        num_forked: sequences that have started.
        suffix_pages: pages of its prefilled suffix, between the prefill and the last fork.
    """

    request_id: str
    index: int
    item_key: int
    seed: int
    sampling: SamplingParams
    num_samples: int
    activation: Tensor
    place: int = 0
    priority: str = "interactive"
    num_forked: int = 0
    suffix_pages: list[int] = field(default_factory=list)

    @property
    def earlier_ids(self) -> tuple[int, ...]:
        """None: an explanation begins with its row."""
        return ()


@dataclass(eq=False, kw_only=True)
class Sequence:
    """One sample of an item while it runs.

    Attributes:
        item: what it explains.
        sample: which sample of the item it is.
        pages: its private pages, enough for its whole limit.
        slot: its row in the runner's state; changes when rows are closed up.
        num_launched: steps that were launched with it, each of which draws a token for it.
        token_ids: what it has generated, as far as the host has read it.
        logprob: sum of the tokens' log-probabilities, nats.
        token_logprobs: each of them, where the request asks for them.
        ended: the host knows that it is over, or wants no more of it.
    """

    item: Item
    sample: int
    pages: list[int]
    slot: int
    num_launched: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    token_logprobs: list[float] = field(default_factory=list)
    ended: bool = False
