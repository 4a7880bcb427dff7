"""Watching a target: it goes on as transformers does, and each activation is explained or said not
to be."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gloss_engine.capture.positions import Positions
from gloss_engine.engine import Engine
from gloss_engine.errors import RequestError
from gloss_engine.request import VerbalizeRequest
from gloss_engine.sampling import SamplingParams
from gloss_engine.shares import AV, TARGET, Shares
from gloss_engine.target.events import TargetEvents
from gloss_engine.target.work import Launched, LaunchedPass
from gloss_engine.text_request import CaptureRequest, TextInput, WatchRequest
from support.checkpoints import (
    LAYER_INDEX,
    NUM_LAYERS,
    Pair,
    write_av,
)
from support.engine_runs import activations, assert_idle, request
from support.target_reference import ReferenceTarget
from support.text_runs import Brought, assert_target_idle, ids, run, step, text_engine

PROMPT = tuple((5 * i * i + 11) % 180 + 20 for i in range(21))
GRAPHS: dict[str, Any] = {"graphs": "on", "lag": 1}


def _watch(given: TextInput | None = None, *, num_tokens: int = 12, **options: Any) -> WatchRequest:
    target = {"temperature": 0.0, "max_new_tokens": num_tokens} | options.pop("target", {})
    sampling = SamplingParams(max_new_tokens=5, seed=3)
    return WatchRequest(
        input=given or ids(*PROMPT),
        target_sampling=SamplingParams(**target),
        **({"sampling": sampling} | options),
    )


def _eos(engine: Engine) -> set[int]:
    assert engine.target is not None
    return set(engine.target.target.eos_ids)


def test_a_target_that_idled_is_owed_nothing(
    pairs: dict[str, Pair], targets: dict[str, Path]
) -> None:
    """However long the AV ran alone before, what a Watch captures is explained at once."""
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"], max_watch_tokens=40)
    engine.submit_watch(_watch(num_tokens=2), "before")
    run(engine)
    engine.verbalize(request(activations(40, 72), max_new_tokens=40))
    engine.submit_watch(_watch(num_tokens=30), "w")
    turns = []
    while engine.has_work:
        out = engine.step()
        turns.append("av" if out.num_rows else "target" if out.target_tokens else "")
    # The prompt, the token that is captured, and a turn or two.
    assert turns.index("av") < 8 and turns.count("target") == 30


@pytest.mark.parametrize("settings", [{}, GRAPHS, {"page_size": 4, "max_read_tokens": 8}])
def test_greedy_tokens_and_activations_are_those_of_transformers(
    pairs: dict[str, Pair], targets: dict[str, Path], arch: str, settings: dict[str, Any]
) -> None:
    """Token by token, and explained as the same rows captured from the whole text afterwards."""
    reference = ReferenceTarget(targets[arch])
    engine = text_engine(pairs[arch].av, targets[arch], max_watch_tokens=40, **settings)
    engine.submit_watch(
        _watch(num_tokens=30, prompt_positions=Positions.parse("3,-1"), max_pending=40), "w"
    )
    found = run(engine)["w"]
    tokens = [token.token_id for token in found.tokens]
    assert tokens == reference.greedy(PROMPT, 30, _eos(engine))
    assert [t.position for t in found.tokens] == [len(PROMPT) + i for i in range(len(tokens))]
    ends_early = tokens[-1] in _eos(engine)
    assert [end.finish_reason for end in found.ends] == ["eos" if ends_early else "length"]
    positions = [captured.place.position for captured in found.captured]
    run_tokens = tokens[:-1] if ends_early else tokens
    assert positions == [3, 20, *(len(PROMPT) + i for i in range(len(run_tokens)))]
    whole = (*PROMPT, *run_tokens)
    assert [c.place.token_id for c in found.captured] == [whole[at] for at in positions]
    engine.submit_capture(CaptureRequest(inputs=(ids(*whole),)), "c")
    (reading,) = run(engine)["c"].readings
    rows = reading.activations[positions]
    expected = engine.verbalize(
        VerbalizeRequest(
            activations=rows,
            item_keys=tuple(positions),
            layer_index=LAYER_INDEX,
            sampling=SamplingParams(max_new_tokens=5, seed=3),
        )  # fmt: skip
    )
    said = {key: e.token_ids for key, e in found.explanations.items()}
    assert said == {(e.index, 0): e.token_ids for e in expected}
    assert all(e.lag_seconds is not None and e.lag_seconds > 0 for e in found.explanations.values())
    assert found.num_finished == 1
    assert_idle(engine)
    assert_target_idle(engine)


def test_watches_join_and_leave(pairs: dict[str, Pair], targets: dict[str, Path]) -> None:
    """More of them than slots, of different lengths and kinds, beside callers' own activations."""
    reference = ReferenceTarget(targets["qwen3"])
    for settings in ({}, GRAPHS):
        engine = text_engine(
            pairs["qwen3"].av, targets["qwen3"], num_watches=2, max_watch_tokens=30, **settings
        )
        rows = activations(9, engine.facts.d_model)
        mine = request(rows, seed=5, max_new_tokens=7)
        alone = {(e.index, e.sample): e.token_ids for e in engine.verbalize(mine)}
        found: dict[str, Brought] = {}
        lengths = {f"w{n}": (3 * n + 1, n) for n in range(1, 7)}
        for name, (num_tokens, prompt) in lengths.items():
            engine.submit_watch(_watch(ids(*PROMPT[:prompt]), num_tokens=num_tokens), name)
            step(engine, found)
        engine.submit(mine, "mine")
        while engine.has_work:
            step(engine, found)
        for name, (num_tokens, prompt) in lengths.items():
            tokens = [token.token_id for token in found[name].tokens]
            assert tokens == reference.greedy(PROMPT[:prompt], num_tokens, _eos(engine))
            assert found[name].num_finished == 1
        assert {k: e.token_ids for k, e in found["mine"].explanations.items()} == alone
        assert_idle(engine)
        assert_target_idle(engine)


