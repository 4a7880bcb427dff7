"""Greedy tokens and log-probabilities against `transformers.generate` in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gloss_engine.request import Explanation
from support.checkpoints import Pair, write_av
from support.edits import edit_json
from support.engine_runs import activations, assert_idle, request, run_in_waves, small_engine
from support.reference import ReferenceVerbalizer, text_model

NUM_TOKENS = 64
# Ties are rare in float32: random logits of these models are units apart.
MOST_TIES = 2
# Nats a token: logits of some 30 units carry float32 errors of a few 1e-6 from six blocks.
LOGPROB_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def references(pairs: dict[str, Pair]) -> dict[str, ReferenceVerbalizer]:
    return {arch: ReferenceVerbalizer(pair.av) for arch, pair in pairs.items()}


@pytest.fixture
def reference(references: dict[str, ReferenceVerbalizer], arch: str) -> ReferenceVerbalizer:
    return references[arch]


def _check_greedy(
    reference: ReferenceVerbalizer,
    av: Path,
    n: int,
    num_tokens: int,
    penalty: float = 1.0,
    cached: bool = True,
) -> None:
    engine = small_engine(av)
    rows = activations(n, engine.facts.d_model)
    results = engine.verbalize(
        request(rows, temperature=0.0, max_new_tokens=num_tokens, repetition_penalty=penalty)
    )
    embeds = reference.embeds(rows)
    if cached:
        expected = reference.generate(embeds, num_tokens, repetition_penalty=penalty)
    else:
        expected = reference.generate_uncached(embeds, num_tokens)
    _compare(reference, embeds, results, expected, penalty)


def _compare(
    reference: ReferenceVerbalizer,
    embeds: torch.Tensor,
    results: list[Explanation],
    expected: list[list[int]],
    penalty: float = 1.0,
) -> None:
    ties = [
        reference.ties_at_first_difference(
            embeds[i], list(r.token_ids), expected[i], penalty=penalty
        )
        for i, r in enumerate(results)
    ]
    assert sum(ties) <= MOST_TIES
    distinct = {tuple(tokens) for tokens in expected}
    assert len(distinct) >= len(expected) / 2, "rows cannot be told apart"


def test_greedy_while_sequences_join_and_leave(reference: ReferenceVerbalizer, pair: Pair) -> None:
    """28 sequences of 1 to 64 tokens in 7 slots, submitted at different steps."""
    engine = small_engine(pair.av, num_slots=7, page_size=5, max_new_tokens=NUM_TOKENS)
    limits = [64, 64, 1, 40, 64, 7, 64, 13, 64, 2, 64, 64, 30, 64]
    limits += [64, 3, 64, 21, 64, 64, 50, 64, 8, 64, 64, 5, 64, 33]
    rows = activations(len(limits), engine.facts.d_model)
    waves: dict[int, dict[str, Any]] = {}
    for index, limit in enumerate(limits):
        sent = request(rows[index : index + 1], temperature=0.0, max_new_tokens=limit)
        waves.setdefault((index // 4) * 9, {})[f"r{index}"] = sent
    found = run_in_waves(engine, waves)
    results = [found[f"r{index}", 0, 0] for index in range(len(limits))]
    embeds = reference.embeds(rows)
    expected = reference.generate(embeds, NUM_TOKENS)
    assert sum(len(tokens) > 1 for tokens in expected) > len(expected) // 2
    expected = [tokens[:limit] for tokens, limit in zip(expected, limits, strict=True)]
    ties = [
        reference.ties_at_first_difference(embeds[i], list(result.token_ids), expected[i])
        for i, result in enumerate(results)
    ]
    assert sum(ties) <= MOST_TIES
    for result, tokens in zip(results, expected, strict=True):
        ended = "eos" if tokens[-1] in reference.eos_ids else "length"
        assert result.finish_reason == ended or list(result.token_ids) != tokens
    assert len({token for tokens in expected for token in tokens}) > 100, "too few tokens in use"
    assert_idle(engine)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logprob(reference: ReferenceVerbalizer, pair: Pair, temperature: float) -> None:
    """Of the tokens that came out, greedy or drawn, at the temperature they were drawn at."""
    engine = small_engine(pair.av)
    rows = activations(6, engine.facts.d_model, seed=3)
    results = engine.verbalize(
        request(rows, temperature=temperature, max_new_tokens=NUM_TOKENS, seed=11, top_k=50)
    )
    embeds = reference.embeds(rows)
    for index, result in enumerate(results):
        tokens = list(result.token_ids)
        logits = reference.logits(embeds[index], tokens)[:-1].double()
        logprobs = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
        expected = logprobs.gather(1, torch.tensor(tokens).unsqueeze(1)).sum()
        assert abs(result.logprob - float(expected)) < LOGPROB_TOLERANCE * len(tokens)


def test_repetition_penalty(reference: ReferenceVerbalizer, pair: Pair) -> None:
    """As generate's own processor, which sees generated tokens only when given embeddings."""
    _check_greedy(reference, pair.av, n=6, num_tokens=40, penalty=1.3)


