"""`gloss top` and `gloss health`: what they say of a server, and of one that is gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from gloss_api.v1 import gloss_pb2
from support.command_runs import Command
from support.screen import Screen
from support.status_server import StatusServer

HOSTILE = "\x1b]0;owned\x07[bold]\u202e\n"


@pytest.fixture
def server() -> Iterator[StatusServer]:
    server = StatusServer()
    server.stats = gloss_pb2.GetStatsResponse(
        state=gloss_pb2.SERVING_STATE_SERVING,
        uptime_seconds=7384.5,
        calls_in_flight=12,
        running=48,
        num_slots=64,
        waiting=1234,
        kv_pages_used=16,
        kv_pages_total=64,
        tokens_per_second=28123.4,
        explanations_per_second=600.125,
        latencies=[
            gloss_pb2.LatencyQuantiles(
                name="first_token", count=512, p50=0.0031, p90=0.2, p95=1.5, p99=2.25
            )
        ],
        explanations=[gloss_pb2.NamedCount(name="eos", count=3_000_000_000)],
        item_errors=[gloss_pb2.NamedCount(name="ZERO_VECTOR", count=2)],
        rejections=[gloss_pb2.NamedCount(name="QUEUE_FULL", count=5)],
        generated_tokens=3_000_000_000,
        scored=10,
        mean_mse=0.25,
    )
    server.info = gloss_pb2.GetModelInfoResponse(
        model="qwen-av", version="0.1.0", fingerprint="0123456789abcdef", device="cpu"
    )
    server.info.dtype, server.info.fve_baseline = "float32", 1.0
    yield server
    server.stop()


def test_one_page(gloss: Command, server: StatusServer) -> None:
    ended = gloss("top", server.address)
    assert ended.status == 0 and ended.stderr == ""
    page = ended.stdout
    for shown in (
        *(server.address, "serving", "up 2:03:04", "qwen-av", "cpu", "float32", "gloss 0.1.0"),
        *("0123456789abcdef", "600.1", "28,123", "48 / 64", "75%", "16 / 64", "1,234"),
        *("first token", "512", "3.1 ms", "200.0 ms", "1.50 s", "2.25 s", "eos 3,000,000,000"),
        *("ZERO_VECTOR 2", "QUEUE_FULL 5", "mean mse 0.25 of 10 scored, mean FVE 0.750"),
    ):
        assert shown in page, shown
    assert gloss("top", server.address, "--once").stdout == page


@pytest.mark.parametrize(("quantization", "shown"), [("fp8", True), ("none", False), ("", False)])
def test_quantized_weights_stand_beside_the_type(
    gloss: Command, server: StatusServer, quantization: str, shown: bool
) -> None:
    server.info.quantization = quantization
    page = gloss("top", server.address).stdout
    assert ("float32  fp8" in page) is shown and "none" not in page


@pytest.mark.parametrize("invariant", [True, False])
def test_batch_invariance_stands_beside_the_type(
    gloss: Command, server: StatusServer, invariant: bool
) -> None:
    server.info.batch_invariant = invariant
    assert ("float32  batch-invariant" in gloss("top", server.address).stdout) is invariant


def test_a_server_that_loads_and_has_done_nothing(gloss: Command, server: StatusServer) -> None:
    server.info = None
    server.stats = gloss_pb2.GetStatsResponse(state=gloss_pb2.SERVING_STATE_LOADING)
    page = gloss("top", server.address).stdout
    assert "loading" in page and "0 / 0" in page and "up 0:00:00" in page
    assert "last minute" not in page and "mse" not in page and "nan" not in page


def test_json_for_scripts(gloss: Command, server: StatusServer) -> None:
    ended = gloss("top", server.address, "--json")
    (line,) = ended.stdout.splitlines()
    found = json.loads(line)
    assert found["address"] == server.address
    assert found["stats"]["state"] == "SERVING_STATE_SERVING"
    # Whole numbers stay numbers, where protobuf's own JSON would make them strings.
    assert found["stats"]["generated_tokens"] == 3_000_000_000
    assert found["stats"]["latencies"][0]["name"] == "first_token"
    assert found["stats"]["engine_restarts"] == 0
    assert found["model"]["model"] == "qwen-av" and found["model"]["ar"] is None
    assert found["model"]["layer_index"] is None and found["model"]["limits"] is None
    server.info = None
    server.stats = gloss_pb2.GetStatsResponse()
    found = json.loads(gloss("top", server.address, "--json").stdout)
    assert found["model"] is None and found["stats"]["mean_mse"] is None


def test_what_a_server_says_is_data(gloss: Command, server: StatusServer) -> None:
    assert server.info is not None
    server.info.model = HOSTILE + "x" * 100_000
    server.info.fingerprint = HOSTILE
    for counts in (server.stats.item_errors, server.stats.rejections, server.stats.explanations):
        counts[0].name = HOSTILE
        counts.extend([gloss_pb2.NamedCount(name=f"n{i}", count=1) for i in range(10_000)])
    server.stats.latencies[0].name = HOSTILE
    server.stats.latencies[0].p50 = float("nan")
    server.stats.latencies.extend([server.stats.latencies[0]] * 10_000)
    server.stats.uptime_seconds = float("inf")
    server.stats.running = -5
    page = gloss("top", server.address).stdout
    assert "\x1b" not in page and "\x07" not in page and "\u202e" not in page
    assert "[bold]" in page and len(page) < 10_000
    assert "\x1b" not in gloss("top", server.address, "--json").stdout


@pytest.mark.parametrize("command", ["top", "health"])
def test_no_server(gloss: Command, server: StatusServer, command: str) -> None:
    server.stop()
    ended = gloss(command, server.address)
    assert ended.status == 1
    assert ended.error.startswith(f"error: {server.address}: no server answers there")
    assert "gloss serve" in ended.error


@pytest.mark.parametrize(
    ("whole", "service", "said"),
    [
        (True, True, "SERVING"),
        (True, False, "NOT_SERVING"),
        (False, True, "NOT_SERVING"),
        (False, False, "NOT_SERVING"),
    ],
)
def test_health(
    gloss: Command, server: StatusServer, whole: bool, service: bool, said: str
) -> None:
    server.set_health(whole, service)
    ended = gloss("health", server.address)
    assert (ended.stdout, ended.stderr) == (f"{said}\n", "")
    assert ended.status == (0 if said == "SERVING" else 1)


def test_another_server(gloss: Command, server: StatusServer) -> None:
    # Its health servicer was never told of a Gloss service: NOT_FOUND.
    ended = gloss("health", server.address)
    assert ended.status == 1 and "NOT_FOUND" in ended.error


def test_a_server_that_restarts_is_waited_for(
    screen: Callable[..., Screen], server: StatusServer
) -> None:
    top = screen("top", server.address)
    top.until(lambda seen: "600.1" in seen)
    server.stop()
    top.until(lambda seen: "figures are old" in seen and "600.1" in seen)
    again = StatusServer(server.port)
    try:
        again.stats = gloss_pb2.GetStatsResponse(explanations_per_second=77.5)
        top.until(lambda seen: "77.5" in seen)
        top.press(b"q")
        assert top.end() == 0
    finally:
        again.stop()


def test_several_servers(
    gloss: Command, screen: Callable[..., Screen], server: StatusServer
) -> None:
    other = StatusServer()
    try:
        page = gloss("top", server.address, other.address).stdout
        assert server.address in page and other.address in page and "2 of 2 answer" in page
        found = gloss("top", server.address, other.address, "--json").stdout.splitlines()
        assert [json.loads(line)["address"] for line in found] == [server.address, other.address]
        top = screen("top", server.address, other.address)
        top.until(lambda seen: "2 of 2 answer" in seen)
        other.stop()
        top.until(lambda seen: "1 of 2 answer" in seen and "figures are old" in seen)
        top.press(b"q")
        assert top.end() == 0
        # Scripts are told of one that does not answer.
        ended = gloss("top", server.address, other.address, "--once")
        assert ended.status == 1 and ended.error.startswith(f"error: {other.address}: no server")
    finally:
        other.stop()


def test_an_interrupt_ends_it_quietly(screen: Callable[..., Screen], server: StatusServer) -> None:
    top = screen("top", server.address)
    top.until(lambda seen: "600.1" in seen)
    top.interrupt()
    assert top.end() == 0 and "error" not in top.seen


def test_health_follows_a_server(screen: Callable[..., Screen], server: StatusServer) -> None:
    server.set_health(True, False)
    watch = screen("health", server.address, "--watch")
    watch.until(lambda seen: "NOT_SERVING" in seen)
    server.set_health(True, True)
    watch.until(lambda seen: seen.strip() == "SERVING")
    server.stop()
    watch.until(lambda seen: "NOT_SERVING" in seen and "no server answers" in seen)
    again = StatusServer(server.port)
    try:
        again.set_health(True, True)
        watch.until(lambda seen: seen.strip() == "SERVING")
        watch.interrupt()
        assert watch.end() == 0
    finally:
        again.stop()


@pytest.mark.parametrize("command", ["health", "top"])
@pytest.mark.parametrize("address", ["", "127.0.0.1:99999", "garbage", "http://x:1"])
def test_what_is_no_address(gloss: Command, command: str, address: str) -> None:
    """gRPC would connect to 127.0.0.1:34463 for the second, and ask DNS for the third."""
    ended = gloss(command, address)
    assert ended.status == 2
    assert ended.stderr.startswith("error: ADDRESS: got") and "HOST:PORT" in ended.stderr