@pytest.mark.parametrize("settings", [{}, GRAPHS])
def test_nothing_is_skipped_silently(
    pairs: dict[str, Pair], targets: dict[str, Path], settings: dict[str, Any]
) -> None:
    """Every generated token is captured or skipped for a reason; pending ones stay bounded."""
    engine = text_engine(
        pairs["qwen2"].av, targets["qwen2"], num_slots=2, target_share=0.95, **settings
    )
    engine.submit_watch(
        _watch(num_tokens=40, every=3, max_pending=2, sampling=SamplingParams(max_new_tokens=30)),
        "w",
    )
    found: dict[str, Brought] = {}
    while engine.has_work:
        step(engine, found)
        w = found.setdefault("w", Brought())
        assert len(w.captured) - len(w.explanations) <= 2
    w = found["w"]
    captured = {c.place.position for c in w.captured}
    skipped = {s.position: s.reason for s in w.skipped}
    generated = {token.position for token in w.tokens}
    assert captured | set(skipped) == generated and not captured & set(skipped)
    first = len(PROMPT)
    for position, reason in skipped.items():
        wanted = (position - first) % 3 == 0
        assert reason in (("max_pending", "target_ended") if wanted else ("every",))
    assert list(skipped.values()).count("max_pending") > 3
    assert engine.stats().skipped == {
        reason: list(skipped.values()).count(reason) for reason in set(skipped.values())
    }
    assert_target_idle(engine)


def test_the_end_of_sequence_has_no_activation_and_that_is_said(
    pairs: dict[str, Pair], targets: dict[str, Path]
) -> None:
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"])
    assert engine.target is not None
    probe = _watch(num_tokens=6)
    engine.submit_watch(probe, "probe")
    third = run(engine)["probe"].tokens[2].token_id
    generator = engine.target.generator
    assert generator is not None
    generator.step._stops.is_eos[third] = True
    engine.submit_watch(probe, "w")
    found = run(engine)["w"]
    assert [token.token_id for token in found.tokens][-1] == third and len(found.tokens) <= 3
    assert [end.finish_reason for end in found.ends] == ["eos"]
    last = found.tokens[-1].position
    assert [(s.position, s.reason) for s in found.skipped] == [(last, "target_ended")]
    assert len(found.captured) == len(found.tokens) - 1
    assert_target_idle(engine)


