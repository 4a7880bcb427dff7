"""The engine's figures: explanations per second at a number in flight, latencies, memory, start-up.

Explanations run as a caller's would: activations from the host, text decoded, and with scoring
encoded again and run through the AR. Every explanation is looked at: one that failed, is short or
lacks its evidence is an error, not a figure. Times are the host's, from submission to the last
result in hand, with the device synchronised at both ends.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from suite_report import OURS, Row
from suite_shape import RandomPair

from gloss_engine import Engine, EngineConfig, Explanation, SamplingParams, VerbalizeRequest
from gloss_engine.facts import ModelFacts
from gloss_engine.floor import Ceilings, Floor
from gloss_engine.loading import machinery
from gloss_engine.score_queue import ScoreQueue
from gloss_engine.target.loading import Explained, target_machinery

SINGLES = 5
"""Explanations run one by one for the latency of one alone."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """An engine ready to run.

    Attributes:
        engine: warmed up.
        start_up_seconds: pages, state and warm-up; not the weights.
        held_bytes: allocated on the device before it was built.
    """

    engine: Engine
    start_up_seconds: float
    held_bytes: int


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One request run to its end.

    Attributes:
        explanations: by index.
        seconds: from submission to the last of them.
        step_seconds: of steps that decoded a full batch and admitted nobody.
    """

    explanations: list[Explanation]
    seconds: float
    step_seconds: list[float]

    @property
    def num_tokens(self) -> int:
        """Tokens generated."""
        return sum(len(explanation.token_ids) for explanation in self.explanations)


def build(pair: RandomPair, config: EngineConfig, explained: Explained | None = None) -> Built:
    """An engine on a pair, with the pages that `config.num_slots` sequences need, warmed up.

    Args:
        explained: a target beside it, for requests of text.
    """
    shape = pair.shape
    _synchronize()
    held, started = _allocated(), time.perf_counter()
    config = replace(config, max_new_tokens=shape.new_tokens)
    places = 0 if explained is None else config.resolve_capture_places()
    runner, scheduler = machinery(pair.decoder, pair.program, config, num_places=places)
    work = None
    if explained is not None:
        work = target_machinery(explained, runner.prefill_buffer, config)
    facts = ModelFacts(
        d_model=shape.spec.d_model,
        layer_index=None if explained is None else explained.target.layer_index,
        prefix_len=shape.prefix_len,
        suffix_len=scheduler.suffix_len,
        max_new_tokens=shape.new_tokens,
    )
    scores = ScoreQueue(
        pair.scorer,
        batch=config.score_batch,
        max_tokens=config.max_score_tokens,
        wait_steps=config.score_wait_steps,
        budget_seconds=config.resolve_score_budget(),
        lag=config.resolve_lag(),
    )
    engine = Engine(
        runner, scheduler, pair.reader, facts, scores, lag=config.resolve_lag(), target=work
    )
    engine.warm_up()
    _synchronize()
    return Built(engine=engine, start_up_seconds=time.perf_counter() - started, held_bytes=held)


def run_pass(
    engine: Engine, pair: RandomPair, count: int, *, scoring: bool, stream: bool = False
) -> Pass:
    """Explain `count` activations as one request.

    Raises:
        RuntimeError: an explanation failed, is short, or lacks its evidence.
    """
    new_tokens = pair.shape.new_tokens
    request = VerbalizeRequest(
        activations=pair.activations(count),
        sampling=SamplingParams(max_new_tokens=new_tokens, seed=1),
        score=scoring,
    )
    full = engine.scheduler.num_slots
    explanations: list[Explanation] = []
    steps = []
    _synchronize()
    started = before = time.perf_counter()
    engine.submit(request)
    while engine.has_work:
        out = engine.step()
        now = time.perf_counter()
        if out.num_rows == full and not out.started:
            steps.append(now - before)
        before = now
        explanations += out.explanations
    _synchronize()
    seconds = time.perf_counter() - started
    _check(explanations, count, new_tokens, scoring)
    explanations.sort(key=lambda explanation: explanation.index)
    return Pass(explanations=explanations, seconds=seconds, step_seconds=steps)


