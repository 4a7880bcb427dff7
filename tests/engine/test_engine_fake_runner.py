"""The engine over a runner without a model: every explanation comes out, once, whatever happens."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Set
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gloss_engine.av.explanation import Extract, extract
from gloss_engine.engine import Engine
from gloss_engine.errors import RequestError
from gloss_engine.facts import ModelFacts
from gloss_engine.kv.allocator import BlockAllocator
from gloss_engine.request import FINISH_REASONS, PRIORITIES, Explanation, VerbalizeRequest
from gloss_engine.runner import Failed, Runner, StepResult
from gloss_engine.sampling import SamplingParams
from gloss_engine.scheduler import Scheduler, StepPlan
from gloss_engine.sequence import Item, Sequence
from gloss_engine.step_shape import StepSizes
from gloss_kernels import Finish
from support.slot_rows import SlotRows

D_MODEL = 3
SUFFIX_LEN = 3
Key = tuple[str, int, int]


@dataclass
class Drawn:
    """A step that was run when it was launched."""

    drawn: StepResult
    failed: Failed = field(default_factory=Failed)

    def result(self) -> StepResult:
        return self.drawn


class FakeRunner:
    """Draws tokens 0 to 25 and ends sequences at random; checks every plan it gets."""

    def __init__(self, seed: int, slots: SlotRows) -> None:
        self.random, self.slots = random.Random(seed), slots
        self.released: set[Item] = set()
        self.counts: dict[Sequence, int] = {}
        self.codes: dict[Sequence, Finish] = {}

    def launch(self, plan: StepPlan) -> Drawn:
        self.slots.apply(plan)
        for prefill in plan.prefills:
            row = prefill.item.activation
            assert row.isfinite().all() and row.any(), "a failed row was run"
            assert prefill.item not in self.released, "what was dropped was run"
        n = plan.num_rows
        result = StepResult(tokens=[-1] * n, logprobs=[9.0] * n, codes=[-1] * n)
        for slot, sequence in self.slots.rows.items():
            self._advance(sequence)
            result.tokens[slot], result.logprobs[slot] = self.random.randrange(26), -0.5
            result.codes[slot] = self.codes[sequence]
        return Drawn(result)

    def release(self, items: Iterable[Item]) -> None:
        self.released.update(items)

    def warm_up(self) -> None:
        """Nothing to do."""

    def _advance(self, sequence: Sequence) -> None:
        """The next token's code; a sequence that ended stays as it is."""
        if self.codes.setdefault(sequence, Finish.RUNNING) != Finish.RUNNING:
            return
        count = self.counts[sequence] = self.counts.get(sequence, 0) + 1
        limit = sequence.item.sampling.max_new_tokens
        assert count <= limit
        chance = self.random.random()
        ends = ((0.03, Finish.ERROR), (0.1, Finish.EOS), (0.15, Finish.CLOSING_TAG))
        drawn = [finish for share, finish in ends if chance < share]
        last = Finish.LENGTH if count == limit else Finish.RUNNING
        self.codes[sequence] = drawn[0] if drawn else last


class FakeReader:
    """Token n reads as the n-th letter."""

    def raw_text(self, token_ids: Rows[int]) -> str:
        return "".join(chr(ord("a") + token) for token in token_ids)

    def read(self, token_ids: Rows[int]) -> tuple[str, Extract]:
        raw = self.raw_text(token_ids)
        return raw, extract(raw)


