"""The engine on the Triton kernels, every architecture, and what decides between backends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from gloss_engine import config as config_module
from gloss_engine.config import ConfigError, EngineConfig
from gloss_engine.engine import Engine
from gloss_engine.request import Explanation
from support.backends import ON_GPU
from support.checkpoints import Pair
from support.engine_runs import activations, drain, request, small_engine

NUM_TOKENS = 3


def _explanations(engine: Engine, scored: bool) -> list[Explanation]:
    """Greedy and filtered rows in one batch, and samples that share a prefill."""
    rows = activations(1, engine.facts.d_model, seed=5)
    options = {"score": scored}
    engine.submit(request(rows, temperature=0.0, max_new_tokens=NUM_TOKENS, options=options), "a")
    filtered = request(
        rows, num_samples=2, temperature=0.8, top_k=40, top_p=0.9, min_p=0.01,
        repetition_penalty=1.2, seed=3, max_new_tokens=NUM_TOKENS, options=options,
    )  # fmt: skip
    engine.submit(filtered, "b")
    results = drain(engine)
    return [results[key] for key in sorted(results)]


def test_kernels_and_reference_say_the_same(shallow_pairs: dict[str, Pair], arch: str) -> None:
    """float32 throughout, so that only the order of sums differs; one architecture scored, with
    sliding windows in the AR too."""
    pair, scored = shallow_pairs[arch], arch == "gemma3"
    ar = pair.ar if scored else None
    settings = {"num_slots": 4, "max_new_tokens": NUM_TOKENS, "page_size": 4, "fve_baseline": 0.9}
    reference = small_engine(pair.av, ar, **settings)
    kernels = small_engine(
        pair.av, ar, kernels="triton", device="cuda" if ON_GPU else "cpu", **settings
    )
    assert (reference.info.kernels, kernels.info.kernels) == ("reference", "triton")
    assert reference.info.fingerprint != kernels.info.fingerprint
    expected, got = _explanations(reference, scored), _explanations(kernels, scored)
    assert len(got) == 3
    for plain, kernel in zip(expected, got, strict=True):
        assert kernel.error is None and kernel.token_ids == plain.token_ids
        assert kernel.explanation == plain.explanation
        assert kernel.finish_reason == plain.finish_reason
        assert kernel.logprob == pytest.approx(plain.logprob, abs=1e-4)
        if scored:
            assert kernel.cosine == pytest.approx(plain.cosine, abs=1e-4)


def test_the_add_dialect_on_kernels(shallow_pairs: dict[str, Pair]) -> None:
    settings = {"num_slots": 2, "max_new_tokens": 3, "injection_mode": "add"}
    device = "cuda" if ON_GPU else "cpu"
    tokens = []
    for backend, where in (("reference", "cpu"), ("triton", device)):
        engine = small_engine(shallow_pairs["qwen3"].av, kernels=backend, device=where, **settings)
        rows = activations(1, engine.facts.d_model)
        results = engine.verbalize(request(rows, temperature=0.0, max_new_tokens=3))
        tokens.append([result.token_ids for result in results])
    assert tokens[0] == tokens[1]


def test_a_poisoned_activation_stays_alone_on_kernels(shallow_pairs: dict[str, Pair]) -> None:
    """It is NaN inside the model; the other explanation is what it is alone, on the reference."""
    settings = {"num_slots": 2, "max_new_tokens": 2}
    where = {"device": "cuda" if ON_GPU else "cpu", "kernels": "triton"}
    engine = small_engine(shallow_pairs["qwen2"].av, **settings, **where)
    rows = activations(2, engine.facts.d_model)
    sampling = {"temperature": 0.0, "max_new_tokens": 2}
    reference = small_engine(shallow_pairs["qwen2"].av, **settings)
    alone = reference.verbalize(request(rows[:1], **sampling))
    engine.submit(request(rows, **sampling), "both")
    list(engine.scheduler.waiting)[1].activation.fill_(torch.nan)
    results = sorted(drain(engine).items())
    assert results[0][1].token_ids == alone[0].token_ids
    assert results[1][1].error is not None


def test_auto_is_the_kernels_on_a_gpu_and_else_the_reference() -> None:
    assert EngineConfig().operations().backend == ("triton" if ON_GPU else "reference")
    assert EngineConfig(device="cpu").operations().backend == "reference"


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="kernels: got 'cuda', expected one of auto, reference"):
        EngineConfig(kernels="cuda")


def test_a_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="triton is not installed"):
        EngineConfig(kernels="triton", device="cpu").operations()


def test_kernels_on_a_cpu_are_refused_without_the_interpreter() -> None:
    code = """
from gloss_engine.config import EngineConfig
EngineConfig(kernels="triton", device="cpu").operations()
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "kernels: got triton on a CPU, expected reference" in done.stderr


def test_the_reference_imports_no_triton() -> None:
    code = (
        "import gloss_engine.loading, sys; gloss_engine.EngineConfig(device='cpu').operations()\n"
    )
    code += "assert not [name for name in sys.modules if name.startswith('gloss_kernels.launch')]"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
