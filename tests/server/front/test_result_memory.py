"""One run for the same request_id: remembered, refused, forgotten."""

from __future__ import annotations

import pytest

from gloss_engine.request import Explanation
from gloss_engine.text_request import OpenedText
from gloss_server.front.call_error import CallError
from gloss_server.front.result_memory import ResultMemory, RunName
from gloss_server.front.run import Run
from gloss_server.front.text_run import TextRun

A = RunName("", "a")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _run(num_items: int = 1) -> Run:
    return Run(
        run_id=1,
        num_items=num_items,
        num_samples=1,
        max_new_tokens=10,
        seed=1,
        arrived=0.0,
        streams=False,
    )


def _end(memory: ResultMemory, name: RunName, run: Run, at: float, is_kept: bool = True) -> None:
    run.explanations.append(Explanation(request_id="1", index=0, sample=0, seed=1))
    run.end(at)
    memory.ended(name, is_kept)


def test_it_remembers_while_a_run_runs_and_for_a_while_after() -> None:
    clock = Clock()
    memory = ResultMemory(60, 1 << 20, clock)
    run = _run()
    assert memory.find(A, b"1") is None
    memory.add(A, b"1", run)
    clock.now += 1000
    assert memory.find(A, b"1") is run
    _end(memory, A, run, clock.now)
    clock.now += 59
    assert memory.find(A, b"1") is run
    clock.now += 2
    assert memory.find(A, b"1") is None and memory.num_bytes == 0 and len(memory) == 0


def test_clients_that_are_told_apart_share_no_name() -> None:
    """Nobody can take a name away from another, or learn that it is in use."""
    memory = ResultMemory(60, 1 << 20, Clock())
    run = _run()
    memory.add(RunName("alice", "a"), b"1", run)
    assert memory.find(RunName("bob", "a"), b"2") is memory.find(A, b"1") is None
    assert memory.find(RunName("alice", "a"), b"1") is run


def test_other_content_is_refused() -> None:
    memory = ResultMemory(60, 1 << 20, Clock())
    memory.add(A, b"1", _run())
    with pytest.raises(CallError) as caught:
        memory.find(A, b"2")
    assert (caught.value.reason, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")


def test_what_failed_for_the_server_is_forgotten_at_once() -> None:
    clock = Clock()
    memory = ResultMemory(60, 1 << 20, clock)
    run = _run()
    memory.add(A, b"1", run)
    _end(memory, A, run, clock.now, is_kept=False)
    assert memory.find(A, b"2") is None


def test_the_oldest_results_make_room() -> None:
    clock = Clock()
    memory = ResultMemory(60, 3000, clock)
    for number in range(10):
        run = _run()
        memory.add(RunName("", str(number)), b"1", run)
        clock.now += 1
        _end(memory, RunName("", str(number)), run, clock.now)
        assert 0 < memory.num_bytes <= 3000
    kept = [number for number in range(10) if memory.find(RunName("", str(number)), b"1")]
    assert kept and kept == list(range(10 - len(kept), 10))


def test_what_a_text_holds_counts() -> None:
    clock = Clock()
    memory = ResultMemory(60, 1 << 20, clock)
    run = TextRun(run_id=1, num_samples=1, max_new_tokens=9, seed=1, arrived=0.0, paths={})
    run.open(OpenedText(request_id="1", token_ids=tuple(range(100)), positions=()))
    memory.add(A, b"1", run)
    for position in range(100, 150):
        run.generate(position, 5)
    run.end(clock.now)
    memory.ended(A, is_kept=True)
    assert memory.num_bytes > 150 * 40


def test_without_seconds_only_runs_in_flight_are_shared() -> None:
    clock = Clock()
    memory = ResultMemory(0, 1 << 20, clock)
    run = _run()
    memory.add(A, b"1", run)
    assert memory.find(A, b"1") is run
    _end(memory, A, run, clock.now)
    assert memory.find(A, b"1") is None
