"""What is computed once: the prefix for all, the suffix for all samples of an activation."""

from __future__ import annotations

import pytest
import torch

from gloss_engine.models.decoder import Decoder
from support.checkpoints import Pair
from support.engine_runs import activations, assert_idle, request, small_engine


def test_the_prefix_is_computed_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    compute = Decoder.compute_prefix

    def counted(self: Decoder, input_ids: torch.Tensor) -> object:
        calls.append(input_ids.shape[0])
        return compute(self, input_ids)

    monkeypatch.setattr(Decoder, "compute_prefix", counted)
    engine = small_engine(pair.av)
    rows = activations(5, engine.facts.d_model)
    for _ in range(2):
        engine.verbalize(request(rows, max_new_tokens=3, seed=0))
    stats = engine.stats()
    assert calls == [stats.prefix_tokens] == [engine.facts.prefix_len]
    assert engine.facts.prefix_len > 20 < engine.facts.suffix_len
    assert stats.prefix_tokens_reused == 10 * engine.facts.prefix_len
    assert stats.prefill_tokens == 10 * engine.facts.suffix_len


@pytest.mark.parametrize(("num_samples", "num_slots"), [(1, 8), (6, 8), (6, 4), (5, 1), (13, 3)])
def test_samples_share_one_prefill(
    pairs: dict[str, Pair], num_samples: int, num_slots: int
) -> None:
    """Counted in rows that reach the decoder, not by the engine's own word."""
    engine = small_engine(pairs["qwen3"].av, num_slots=num_slots, page_size=16)
    decoder, rows_run = engine.runner.decoder, []
    embed = decoder.embed

    def counted(ids: torch.Tensor, *args: object) -> torch.Tensor:
        rows_run.append(ids.shape[0])
        return embed(ids, *args)

    decoder.embed = counted
    activation = activations(3, engine.facts.d_model)
    # A temperature this low keeps to the likeliest tokens: no sequence ends before its limit.
    results = engine.verbalize(
        request(activation, num_samples=num_samples, temperature=0.0, max_new_tokens=5)
    )
    stats = engine.stats()
    assert stats.prefill_tokens == 3 * engine.facts.suffix_len
    assert stats.prefix_tokens_reused == 3 * engine.facts.prefix_len
    drawn = sum(len(result.token_ids) for result in results)
    assert stats.decode_tokens == drawn == 3 * num_samples * 5
    # A sequence decodes the suffix's last token first, and never its own last.
    assert sum(rows_run) == 3 * (engine.facts.suffix_len - 1) + 3 * num_samples * 5
    assert_idle(engine)


@pytest.mark.parametrize("page_size", [1, 5, 16, 64])
def test_samples_forked_late_equal_samples_forked_early(pair: Pair, page_size: int) -> None:
    """With one slot each sample starts when the one before has ended, from the kept suffix."""
    results = []
    for num_slots in (1, 2, 16):
        engine = small_engine(pair.av, num_slots=num_slots, page_size=page_size)
        rows = activations(2, engine.facts.d_model)
        found = engine.verbalize(request(rows, num_samples=5, max_new_tokens=12, seed=3))
        results.append([(r.index, r.sample, r.token_ids) for r in found])
        assert_idle(engine)
    assert results[0] == results[1] == results[2]
    assert len({tokens for _, _, tokens in results[0]}) == 10


def test_few_prefills_a_step(pair: Pair) -> None:
    """The limit on prefilled tokens spreads items over steps; one item always goes."""
    found = []
    for limit in (1, 100, 2048):
        engine = small_engine(pair.av, num_slots=16, max_prefill_tokens=limit)
        rows = activations(6, engine.facts.d_model)
        engine.submit(request(rows, temperature=0.0, max_new_tokens=4), "r")
        started = []
        tokens = {}
        while engine.has_work:
            before = engine.stats().prefill_tokens
            for explanation in engine.step().explanations:
                tokens[explanation.index] = explanation.token_ids
            started.append((engine.stats().prefill_tokens - before) // engine.facts.suffix_len)
        most = max(1, limit // (engine.facts.suffix_len - 1))
        assert max(started) == min(most, 6) and sum(started) == 6
        found.append(tokens)
    assert found[0] == found[1] == found[2]
