"""Explain, Watch and Capture that end early, or that there is no room for: nothing is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from support.invariants import checked
from support.server_process import ServerProcess
from support.service_calls import fault, pushback_ms, retry_seconds, verbalize_request
from support.text_calls import (
    Captured,
    Told,
    capture_request,
    explain_request,
    listed,
    sliced,
    tokens,
    watch_request,
)

LONG = {"temperature": 0.0, "max_new_tokens": 20_000}
TEXT = tokens(range(20, 40))


def _explain(**fields: Any) -> pb.ExplainRequest:
    return explain_request(TEXT, **({"positions": listed(3, 9)} | LONG | fields))


def _watch(**fields: Any) -> pb.WatchRequest:
    return watch_request(
        TEXT,
        **(
            {
                "target_options": LONG | {"max_new_tokens": 4000},
                "options": LONG,
                "prompt_positions": listed(3, 9),
            }
            | fields
        ),
    )


def _capture(num_texts: int = 100) -> pb.CaptureRequest:
    return capture_request(*[tokens([20 + number % 50] * 300) for number in range(num_texts)])


REQUESTS: dict[str, Callable[..., Any]] = {"Explain": _explain, "Watch": _watch}
SIGNS: dict[str, Callable[[Any], bool]] = {
    "start": lambda message: message.HasField("start"),
    "captured": lambda message: bool(message.captured),
    "text": lambda message: bool(message.deltas),
    "token": lambda message: bool(message.target_tokens),
    "skipped": lambda message: bool(message.skipped),
}
PHASES = [
    *(("Explain", sign) for sign in ("", "start", "captured", "text")),
    *(("Watch", sign) for sign in ("", "start", "token", "captured", "text", "skipped")),
]


def _call(server: ServerProcess, method: str, **options: Any) -> Any:
    return getattr(server.stub, method)(REQUESTS[method](), **options)


def _until(call: Any, sign: str) -> None:
    while not SIGNS[sign](next(call)):
        pass


def _last(server: ServerProcess, method: str) -> tuple[str, str]:
    """What the log says of the last call of a method."""
    line = [one for one in server.events("call") if one["method"] == method][-1]
    return line["code"], line["reason"]


@pytest.fixture(autouse=True)
def idle_before_and_after(talkative: ServerProcess) -> Iterator[None]:
    """Every test finds and leaves the server idle, with all its room."""
    with checked(talkative):
        yield
        talkative.wait_idle()
        all_there_is = _explain(num_samples=4, max_new_tokens=1)
        told = Told.by(talkative.stub.Explain(all_there_is, timeout=10))
        assert len(told.explanations) == 8


@pytest.mark.parametrize(("method", "sign"), PHASES)
def test_it_is_cancelled(talkative: ServerProcess, method: str, sign: str) -> None:
    call = _call(talkative, method)
    if sign:
        _until(call, sign)
    call.cancel()
    talkative.wait_idle(1)
    if sign:
        # Else it may never have reached the server.
        talkative.wait_for(lambda: _last(talkative, method) == ("CANCELLED", "CANCELLED"), 2)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_capture_is_cancelled(talkative: ServerProcess, after: int) -> None:
    call = talkative.stub.Capture(_capture())
    for _ in range(after):
        next(call)
    call.cancel()
    talkative.wait_idle(2)
    assert len(Captured.by(talkative.stub.Capture(capture_request(TEXT)), width=72).rows) == 20


_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def _capture_unread(channel: grpc.Channel) -> Any:
    """A call nothing is read of."""
    return gloss_pb2_grpc.GlossServiceStub(channel).Capture(_capture(200), timeout=60)


def _capture_unread_for_ever(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        _kept = _capture_unread(channel)
        time.sleep(60)


@pytest.mark.parametrize("way", ["cancel", "close", "kill"])
def test_a_capture_is_left_unread(talkative: ServerProcess, way: str) -> None:
    """The server is in the middle of a write, which fails; that is the client's doing."""
    before = talkative.stats().captured
    context = multiprocessing.get_context("spawn")
    client = context.Process(target=_capture_unread_for_ever, args=(talkative.address,))
    if way == "kill":
        client.start()
    else:
        channel = talkative.open_channel(_OWN_CONNECTION)
        call = _capture_unread(channel)
    # Until the server reads no further ahead.
    found = [before]
    while found[-1] == before or found[-1] != found[-2]:
        time.sleep(0.3)
        found.append(talkative.stats().captured)
    assert found[-1] - before < 200 * 300
    if way == "kill":
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        client.join()
        talkative.calls.add("Capture")
    else:
        if way == "cancel":
            call.cancel()
        channel.close()
    talkative.wait_idle(2)
    talkative.wait_for(lambda: _last(talkative, "Capture") == ("CANCELLED", "CANCELLED"), 2)
    assert not talkative.events("defect")


