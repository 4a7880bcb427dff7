"""The same request and seed give the same tokens, whatever else runs and however it is run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gloss_engine.engine import Engine
from support.checkpoints import Pair
from support.engine_runs import activations, request, run_in_waves, small_engine

NUM_TOKENS = 24
SAMPLINGS: dict[str, dict[str, Any]] = {
    "plain": {"temperature": 1.0},
    "top_p": {"temperature": 1.0, "top_p": 0.8},
    "all": {
        "temperature": 1.3,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.02,
        "repetition_penalty": 1.2,
    },
}


def _tokens(engine: Engine, rows: torch.Tensor, **settings: Any) -> list[tuple[int, ...]]:
    options = settings.pop("options", None)
    samples = settings.pop("num_samples", 1)
    sent = request(
        rows, num_samples=samples, options=options, **{"max_new_tokens": NUM_TOKENS} | settings
    )
    return [result.token_ids for result in engine.verbalize(sent)]


@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
@pytest.mark.parametrize("name", SAMPLINGS)
def test_alone_and_in_a_batch_of_64(pairs: dict[str, Pair], arch: str, name: str) -> None:
    sampling = SAMPLINGS[name] | {"seed": 7, "max_new_tokens": NUM_TOKENS}
    engine = small_engine(pairs[arch].av, num_slots=64)
    rows = activations(3, engine.facts.d_model, seed=1)
    alone = _tokens(engine, rows, **sampling)
    others = activations(61, engine.facts.d_model, seed=2)
    crowd: dict[str, Any] = {
        f"o{i}": request(others[i : i + 1], seed=i, max_new_tokens=5 + i) for i in range(20)
    }
    crowd["greedy"] = request(others[20:40], temperature=0.0, max_new_tokens=9)
    crowd["mine"] = request(rows, **sampling)
    crowd["late"] = request(
        others[40:], seed=1, top_p=0.5, repetition_penalty=1.5, max_new_tokens=30
    )
    found = run_in_waves(engine, {0: crowd})
    assert [found["mine", i, 0].token_ids for i in range(3)] == alone
    assert len(set(alone)) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"page_size": 1},
        {"page_size": 7},
        {"page_size": 64},
        {"num_slots": 1},
        {"num_slots": 3, "max_prefill_tokens": 1},
        {"num_slots": 64, "num_pages": 30},
    ],
)
def test_pages_and_slots_change_nothing(pairs: dict[str, Pair], settings: dict[str, Any]) -> None:
    for arch in ("qwen2", "gemma3"):
        expected, found = (
            _tokens(
                small_engine(pairs[arch].av, **chosen),
                activations(5, 72, seed=4),
                num_samples=2,
                seed=5,
                top_p=0.9,
            )
            for chosen in ({}, settings)
        )
        assert found == expected and len(set(found)) == 10


def test_a_slot_keeps_nothing_of_who_had_it_before(pairs: dict[str, Pair]) -> None:
    """A penalty counts the tokens of its own sequence; the slots' rows are used again and again."""
    used = small_engine(pairs["qwen2"].av, num_slots=2)
    first, second = activations(4, 72, seed=1), activations(2, 72, seed=2)
    settings: dict[str, Any] = {"seed": 3, "repetition_penalty": 1.8}
    expected = _tokens(used, first[:2], **settings)
    _tokens(used, first, top_p=0.5, **settings)
    _tokens(used, first, seed=8)
    assert _tokens(used, first[:2], **settings) == expected
    fresh = small_engine(pairs["qwen2"].av, num_slots=2)
    assert _tokens(used, second, **settings) == _tokens(fresh, second, **settings)


def test_order_of_submission_changes_nothing(pairs: dict[str, Pair]) -> None:
    engine = small_engine(pairs["llama3"].av, num_slots=4)
    rows = activations(6, engine.facts.d_model)
    found = []
    for order in (range(6), reversed(range(6))):
        waves = {
            step: {str(i): request(rows[i : i + 1], seed=9, max_new_tokens=4 + i)}
            for step, i in enumerate(order)
        }
        found.append(run_in_waves(engine, waves))
    tokens = [{key: result.token_ids for key, result in each.items()} for each in found]
    assert tokens[0] == tokens[1] and len(tokens[0]) == 6


def test_item_keys_make_chunks_equal_the_whole(pairs: dict[str, Pair]) -> None:
    engine = small_engine(pairs["qwen2"].av)
    rows = activations(7, 72)
    whole = _tokens(engine, rows, seed=2, num_samples=2)
    chunks = []
    for start in range(0, 7, 3):
        keys = tuple(range(start, min(start + 3, 7)))
        part = rows[start : start + 3]
        chunks += _tokens(engine, part, seed=2, num_samples=2, options={"item_keys": keys})
    assert chunks == whole
    assert _tokens(engine, rows[3:], seed=2, num_samples=2) != whole[6:]


def test_what_the_draws_depend_on(pairs: dict[str, Pair]) -> None:
    """The same activation under other seeds, keys and samples, the high bits of 64 included."""
    engine = small_engine(pairs["qwen2"].av, num_slots=64)
    row = activations(1, 72)
    seeds = (0, 1, 2**32, 2**63, 2**64 - 1)
    drawn = [_tokens(engine, row, seed=seed)[0] for seed in seeds]
    keys = (1, 2**32, 2**63, 2**64 - 1)
    drawn += [_tokens(engine, row, seed=0, options={"item_keys": (key,)})[0] for key in keys]
    samples = _tokens(engine, row, seed=0, num_samples=4)
    assert samples[0] == drawn[0]
    drawn += samples[1:]
    assert len(set(drawn)) == len(seeds) + len(keys) + 3


def test_rows_of_one_request_do_not_share_noise(pairs: dict[str, Pair]) -> None:
    engine = small_engine(pairs["qwen2"].av)
    row = activations(1, 72)
    assert len(set(_tokens(engine, row.repeat(6, 1), seed=0))) == 6


def test_a_seed_is_drawn_and_reproduces(pairs: dict[str, Pair]) -> None:
    engine = small_engine(pairs["qwen2"].av)
    rows = activations(2, 72)
    first, second = (
        engine.verbalize(request(rows, num_samples=2, max_new_tokens=NUM_TOKENS)) for _ in range(2)
    )
    assert len({result.seed for result in first}) == 1
    assert first[0].seed != second[0].seed
    assert [r.token_ids for r in first] != [r.token_ids for r in second]
    again = _tokens(engine, rows, num_samples=2, seed=first[0].seed)
    assert again == [result.token_ids for result in first]


def test_other_dtypes_of_the_same_activation(pairs: dict[str, Pair]) -> None:
    """16-bit activations are taken as the values they are."""
    engine = small_engine(pairs["qwen2"].av)
    for dtype in (torch.float16, torch.bfloat16):
        narrow = activations(3, 72).to(dtype)
        expected = _tokens(engine, narrow.float(), seed=1)
        assert _tokens(engine, narrow, seed=1) == expected
        if dtype == torch.float16:
            assert _tokens(engine, narrow.numpy(), seed=1) == expected  # type: ignore[arg-type]
