"""deploy/ray_serve.py on one machine with two replicas, as `serve run` starts it.

What callers rely on is the same as without Ray: streams, cancellation, deadlines, metadata, and an
error's code and details. Its servers' explanations last for thousands of tokens where a call asks
for them, and each is asked over its own socket what is left behind.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from gloss_client import Client
from support.checkpoints import Pair
from support.edits import long_winded
from support.ray_service import DEPLOY, RayService
from support.service_calls import fault, pushback_ms, stream_request, verbalize_request
from support.token_calls import ALICE, OURS, answer, bearer, write_tokens

ROWS = np.ones((2, 72), np.float32)
SHORT: dict[str, Any] = {"max_new_tokens": 8}
ENDLESS: dict[str, Any] = {"max_new_tokens": 20_000, "temperature": 0}
TOKEN = tuple(bearer(ALICE))
Stub = gloss_pb2_grpc.GlossServiceStub


@pytest.fixture(scope="module")
def service(
    pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RayService]:
    root = tmp_path_factory.mktemp("ray")
    settings = {
        "av": str(long_winded(pairs["qwen2"].av, root / "av")),
        "tokens": str(write_tokens(root / "tokens.toml")),
        "num_threads": 1,
        "num_slots": 2,
        # However slow a machine is: none is refused for what it may take.
        "default_deadline_seconds": 3600,
        "max_new_tokens": 20_000,
        "max_queued_explanations": 2,
        "max_queued_tokens": 80_000,
    }
    with RayService(root, settings) as running:
        yield running.wait_ready()


@pytest.fixture
def stub(service: RayService) -> Iterator[Stub]:
    """Of Ray's proxy. Afterwards nothing is in flight, and no page is held, in any replica."""
    with grpc.insecure_channel(service.address) as channel:
        yield Stub(channel)
    for address in service.replicas().values():
        service.wait_for(lambda address=address: _is_idle(address))


def _stats(address: str) -> pb.GetStatsResponse:
    with grpc.insecure_channel(address) as channel:
        return Stub(channel).GetStats(pb.GetStatsRequest(), timeout=10, metadata=TOKEN)


def _is_idle(address: str) -> bool:
    now = _stats(address)
    return now.running + now.waiting + now.kv_pages_used == 0 and now.calls_in_flight == 1


def _running(service: RayService) -> dict[int, int]:
    """Explanations that run, by replica."""
    return {pid: _stats(address).running for pid, address in service.replicas().items()}


def _endless(stub: Stub, **options: float) -> grpc.Call:
    """A stream that has begun and would go on for long."""
    request = stream_request(ROWS[:1], **ENDLESS)
    call = stub.StreamVerbalize(request, metadata=TOKEN, **options)
    assert next(call).start.request_id
    assert any(message.deltas for message in (next(call), next(call)))
    return call


def test_unary_calls_go_to_both(service: RayService, stub: Stub) -> None:
    def both_were_called() -> bool:
        reply = stub.Verbalize(verbalize_request(ROWS[:1], **SHORT), metadata=TOKEN)
        assert len(reply.explanations[0].token_ids) == 8
        generated = [_stats(address).generated_tokens for address in service.replicas().values()]
        return len(generated) == 2 and all(generated)

    service.wait_for(both_were_called)


def test_a_client_needs_to_know_nothing_of_ray(service: RayService, stub: Stub) -> None:
    with Client(service.address, token=ALICE) as client:
        assert client.model_info().d_model == 72
        with client.stream_verbalize(ROWS, **SHORT) as stream:
            kinds = [type(event).__name__ for event in stream]
        assert kinds.count("Explanation") == 2
        assert kinds.index("TextDelta") < kinds.index("Explanation")


def test_streams_come_as_they_are_made_and_are_cancelled(service: RayService, stub: Stub) -> None:
    """In the engine, too: two slots are free again for two more, four times over."""
    for _ in range(4):
        calls = [_endless(stub) for _ in range(2)]
        assert sum(_running(service).values()) == 2
        for call in calls:
            call.cancel()
        service.wait_for(lambda: not any(_running(service).values()))


def test_a_unary_call_is_cancelled(service: RayService, stub: Stub) -> None:
    call = stub.Verbalize.future(verbalize_request(ROWS[:1], **ENDLESS), metadata=TOKEN)
    service.wait_for(lambda: any(_running(service).values()))
    call.cancel()
    service.wait_for(lambda: not any(_running(service).values()))