def _engine(
    seed: int,
    num_slots: int = 4,
    num_pages: int = 30,
    lag: int = 0,
    sizes: StepSizes | None = None,
    max_step_tokens: int | None = None,
) -> tuple[Engine, FakeRunner]:
    sizes = sizes or StepSizes.exact()
    fake = FakeRunner(seed, SlotRows(num_slots, (SUFFIX_LEN - 1 + 1) // 2, sizes))
    runner: Runner = fake
    scheduler = Scheduler(
        BlockAllocator(num_pages, 2), num_slots, SUFFIX_LEN, 7, max_step_tokens, sizes
    )
    facts = ModelFacts(
        d_model=D_MODEL, layer_index=3, prefix_len=5, suffix_len=SUFFIX_LEN, max_new_tokens=12
    )
    engine = Engine(runner, scheduler, FakeReader(), facts, lag=lag)  # type: ignore[arg-type]
    return engine, fake


def _ones(n: int, priority: str = "interactive") -> VerbalizeRequest:
    sampling, rows = SamplingParams(max_new_tokens=8), torch.ones(n, D_MODEL)
    return VerbalizeRequest(activations=rows, sampling=sampling, priority=priority)


def _sound(rows: torch.Tensor) -> torch.Tensor:
    return rows.isfinite().all(1) & rows.any(1)


@st.composite
def requests(draw: st.DrawFn) -> VerbalizeRequest:
    rows = torch.ones(draw(st.integers(1, 5)), D_MODEL)
    for index in range(rows.shape[0]):
        rows[index] *= draw(st.sampled_from([1.0, 1.0, 1.0, 0.0, torch.nan]))
    sampling = SamplingParams(
        max_new_tokens=draw(st.integers(1, 12)),
        stop=draw(st.sampled_from([(), (), ("e",), ("b", "xy")])),
        seed=draw(st.sampled_from([None, 3])),
    )
    return VerbalizeRequest(
        activations=rows,
        num_samples=draw(st.integers(1, 4)),
        sampling=sampling,
        stream=draw(st.booleans()),
        priority=draw(st.sampled_from(PRIORITIES)),
    )


class Ledger:
    """What was asked for and what came out."""

    def __init__(self) -> None:
        self.expected: set[Key] = set()
        self.results: dict[Key, Explanation] = {}
        self.finished: Counter[str] = Counter()
        self.streamed: dict[Key, list[int]] = {}
        self.requests: dict[str, VerbalizeRequest] = {}

    def add(self, name: str, request: VerbalizeRequest) -> None:
        self.requests[name] = request
        for index in range(len(request.activations)):
            self.expected |= {(name, index, s) for s in range(request.num_samples)}

    def step(self, engine: Engine) -> None:
        out = engine.step()
        for delta in out.tokens:
            key = (delta.request_id, delta.index, delta.sample)
            self.streamed.setdefault(key, []).append(delta.token_id)
            assert self.requests[delta.request_id].stream and key not in self.results
        for result in out.explanations:
            key = (result.request_id, result.index, result.sample)
            assert key in self.expected and key not in self.results
            self.results[key] = result
        for name in out.finished:
            self.finished[name] += 1
            assert all(key in self.results for key in self.expected if key[0] == name)

    def check(self, cancelled: set[str]) -> None:
        assert self.results.keys() == self.expected
        assert dict(self.finished) == dict.fromkeys(self.requests, 1)
        for key, result in self.results.items():
            self._check_result(key, result, key[0] in cancelled)

    def _check_result(self, key: Key, result: Explanation, may_be_cancelled: bool) -> None:
        request = self.requests[key[0]]
        row = torch.as_tensor(request.activations)[key[1]]
        assert result.finish_reason in FINISH_REASONS
        assert (result.finish_reason == "error") == (result.error is not None)
        bad = not row.isfinite().all() or not row.any()
        if bad:
            assert result.error is not None and result.error.code == "INVALID_ARGUMENT"
            return
        if result.error is not None:
            assert result.error.reason == "NON_FINITE_OUTPUT"
            return
        tokens = list(result.token_ids)
        assert result.raw_text == FakeReader().raw_text(tokens)
        assert result.logprob == -0.5 * len(tokens)
        assert len(tokens) <= request.sampling.max_new_tokens
        if request.stream:
            assert self.streamed.get(key, []) == tokens
        self._check_reason(request.sampling, result, may_be_cancelled)

    def _check_reason(
        self, sampling: SamplingParams, result: Explanation, may_be_cancelled: bool
    ) -> None:
        text, reason = result.raw_text, result.finish_reason
        stops = [stop for stop in sampling.stop if stop in text]
        assert not any(stop in text[:-1] for stop in sampling.stop), "ran on past a stop string"
        if reason == "stop":
            assert stops
        elif reason == "length":
            assert len(text) == sampling.max_new_tokens and not stops
        elif reason == "cancelled":
            assert may_be_cancelled and not stops
        else:
            assert reason in ("eos", "closing_tag")


@given(
    seed=st.integers(0, 10_000),
    arrivals=st.lists(st.tuples(st.integers(0, 30), requests()), min_size=1, max_size=7),
    cancels=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), max_size=4),
    num_slots=st.integers(1, 5),
    num_pages=st.integers(12, 40),
    lag=st.integers(0, 1),
    listed=st.booleans(),
    max_step_tokens=st.sampled_from([None, 1, 6]),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_everything_comes_out_once(
    seed: int,
    arrivals: list[tuple[int, VerbalizeRequest]],
    cancels: list[tuple[int, int]],
    num_slots: int,
    num_pages: int,
    lag: int,
    listed: bool,
    max_step_tokens: int | None,
) -> None:
    sizes = StepSizes.listed(num_slots, 3, 20) if listed else StepSizes.exact()
    engine, runner = _engine(seed, num_slots, num_pages, lag, sizes, max_step_tokens)
    ledger, cancelled = Ledger(), set()
    for step in range(3000):
        for number, (at, request) in enumerate(arrivals):
            if at == step:
                ledger.add(f"r{number}", request)
                assert engine.submit(request, f"r{number}") == f"r{number}"
        for at, number in cancels:
            if at == step:
                engine.cancel(f"r{number}")
                cancelled.add(f"r{number}")
        if step > 30 and not engine.has_work:
            break
        ledger.step(engine)
    assert not engine.has_work
    ledger.check(cancelled)
    stats = engine.stats()
    counted = sum(stats.explanations.values()) + sum(stats.item_errors.values())
    assert counted == len(ledger.results)
    assert (stats.pages_used, stats.num_running, stats.num_waiting) == (0, 0, 0)
    assert len(runner.slots.prefilled) == len(set(runner.slots.prefilled))
    num_items = sum(len(request.activations) for request in ledger.requests.values())
    assert len(runner.released.union(runner.slots.prefilled)) == num_items, "held for ever"
    assert len(runner.slots.started) == len(set(runner.slots.started))


def test_interactive_requests_start_before_batch_ones() -> None:
    """But for batch's share: one in eight starts."""
    engine, _ = _engine(0, num_slots=1)
    engine.submit(_ones(3, "batch"), "b")
    engine.submit(_ones(15), "i")
    assert (engine.stats().num_waiting, engine.stats().num_waiting_batch) == (18, 3)
    started = []
    while engine.has_work:
        started += [name for name, _ in engine.step().started]
    assert "".join(started) == "iiiiiiibiiiiiiibib"
    assert (engine.stats().num_waiting, engine.stats().num_waiting_batch) == (0, 0)


def test_a_priority_that_is_none_is_refused() -> None:
    engine, _ = _engine(0)
    with pytest.raises(RequestError, match="priority: got 'low', expected one of interactive, ba"):
        engine.submit(_ones(1, "low"))


def test_names_that_callers_choose_do_not_collide_with_made_ones() -> None:
    engine, _ = _engine(0)
    chosen = {engine.submit(_ones(1), f"request-{n}") for n in (1, 2, 4)}
    names = chosen | {engine.submit(_ones(1)) for _ in range(4)}
    assert len(names) == 7
    finished: list[str] = []
    while engine.has_work:
        finished += engine.step().finished
    assert sorted(finished) == sorted(names)


def test_a_name_in_flight_is_refused_and_free_again_afterwards() -> None:
    engine, _ = _engine(0)
    engine.submit(_ones(1), "a")
    with pytest.raises(RequestError, match="'a' is in flight"):
        engine.submit(_ones(1), "a")
    while engine.has_work:
        engine.step()
    assert engine.submit(_ones(1), "a") == "a"


def test_verbalize_leaves_other_requests_their_results() -> None:
    engine, _ = _engine(5)
    short = SamplingParams(max_new_tokens=1)
    other = VerbalizeRequest(activations=torch.ones(2, D_MODEL), sampling=short, stream=True)
    engine.submit(other, "other")
    mine = engine.verbalize(_ones(6))
    assert [(e.index, e.sample) for e in mine] == [(index, 0) for index in range(6)]
    left = []
    while engine.has_work:
        left.append(engine.step())
    assert [(e.request_id, e.index) for out in left for e in out.explanations] == [
        ("other", 0),
        ("other", 1),
    ]
    assert [name for out in left for name in out.finished] == ["other"]
    assert sum(len(out.tokens) for out in left) == 2


@pytest.mark.parametrize("num_slots", [1, 4])
def test_cancelling_twice_or_what_is_unknown_is_harmless(num_slots: int) -> None:
    engine, _ = _engine(2, num_slots)
    engine.cancel("nobody")
    engine.submit(_ones(3), "a")
    engine.cancel("a")
    engine.cancel("a")
    out = engine.step()
    assert [e.finish_reason for e in out.explanations] == ["cancelled"] * 3
    assert out.finished == ["a"] and not engine.has_work
    engine.cancel("a")
    assert engine.step().explanations == []


def test_a_lag_reads_each_step_one_later() -> None:
    """Tokens come a step later, none is lost, and no step runs for a sequence at its limit."""
    steps = []
    for lag in (0, 1):
        engine, _ = _engine(11, lag=lag)
        sampling = SamplingParams(max_new_tokens=3)
        engine.submit(
            VerbalizeRequest(activations=torch.ones(1, D_MODEL), sampling=sampling, stream=True)
        )
        outs = []
        while engine.has_work:
            outs.append(engine.step())
        steps.append([len(out.tokens) for out in outs])
        assert engine.stats().num_steps == 3
    assert steps == [[1, 1, 1], [0, 1, 1, 1]]


def test_a_slot_is_free_as_soon_as_its_last_step_is_launched() -> None:
    """With a lag, the next sequence starts without a step in between."""
    engine, _ = _engine(11, num_slots=1, lag=1)
    short = SamplingParams(max_new_tokens=2)
    request = VerbalizeRequest(activations=torch.ones(3, D_MODEL), sampling=short)
    engine.submit(request)
    rows = []
    while engine.has_work:
        rows.append(engine.step().num_rows)
    assert rows == [1] * 6 + [0]


def test_who_leaves_at_once_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that goes away leaves as many calls as can be queued, 4096. One after the other each
    looked at all that waits: over a second in which nobody else got a token."""
    engine, _ = _engine(0)
    for number in range(64):
        engine.submit(_ones(1), f"r{number}")
    waiting, looked = engine.scheduler.waiting, []
    drop = waiting.drop

    def noted(request_ids: Set[str]) -> list[Item]:
        looked.append(len(request_ids))
        return drop(request_ids)

    monkeypatch.setattr(waiting, "drop", noted)
    for number in range(64):
        engine.cancel(f"r{number}")
    reasons = [explanation.finish_reason for explanation in engine.step().explanations]
    assert reasons == ["cancelled"] * 64 and looked == [64]
    assert not engine.has_work
