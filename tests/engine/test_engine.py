"""The engine on a small checkpoint: refusals, failures alone, cancels, stops, streams, evidence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gloss_engine.engine import Engine
from gloss_engine.errors import RequestError
from gloss_engine.request import Explanation, VerbalizeRequest
from gloss_engine.sampling import SamplingParams
from gloss_kernels import scale_to_norm
from support.checkpoints import LAYER_INDEX, Pair
from support.edits import edit_sidecar
from support.engine_runs import activations, assert_idle, drain, request, small_engine

WIDTH = 72
CLOSING_TAG = "</explanation>"


@pytest.fixture(scope="module")
def engine(pairs: dict[str, Pair]) -> Engine:
    """An AV alone, shared by tests that leave it idle."""
    return small_engine(pairs["qwen2"].av, num_slots=6, max_new_tokens=40)


@pytest.fixture(scope="module")
def scoring(pairs: dict[str, Pair]) -> Engine:
    """A pair, shared by tests that leave it idle."""
    return small_engine(pairs["qwen2"].av, pairs["qwen2"].ar, num_slots=6, fve_baseline=0.9)


def _spell(engine: Engine, monkeypatch: pytest.MonkeyPatch, ids: list[int]) -> None:
    """Make every sequence generate these tokens, then an endless last one.

    Adds a large bonus to the wanted token's logit of each row, by the row's own count.
    """
    decoder, slots = engine.runner.decoder, engine.runner.slots
    logits_of = decoder.logits

    def forced(hidden_states: torch.Tensor) -> torch.Tensor:
        logits, n = logits_of(hidden_states).clone(), hidden_states.shape[0]
        counts = slots.num_generated[:n].clamp_max(len(ids) - 1)
        logits[torch.arange(n), torch.tensor(ids)[counts]] += 1000.0
        return logits

    monkeypatch.setattr(decoder, "logits", forced)


def _encode(engine: Engine, text: str) -> list[int]:
    return engine.reader.tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("changes", "reason", "field", "message"),
    [
        ({"activations": torch.ones(2, 71)}, "DIMENSION_MISMATCH", "activations", r"\[2, 71\]"),
        ({"activations": torch.ones(72)}, "DIMENSION_MISMATCH", "activations", r"\[72\]"),
        ({"activations": torch.ones(1, 2, 72)}, "DIMENSION_MISMATCH", "activations", r"\[1, 2"),
        ({"activations": torch.ones(0, 72)}, "EMPTY_BATCH", "activations", r"\[0, 72\]"),
        ({"activations": torch.ones(2, 72).int()}, "UNSUPPORTED_DTYPE", "activations", "int32"),
        ({"activations": np.ones((2, 72), np.int8)}, "UNSUPPORTED_DTYPE", "activations", "int8"),
        ({"activations": np.ones((2, 72), "U1")}, "UNSUPPORTED_DTYPE", "activations", "U1"),
        ({"num_samples": 0}, "INVALID_SAMPLES", "num_samples", "got 0"),
        ({"item_keys": (1,)}, "LENGTH_MISMATCH", "item_keys", "got 1, expected 2"),
        ({"positions": (1, 2, 3)}, "LENGTH_MISMATCH", "positions", "got 3, expected 2"),
        ({"token_ids": ()}, "LENGTH_MISMATCH", "token_ids", "got 0, expected 2"),
        ({"item_keys": (0, -1)}, "INVALID_ITEM_KEY", "item_keys", "got -1"),
        ({"item_keys": (0, 2**64)}, "INVALID_ITEM_KEY", "item_keys", "numbers from 0 to"),
        ({"score": True}, "NO_RECONSTRUCTOR", "score", "no AR is loaded"),
        ({"layer_index": LAYER_INDEX + 1}, "LAYER_MISMATCH", "layer_index", r"hidden_states\[4\]"),
        (
            {"sampling": SamplingParams(max_new_tokens=41)},
            "TOO_MANY_TOKENS",
            "max_new_tokens",
            "got 41, expected at most 40",
        ),
    ],
)
def test_requests_that_are_refused(
    engine: Engine, changes: dict[str, Any], reason: str, field: str, message: str
) -> None:
    sampling = SamplingParams(max_new_tokens=2)
    options = {"activations": torch.ones(2, WIDTH), "sampling": sampling} | changes
    with pytest.raises(RequestError, match=message) as caught:
        engine.submit(VerbalizeRequest(**options))
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert_idle(engine)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 101.0),
        ("temperature", float("nan")),
        ("temperature", 1e-50),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 1.0),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-50),
        ("repetition_penalty", float("inf")),
        ("repetition_penalty", float("nan")),
        ("max_new_tokens", 0),
        ("seed", -1),
        ("seed", 2**64),
        ("stop", ("a", "")),
    ],
)
def test_sampling_that_is_refused(field: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"{field}: got") as caught:
        SamplingParams(**{field: value})
    assert (caught.value.reason, caught.value.field) == ("INVALID_SAMPLING", field)


def test_more_pages_than_there_are_is_refused(pairs: dict[str, Pair]) -> None:
    small = small_engine(pairs["qwen2"].av, num_pages=6, page_size=16)
    rows = activations(1, WIDTH)
    with pytest.raises(RequestError, match="need 6 pages, expected at most 5") as caught:
        small.submit(request(rows, max_new_tokens=50))
    assert caught.value.reason == "TOO_MANY_TOKENS"
    assert len(small.verbalize(request(rows, max_new_tokens=4))) == 1


def test_a_layer_mismatch_can_be_allowed(engine: Engine) -> None:
    options = {"layer_index": LAYER_INDEX + 1, "allow_layer_mismatch": True}
    assert engine.verbalize(request(activations(1, WIDTH), max_new_tokens=1, options=options))
    exact = {"layer_index": LAYER_INDEX}
    assert engine.verbalize(request(activations(1, WIDTH), max_new_tokens=1, options=exact))


BAD_ROWS = {
    "nan": ("NON_FINITE_VECTOR", lambda row: row.index_fill_(0, torch.tensor(3), torch.nan)),
    "inf": ("NON_FINITE_VECTOR", lambda row: row.index_fill_(0, torch.tensor(3), -torch.inf)),
    "overflow": ("NON_FINITE_VECTOR", lambda row: row.fill_(1e38)),
    "zero": ("ZERO_VECTOR", lambda row: row.zero_()),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
@pytest.mark.parametrize("alone", [True, False])
def test_a_bad_row_fails_alone(engine: Engine, kind: str, alone: bool) -> None:
    reason, spoil = BAD_ROWS[kind]
    rows = activations(1 if alone else 4, WIDTH)
    clean = engine.verbalize(request(rows, num_samples=2, seed=1, max_new_tokens=6))
    at = 0 if alone else 2
    spoil(rows[at])
    results = engine.verbalize(request(rows, num_samples=2, seed=1, max_new_tokens=6))
    assert len(results) == len(clean)
    for before, after in zip(clean, results, strict=True):
        assert (after.index, after.sample) == (before.index, before.sample)
        if after.index != at:
            assert after.error is None and after.token_ids == before.token_ids
            continue
        assert after.error is not None
        assert (after.error.code, after.error.reason) == ("INVALID_ARGUMENT", reason)
        assert after.finish_reason == "error" and after.explanation == "" and not after.token_ids
        assert after.cosine is None and after.flags == ()
    assert_idle(engine)


@pytest.mark.parametrize("at_token", [0, 3])
def test_non_finite_logits_fail_one_row(pairs: dict[str, Pair], at_token: int) -> None:
    """Keys, values and logits of one activation turn to NaN; its pages go to others afterwards."""
    engine = small_engine(pairs["qwen2"].av, num_slots=4, page_size=4, num_pages=70)
    rows = activations(8, WIDTH)
    sent = request(rows, num_samples=2, seed=1, max_new_tokens=8)
    clean = {(e.index, e.sample): e.token_ids for e in engine.verbalize(sent)}
    decoder, runner = engine.runner.decoder, engine.runner
    embed = decoder.embed
    own = scale_to_norm(rows[1], runner.program.injection_scale)
    poisoned: list[int] = []

    def poison(ids: torch.Tensor, *args: Any) -> torch.Tensor:
        hidden = embed(ids, *args)
        for slot, sequence in engine.scheduler.running.items():
            generated = int(runner.slots.num_generated[slot])
            if sequence.item.index == 1 and generated == at_token > 0:
                hidden[slot] = torch.nan
                poisoned.append(slot)
        if args and at_token == 0:
            injected, buffer, buffer_rows = args
            for row, given in zip(injected.tolist(), buffer[buffer_rows], strict=True):
                if torch.allclose(given, own):
                    hidden[row] = torch.nan
                    poisoned.append(row)
        return hidden

    decoder.embed = poison
    engine.submit(sent, "r")
    found = drain(engine)
    assert poisoned
    for (_, index, sample), result in found.items():
        if index == 1:
            assert result.error is not None
            assert (result.error.code, result.error.reason) == ("INTERNAL", "NON_FINITE_OUTPUT")
        else:
            assert result.token_ids == clean[index, sample]
    assert len(found) == 16
    decoder.embed = embed
    again = engine.verbalize(sent)
    assert {(e.index, e.sample): e.token_ids for e in again} == clean
    assert_idle(engine)


def test_a_cancel_between_forks_leaves_no_poison(pairs: dict[str, Pair]) -> None:
    """One slot, an item of NaN with samples still to fork, cancelled: the next one is clean.

    The suffix fills a page and a part of another; the pages come back in the other order, so that
    the page full of NaN is the one the next sequence fills in part only.
    """
    engine = small_engine(pairs["qwen2"].av, num_slots=1, page_size=32, num_pages=30)
    assert 32 < engine.facts.suffix_len < 60
    row = activations(1, WIDTH)
    clean = engine.verbalize(request(row, seed=1, max_new_tokens=6))[0].token_ids
    embed = engine.runner.decoder.embed
    engine.runner.decoder.embed = lambda ids, *args: embed(ids, *args) * torch.nan
    engine.submit(request(row, num_samples=4, max_new_tokens=6), "bad")
    engine.step()
    engine.runner.decoder.embed = embed
    engine.cancel("bad")
    engine.submit(request(row, seed=1, max_new_tokens=6), "good")
    assert drain(engine)["good", 0, 0].token_ids == clean
    assert_idle(engine)


def _cancel_after(engine: Engine, steps: int, num_samples: int = 1) -> dict[Any, Explanation]:
    """Two requests, the first cancelled; returns what came out."""
    rows = activations(10, WIDTH)
    engine.submit(request(rows[:3], num_samples=num_samples, seed=1, max_new_tokens=30), "gone")
    engine.submit(request(rows[3:5], seed=1, max_new_tokens=12), "stays")
    found = {}
    for _ in range(steps):
        for result in engine.step().explanations:
            found[result.request_id, result.index, result.sample] = result
    engine.cancel("gone")
    out = engine.step()
    assert "gone" in out.finished
    assert not any(s.item.request_id == "gone" for s in engine.scheduler.running.values())
    queued = (*engine.scheduler.waiting, *engine.scheduler.forking)
    assert not any(item.request_id == "gone" for item in queued)
    held = sum(len(s.pages) for s in engine.scheduler.running.values())
    held += sum(len(item.suffix_pages) for item in queued)
    assert engine.stats().pages_used == held
    found |= {(e.request_id, e.index, e.sample): e for e in out.explanations}
    return found | drain(engine)


@pytest.mark.parametrize("num_samples", [1, 4])
@pytest.mark.parametrize("steps", [0, 1, 2, 9])
def test_cancelling(engine: Engine, steps: int, num_samples: int) -> None:
    """Queued, just prefilled, decoding, with samples that were never forked."""
    rows = activations(10, WIDTH)
    whole = engine.verbalize(request(rows[:3], num_samples=num_samples, seed=1, max_new_tokens=30))
    expected = {("gone", e.index, e.sample): e for e in whole}
    kept = engine.verbalize(request(rows[3:5], seed=1, max_new_tokens=12))
    found = _cancel_after(engine, steps, num_samples)
    for key, full in expected.items():
        result = found[key]
        count = len(result.token_ids)
        assert result.error is None and result.token_ids == full.token_ids[:count]
        if result.finish_reason == "cancelled":
            assert count <= steps and count < len(full.token_ids)
            assert result.raw_text == engine.reader.raw_text(list(result.token_ids))
        else:
            assert result == full or result.token_ids == full.token_ids
    cancelled = [found[key] for key in expected if found[key].finish_reason == "cancelled"]
    assert cancelled, "nothing was left to cancel"
    # Samples that share a prefill start a step after it.
    drawn = steps if num_samples == 1 else max(0, steps - 1)
    assert max(len(result.token_ids) for result in cancelled) == drawn
    assert [found["stays", e.index, 0].token_ids for e in kept] == [e.token_ids for e in kept]
    assert engine.stats().explanations["cancelled"] >= len(cancelled)
    assert_idle(engine)


def test_cancelling_while_the_ar_is_awaited(pairs: dict[str, Pair]) -> None:
    engine = small_engine(pairs["qwen2"].av, pairs["qwen2"].ar, num_slots=4, score_wait_steps=500)
    rows = activations(3, WIDTH)
    engine.submit(request(rows[:2], temperature=0.0, max_new_tokens=3), "gone")
    engine.submit(request(rows[2:], temperature=0.0, max_new_tokens=30), "stays")
    for _ in range(5):
        assert not engine.step().explanations
    assert engine.stats().num_to_score == 2
    engine.cancel("gone")
    out = engine.step()
    assert [(e.request_id, e.finish_reason, e.cosine) for e in out.explanations] == [
        ("gone", "length", None)
    ] * 2
    assert all(len(e.token_ids) == 3 for e in out.explanations)
    assert drain(engine)["stays", 0, 0].cosine is not None
    assert engine.stats().scored == 1
    assert_idle(engine)


@pytest.mark.parametrize("stream", [False, True])
def test_custom_stops_across_tokens(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    text = "The river, then the STOPPING word and more."
    ids = _encode(engine, text)
    _spell(engine, monkeypatch, ids)
    for stop in ("STOPPING", "river", "T", "more."):
        sent = request(
            activations(2, WIDTH),
            temperature=0.0,
            stop=("never", stop),
            max_new_tokens=40,
            options={"stream": stream},
        )
        for result in engine.verbalize(sent):
            assert result.finish_reason == "stop"
            first = next(n for n in range(len(ids) + 1) if stop in engine.reader.raw_text(ids[:n]))
            assert result.token_ids == tuple(ids[:first])
    held = len(_encode(engine, "STOPPING"))
    assert held > 1, "the stop string is one token"
    assert_idle(engine)


def test_a_stop_string_at_the_limit_is_a_stop(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = _encode(engine, "the end")
    _spell(engine, monkeypatch, ids)
    sent = request(activations(1, WIDTH), temperature=0.0, stop=("end",), max_new_tokens=len(ids))
    assert engine.verbalize(sent)[0].finish_reason == "stop"
    plain = request(activations(1, WIDTH), temperature=0.0, max_new_tokens=len(ids))
    assert engine.verbalize(plain)[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("text", "reason", "explanation", "flags"),
    [
        (f"<explanation>A river.{CLOSING_TAG}", "closing_tag", "A river.", ()),
        (f"<explanation>\n A river. \n{CLOSING_TAG}", "closing_tag", "A river.", ()),
        (f"<explanation>a <{CLOSING_TAG}", "closing_tag", "a <", ()),
        (f"a river{CLOSING_TAG}", "closing_tag", "a river", ("no_tag",)),
        ("<explanation>A river<|im_end|>", "eos", "A river", ("unclosed",)),
        ("A river<|im_end|>", "eos", "A river", ("no_tag",)),
        ("<|im_end|>", "eos", "", ("no_tag",)),
    ],
)
def test_how_a_sequence_ends(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    reason: str,
    explanation: str,
    flags: tuple[str, ...],
) -> None:
    ids = _encode(engine, text)
    _spell(engine, monkeypatch, ids)
    result = engine.verbalize(request(activations(1, WIDTH), temperature=0.0, max_new_tokens=40))[0]
    assert result.finish_reason == reason
    assert result.token_ids == tuple(ids)
    assert result.raw_text == text
    assert result.explanation == explanation
    assert result.flags == flags
    assert_idle(engine)


def test_cut_off_text_is_unclosed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    _spell(engine, monkeypatch, _encode(engine, "<explanation>The river and the"))
    result = engine.verbalize(request(activations(1, WIDTH), temperature=0.0, max_new_tokens=8))[0]
    assert result.finish_reason == "length" and result.flags == ("unclosed",)
    assert len(result.token_ids) == 8


@pytest.mark.parametrize("num_samples", [1, 3])
def test_one_token(engine: Engine, num_samples: int) -> None:
    sent = request(activations(3, WIDTH), num_samples=num_samples, seed=2, max_new_tokens=1)
    results = engine.verbalize(sent)
    assert len(results) == 3 * num_samples
    for result in results:
        assert len(result.token_ids) == 1 and result.finish_reason in ("length", "eos")
        assert result.logprob < 0
    assert_idle(engine)


def test_streamed_tokens_are_the_final_ones(engine: Engine) -> None:
    """Also in company of requests that do not stream, and for samples that start late."""
    streams = {"stream": True}
    sent = request(activations(4, WIDTH), num_samples=3, max_new_tokens=17, seed=3, options=streams)
    engine.submit(sent, "s")
    engine.submit(request(activations(3, WIDTH), max_new_tokens=9, seed=3), "quiet")
    seen: dict[Any, list[int]] = {}
    found: dict[Any, Explanation] = {}
    while engine.has_work:
        out = engine.step()
        per_step = [(delta.request_id, delta.index, delta.sample) for delta in out.tokens]
        assert len(per_step) == len(set(per_step)), "two tokens of one sequence in a step"
        for delta, key in zip(out.tokens, per_step, strict=True):
            assert key not in found
            seen.setdefault(key, []).append(delta.token_id)
        for result in out.explanations:
            found[result.request_id, result.index, result.sample] = result
    assert len(seen) == 12 and all(key[0] == "s" for key in seen)
    for key, tokens in seen.items():
        assert tuple(tokens) == found[key].token_ids


@pytest.mark.parametrize("score", [None, True, False])
def test_scoring_on_request(scoring: Engine, score: bool | None) -> None:
    rows = activations(3, WIDTH)
    results = scoring.verbalize(
        request(rows, num_samples=2, seed=4, max_new_tokens=10, options={"score": score})
    )
    assert scoring.scores is not None
    for result in results:
        if score is False:
            assert result.cosine is None and result.mse is None and result.fve is None
            continue
        text, row = result.explanation, rows[result.index : result.index + 1]
        expected = scoring.scores.scorer.score([text], row)[0]
        assert expected is not None and result.cosine is not None and result.fve is not None
        assert result.cosine == pytest.approx(expected.cosine, abs=1e-5)
        assert result.mse == pytest.approx(2 * (1 - result.cosine), abs=1e-5)
        assert result.fve == pytest.approx(1 - result.mse / 0.9, abs=1e-9)
        assert ("low_fidelity" in result.flags) == (result.fve < 0)
    assert_idle(scoring)


def test_low_fidelity_and_a_missing_baseline(pairs: dict[str, Pair]) -> None:
    rows = activations(6, WIDTH)
    for baseline, flag in ((1e-3, "low_fidelity"), (None, "no_fve_baseline"), (100.0, None)):
        engine = small_engine(pairs["qwen2"].av, pairs["qwen2"].ar, fve_baseline=baseline)
        for result in engine.verbalize(request(rows, seed=1, max_new_tokens=4)):
            scored = {"low_fidelity", "no_fve_baseline"} & set(result.flags)
            assert scored == ({flag} if flag else set())
            assert (result.fve is None) == (baseline is None) and result.mse is not None


def test_flags_of_the_activation(
    pairs: dict[str, Pair], copy_of: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each at its threshold: on one side raised, on the other not."""
    directory = copy_of(pairs["gemma3"].av)
    edit_sidecar(directory, lambda m: m["extraction"].update(norm_median=8.0, min_position=10))
    engine = small_engine(directory, num_slots=16)
    special, unknown = engine.reader.tokenizer.bos_token_id, engine.reader.tokenizer.unk_token_id
    _spell(engine, monkeypatch, _encode(engine, f"<explanation>x{CLOSING_TAG}"))
    cases = [
        (8.0, 50, 300, ()),
        (32.0, 50, 300, ()),
        (32.1, 50, 300, ("norm_outlier",)),
        (2.0, 50, 300, ()),
        (1.99, 50, 300, ("norm_outlier",)),
        (8.0, 10, 300, ()),
        (8.0, 9, 300, ("early_position",)),
        (8.0, 50, special, ("special_token",)),
        (8.0, 50, unknown, ("unknown_token", "special_token")),
        (90.0, 0, special, ("norm_outlier", "early_position", "special_token")),
    ]
    rows = torch.zeros(len(cases), WIDTH)
    rows[:, 5] = torch.tensor([case[0] for case in cases])
    options = {
        "positions": tuple(case[1] for case in cases),
        "token_ids": tuple(case[2] for case in cases),
    }
    results = engine.verbalize(request(rows, temperature=0.0, max_new_tokens=40, options=options))
    assert [result.flags for result in results] == [case[3] for case in cases]
    untold = engine.verbalize(request(rows[:1], temperature=0.0, max_new_tokens=40))
    assert untold[0].flags == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_activations_whose_norm_is_beyond_their_type(
    engine: Engine, dtype: torch.dtype
) -> None:
    """Elements fit float16, their norm does not: 1500 * sqrt(72 * 40) would be 80000."""
    rows = torch.full((1, WIDTH), 30_000.0, dtype=dtype)
    result = engine.verbalize(request(rows, seed=1, max_new_tokens=4))[0]
    same = engine.verbalize(request(rows.float() / 1000, seed=1, max_new_tokens=4))[0]
    assert result.error is None and result.token_ids == same.token_ids