def test_stop_strings_end_the_target(pairs: dict[str, Pair], targets: dict[str, Path]) -> None:
    for settings in ({}, GRAPHS):
        engine = text_engine(pairs["qwen2"].av, targets["qwen2"], **settings)
        assert engine.target is not None
        engine.submit_watch(_watch(num_tokens=20), "probe")
        tokens = [token.token_id for token in run(engine)["probe"].tokens]
        text = engine.target.target.tokenizer.decode(tokens)
        stop = text[len(text) // 2 :][:3]
        engine.submit_watch(_watch(num_tokens=20, target={"stop": (stop,)}), "w")
        found = run(engine)["w"]
        assert [end.finish_reason for end in found.ends] == ["stop"]
        said = engine.target.target.tokenizer.decode([t.token_id for t in found.tokens])
        assert stop in said and len(found.tokens) < 20
        assert found.skipped[-1].reason == "target_ended"
        assert_idle(engine)
        assert_target_idle(engine)


@pytest.mark.parametrize("settings", [{}, GRAPHS])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7, 20])
def test_cancelled_at_any_moment(
    pairs: dict[str, Pair], targets: dict[str, Path], settings: dict[str, Any], steps: int
) -> None:
    engine = text_engine(
        pairs["qwen2"].av, targets["qwen2"], num_watches=1, num_slots=3, **settings
    )
    engine.submit_watch(_watch(num_tokens=8), "expected")
    expected = [token.token_id for token in run(engine)["expected"].tokens]
    for name in ("gone", "waiting"):
        engine.submit_watch(_watch(num_tokens=100, num_samples=2), name)
    engine.submit_watch(_watch(num_tokens=8), "kept")
    found: dict[str, Brought] = {}
    for _ in range(steps):
        step(engine, found)
    engine.cancel("gone")
    engine.cancel("waiting")
    while engine.has_work:
        step(engine, found)
    assert found["gone"].num_finished == found["waiting"].num_finished == 1
    assert [token.token_id for token in found["kept"].tokens] == expected
    for name in ("gone", "waiting"):
        gone = found[name]
        assert len(gone.explanations) == 2 * len(gone.captured)
    assert_idle(engine)
    assert_target_idle(engine)


@pytest.mark.parametrize("settings", [{}, GRAPHS])
def test_a_pace_is_kept(
    pairs: dict[str, Pair], targets: dict[str, Path], settings: dict[str, Any]
) -> None:
    """A slow Watch beside a fast one: its rows wait, and its tokens are the same."""
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"], **settings)
    engine.submit_watch(_watch(num_tokens=9, every=100), "expected")
    expected = [token.token_id for token in run(engine)["expected"].tokens]
    began = time.monotonic()
    engine.submit_watch(_watch(num_tokens=9, every=100, tokens_per_second=25.0), "slow")
    engine.submit_watch(_watch(ids(*PROMPT[:4]), num_tokens=60, every=100), "fast")
    found: dict[str, Brought] = {}
    times = []
    while engine.has_work:
        before = len(found.get("slow", Brought()).tokens)
        step(engine, found)
        times += [time.monotonic()] * (len(found.get("slow", Brought()).tokens) - before)
    assert [token.token_id for token in found["slow"].tokens] == expected
    # The first may come at once, and one may catch up: nine tokens take seven gaps at least.
    assert times[-1] - began >= 7 / 25
    assert len(found["fast"].tokens) == 60
    assert_target_idle(engine)


