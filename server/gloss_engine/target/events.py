"""What came of the target's work, in the words of who asked for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from gloss_engine.target.reading_queue import Job
from gloss_engine.target.watch import Watch
from gloss_engine.text_request import SkippedToken, TargetEnd, TargetToken


@dataclass(frozen=True, kw_only=True)
class ReadText:
    """A text that was read.

    Attributes:
        job: which.
        raw: [n, d_model] float32 on the device.
        norms: n L2 norms.
        on_host: [n, d_model] on the host, for captures.
    """

    job: Job
    raw: Tensor
    norms: list[float]
    on_host: Tensor | None


@dataclass(frozen=True, kw_only=True)
class WatchedToken:
    """An activation of a Watch that was captured while the target generated.

    Attributes:
        watch: whose.
        position: where it stands.
        raw: [d_model] float32 on the device.
        norm: its L2 norm.
        place: of it in the AV's prefill buffer, 0: none.
    """

    watch: Watch
    position: int
    raw: Tensor
    norm: float
    place: int


@dataclass(kw_only=True)
class TargetEvents:
    """What came of some work, in the order in which it happened within each list.

    Attributes:
        texts: texts that were read.
        watched: activations captured while generating.
        tokens, ends, skipped: what a Watch hears.
        done: Watches of which nothing more comes, but explanations.
        failed_texts, failed_watches: those that the device's memory did not suffice for.
    """

    texts: list[ReadText] = field(default_factory=list)
    watched: list[WatchedToken] = field(default_factory=list)
    tokens: list[TargetToken] = field(default_factory=list)
    ends: list[TargetEnd] = field(default_factory=list)
    skipped: list[SkippedToken] = field(default_factory=list)
    done: list[Watch] = field(default_factory=list)
    failed_texts: list[Job] = field(default_factory=list)
    failed_watches: list[Watch] = field(default_factory=list)
