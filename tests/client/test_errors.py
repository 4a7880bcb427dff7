"""Every status becomes its error, with what the server said and where."""

from __future__ import annotations

import pickle
import socket
import time
from collections import deque
from typing import Any

import grpc
import numpy as np
import pytest

import gloss_client
from gloss_client import GlossClientError, InvalidRequest, RetryPolicy, Unavailable
from gloss_client.status import ERRORS
from support.echo_server import EchoServer
from support.echo_service import Fault

ONCE = RetryPolicy(max_attempts=1)
EXPECTED = {
    "INVALID_ARGUMENT": "InvalidRequest",
    "OUT_OF_RANGE": "InvalidRequest",
    "NOT_FOUND": "NotFound",
    "ALREADY_EXISTS": "AlreadyExists",
    "FAILED_PRECONDITION": "FailedPrecondition",
    "UNAUTHENTICATED": "Unauthenticated",
    "PERMISSION_DENIED": "PermissionDenied",
    "RESOURCE_EXHAUSTED": "ResourceExhausted",
    "UNAVAILABLE": "Unavailable",
    "DEADLINE_EXCEEDED": "DeadlineExceeded",
    "CANCELLED": "Cancelled",
    "UNIMPLEMENTED": "Unimplemented",
    "UNKNOWN": "ServerError",
    "INTERNAL": "ServerError",
    "DATA_LOSS": "ServerError",
    "ABORTED": "ServerError",
}


def test_the_table_has_every_status() -> None:
    assert set(ERRORS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}
    assert {code.name: error.__name__ for code, error in ERRORS.items()} == EXPECTED


@pytest.mark.parametrize("code", EXPECTED)
@pytest.mark.parametrize(
    "method", ["verbalize", "stream_verbalize", "explain", "stream_explain", "watch"]
)
def test_a_status_becomes_its_error(
    connect: Any, server: EchoServer, rows: np.ndarray, code: str, method: str
) -> None:
    fault = Fault(
        code=grpc.StatusCode[code],
        reason="SOME_REASON",
        message="got 3, expected 4",
        field="options.top_p",
        retry_after=1.5,
    )
    server.service.faults = deque([fault])
    client = connect(server.address, retry=ONCE)
    with pytest.raises(getattr(gloss_client, EXPECTED[code])) as caught:
        given = rows[:2] if "verbalize" in method else "ab"
        list(getattr(client, method)(given, request_id="mine"))
    error = caught.value
    assert (error.code, error.reason, error.field) == (code, "SOME_REASON", "options.top_p")
    assert (error.message, error.retry_after) == ("got 3, expected 4", 1.5)
    assert error.request_id == "mine"
    assert str(error) == "SOME_REASON: got 3, expected 4"


def test_a_status_without_details_names_the_address(
    connect: Any, server: EchoServer, rows: np.ndarray
) -> None:
    """As a proxy sends it."""
    client = connect(server.address, retry=ONCE)
    server.service.faults = deque([Fault(code=grpc.StatusCode.INTERNAL, message="RST_STREAM")])
    with pytest.raises(GlossClientError) as caught:
        client.verbalize(rows[:1])
    assert str(caught.value) == f"INTERNAL: RST_STREAM (from {server.address})"
    assert (caught.value.reason, caught.value.retry_after) == ("", None)


def test_a_status_of_another_answer_is_left_alone(
    connect: Any, server: EchoServer, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Details that belong to another code, as when a proxy replaced it."""
    made = Fault(code=grpc.StatusCode.NOT_FOUND, reason="UNKNOWN_MODEL").status()
    monkeypatch.setattr(
        Fault, "status", lambda self: made._replace(code=grpc.StatusCode.PERMISSION_DENIED)
    )
    server.service.faults = deque([Fault(code=grpc.StatusCode.NOT_FOUND)])
    with pytest.raises(gloss_client.PermissionDenied, match=f"from {server.address}"):
        connect(server.address).verbalize(rows[:1])


def test_nobody_at_the_address(connect: Any, rows: np.ndarray) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        client = connect(address)
        for call in (
            lambda: client.verbalize(rows[:1]),
            lambda: list(client.stream_verbalize(rows[:1])),
            client.model_info,
            client.health,
        ):
            began = time.monotonic()
            with pytest.raises(
                Unavailable, match=f"no server can be reached at {address}.*refused"
            ):
                call()
            assert time.monotonic() - began < 5


def test_a_name_that_does_not_resolve(connect: Any, rows: np.ndarray) -> None:
    client = connect("no-such-host.invalid:50051", retry=ONCE)
    with pytest.raises(Unavailable, match="no-such-host.invalid:50051"):
        client.verbalize(rows[:1])


def test_a_server_of_another_kind(connect: Any, server: EchoServer, rows: np.ndarray) -> None:
    """It speaks gRPC and does not know the method."""
    server.service.faults = deque(
        [Fault(code=grpc.StatusCode.UNIMPLEMENTED, message="Method not found!")]
    )
    with pytest.raises(gloss_client.Unimplemented, match="Method not found"):
        connect(server.address).stats()


def test_health_of_an_unknown_service(client: Any) -> None:
    with pytest.raises(gloss_client.NotFound):
        client.health("some.other.Service")


def test_errors_survive_pickling() -> None:
    """They cross process pools."""
    error = InvalidRequest("m", reason="R", field="f", retry_after=1.0, request_id="i")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is InvalidRequest
    assert vars(again) == vars(error)
    assert str(again) == "R: m"


def test_the_tree_is_exported_and_drawn() -> None:
    names = {
        name
        for name in gloss_client.__all__
        if isinstance(getattr(gloss_client, name), type)
        and issubclass(getattr(gloss_client, name), GlossClientError)
    }
    assert names - {"GlossClientError", "ConfigError", "InconsistentReply"} == set(
        EXPECTED.values()
    )
    drawn = gloss_client.errors.__doc__ or ""
    assert all(f"── {name} " in drawn for name in names - {"GlossClientError"})
    assert issubclass(InvalidRequest, ValueError)
