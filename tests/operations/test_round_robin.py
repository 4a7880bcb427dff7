"""Servers behind client-side balancing: one drains under load, no call fails, a new one is found.

All the time connections are ended because they are old, which no call notices either.

Both kinds of client call all the time: `gloss_client`, and a bare channel of round_robin and health
checks. Neither tries a call again, so nothing is covered up.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import grpc
import numpy as np
import pyarrow.parquet as pq

from gloss_api.v1 import gloss_pb2_grpc
from gloss_client import Client, RetryPolicy
from gloss_server.embedded import embedded_pair
from support.server_process import ServerProcess
from support.service_calls import stream_request, verbalize_request

OPTIONS = [
    (
        "grpc.service_config",
        json.dumps(
            {
                "loadBalancingConfig": [{"round_robin": {}}],
                "healthCheckConfig": {"serviceName": "gloss_api.v1.GlossService"},
            }
        ),
    ),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
KINDS = ("client unary", "client stream", "bare unary", "bare stream")


def calls(addresses: str, rows: np.ndarray) -> Iterator[dict[str, Callable[[str], int]]]:
    """By kind: makes one call of a request_id; how many explanations it brought."""
    with (
        Client(addresses, retry=RetryPolicy(max_attempts=1)) as client,
        grpc.insecure_channel(f"ipv4:{addresses}", OPTIONS) as channel,
    ):
        stub = gloss_pb2_grpc.GlossServiceStub(channel)

        def client_stream(name: str) -> int:
            with client.stream_verbalize(rows, request_id=name) as stream:
                return len([event for event in stream if hasattr(event, "explanation")])

        def bare_stream(name: str) -> int:
            messages = stub.StreamVerbalize(stream_request(rows, name), timeout=30)
            return sum(len(message.explanations) for message in messages)

        by_kind: dict[str, Callable[[str], int]] = {
            "client unary": lambda name: len(client.verbalize(rows, request_id=name).explanations),
            "client stream": client_stream,
            "bare unary": lambda name: len(
                stub.Verbalize(verbalize_request(rows, name), timeout=30).explanations
            ),
            "bare stream": bare_stream,
        }
        yield by_kind


@contextmanager
def under_load(addresses: str, rows: np.ndarray) -> Iterator[None]:
    """A thread of each kind that calls until the end; then every call has succeeded."""
    stop = threading.Event()

    def run(kind: str, call: Callable[[str], int]) -> int:
        for number in count():
            if stop.is_set():
                return number
            assert call(f"{kind} {number}") == len(rows), f"{kind} {number} brought less"
        raise AssertionError

    with (
        contextmanager(calls)(addresses, rows) as by_kind,
        ThreadPoolExecutor(len(KINDS)) as pool,
    ):
        running = [pool.submit(run, kind, by_kind[kind]) for kind in KINDS]
        try:
            yield
        finally:
            stop.set()
            # Raises what a call did.
            assert all(thread.result(60) > 5 for thread in running)


def served(server: ServerProcess, since: int = 0) -> set[str]:
    """Kinds of the calls in a server's log, from a line on."""
    lines = server.events("call")[since:]
    assert {line["code"] for line in lines} <= {"OK"}
    return {line["request_id"].rpartition(" ")[0] for line in lines}


def test_one_drains_and_another_comes(tmp_path: Path) -> None:
    column = pq.read_table(embedded_pair().activations)["activation_vector"]
    rows = np.stack(column.to_numpy()).astype(np.float32)[:4]
    settings: dict[str, object] = {"max_connection_age_seconds": 0.5}
    with (
        ServerProcess(tmp_path / "leaving", settings=settings) as leaving,
        ServerProcess(tmp_path / "staying", settings=settings) as staying,
    ):
        addresses = [server.wait_ready().address for server in (leaving, staying)]
        with under_load(",".join(addresses), rows):
            for server in (leaving, staying):
                server.wait_for(lambda server=server: served(server) == set(KINDS))
            assert leaving.terminate(20) == 0
            seen = len(staying.events("call"))
            staying.wait_for(lambda: served(staying, seen) == set(KINDS))
            with ServerProcess(tmp_path / "coming", {"address": addresses[0]}) as coming:
                coming.wait_ready().wait_for(lambda: served(coming) == set(KINDS))
                assert coming.terminate(20) == 0
        assert "Traceback" not in leaving.output() + staying.output()
        connections = {line["peer"] for line in staying.events("call")}
        assert len(connections) > 6, "connections stayed"
        # Refused by none, whether a client saw it or not.
        assert served(leaving) == served(staying) == set(KINDS)
