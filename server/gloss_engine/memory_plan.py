"""What fits into a device's memory: models, prefixes, workspace, and how many sequences.

    usable = memory * fraction
    needed(n) = context + models + prefixes + workspace(n) + state(n) + page_bytes * pool_pages(n)

The largest n that fits is found; the rest of the memory is for captured graphs, what libraries
allocate and fragments. GB are 10^9 bytes. A target is never quantised: what is explained are the
activations it has in its own type. Nothing is loaded; sizes come from `memory_sizes.py`, rates from
`floor.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

from gloss_engine import memory_sizes as sizes
from gloss_engine.floor import AR_TAIL_TOKENS, Ceilings, Floor, Workload
from gloss_engine.memory_sizes import Precision
from gloss_engine.models.spec import ModelSpec

MEMORY_FRACTION = 0.9
"""Share of a device's memory that is planned with."""

CONTEXT_BYTES = 600_000_000
"""CUDA's context with the code that is loaded into it: assumed, not measured."""

AR_POSITIONS = 4096
"""Positions of an AR's rotary tables, as the reconstructor makes them."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is to run, and in how much memory.

    Attributes:
        av: the AV.
        ar: the AR's K + 1 blocks; None: no scoring.
        target: the explained model, or as many of its blocks as are loaded; None: none is.
        target_has_head: the target is whole, so that it can generate.
        target_layers: blocks that a target needs which only reads; None: not known.
        watch_tokens: tokens that the target's own pages hold, 0 where it only reads.
        prompt_len, prefix_len: tokens of the AV's prompt, and of them before the injected row.
        ar_prefix_len: tokens that AR prompts share.
        max_new_tokens: pages are reserved for this many.
        typical_tokens: of an explanation, for the rates.
        precision: of AV and AR.
        page_size: tokens of a page.
        max_prefill_tokens: most suffix tokens prefilled in one step.
        score_batch: texts the AR scores at once.
        memory_bytes: of the device.
        memory_fraction: share of it to plan with.
    """

    av: ModelSpec
    ar: ModelSpec | None = None
    target: ModelSpec | None = None
    target_has_head: bool = False
    target_layers: int | None = None
    watch_tokens: int = 0
    prompt_len: int = 125
    prefix_len: int = 100
    ar_prefix_len: int = 8
    max_new_tokens: int = 200
    typical_tokens: int = 120
    precision: Precision = Precision()
    page_size: int = 16
    max_prefill_tokens: int = 2048
    score_batch: int = 64
    memory_bytes: int
    memory_fraction: float = MEMORY_FRACTION

    @property
    def suffix_len(self) -> int:
        """Private tokens of a prompt, the injected row included."""
        return self.prompt_len - self.prefix_len

    @property
    def usable_bytes(self) -> int:
        """Bytes to plan with."""
        return int(self.memory_bytes * self.memory_fraction)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return self.page_size * sizes.token_bytes(self.av, self.precision.dtype_bytes)

    @property
    def sequence_pages(self) -> int:
        """Pages of one sequence."""
        return sizes.sequence_pages(self.suffix_len, self.max_new_tokens, self.page_size)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One line of a plan: what it is and what it takes."""

    name: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """A setup with a number of sequences.

    Attributes:
        setup: what was asked for.
        num_sequences: that run at once.
        most_sequences: the most that fit; 0: not even one does.
        num_pages: of the pool.
        parts: what the memory goes to.
    """

    setup: Setup
    num_sequences: int
    most_sequences: int
    num_pages: int
    parts: tuple[Part, ...]

    @property
    def total_bytes(self) -> int:
        """What all parts take together."""
        return sum(part.num_bytes for part in self.parts)

    @property
    def missing_bytes(self) -> int:
        """What does not fit; 0 or less: all does."""
        return self.total_bytes - self.setup.usable_bytes

    @property
    def fits(self) -> bool:
        """Whether all of it has room."""
        return self.missing_bytes <= 0


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change after which a plan fits, and how many sequences then run at most."""

    change: str
    most_sequences: int


def plan_memory(setup: Setup, num_sequences: int) -> MemoryPlan:
    """The plan for `num_sequences` at once, whether they fit or not."""
    return MemoryPlan(
        setup=setup,
        num_sequences=num_sequences,
        most_sequences=most_sequences(setup),
        num_pages=_num_pages(setup, num_sequences),
        parts=parts(setup, num_sequences),
    )


def most_sequences(setup: Setup) -> int:
    """The most sequences that fit at once, 0 or more: what a sequence takes only grows."""
    pages = sizes.pages_that_fit(setup.usable_bytes, setup.page_bytes)
    fitting, beyond = 0, pages // setup.sequence_pages + 1
    while beyond - fitting > 1:
        middle = (fitting + beyond) // 2
        if sum(part.num_bytes for part in parts(setup, middle)) <= setup.usable_bytes:
            fitting = middle
        else:
            beyond = middle
    return fitting


