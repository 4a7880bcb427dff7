"""The pair that ships is worth shipping: its published figures, made again from what is shipped."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gloss_engine import EngineConfig, Explanation, SamplingParams, VerbalizeRequest, load_engine
from gloss_engine.ar.reconstructor import Reconstructor
from gloss_engine.ar.scorer import Scorer
from gloss_kernels import Operations
from gloss_server.embedded import EmbeddedPair, embedded_pair
from gloss_training.evaluation.fidelity import other_documents
from gloss_training.evaluation.truth import truth_figures
from gloss_training.world.claims import judge
from gloss_training.world.stories import split_words


@pytest.fixture(scope="module")
def pair() -> EmbeddedPair:
    return embedded_pair()


@pytest.fixture(scope="module")
def shipped(pair: EmbeddedPair) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = pq.read_table(pair.activations).to_pydict()
    return columns


@pytest.fixture(scope="module")
def activations(shipped: dict[str, list[object]]) -> torch.Tensor:
    return torch.tensor(np.array(shipped["activation_vector"], dtype=np.float32))


@pytest.fixture(scope="module")
def explanations(pair: EmbeddedPair, activations: torch.Tensor) -> list[Explanation]:
    engine = load_engine(pair.av, pair.ar, EngineConfig(device="cpu"))
    request = VerbalizeRequest(activations=activations, sampling=SamplingParams(seed=0))
    return engine.verbalize(request)


def test_enough_held_out_activations_ship(shipped: dict[str, list[object]]) -> None:
    assert len(shipped["doc_id"]) >= 200
    assert len(set(shipped["doc_id"])) >= 10


def test_every_explanation_is_whole_and_scored(explanations: list[Explanation]) -> None:
    closed = [e for e in explanations if e.finish_reason in ("closing_tag", "eos")]
    assert len(closed) >= 0.98 * len(explanations)
    assert all(e.error is None and e.fve is not None for e in explanations)


def test_explanations_rebuild_their_activations(explanations: list[Explanation]) -> None:
    """The bound of a pair that may ship; the README's figures are of more rows."""
    assert np.mean([e.fve for e in explanations]) >= 0.25


def test_explanations_of_other_stories_rebuild_nothing(
    pair: EmbeddedPair, explanations: list[Explanation], activations: torch.Tensor
) -> None:
    reconstructor = Reconstructor.load(
        pair.ar,
        operations=Operations("reference"),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    scorer = Scorer(reconstructor, reconstructor.sidecar.fve_baseline)
    texts = [e.explanation for e in explanations]
    scores = scorer.score(texts, other_documents(activations))
    assert np.mean([score.fve for score in scores if score is not None]) <= 0


def test_claims_are_true(explanations: list[Explanation], shipped: dict[str, list[object]]) -> None:
    verdicts = [
        judge(e.explanation, json.loads(str(facts)), split_words(str(text)))
        for e, facts, text in zip(explanations, shipped["facts"], shipped["text"], strict=True)
    ]
    figures = truth_figures(verdicts)
    assert figures["claim_precision"] >= 0.9
    assert figures["facts_per_explanation"] >= 2


def test_fp8_costs_little(
    pair: EmbeddedPair, explanations: list[Explanation], activations: torch.Tensor
) -> None:
    """Both the AV and the AR: 0.002 over all rows. One row scatters by 0.07, because another token
    drawn makes another explanation; the bound is six standard errors."""
    few = 200
    engine = load_engine(pair.av, pair.ar, EngineConfig(device="cpu", quantization="fp8"))
    sampling = SamplingParams(seed=0)
    quantized = engine.verbalize(VerbalizeRequest(activations=activations[:few], sampling=sampling))
    pairs = list(zip(explanations[:few], quantized, strict=True))
    assert 0.5 * few < sum(a.token_ids == b.token_ids for a, b in pairs) < few
    costs = [a.fve - b.fve for a, b in pairs if a.fve is not None and b.fve is not None]
    assert len(costs) == few and abs(np.mean(costs)) < 0.03


def test_docs_state_what_fp8_costs_the_shipped_pair(pair: EmbeddedPair) -> None:
    root = pair.av.parents[3]
    result = json.loads((root / "benchmarks" / "results" / "quantization.json").read_text())
    exact, row = result["rows"]
    assert (exact["setting"], row["setting"]) == ("float32", "float32 fp8")
    text = " ".join((root / "docs" / "architecture.md").read_text().split())
    assert (
        f"{row['fve_cost']:.4f} FVE ({exact['fve']:.4f} to {row['fve']:.4f}, standard error "
        f"{row['fve_cost_se']:.4f}) over {row['explanations']:,} explanations of "
        f"{row['activations']} activations, and moves the logits by {row['logit_error']:.1%}"
    ) in text


def test_readme_states_the_figures_of_the_shipped_pair(pair: EmbeddedPair) -> None:
    figures = json.loads((pair.av.parent / "evaluation.json").read_text())
    readme = (pair.av.parents[3] / "README.md").read_text()
    for name in ("fve", "claim_precision", "fve_shuffled"):
        assert f"{figures[name]:.2f}" in readme, f"README.md does not state {name}"