@pytest.mark.parametrize("settings", [{}, GRAPHS])
@pytest.mark.parametrize("pace", [None, 50.0])
def test_the_ar_does_not_wait_for_an_av_that_has_nothing_to_do(
    pairs: dict[str, Pair], targets: dict[str, Path], settings: dict[str, Any], pace: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Few tokens are explained: each is scored while the target goes on, not at its end."""
    pair, steps = pairs["qwen2"], count()
    engine = text_engine(pair.av, targets["qwen2"], pair.ar, **settings)
    # A step takes 4 ms by the clock of the pace, however busy the machine is.
    clock = SimpleNamespace(monotonic=lambda: next(steps) * 0.004)
    monkeypatch.setattr("gloss_engine.steps.time", clock)
    engine.submit_watch(_watch(num_tokens=40, every=20, tokens_per_second=pace), "w")
    found: dict[str, Brought] = {}
    said_by_then = []
    while engine.has_work:
        step(engine, found)
        w = found["w"]
        said_by_then += [len(w.tokens)] * (len(w.explanations) - len(said_by_then))
    first, second = said_by_then
    # A token of an explanation a step at most, and the steps that the AR waits for company.
    assert first <= (30 if pace is None else 8) and second > first


def test_draws_of_target_and_explanations_are_apart(
    pairs: dict[str, Pair], targets: dict[str, Path]
) -> None:
    """Equal seeds give the same run again; another explanation seed leaves the target alone."""
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"])
    sampled = {"temperature": 1.0, "seed": 11}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        engine.submit_watch(
            _watch(target=sampled, sampling=SamplingParams(max_new_tokens=5, seed=seed)), name
        )
    found = run(engine)
    said = {name: [t.token_id for t in brought.tokens] for name, brought in found.items()}
    assert said["a"] == said["b"] == said["c"]
    explained = {
        name: [e.token_ids for _, e in sorted(brought.explanations.items())]
        for name, brought in found.items()
    }
    assert explained["a"] == explained["b"] != explained["c"]


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 30.0}], ids=["plain", "penalty"])
def test_one_that_goes_on_says_what_the_other_would_have(
    pairs: dict[str, Pair], targets: dict[str, Path], options: dict[str, float]
) -> None:
    """Draws, the penalty and every n-th token count what was said before, wherever it broke off."""
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"])
    sampled = {"temperature": 1.0, "seed": 11, **options}
    engine.submit_watch(_watch(target=sampled, every=5), "whole")
    whole = run(engine)["whole"]
    said = [token.token_id for token in whole.tokens]
    assert len(said) == 12
    for num_said in (1, 5, 11):
        prompt = ids(*PROMPT, *said[:num_said])
        rest = _watch(
            prompt, num_tokens=12 - num_said, target=sampled, every=5, num_generated=num_said
        )
        engine.submit_watch(rest, "rest")
        found = run(engine)["rest"]
        assert [token.token_id for token in found.tokens] == said[num_said:]
        expected = [c.place.position for c in whole.captured]
        new = [position for position in expected if position >= len(PROMPT) + num_said]
        assert [c.place.position for c in found.captured] == new
    # Without being told of it, the target says something else.
    engine.submit_watch(_watch(ids(*PROMPT, *said[:5]), num_tokens=7, target=sampled), "anew")
    anew = run(engine)["anew"]
    assert [token.token_id for token in anew.tokens] != said[5:]


def test_the_target_ends_where_its_positions_do(
    pairs: dict[str, Pair], targets: dict[str, Path]
) -> None:
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"], max_watch_tokens=4000)
    assert engine.target is not None
    room = engine.target.target.spec.max_positions - len(PROMPT)
    engine.submit_watch(_watch(num_tokens=4000, every=4000), "w")
    found = run(engine, 60_000)["w"]
    assert len(found.tokens) == room or found.ends[0].finish_reason == "eos"
    assert_target_idle(engine)


@pytest.mark.parametrize(("options", "reason"), [
    ({"every": 0}, "INVALID_EVERY"),
    ({"max_pending": 0}, "INVALID_MAX_PENDING"),
    ({"tokens_per_second": 0.0}, "INVALID_TOKENS_PER_SECOND"),
    ({"tokens_per_second": float("inf")}, "INVALID_TOKENS_PER_SECOND"),
    ({"num_tokens": 1025}, "TOO_MANY_TOKENS"),
    ({"num_generated": -1}, "INVALID_NUM_GENERATED"),
    ({"num_generated": len(PROMPT)}, "INVALID_NUM_GENERATED"),
    ({"prompt_positions": Positions.parse("21")}, "POSITION_OUT_OF_RANGE"),
    ({"score": True}, "NO_RECONSTRUCTOR"),
    ({"given": TextInput(text="")}, "EMPTY_TEXT"),
])  # fmt: skip
def test_watches_that_cannot_run(
    pairs: dict[str, Pair], targets: dict[str, Path], options: dict[str, Any], reason: str
) -> None:
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"])
    with pytest.raises(RequestError) as refused:
        engine.submit_watch(_watch(**options))
    assert refused.value.reason == reason and not engine.has_work


def test_a_target_that_only_reads_cannot_be_watched(
    pairs: dict[str, Pair], targets: dict[str, Path]
) -> None:
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"], target_generates=False)
    with pytest.raises(RequestError) as refused:
        engine.submit_watch(_watch())
    assert refused.value.reason == "TARGET_READS_ONLY"


def test_logits_that_are_not_finite_end_the_target_alone(
    pairs: dict[str, Pair], targets: dict[str, Path]
) -> None:
    for settings in ({}, GRAPHS):
        engine = text_engine(pairs["qwen3"].av, targets["qwen3"], **settings)
        assert engine.target is not None
        engine.submit_watch(_watch(num_tokens=8), "expected")
        expected = [token.token_id for token in run(engine)["expected"].tokens]
        engine.target.target.decoder.embedding[19] = float("nan")
        bad = _watch(ids(30, 31, 19), num_tokens=8, prompt_positions=Positions.parse("last"))
        engine.submit_watch(bad, "bad")
        engine.submit_watch(_watch(num_tokens=8), "good")
        found = run(engine)
        assert [end.finish_reason for end in found["bad"].ends] == ["error"]
        assert found["bad"].tokens == [] and found["bad"].num_finished == 1
        (failed,) = found["bad"].explanations.values()
        assert failed.error is not None and failed.error.reason == "NON_FINITE_VECTOR"
        assert [token.token_id for token in found["good"].tokens] == expected
        assert_idle(engine)
        assert_target_idle(engine)


class _Dictated(Shares):
    """Steps take what the test says, and their order is kept."""

    def __init__(self, target_share: float, seconds: dict[str, float]) -> None:
        super().__init__(target_share)
        self.seconds, self.order = seconds, list[str]()

    def begin(self, name: str) -> float:
        self.order.append(name)
        return super().begin(name)

    def end(self, name: str, charged: float, seconds: float) -> None:
        super().end(name, charged, self.seconds[name])


@pytest.mark.parametrize("settings", [{}, GRAPHS])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_token_waits_no_longer_than_the_share_allows(
    pairs: dict[str, Pair], targets: dict[str, Path], settings: dict[str, Any], share: float
) -> None:
    """While explanations run all the time; with a step of lag, one step more. The first steps of
    each kind are not charged before they have been read."""
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"], num_slots=4, **settings)
    seconds = {AV: 8.0, TARGET: 5.0}
    shares = engine._steps._shares = _Dictated(share, seconds)
    rows = activations(60, engine.facts.d_model)
    engine.submit(request(rows, temperature=0.0, max_new_tokens=30), "rows")
    engine.submit_watch(_watch(num_tokens=40, every=100), "w")
    found: dict[str, Brought] = {}
    while len(found.setdefault("w", Brought()).tokens) < 40:
        step(engine, found)
        assert found.setdefault("rows", Brought()).num_finished == 0
    lag = 0 if not settings else seconds[AV]
    bound = seconds[TARGET] * (1 - share) / share + seconds[AV] + lag
    waited, longest = 0.0, 0.0
    for name in shares.order[6:]:
        waited = 0.0 if name == TARGET else waited + seconds[name]
        longest = max(longest, waited)
    assert 0 < longest <= bound
    took = {name: shares.order.count(name) * seconds[name] for name in (AV, TARGET)}
    assert took[TARGET] / sum(took.values()) == pytest.approx(share, abs=0.06)
    run(engine)


@pytest.mark.parametrize("settings", [{}, {**GRAPHS, "page_size": 4}])
@pytest.mark.parametrize("layer", [0, LAYER_INDEX, NUM_LAYERS - 1])
def test_rows_of_a_generation_are_the_blocks_output(
    targets: dict[str, Path], arch: str, layer: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Captured inside the step, behind a cache: at the first, a middle and the last block."""
    av = write_av(tmp_path / "av", arch, layer_index=layer)
    engine = text_engine(av, targets[arch], num_watches=3, **settings)
    work = engine.target
    assert work is not None
    rows: dict[str, dict[int, torch.Tensor]] = {"a": {}, "b": {}}
    read = work.read

    def noted(launched: Launched) -> TargetEvents:
        events = read(launched)
        for watched in events.watched:
            rows[watched.watch.request_id][watched.position] = watched.raw
            assert watched.norm == pytest.approx(float(watched.raw.norm()), rel=1e-5)
        return events

    work.read = noted  # type: ignore[method-assign]
    for name, length in (("a", 21), ("b", 1)):
        last = Positions.parse("last")
        engine.submit_watch(
            _watch(ids(*PROMPT[:length]), num_tokens=9, prompt_positions=last), name
        )
    found = run(engine)
    reference = ReferenceTarget(targets[arch])
    for name, length in (("a", 21), ("b", 1)):
        tokens = [token.token_id for token in found[name].tokens]
        expected = reference.activations((*PROMPT[:length], *tokens), layer)
        positions = [captured.place.position for captured in found[name].captured]
        assert positions[0] == length - 1 and set(positions) == set(rows[name])
        got = torch.stack([rows[name][at] for at in positions])
        apart = (got - expected[positions]).norm(dim=-1) / expected[positions].norm(dim=-1)
        # Six blocks in float32, summed in another order than transformers does; of a row's norm.
        assert float(apart.max()) < 1e-5


@pytest.mark.parametrize("settings", [{}, GRAPHS])
def test_texts_beside_a_watch_are_read_in_small_chunks(
    pairs: dict[str, Pair], targets: dict[str, Path], settings: dict[str, Any]
) -> None:
    """As many tokens as fit the budget by the rate last seen; alone, all at once. Same rows."""
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"], **settings)
    work = engine.target
    assert work is not None
    text = tuple((7 * i + 5) % 180 + 20 for i in range(300))
    texts = CaptureRequest(inputs=(ids(*text), ids(*text[:40]), ids(*text[40:90])))
    engine.submit_capture(texts, "alone")
    (alone,) = (run(engine)["alone"].readings,)
    work._learn = lambda rate: None  # type: ignore[method-assign]
    work.budget_seconds, work._tokens_per_second = 0.01, 6000.0
    sizes: list[tuple[bool, int]] = []
    read = work.read

    def noted(launched: Launched) -> TargetEvents:
        if isinstance(launched.work, LaunchedPass):
            assert work.generator is not None
            sizes.append((work.generator.is_speaking, launched.work.num_tokens))
        return read(launched)

    work.read = noted  # type: ignore[method-assign]
    found: dict[str, Brought] = {}
    engine.submit_watch(_watch(num_tokens=40, every=100), "w")
    while not found.setdefault("w", Brought()).tokens:
        step(engine, found)
    engine.submit_capture(texts, "beside")
    while engine.has_work:
        step(engine, found)
    beside = [count for speaking, count in sizes if speaking]
    # With a lag the prompt's own pass is read when its Watch speaks already.
    assert sum(beside) - 390 in (0, len(PROMPT) - 1)
    assert len(beside) >= 6 and max(beside) <= 60
    for one, two in zip(
        sorted(alone, key=lambda r: r.index),
        sorted(found["beside"].readings, key=lambda r: r.index),
        strict=True,
    ):
        np.testing.assert_allclose(one.activations, two.activations, rtol=1e-3, atol=1e-4)
    assert len(found["w"].tokens) == 40
    assert_target_idle(engine)
