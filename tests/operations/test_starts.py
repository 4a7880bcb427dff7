"""How a server starts: what it refuses, where it listens, what it says while it loads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from safetensors import safe_open

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from gloss_server.embedded import embedded_pair
from support.checkpoints import Pair
from support.edits import edit_sidecar
from support.invariants import CheckedServer
from support.server_process import ServerProcess
from support.service_calls import (
    NOT_SERVING,
    SERVING,
    fault,
    health,
    pushback_ms,
    verbalize_request,
)

WITH_WORKER = (sys.executable, "-m", "support.serve_with_worker")
Stub = gloss_pb2_grpc.GlossServiceStub


def test_an_engine_that_does_not_fit(tmp_path: Path) -> None:
    """One line that says what is too large, at once; no traceback among the JSON lines."""
    settings: dict[str, object] = {"num_slots": 10**8}
    with ServerProcess(tmp_path / "log", settings=settings) as server:
        assert server.process.wait(30) == 1
        (line,) = [line for line in server.output().splitlines() if line.startswith("error:")]
        assert "device memory: it does not suffice for the checkpoints" in line
        assert "larger device" in line and "Traceback" not in server.output()
        assert not server.events("engine_died")


def _cut_off(pair: Pair) -> str:
    path = pair.av / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return path.name


def _without_a_shard(pair: Pair) -> str:
    whole = pair.av / "model.safetensors"
    with safe_open(whole, framework="pt") as handle:
        names = list(handle.keys())
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    whole.rename(pair.av / shards[0])
    index = {"weight_map": {name: shards[number % 2] for number, name in enumerate(names)}}
    (pair.av / f"{whole.name}.index.json").write_text(json.dumps(index))
    return shards[1]


def _other_marker(pair: Pair) -> str:
    edit_sidecar(pair.av, lambda meta: meta["tokens"].update(injection_token_id=5))
    return "injection"


def _marker_of_several_tokens(pair: Pair) -> str:
    edit_sidecar(pair.av, lambda meta: meta["tokens"].update(injection_char="two words"))
    return "injection"


def _other_neighbour(pair: Pair) -> str:
    edit_sidecar(pair.av, lambda meta: meta["tokens"].update(injection_left_neighbor_id=7))
    return "neighbour"


def _other_width(pair: Pair) -> str:
    edit_sidecar(pair.av, lambda meta: meta.update(d_model=64))
    return "d_model"


def _other_layer(pair: Pair) -> str:
    edit_sidecar(pair.ar, lambda meta: meta["extraction"].update(layer_index=1))
    return "layer"


def _other_suffix(pair: Pair) -> str:
    edit_sidecar(pair.ar, lambda meta: meta["tokens"].update(critic_suffix_ids=[5, 6]))
    return "suffix"


def _no_json(pair: Pair) -> str:
    path = pair.ar / "config.json"
    path.write_text(path.read_text()[:-20])
    return path.name


def _no_tokenizer(pair: Pair) -> str:
    (pair.av / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    return "tokenizer"


def _no_config(pair: Pair) -> str:
    (pair.av / "config.json").unlink()
    return "config.json"


DAMAGES = (
    *(_cut_off, _without_a_shard, _other_marker, _marker_of_several_tokens, _other_neighbour),
    *(_other_width, _other_layer, _other_suffix, _no_json, _no_tokenizer, _no_config),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_checkpoint_that_cannot_be_served(
    tmp_path: Path, copy_of: Callable[[Path], Path], damage: Callable[[Pair], str]
) -> None:
    """One line that says what was got and expected and what to do; JSON lines beside it."""
    whole = embedded_pair()
    pair = Pair(av=copy_of(whole.av), ar=copy_of(whole.ar))
    named = damage(pair)
    with ServerProcess(tmp_path / "log", {"av": pair.av, "ar": pair.ar}) as server:
        assert server.process.wait(120) == 1
        (line,) = [line for line in server.output().splitlines() if not line.startswith("{")]
        said = re.fullmatch(r"error: (.+): got (.+), expected (.+?)\. (\S.+\.)", line)
        assert said is not None and named in line, line
        assert server.lines()[-1]["event"] == "stopped" and not server.events("engine_died")


def test_a_socket_in_use(tmp_path: Path, story_rows: np.ndarray) -> None:
    """A live server keeps its place; what a killed one left behind is taken over."""
    address = f"unix:{tmp_path}/socket"
    with CheckedServer(tmp_path / "a", {"address": address}).wait_ready() as first:
        with ServerProcess(tmp_path / "b", {"address": address}) as second:
            assert second.process.wait(20) == 2
            assert f"--address {address}: cannot listen there" in second.output()
        assert first.stub.Verbalize(verbalize_request(story_rows[:1])).explanations
    assert (tmp_path / "socket").exists(), "the killed server left nothing behind"
    with CheckedServer(tmp_path / "c", {"address": address}).wait_ready() as third:
        assert third.stub.Verbalize(verbalize_request(story_rows[:1])).explanations


@pytest.mark.parametrize("address", ["unix:/nowhere/socket", "203.0.113.1:50051"])
def test_an_address_of_nobody(tmp_path: Path, address: str) -> None:
    with ServerProcess(tmp_path / "log", {"address": address}) as server:
        assert server.process.wait(20) == 2
        (line,) = [line for line in server.output().splitlines() if line.startswith("error:")]
        assert line.startswith(f"error: --address {address}: cannot listen there")


def test_a_port_in_use(tmp_path: Path) -> None:
    with CheckedServer(tmp_path / "first").wait_ready() as first:
        for name, port in (("address", "address"), ("metrics-address", "metrics")):
            address = first.ports[port]
            with ServerProcess(tmp_path / name, {name: address}) as server:
                assert server.process.wait(20) == 2
                assert address in server.output() and "error:" in server.output()


def test_traces_without_opentelemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not installed: one line says so, before anything is loaded."""
    absent = tmp_path / "absent" / "opentelemetry.py"
    absent.parent.mkdir()
    absent.write_text("raise ModuleNotFoundError(\"No module named 'opentelemetry'\")")
    paths = [str(absent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    url = "http://127.0.0.1:4317"
    with ServerProcess(tmp_path / "log", settings={"traces": url}) as server:
        assert server.process.wait(20) == 2
        assert server.output().splitlines() == [
            f"error: traces = {url}: OpenTelemetry is not installed (No module named "
            "'opentelemetry'); pip install 'gloss-nla[traces]', or take the setting away"
        ]


def test_a_signal_while_it_loads(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log") as server:
        server.wait_for(lambda: bool(server.events("engine_loading")))
        assert server.terminate(5) == 0


def test_while_it_loads(tmp_path: Path, story_rows: np.ndarray) -> None:
    address = f"unix:{tmp_path}/socket"
    with (
        CheckedServer(tmp_path / "log", {"address": address}) as server,
        server.open_channel(address=address) as channel,
    ):
        server.wait_for(lambda: bool(server.events("engine_loading")))
        assert health(channel) == NOT_SERVING
        assert health(channel, "liveness") == SERVING
        stub = Stub(channel)
        for call, request in (
            (stub.Verbalize, verbalize_request(story_rows[:1])),
            (stub.GetModelInfo, pb.GetModelInfoRequest()),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=5)
            assert fault(caught.value) == ("UNAVAILABLE", "LOADING", None)
            assert pushback_ms(caught.value)
        assert stub.GetStats(pb.GetStatsRequest()).state == pb.SERVING_STATE_LOADING
        server.wait_ready()
        assert server.address == address
        assert stub.Verbalize(verbalize_request(story_rows[:1])).explanations


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full"])
def test_nobody_hears_what_it_says(
    tmp_path: Path, story_rows: np.ndarray, redirection: str
) -> None:
    """Closed or full stdout and stderr: it serves, and ends well."""
    address = f"unix:{tmp_path}/socket"
    gloss = f"exec {sys.executable} -m gloss_server.command serve --metrics-address ''"
    process = subprocess.Popen(["bash", "-c", f"{gloss} --address {address} {redirection}"])
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(30)
            deadline = time.monotonic() + 30
            while health(channel) != SERVING:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
            assert Stub(channel).Verbalize(verbalize_request(story_rows[:1])).explanations
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
