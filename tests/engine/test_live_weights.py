"""Weights replaced while the engine stays: it is then the engine of those weights, to the bit, at
the old addresses; what does not fit changes nothing; checksums tell copies apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gloss_engine.config import EngineConfig
from gloss_engine.engine import Engine
from gloss_engine.errors import WeightsError
from gloss_engine.loading import load_engine
from gloss_engine.models import linear
from gloss_engine.request import Explanation
from gloss_engine.weight_checksum import weights_checksum
from support.checkpoints import Pair, write_pair, write_target
from support.engine_runs import activations, assert_idle, request, small_engine

Weights = dict[str, Tensor]


def av_weights(directory: Path) -> Weights:
    """The weights of a checkpoint by their names in it."""
    return load_file(directory / "model.safetensors")


def ar_weights(directory: Path) -> Weights:
    """The same of an AR, its head among them."""
    head = load_file(directory / "value_head.safetensors")
    return av_weights(directory) | {f"value_head.{name}": t for name, t in head.items()}


def explained(engine: Engine) -> list[Explanation]:
    """What an engine says of a few activations."""
    width = engine.facts.d_model
    assert width is not None
    asked = request(activations(3, width), num_samples=2, seed=4, temperature=0.8, max_new_tokens=9)
    return [replace(explanation, request_id="") for explanation in engine.verbalize(asked)]


def tokens(engine: Engine) -> list[tuple[int, ...]]:
    return [explanation.token_ids for explanation in explained(engine)]


def addresses(engine: Engine) -> list[int]:
    """Where the AV's weights and its prefix are."""
    program = engine.runner.program
    assert program.prefix is not None
    named = [tensor for _, tensor in sorted(engine.runner.decoder.targets().items())]
    return [t.data_ptr() for t in (*named, program.prefix.keys, program.prefix.values)]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Pairs of the same shapes with other weights; Gemma's wrapped, as checkpoints may be."""
    root = tmp_path_factory.mktemp("others")
    return {
        arch: write_pair(root / arch, arch, seed=50, wrapped=arch == "gemma3")
        for arch in ("qwen2", "qwen3", "llama3", "gemma3")
    }


