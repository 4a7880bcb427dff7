"""`gloss serve --quantization fp8`: what is served is quantised, and says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import Client
from gloss_engine import EngineConfig, SamplingParams, VerbalizeRequest, load_engine
from gloss_server.embedded import embedded_pair
from support.server_process import ServerProcess
from support.service_calls import verbalize_request


def test_the_served_explanations_are_those_of_a_quantised_engine(
    story_rows: np.ndarray, tmp_path: Path
) -> None:
    rows, pair = story_rows[:60], embedded_pair()
    with ServerProcess(tmp_path / "log", {"quantization": "fp8"}) as server:
        server.wait_ready()
        info = server.stub.GetModelInfo(pb.GetModelInfoRequest())
        reply = server.stub.Verbalize(verbalize_request(rows, seed=3))
        with Client(server.ports["address"]) as client:
            assert client.model_info().quantization == "fp8"
    tokens, scores = {}, {}
    for quantization in ("none", "fp8"):
        config = EngineConfig(quantization=quantization)
        engine = load_engine(pair.av, pair.ar, config, target=pair.target)
        assert engine.info is not None
        assert (engine.info.fingerprint == info.fingerprint) is (quantization == "fp8")
        local = engine.verbalize(
            VerbalizeRequest(activations=rows, sampling=SamplingParams(seed=3))
        )
        tokens[quantization] = [each.token_ids for each in local]
        scores[quantization] = [each.cosine for each in local]
    assert info.quantization == "fp8" and reply.fingerprint == info.fingerprint
    got = [tuple(each.token_ids) for each in reply.explanations]
    # Another batch, another order of sums, a value at a step's edge: rare, and far less than what
    # fp8 costs.
    assert sum(a != b for a, b in zip(got, tokens["fp8"], strict=True)) <= 2
    assert got != tokens["none"]
    cosines = np.array([each.evidence.cosine for each in reply.explanations])
    apart = {name: np.abs(cosines - np.array(kept)) for name, kept in scores.items()}
    assert np.median(apart["fp8"]) < 1e-5 < np.median(apart["none"])
