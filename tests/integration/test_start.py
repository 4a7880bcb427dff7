"""From loading to ready: what a server says and answers meanwhile, and what its engine is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1.gloss_pb2_grpc import GlossServiceStub
from gloss_client import Client
from gloss_engine import load_engine
from gloss_server.embedded import embedded_pair
from support.server_process import ServerProcess
from support.service_calls import fault, pushback_ms, verbalize_request

HELD = (sys.executable, "-m", "support.serve_with_worker", "support.held_worker")
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


def _start_seconds(server: ServerProcess) -> dict[str, float]:
    """The metric, by phase."""
    with urlopen(f"http://{server.ports['metrics']}/metrics") as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    (family,) = [each for each in families if each.name == "gloss_engine_start_seconds"]
    return {sample.labels["phase"]: sample.value for sample in family.samples}


def test_ready_comes_after_the_warm_up(
    tmp_path: Path, story_rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the loop of a GPU: until it is warm nothing is served, and the log says where it is."""
    monkeypatch.setenv("WARM_UP_DIRECTORY", str(tmp_path))
    address = f"unix:{tmp_path}/socket"
    settings: dict[str, object] = {
        "num_slots": 8,
        "max_step_tokens": 24,
        "memory_fraction": 0.5,
        "graphs": "off",
    }
    with (
        ServerProcess(tmp_path / "log", {"address": address}, settings, HELD) as server,
        grpc.insecure_channel(address) as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        server.wait_for(lambda: bool(server.events("engine_warming_up")), 60)
        assert check(health_pb2.HealthCheckRequest(), timeout=5).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            GlossServiceStub(channel).GetModelInfo(pb.GetModelInfoRequest(), timeout=5)
        assert fault(caught.value) == ("UNAVAILABLE", "LOADING", None)
        assert pushback_ms(caught.value)
        assert "gloss ready" not in server.output() and not server.events("engine_loaded")
        (tmp_path / "go").touch()
        server.wait_ready()
        server.wait_for(lambda: check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING)
        reply = server.stub.Verbalize(verbalize_request(story_rows[:3]), timeout=30)
        assert len(reply.explanations) == 3
        events = [line["event"] for line in server.lines() if line["event"] != "call"]
        assert events == [
            "starting",
            "engine_loading",
            "engine_warming_up",
            "engine_loaded",
            "ready",
        ]
        (starting,) = server.events("starting")
        assert starting["pid"] == server.process.pid and starting["memory_fraction"] == 0.5
        (warming,), (loaded,) = server.events("engine_warming_up"), server.events("engine_loaded")
        # Real sizes ran: a CPU without a list has nothing to do, which takes microseconds.
        assert loaded["warm_up_seconds"] > 0.001 and warming["load_seconds"] > 0
        assert _start_seconds(server) == pytest.approx(
            {"loading": warming["load_seconds"], "warm_up": loaded["warm_up_seconds"]}, abs=1e-5
        )
    told = json.loads((tmp_path / "config.json").read_text())
    assert settings.items() <= told.items() and told["batch_invariant"] is False


def test_batch_invariance_is_served_and_told(tmp_path: Path, story_rows: np.ndarray) -> None:
    """An activation alone draws to the last bit what it draws among others."""
    settings: dict[str, object] = {"batch_invariant": "true", "num_slots": 24}
    with ServerProcess(tmp_path / "log", settings=settings) as server:
        server.wait_ready()
        among = server.stub.Verbalize(verbalize_request(story_rows[:40], seed=5))
        alone = server.stub.Verbalize(verbalize_request(story_rows[:1], seed=5))
        with Client(server.address) as client:
            info = client.model_info()
        (loaded,) = server.events("engine_loaded")
    assert info.batch_invariant and loaded["warm_up_seconds"] > 0.001
    pair = embedded_pair()
    plain = load_engine(pair.av, pair.ar, target=pair.target).info
    assert plain is not None and not plain.batch_invariant
    assert info.fingerprint == plain.fingerprint
    one, same = alone.explanations[0], among.explanations[0]
    assert (one.token_ids, one.logprob) == (same.token_ids, same.logprob)