@pytest.mark.parametrize("packed", [False, True])
def test_an_updated_engine_is_the_engine_of_those_weights(
    pair: Pair,
    arch: str,
    others: dict[str, Pair],
    packed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if packed:
        monkeypatch.setattr(linear, "_MIN_PACKED_ELEMENTS", 1)
    other = others[arch]
    engine = small_engine(pair.av, pair.ar, fve_baseline=0.9)
    fresh = small_engine(other.av, other.ar, fve_baseline=0.9)
    before, where = tokens(engine), [] if packed else addresses(engine)
    lost = engine.update_weights(av_weights(other.av).items(), ar_weights(other.ar).items())
    assert lost == 0.0
    expected = explained(fresh)
    assert explained(engine) == expected
    assert before != [explanation.token_ids for explanation in expected]
    assert all(explanation.mse is not None for explanation in expected)
    assert where == ([] if packed else addresses(engine))
    assert engine.weights_checksum() == fresh.weights_checksum()
    assert_idle(engine)


def test_an_iterator_serves_and_the_ar_may_stay(
    pair: Pair, others: dict[str, Pair], arch: str
) -> None:
    engine = small_engine(pair.av, pair.ar, fve_baseline=0.9)
    before = engine.weights_checksum()
    engine.update_weights(iter(av_weights(others[arch].av).items()))
    alone = small_engine(others[arch].av, pair.ar, fve_baseline=0.9)
    assert engine.weights_checksum() == alone.weights_checksum() != before
    assert explained(engine) == explained(alone)


def test_a_prefix_of_old_keys_would_show(pairs: dict[str, Pair], others: dict[str, Pair]) -> None:
    """The comparison above can fail: with the old prefix other tokens come."""
    engine = small_engine(pairs["qwen2"].av)
    prefix = engine.runner.program.prefix
    assert prefix is not None
    keys, values = prefix.keys.clone(), prefix.values.clone()
    engine.update_weights(av_weights(others["qwen2"].av).items())
    right = tokens(engine)
    with torch.inference_mode():
        prefix.keys.copy_(keys)
        prefix.values.copy_(values)
    assert tokens(engine) != right


def without_one(weights: Weights) -> Weights:
    return {name: t for name, t in weights.items() if "layers.1.mlp.up" not in name}


def with_one_more(weights: Weights) -> Weights:
    return weights | {"model.layers.9.mlp.up_proj.weight": torch.ones(3)}


def with_another_shape(weights: Weights) -> Weights:
    return weights | {"model.norm.weight": torch.ones(71)}


def with_integers(weights: Weights) -> Weights:
    return weights | {"model.norm.weight": torch.ones(72, dtype=torch.int32)}


def with_one_twice(weights: Weights) -> Weights:
    return weights | {"norm.weight": torch.ones(72)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_one, r"model\.layers\.1\.mlp\.up_proj\.weight missing"),
        (with_one_more, r"model\.layers\.9\.mlp\.up_proj\.weight unknown"),
        (with_another_shape, r"model\.norm\.weight \[71\] torch\.float32 for \[72\]"),
        (with_integers, r"model\.norm\.weight \[72\] torch\.int32"),
        (with_one_twice, r"norm\.weight given twice"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_does_not_fit_changes_nothing(
    pairs: dict[str, Pair],
    others: dict[str, Pair],
    change: Callable[[Weights], Weights],
    message: str,
    packed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if packed:
        monkeypatch.setattr(linear, "_MIN_PACKED_ELEMENTS", 1)
    engine = small_engine(pairs["qwen2"].av)
    before, said = engine.weights_checksum(), tokens(engine)
    with pytest.raises(WeightsError, match=message):
        engine.update_weights(change(av_weights(others["qwen2"].av)).items())
    assert engine.weights_checksum() == before and tokens(engine) == said


def test_an_ar_that_does_not_fit_leaves_the_av_too(
    pairs: dict[str, Pair], others: dict[str, Pair]
) -> None:
    other = others["qwen2"]
    engine = small_engine(pairs["qwen2"].av, pairs["qwen2"].ar, fve_baseline=0.9)
    before = engine.weights_checksum()
    headless = av_weights(other.ar)
    with pytest.raises(WeightsError, match=r"weights of the AR.*value_head\.weight missing"):
        engine.update_weights(av_weights(other.av).items(), headless.items())
    assert engine.weights_checksum() == before
    alone = small_engine(pairs["qwen2"].av)
    before = alone.weights_checksum()
    with pytest.raises(WeightsError, match="no AR is loaded"):
        alone.update_weights(av_weights(other.av).items(), ar_weights(other.ar).items())
    assert alone.weights_checksum() == before


@pytest.mark.parametrize("lag", [0, 1])
def test_it_is_refused_while_anything_is_in_flight(pairs: dict[str, Pair], lag: int) -> None:
    engine = small_engine(pairs["qwen2"].av, lag=lag)
    weights = av_weights(pairs["qwen2"].av)
    engine.submit(request(activations(1, 72), max_new_tokens=4), "running")
    while engine.has_work:
        with pytest.raises(WeightsError, match="in flight"):
            engine.update_weights(weights.items())
        engine.step()
    engine.update_weights(weights.items())
    engine.submit(request(activations(1, 72), max_new_tokens=40), "cancelled")
    engine.step()
    engine.cancel("cancelled")
    while engine.has_work:
        engine.step()
    engine.update_weights(weights.items())
    assert_idle(engine)


def test_quantised_pairs_and_shared_targets_are_refused(
    pairs: dict[str, Pair], tmp_path: Path
) -> None:
    weights = av_weights(pairs["qwen2"].av)
    quantised = small_engine(pairs["qwen2"].av, quantization="fp8")
    with pytest.raises(WeightsError, match="quantization: got fp8"):
        quantised.update_weights(weights.items())
    target = write_target(tmp_path / "same", "qwen2")
    config = EngineConfig(device="cpu", dtype="float32", num_slots=4)
    sharing = load_engine(pairs["qwen2"].av, config=config, target=target)
    with pytest.raises(WeightsError, match="shares .* with the AV"):
        sharing.update_weights(weights.items())
    other = write_target(tmp_path / "other", "qwen2", seed=9)
    apart = load_engine(pairs["qwen2"].av, config=config, target=other)
    apart.update_weights(weights.items())


def test_what_rounding_loses_is_told(pairs: dict[str, Pair]) -> None:
    """All of a change far below a bfloat16's last bit, next to nothing of one far above it."""
    engine = small_engine(pairs["qwen2"].av, dtype="bfloat16")
    weights = av_weights(pairs["qwen2"].av)
    engine.update_weights(weights.items())
    held = {name: tensor.bfloat16() for name, tensor in weights.items()}
    assert engine.weights_checksum() == weights_checksum(held.items(), dtype=torch.bfloat16)
    assert engine.update_weights(held.items()) == 0.0
    near = {name: tensor.float() * (1 + 2**-12) for name, tensor in held.items()}
    assert engine.update_weights(near.items()) == 1.0
    far = {name: tensor * 1.5 + 1 for name, tensor in weights.items()}
    lost = engine.update_weights(far.items())
    squares = [
        sum(float((a - b).double().square().sum()) for a, b in pairs_of)
        for pairs_of in (
            [(far[name], far[name].bfloat16().float()) for name in far],
            [(far[name], held[name].float()) for name in far],
        )
    ]
    assert lost == pytest.approx((squares[0] / squares[1]) ** 0.5, rel=1e-4)
    assert 0 < lost < 0.01
    assert engine.weights_checksum() == weights_checksum(far.items(), dtype=torch.bfloat16)


class TestChecksum:
    """What two copies have in common, and what tells them apart."""

    @pytest.fixture
    def weights(self) -> Weights:
        generator = torch.Generator().manual_seed(0)
        shapes = {"model.norm.weight": (7,), "lm_head.weight": (5, 3), "model.a.bias": (4,)}
        return {n: torch.randn(*shape, generator=generator) for n, shape in shapes.items()}

    def sums(self, weights: Weights, dtype: torch.dtype = torch.float32) -> str:
        return weights_checksum(weights.items(), dtype=dtype)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_order_layout_and_wrappers_do_not_matter(
        self, weights: Weights, dtype: torch.dtype
    ) -> None:
        expected = self.sums(weights, dtype)
        again = {name: weights[name] for name in reversed(weights)}
        again["lm_head.weight"] = weights["lm_head.weight"].t().contiguous().t()
        padded = torch.cat((torch.zeros(1), weights["model.norm.weight"]))
        again["model.norm.weight"] = padded[1:]
        again["model.vision_tower.x.weight"] = torch.ones(2)
        again["language_model.lm_head.weight"] = again.pop("lm_head.weight")
        assert self.sums(again, dtype) == expected
        assert len(expected) == 16

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_every_change_shows(self, weights: Weights, dtype: torch.dtype) -> None:
        seen = {self.sums(weights, dtype)}
        for name, tensor in weights.items():
            for place in range(tensor.numel()):
                changed = tensor.clone()
                changed.view(-1)[place] *= 1.01
                seen.add(self.sums(weights | {name: changed}, dtype))
            seen.add(self.sums(weights | {name: tensor.flip(0)}, dtype))
            seen.add(self.sums(weights | {name: torch.zeros_like(tensor)}, dtype))
            seen.add(self.sums({n: t for n, t in weights.items() if n != name}, dtype))
        seen.add(self.sums(weights | {"model.other.bias": weights["model.a.bias"]}, dtype))
        seen.add(weights_checksum((), weights.items(), dtype=dtype))
        assert len(seen) == 1 + 26 + 3 * 3 + 2

    def test_what_rounding_hides_does_not_show(self, weights: Weights) -> None:
        near = {name: tensor * (1 + 1e-7) for name, tensor in weights.items()}
        held = {name: tensor.bfloat16() for name, tensor in weights.items()}
        assert self.sums(near, torch.bfloat16) == self.sums(held, torch.bfloat16)
        head = {"value_head.weight": torch.randn(3, 3)}
        near_head = {name: tensor * (1 + 1e-6) for name, tensor in head.items()}
        assert self.sums(head, torch.bfloat16) != self.sums(near_head, torch.bfloat16)

    def test_chunks_of_a_long_weight_have_places(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gloss_engine.weight_checksum._CHUNK_WORDS", 4)
        chunks = torch.arange(16.0).split(8)
        one, two = torch.cat(chunks), torch.cat(chunks[::-1])
        assert self.sums({"a": one}) != self.sums({"a": two})


def test_log_probabilities_come_where_they_are_asked_for(pairs: dict[str, Pair]) -> None:
    engine = small_engine(pairs["qwen2"].av)
    rows = activations(3, 72)
    settings = {"num_samples": 2, "seed": 3, "temperature": 0.7, "max_new_tokens": 12}
    plain = engine.verbalize(request(rows, **settings))
    asked = engine.verbalize(request(rows, options={"token_logprobs": True}, **settings))
    for one, other in zip(plain, asked, strict=True):
        assert one.token_logprobs == () and one.token_ids == other.token_ids
        assert len(other.token_logprobs) == len(other.token_ids)
        assert all(logprob < 0 for logprob in other.token_logprobs)
        assert sum(other.token_logprobs) == other.logprob == one.logprob
    for explanation in engine.verbalize(
        request(torch.zeros(1, 72), options={"token_logprobs": True}, max_new_tokens=2)
    ):
        assert explanation.error is not None and explanation.token_logprobs == ()