@pytest.mark.parametrize("method", ["Explain", "Watch"])
def test_the_deadline_passes(talkative: ServerProcess, method: str) -> None:
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        list(_call(talkative, method, timeout=0.4))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 1.4
    talkative.wait_idle(1)


@pytest.mark.parametrize(("method", "seconds"), [("Explain", 1.5), ("Watch", 1.0)])
def test_the_servers_own_deadline(talkative: ServerProcess, method: str, seconds: float) -> None:
    began, caught, num_messages = time.monotonic(), None, 0
    try:
        for _ in _call(talkative, method):
            num_messages += 1
    except grpc.RpcError as error:
        caught = error
    assert caught is not None and num_messages > 5
    assert fault(caught) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", None)
    assert seconds - 0.1 < time.monotonic() - began < seconds + 1


@pytest.mark.parametrize("method", ["Explain", "Watch"])
def test_a_joined_run_outlives_the_first_caller(talkative: ServerProcess, method: str) -> None:
    request = REQUESTS[method](request_id=f"joined {method}")
    first = getattr(talkative.stub, method)(request, timeout=10)
    _until(first, "text")
    second = getattr(talkative.stub, method)(request, timeout=10)
    told = Told()
    told.take(next(second))
    first.cancel()
    time.sleep(0.1)
    while sum(map(len, told.text.values())) < 200:
        told.take(next(second))
    assert [place.position for place in told.places[:2]] == [3, 9]
    second.cancel()
    talkative.wait_idle()
    assert talkative.stats().captured >= 2