def test_generation_config_sets_no_penalty(
    reference: ReferenceVerbalizer, pair: Pair, copy_of: Callable[[Path], Path]
) -> None:
    directory = copy_of(pair.av)
    edit_json(
        directory / "generation_config.json",
        lambda config: config.update(
            repetition_penalty=1.9, do_sample=True, temperature=0.2, top_k=1
        ),
    )
    engine = small_engine(directory)
    rows = activations(4, engine.facts.d_model, seed=5)
    results = engine.verbalize(request(rows, temperature=0.0, max_new_tokens=24))
    embeds = reference.embeds(rows)
    _compare(reference, embeds, results, reference.generate(embeds, 24))
    penalised = reference.generate(embeds, 24, repetition_penalty=1.9)
    assert penalised != reference.generate(embeds, 24), "a penalty would go unseen"
    drawn = engine.verbalize(request(rows, seed=1, max_new_tokens=24))
    assert [r.token_ids for r in drawn] != [r.token_ids for r in results]


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("gemma3", {"wrapped": True}),
        ("gemma3", {"tied": False}),
        ("qwen2", {"tied": True, "sharded": True}),
        ("llama3", {"tied": True}),
    ],
)
def test_layouts(arch: str, options: dict[str, Any], tmp_path: Path) -> None:
    av = write_av(tmp_path / "av", arch, seed=7, **options)
    cached = not options.get("wrapped")
    _check_greedy(ReferenceVerbalizer(av), av, n=6, num_tokens=24, cached=cached)


def test_a_window_shorter_than_the_prefix_is_in_use(pairs: dict[str, Pair]) -> None:
    """Parity on Gemma proves windows inside the prefix only if they are shorter than it."""
    engine = small_engine(pairs["gemma3"].av)
    windows = {layer.window for layer in engine.runner.decoder.spec.layers}
    assert None in windows and min(w for w in windows if w) < engine.facts.prefix_len


@contextmanager
def _adding(reference: ReferenceVerbalizer, directions: torch.Tensor) -> Iterator[None]:
    """||h_1|| times each row's unit direction onto the output of block 1 at the marker."""
    length, at = len(reference.ids), reference.marker_position

    def add(module: Any, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[1] >= length:
            hidden[:, at] += hidden[:, at].norm(dim=-1, keepdim=True) * directions
        return output

    handle = text_model(reference.model).layers[1].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def test_injection_by_addition(reference: ReferenceVerbalizer, pair: Pair) -> None:
    rows = activations(12, text_model(reference.model).config.hidden_size, seed=9)
    unit = rows / rows.norm(dim=-1, keepdim=True)
    ids = torch.tensor([reference.ids]).expand(len(rows), -1)
    embeds = reference.model.get_input_embeddings()(ids).detach()
    engine = small_engine(pair.av, injection_mode="add")
    results = engine.verbalize(request(rows, temperature=0.0, max_new_tokens=32))
    with _adding(reference, unit):
        expected = reference.generate(embeds, 32)
    ties = 0
    for i, result in enumerate(results):
        with _adding(reference, unit[i : i + 1]):
            ties += reference.ties_at_first_difference(
                embeds[i], list(result.token_ids), expected[i]
            )
    assert ties <= MOST_TIES
    assert len({tuple(row) for row in expected}) > 1, "the direction does not show"
    assert expected != reference.generate(embeds, 32), "the addition does not show"