def _check(explanations: list[Explanation], count: int, new_tokens: int, scoring: bool) -> None:
    if len(explanations) != count:
        raise RuntimeError(f"engine: got {len(explanations)} explanations, expected {count}")
    for explanation in explanations:
        if explanation.error is not None:
            raise RuntimeError(f"explanation {explanation.index}: {explanation.error}")
        if len(explanation.token_ids) != new_tokens:
            got = len(explanation.token_ids)
            raise RuntimeError(
                f"explanation {explanation.index}: got {got} tokens, expected {new_tokens}"
            )
        if scoring and explanation.cosine is None:
            raise RuntimeError(f"explanation {explanation.index}: not scored")


def throughput(
    pair: RandomPair, config: EngineConfig, ceilings: Ceilings, count: int
) -> Iterator[Row]:
    """Figures at `config.num_slots` in flight, over `count` activations each."""
    batch = config.num_slots
    common = Row(figure="", batch=batch, dtype=dtype_label(config), activations=count)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    built = build(pair, config)
    engine = built.engine
    yield _start_up(common, built)
    run_pass(engine, pair, batch, scoring=True)
    # Where a step's rows are bounded, a full house that nobody joins is rare in a longer run.
    steps = run_pass(engine, pair, batch, scoring=False).step_seconds
    row = replace(common, scoring=False, activations=batch)
    yield _step(row, steps, floor_of(pair, config, ceilings, scoring=False))
    for scoring in (False, True):
        done = run_pass(engine, pair, count, scoring=scoring)
        floor = floor_of(pair, config, ceilings, scoring)
        row, rate = replace(common, unit="1/s", scoring=scoring), count / done.seconds
        row = replace(row, share_of_floor=rate / floor.explanations_per_second(batch))
        yield replace(row, figure=OURS, value=rate)
        yield replace(row, figure="tokens_per_second", value=done.num_tokens / done.seconds)
    first = first_token_seconds(engine, pair, batch)
    row = replace(common, figure="first_token_ms", unit="ms", activations=batch)
    yield replace(row, value=first * 1e3, note="median of as many submitted at once as run at once")
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() - built.held_bytes + pair.weight_bytes
        row = replace(common, figure="peak_memory_gib", value=peak / 2**30, unit="GiB")
        yield replace(row, note="weights, pages, state and workspace of this engine")


def single(pair: RandomPair, config: EngineConfig, ceilings: Ceilings) -> Iterator[Row]:
    """One explanation alone: all of it, and its first token."""
    config = replace(config, num_slots=1)
    common = Row(figure="", batch=1, dtype=dtype_label(config), activations=SINGLES)
    built = build(pair, config)
    engine = built.engine
    yield _start_up(common, built)
    for scoring in (False, True):
        run_pass(engine, pair, 1, scoring=scoring)
        passes = [run_pass(engine, pair, 1, scoring=scoring) for _ in range(SINGLES)]
        seconds = statistics.median(done.seconds for done in passes)
        floor = floor_of(pair, config, ceilings, scoring)
        share = floor.single_explanation_seconds() / seconds
        row = replace(common, scoring=scoring, share_of_floor=share)
        yield replace(row, figure="single_explanation_ms", value=seconds * 1e3, unit="ms")
        yield replace(row, figure=OURS, value=1 / seconds, unit="1/s")
        tokens = pair.shape.new_tokens / seconds
        yield replace(row, figure="tokens_per_second", value=tokens, unit="1/s")
        if not scoring:
            steps = [step for done in passes for step in done.step_seconds]
            yield _step(row, steps, floor)
    first = statistics.median(first_token_seconds(engine, pair, 1) for _ in range(SINGLES))
    yield replace(common, figure="first_token_ms", value=first * 1e3, unit="ms")