def parts(setup: Setup, num_sequences: int) -> tuple[Part, ...]:
    """What `num_sequences` at once take, largest first."""
    av, ar, precision = setup.av, setup.ar, setup.precision
    size = precision.dtype_bytes
    positions = setup.prompt_len + setup.max_new_tokens
    av_bytes = sizes.decoder_bytes(av, precision, with_head=True)
    found = [Part(name="AV weights", num_bytes=av_bytes + sizes.rope_bytes(av, positions))]
    prefixes = setup.prefix_len * sizes.token_bytes(av, size)
    if ar is not None:
        weights = sizes.decoder_bytes(ar, precision, with_head=False)
        weights += sizes.value_head_bytes(ar.d_model) + sizes.rope_bytes(ar, AR_POSITIONS)
        found.append(Part(name="AR weights and value head", num_bytes=weights))
        prefixes += setup.ar_prefix_len * sizes.token_bytes(ar, size)
    if setup.target is not None:
        weights = sizes.decoder_bytes(
            setup.target, Precision(dtype_bytes=size), with_head=setup.target_has_head
        )
        found.append(Part(name="target weights", num_bytes=weights))
        if setup.watch_tokens:
            pages = setup.watch_tokens * sizes.token_bytes(setup.target, size)
            found.append(Part(name="target pages", num_bytes=pages))
    page_bytes = setup.page_bytes * _num_pages(setup, num_sequences)
    state = sizes.state_bytes(av, num_sequences, setup.max_new_tokens, setup.sequence_pages)
    found += [
        Part(name="CUDA context (assumed)", num_bytes=CONTEXT_BYTES),
        Part(name="shared prefixes", num_bytes=prefixes),
        Part(name="pages", num_bytes=page_bytes),
        Part(name="state of sequences", num_bytes=state),
        Part(name="workspace of a step", num_bytes=_workspace(setup, num_sequences)),
    ]
    return tuple(sorted(found, key=lambda part: -part.num_bytes))


def remedies(plan: MemoryPlan) -> list[Remedy]:
    """The fewest changes after which a plan fits that does not; empty: nothing known helps."""
    setup, wanted = plan.setup, plan.num_sequences
    found = []
    if 0 < plan.most_sequences < wanted:
        change = f"--batch {plan.most_sequences}"
        found.append(Remedy(change=change, most_sequences=plan.most_sequences))
    changes = _changes(setup)
    for count in range(1, len(changes) + 1):
        for names in combinations(changes, count):
            changed = setup
            for name in names:
                changed = changes[name](changed)
            most = most_sequences(changed)
            if most >= wanted:
                found.append(Remedy(change=" and ".join(names), most_sequences=most))
        if found:
            break
    return found


def _changes(setup: Setup) -> dict[str, Callable[[Setup], Setup]]:
    """What could be given up, by the option that does it."""
    precision, fewer = setup.precision, max(1, setup.max_new_tokens // 2)
    changes: dict[str, Callable[[Setup], Setup]] = {}
    if precision.dtype_bytes > 2:
        changes["--dtype bfloat16"] = lambda before: replace(
            before, precision=replace(before.precision, dtype_bytes=2)
        )
    if precision.quantization == "none":
        changes["--quantization fp8"] = lambda before: replace(
            before, precision=replace(before.precision, quantization="fp8")
        )
    if fewer < setup.max_new_tokens:
        changes[f"--max-new-tokens {fewer}"] = lambda before: replace(before, max_new_tokens=fewer)
    if setup.target_has_head and setup.target_layers is not None:
        changes["target_generates = false (no Watch)"] = reading_only
    if setup.target is not None:
        changes["no --target"] = lambda before: replace(
            before, target=None, target_has_head=False, watch_tokens=0
        )
    if setup.ar is not None:
        changes["no --ar (no scores)"] = lambda before: replace(before, ar=None)
    return changes


def reading_only(setup: Setup) -> Setup:
    """The same with no more of the target than reading takes."""
    target, layers = setup.target, setup.target_layers
    if target is None or layers is None:
        return setup
    target = replace(target, layers=target.layers[:layers])
    return replace(setup, target=target, target_has_head=False, watch_tokens=0)


def floor_of(setup: Setup, ceilings: Ceilings, *, scored: bool) -> Floor:
    """The floor of a setup, for explanations of `typical_tokens`."""
    return Floor(
        spec=setup.av,
        ar=setup.ar if scored else None,
        ceilings=ceilings,
        workload=Workload(
            prompt_len=setup.prompt_len,
            prefix_len=setup.prefix_len,
            new_tokens=setup.typical_tokens,
        ),
        dtype_bytes=setup.precision.dtype_bytes,
        quantization=setup.precision.quantization,
    )


def _num_pages(setup: Setup, num_sequences: int) -> int:
    return sizes.pool_pages(
        num_sequences,
        suffix_len=setup.suffix_len,
        max_new_tokens=setup.max_new_tokens,
        page_size=setup.page_size,
    )


def _workspace(setup: Setup, num_sequences: int) -> int:
    """The larger of a step's and an AR batch's: one runs at a time, the allocator reuses memory."""
    size = setup.precision.dtype_bytes
    rows = num_sequences + setup.max_prefill_tokens
    step = sizes.activation_bytes(setup.av, rows, size)
    step += sizes.logits_bytes(setup.av, num_sequences, size)
    if setup.ar is None:
        return step
    texts = min(num_sequences, setup.score_batch)
    scored = texts * (setup.max_new_tokens + AR_TAIL_TOKENS)
    return max(step, sizes.activation_bytes(setup.ar, scored, size))