def test_deadlines_pass(service: RayService, stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Verbalize(verbalize_request(ROWS[:1], **ENDLESS), metadata=TOKEN, timeout=0.5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    call = _endless(stub, timeout=1)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_errors_keep_their_details(service: RayService, stub: Stub) -> None:
    wrong = np.ones((1, 5), np.float32)
    refused = ("INVALID_ARGUMENT", "DIMENSION_MISMATCH")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Verbalize(verbalize_request(wrong), metadata=TOKEN)
    assert fault(caught.value) == (*refused, "activations.shape")
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.StreamVerbalize(stream_request(wrong), metadata=TOKEN))
    assert fault(caught.value) == (*refused, "request.activations.shape")
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelInfo(pb.GetModelInfoRequest())
    assert fault(caught.value) == ("UNAUTHENTICATED", "MISSING_TOKEN", None)
    with grpc.insecure_channel(service.address) as channel:
        for method in ("Verbalize", "Explain"):
            told = answer(channel, f"{OURS}/{method}", TOKEN, b"\xff\xff\xff")
            assert told == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")


def test_a_full_queue_says_when_to_come_back(service: RayService, stub: Stub) -> None:
    calls = [_endless(stub) for _ in range(4)]
    assert set(_running(service).values()) == {2}
    with pytest.raises(grpc.RpcError) as caught:
        stub.Verbalize(verbalize_request(ROWS[:1], **SHORT), metadata=TOKEN)
    assert fault(caught.value) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", None)
    assert pushback_ms(caught.value)
    for call in calls:
        call.cancel()


def test_an_engine_dies(service: RayService, stub: Stub) -> None:
    """A stream that has brought messages ends with a status and its details."""
    call = _endless(stub)
    (replica,) = [pid for pid, running in _running(service).items() if running]
    (engine,) = _children(*_children(replica))
    os.kill(engine, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert fault(caught.value) == ("UNAVAILABLE", "ENGINE_RESTARTED", None)
    address = service.replicas()[replica]
    service.wait_for(lambda: _stats(address).state == pb.SERVING_STATE_SERVING)


def test_a_replica_dies(service: RayService, stub: Stub) -> None:
    """Its calls end in words that callers know, its server goes with it, the other serves."""
    call = _endless(stub)
    (replica,) = [pid for pid, running in _running(service).items() if running]
    (server,) = _children(replica)
    os.kill(replica, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert fault(caught.value) == ("UNAVAILABLE", "ENGINE_RESTARTED", None)
    service.wait_for(lambda: not Path(f"/proc/{server}").exists(), 10)
    with Client(service.address, token=ALICE) as client:
        for _ in range(10):
            assert client.verbalize(ROWS[:1], **SHORT).explanations


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


# Ray's own.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("goes", ["cancel", "close"])
def test_who_goes_while_a_message_is_on_its_way_is_given_up(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, goes: str
) -> None:
    """Ray's own part is waiting for a message when it hears of it: elsewhere it hears nothing, and
    the replica wrote to the end. What it asks of the call then, gRPC has freed."""
    monkeypatch.syspath_prepend(str(DEPLOY))
    ingress = importlib.import_module("ray_serve").Ingress()

    async def go() -> None:
        has_heard, num_sent = asyncio.Event(), 0

        async def routed(passed: Any, context: Any) -> AsyncIterator[bytes]:
            nonlocal num_sent
            for _ in range(500):
                num_sent += 1
                yield b"x" * 65_536
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                assert context.peer().startswith("ipv4:") and not context.code()
                has_heard.set()

        name = "StreamVerbalize"
        handlers = ingress._method_handlers
        handlers[f"/{OURS}/{name}"] = handlers[f"/{OURS}/{name}"]._replace(unary_stream=routed)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((ingress,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        call = channel.unary_stream(f"/{OURS}/{name}")(b"")
        assert await call.read() == b"x" * 65_536
        while True:
            before = num_sent
            await asyncio.sleep(0.2)
            if before == num_sent:
                break
        # Nothing more is taken: the last message waits for its client.
        assert num_sent < 500 and not has_heard.is_set()
        if goes == "cancel":
            call.cancel()
        await channel.close()
        await asyncio.wait_for(has_heard.wait(), 30)
        await server.stop(None)

    runner.run(go())