def test_a_callers_array_is_not_kept(scoring: Engine) -> None:
    """Written over after submit, or read-only: neither changes nor warns."""
    array = activations(2, WIDTH).numpy()
    sent = request(array, seed=1, max_new_tokens=6)  # type: ignore[arg-type]
    expected = scoring.verbalize(sent)
    scoring.submit(sent, "r")
    array[:] = 0.0
    found = drain(scoring)
    array[:] = activations(2, WIDTH).numpy()
    array.flags.writeable = False
    again = scoring.verbalize(sent)
    for index, result in enumerate(expected):
        assert found["r", index, 0].token_ids == result.token_ids == again[index].token_ids
        assert found["r", index, 0].cosine == pytest.approx(result.cosine, abs=1e-6)


def test_the_engine_in_bfloat16(pairs: dict[str, Pair]) -> None:
    """Runs, scores and forks in 16 bits; tokens are compared in float32 only."""
    engine = small_engine(pairs["gemma3"].av, pairs["gemma3"].ar, dtype="bfloat16")
    results = engine.verbalize(request(activations(3, WIDTH), num_samples=2, max_new_tokens=8))
    assert all(r.error is None and r.cosine is not None and r.logprob < 0 for r in results)
    assert_idle(engine)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 2.5),
        ("seed", 1.5),
        ("stop", (5,)),
        ("stop", "."),
        ("temperature", "hot"),
        ("temperature", None),
        ("top_k", 2.5),
    ],
)
def test_sampling_of_another_type_is_refused_where_it_is_made(field: str, value: object) -> None:
    with pytest.raises(RequestError) as refusal:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("positions", ("a", "b")),
        ("positions", (-1, 5)),
        ("token_ids", (1, 2.5)),
        ("item_keys", ("a", "b")),
        ("item_keys", (1, None)),
        ("num_samples", 1.5),
        ("num_samples", True),
        ("activations", [[0.5] * WIDTH]),
    ],
)
def test_a_badly_typed_request_harms_nobody(engine: Engine, field: str, value: object) -> None:
    good = engine.submit(request(activations(2, WIDTH), seed=1, max_new_tokens=4))
    sent = {"activations": activations(2, WIDTH), field: value}
    with pytest.raises(RequestError) as refusal:
        engine.submit(VerbalizeRequest(**sent))
    assert refusal.value.field == field
    finished: list[str] = []
    while engine.has_work:
        finished += engine.step().finished
    assert finished == [good]
    assert_idle(engine)


def test_numpy_scalars_are_numbers(engine: Engine) -> None:
    rows = activations(2, WIDTH)
    plain = engine.verbalize(request(rows, seed=2**63 + 5, max_new_tokens=4))
    sampling = SamplingParams(
        seed=np.uint64(2**63 + 5),
        max_new_tokens=np.int64(4),
        temperature=np.float32(1.0),
    )
    keys = tuple(np.arange(2, dtype=np.uint64))
    sent = VerbalizeRequest(
        activations=rows, sampling=sampling, item_keys=keys, num_samples=np.int64(1)
    )
    assert [e.token_ids for e in engine.verbalize(sent)] == [e.token_ids for e in plain]