def cold_start_up(pair: Callable[[], RandomPair], config: EngineConfig, kernels: str) -> Row:
    """Start-up of the first engine of a process, to which the prefix belongs: it compiles kernels.

    Args:
        pair: made in it; its weights are made before.
        config: the engine's.
        kernels: what of them was there, for the note.
    """
    _synchronize()
    started = time.perf_counter()
    build(pair(), config)
    row = Row(figure="start_up_seconds", value=time.perf_counter() - started, unit="s")
    note = f"first engine of the process, {config.num_slots} in flight: prefix, pages, state and "
    note += f"warm-up; {kernels}; weights and libraries were loaded"
    return replace(row, batch=config.num_slots, dtype=dtype_label(config), note=note)


def _start_up(common: Row, built: Built) -> Row:
    note = "pages, state and warm-up; weights were loaded, kernels of earlier parts compiled before"
    row = replace(common, figure="start_up_seconds", value=built.start_up_seconds, unit="s")
    return replace(row, activations=None, note=note)


def _step(row: Row, steps: list[float], floor: Floor) -> Row:
    """The median decode step, of those with every slot running and nobody starting."""
    if not steps:
        raise RuntimeError("engine: no step ran a full batch")
    step = statistics.median(steps)
    assert row.batch is not None
    share = floor.step_seconds(row.batch) / step
    row = replace(row, note="median of steps with every slot decoding and nobody starting")
    return replace(row, figure="step_ms", value=step * 1e3, unit="ms", share_of_floor=share)


def first_token_seconds(engine: Engine, pair: RandomPair, count: int) -> float:
    """Median time from submitting `count` activations at once to the first token of each."""
    request = VerbalizeRequest(
        activations=pair.activations(count),
        sampling=SamplingParams(max_new_tokens=2, seed=1),
        score=False,
        stream=True,
    )
    arrived: dict[int, float] = {}
    _synchronize()
    started = time.perf_counter()
    engine.submit(request)
    while engine.has_work:
        out = engine.step()
        now = time.perf_counter()
        for delta in out.tokens:
            arrived.setdefault(delta.index, now - started)
    if len(arrived) != count:
        raise RuntimeError(f"engine: first tokens of {len(arrived)}, expected {count}")
    return statistics.median(arrived.values())


def divergence(pair: RandomPair, config: EngineConfig, alone: int, together: int) -> Iterator[Row]:
    """How many of `alone` explanations differ among `together`, by `batch_invariant`."""
    for invariant in (False, True):
        engine = build(pair, replace(config, batch_invariant=invariant)).engine
        few = run_pass(engine, pair, alone, scoring=False).explanations
        many = run_pass(engine, pair, together, scoring=False).explanations
        different = sum(a.token_ids != b.token_ids for a, b in zip(few, many[:alone], strict=True))
        note = f"batch_invariant {'on' if invariant else 'off'}: {alone} alone, among {together}"
        row = Row(figure="divergence_rate", value=different / alone, unit="share")
        row = replace(row, batch=config.num_slots, dtype=dtype_label(config), note=note)
        if invariant and different:
            reason = f"batch_invariant is on, but {different} of {alone} explanations differ"
            row = replace(row, error=reason, failed=True)
        yield replace(row, activations=alone)


def floor_of(pair: RandomPair, config: EngineConfig, ceilings: Ceilings, scoring: bool) -> Floor:
    """What the ceilings leave of this engine's work."""
    return Floor(
        spec=pair.shape.spec,
        ar=pair.shape.ar_spec if scoring else None,
        ceilings=ceilings,
        workload=pair.workload,
        dtype_bytes=config.resolve_dtype().itemsize,
        quantization=config.quantization,
    )


def dtype_label(config: EngineConfig) -> str:
    """How rows name the precision: "fp8" where linear layers are, else the dtype."""
    if config.quantization != "none":
        return config.quantization
    return str(config.resolve_dtype()).removeprefix("torch.")


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