def _read_for_ever(address: str, method: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = gloss_pb2_grpc.GlossServiceStub(channel)
        for _ in getattr(stub, method)(REQUESTS[method](), timeout=60):
            pass


def test_clients_are_killed(talkative: ServerProcess) -> None:
    context = multiprocessing.get_context("spawn")
    clients = [
        context.Process(target=_read_for_ever, args=(talkative.address, method))
        for method in ("Explain", "Watch")
    ]
    for client in clients:
        client.start()
    talkative.wait_for(lambda: talkative.stats().watching == 1 and talkative.stats().running >= 3)
    for client, method in zip(clients, ("Explain", "Watch"), strict=True):
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        client.join()
        talkative.calls.add(method)
    talkative.wait_idle(2)


def test_there_is_no_room(talkative: ServerProcess) -> None:
    """Eight explanations may be in flight, of whatever call; a Watch keeps room for its most."""
    watching = talkative.stub.Watch(_watch(max_pending=6, prompt_positions=None), timeout=10)
    _until(watching, "token")
    refused: list[tuple[Any, str]] = [
        (talkative.stub.Explain, "Explain"),
        (talkative.stub.Watch, "Watch"),
    ]
    for call, method in refused:
        fields = {"positions": listed(1, 2, 3)} if method == "Explain" else {"max_pending": 3}
        with pytest.raises(grpc.RpcError) as caught:
            list(call(REQUESTS[method](**fields), timeout=5))
        assert fault(caught.value) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", None)
        seconds, pushback = retry_seconds(caught.value), pushback_ms(caught.value)
        assert seconds is not None and pushback == round(seconds * 1000) and pushback >= 50
    rows = np.ones((3, 72), np.float32)
    with pytest.raises(grpc.RpcError) as caught:
        talkative.stub.Verbalize(verbalize_request(rows, max_new_tokens=1), timeout=5)
    assert fault(caught.value) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", None)
    short = explain_request(TEXT, positions=listed(1, 2), max_new_tokens=3)
    assert len(Told.by(talkative.stub.Explain(short, timeout=10)).explanations) == 2
    watching.cancel()


def test_watches_wait_for_their_turn(talkative: ServerProcess) -> None:
    """Two run, a third waits for a slot, a fourth is refused; who leaves makes room."""
    request = _watch(max_pending=1, prompt_positions=None)
    first, second = (talkative.stub.Watch(request, timeout=10) for _ in range(2))
    for call in (first, second):
        _until(call, "token")
    third = talkative.stub.Watch(
        _watch(target_options={"max_new_tokens": 3}, options={"max_new_tokens": 3}), timeout=10
    )
    assert next(third).HasField("start")
    with pytest.raises(grpc.RpcError) as caught:
        next(talkative.stub.Watch(request, timeout=5))
    assert fault(caught.value) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", None)
    assert "3 watches" in caught.value.details()
    now = talkative.stats()
    assert (now.watching, now.reading) == (2, 1), "a prompt waits to be read"
    first.cancel()
    said = [token for message in third for token in message.target_tokens]
    assert len(said) == 3
    second.cancel()


def test_a_text_of_more_positions_than_there_can_be(talkative: ServerProcess) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(talkative.stub.Explain(_explain(positions=sliced()), timeout=5))
    assert fault(caught.value) == ("INVALID_ARGUMENT", "BATCH_TOO_LARGE", "positions")
    assert "20 explanations" in caught.value.details()


def test_a_watch_that_is_read_slowly(talkative: ServerProcess) -> None:
    """Others go on; it gets all of it in the end, in few messages."""
    request = _watch(
        target_options=LONG | {"max_new_tokens": 60},
        options={"max_new_tokens": 30, "temperature": 0.0},
        prompt_positions=None,
    )
    call = talkative.stub.Watch(request, timeout=20)
    told = Told()
    told.take(next(call))
    short = explain_request(TEXT, positions=listed(1, 2), max_new_tokens=3)
    assert len(Told.by(talkative.stub.Explain(short, timeout=10)).explanations) == 2
    time.sleep(0.5)
    for message in call:
        told.take(message)
    assert len(told.said) == 60 and told.end is not None
    positions = {place.position for place in told.places} | {one.position for one in told.skipped}
    assert positions == {token.position for token in told.said}


def test_a_storm_of_calls_that_give_up(talkative: ServerProcess) -> None:
    """Calls of every kind, cancelled and expiring at random moments, leave nothing behind."""
    stop = time.monotonic() + 3

    def storm(seed: int) -> int:
        random = np.random.default_rng(seed)
        ended = 0
        with talkative.open_channel() as channel:
            stub = gloss_pb2_grpc.GlossServiceStub(channel)
            calls = [
                lambda **how: stub.Explain(_explain(), **how),
                lambda **how: stub.Watch(_watch(), **how),
                lambda **how: stub.Capture(_capture(), **how),
            ]
            while time.monotonic() < stop:
                timeout = float(random.choice([0.001, 0.01, 0.05, 5]))
                try:
                    call = calls[int(random.integers(3))](timeout=timeout)
                    for _ in range(int(random.integers(0, 6))):
                        next(call)
                    call.cancel()
                except grpc.RpcError as error:
                    assert error.code() in (  # type: ignore[attr-defined]
                        grpc.StatusCode.DEADLINE_EXCEEDED,
                        grpc.StatusCode.RESOURCE_EXHAUSTED,
                    ), error
                ended += 1
        return ended

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(storm, range(6))) > 60
    talkative.wait_idle()
    assert not talkative.events("defect")


def test_every_call_has_ended_once(talkative: ServerProcess) -> None:
    """Also after all the tests before."""
    assert talkative.stats().calls_in_flight == 1
    for event in ("engine_refused", "engine_died", "defect"):
        assert not talkative.events(event)
