"""A real server's encryption and tokens: who is answered, and what changes without a restart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.certificates import Certificates
from support.command_runs import Command, read_rows
from support.invariants import CheckedServer, check, others
from support.raw_http2 import Header, RawConnection
from support.server_process import ServerProcess
from support.service_calls import verbalize_request
from support.token_calls import ALICE, BOB, OURS, TOKENS, answer, bearer, write_tokens

LOCUSTFILE = Path(__file__).parents[2] / "benchmarks" / "locustfile.py"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
NO_HEALTH = "grpc.health.v1.Health/None"
SERVING = health_pb2.HealthCheckResponse.SERVING
OK, EXHAUSTED, UNAUTHENTICATED = 0, 8, 16
NO_MESSAGE = b"\xff\xff\xff"
MISSING, WRONG, DENIED = (
    ("UNAUTHENTICATED", "MISSING_TOKEN"),
    ("UNAUTHENTICATED", "WRONG_TOKEN"),
    ("PERMISSION_DENIED", "METHOD_NOT_ALLOWED"),
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once; read only."""
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def running(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """TLS and tokens."""
    folder = tmp_path_factory.mktemp("secured")
    flags: dict[str, object] = {
        "address": "localhost:0",
        "admin-address": "127.0.0.1:0",
        "tls-cert": certificates.server_cert,
        "tls-key": certificates.server_key,
        "tokens": write_tokens(folder / "tokens.toml"),
    }
    credentials = certificates.channel_credentials()
    with CheckedServer(
        folder / "log", flags, credentials=credentials, metadata=bearer(ALICE)
    ) as server:
        yield server.wait_ready()


@pytest.fixture
def secured(running: ServerProcess) -> Iterator[ServerProcess]:
    yield running
    check(running)


@pytest.fixture
def channel(secured: ServerProcess) -> Iterator[grpc.Channel]:
    with secured.open_channel() as channel:
        yield channel


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ([], MISSING),
        ([("x-authorization", f"Bearer {ALICE}")], MISSING),
        (bearer("nobody-0123456789abcdef"), WRONG),
        (bearer(ALICE[:-1]), WRONG),
        (bearer(f"{ALICE}x"), WRONG),
        (bearer(""), WRONG),
        ([("authorization", ALICE)], WRONG),
        ([("authorization", "")], WRONG),
        ([("authorization", f"Basic {ALICE}")], WRONG),
        (bearer(ALICE) + bearer(BOB), WRONG),
        (bearer(BOB), DENIED),
    ],
)
def test_who_is_not_answered_learns_nothing(
    channel: grpc.Channel, metadata: list[tuple[str, str]], expected: tuple[str, str]
) -> None:
    """Fault 17: not what a method is, and not what is wrong with a request."""
    for method in (
        f"{OURS}/GetModelInfo",
        f"{OURS}/Watch",
        f"{OURS}/None",
        "x/y",
        REFLECTION,
        NO_HEALTH,
    ):
        for content in (b"", NO_MESSAGE):
            assert answer(channel, method, metadata, content) == expected, method


def test_who_is_answered(channel: grpc.Channel) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        shown = [("authorization", f"{scheme} {ALICE}")]
        assert answer(channel, f"{OURS}/GetModelInfo", shown) == ("OK", None)
    assert answer(channel, f"{OURS}/GetStats", bearer(BOB)) == ("OK", None)
    malformed = answer(channel, f"{OURS}/GetStats", bearer(BOB), NO_MESSAGE)
    assert malformed == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    for method in (f"{OURS}/None", REFLECTION, NO_HEALTH):
        assert answer(channel, method, bearer(ALICE)) == ("UNIMPLEMENTED", "UNKNOWN_METHOD")


def test_health_is_for_everybody(secured: ServerProcess, channel: grpc.Channel) -> None:
    request = health_pb2.HealthCheckRequest(service=OURS)
    with grpc.insecure_channel(secured.ports["admin"]) as admin:
        for one in (channel, admin):
            health = health_pb2_grpc.HealthStub(one)
            assert health.Check(request, timeout=10).status == SERVING
            watch = health.Watch(request, timeout=10)
            assert next(watch).status == SERVING
            watch.cancel()
        assert answer(admin, f"{OURS}/GetStats", bearer(ALICE))[0] == "UNIMPLEMENTED"
    with grpc.insecure_channel(secured.address) as plain:
        assert answer(plain, f"{OURS}/GetStats", bearer(ALICE))[0] == "UNAVAILABLE"


def test_mutual_tls_names_the_client(certificates: Certificates, tmp_path: Path) -> None:
    """Also in the quota: without a token the certificate says whose it is."""
    flags = {
        "address": "localhost:0",
        "tls-cert": certificates.server_cert,
        "tls-key": certificates.server_key,
        "tls-client-ca": certificates.ca,
    }
    known = certificates.channel_credentials(mutual=True)
    with CheckedServer(tmp_path / "log", flags, credentials=known) as server:
        address = server.wait_ready().address
        with server.open_channel() as channel:
            assert answer(channel, f"{OURS}/GetStats", [])[0] == "OK"
        with (
            grpc.secure_channel(address, certificates.channel_credentials()) as stranger,
            grpc.insecure_channel(address) as plain,
        ):
            for channel in (stranger, plain):
                assert answer(channel, f"{OURS}/GetStats", [])[0] == "UNAVAILABLE"
        # A call's line is written after its answer.
        server.wait_for(lambda: bool(server.events("call")))
        (line,) = server.events("call")
        assert (line["client"], line["code"]) == ("alice", "OK")
        # What is no connection is no event, and gRPC is silent about it.
        assert all(line.startswith(("{", "gloss ready")) for line in server.output().splitlines())


def test_clients_have_quotas_and_request_ids_of_their_own(tmp_path: Path) -> None:
    quotas = TOKENS.replace("bob", "carol").replace("alice-", "poor-").replace("alice", "poor")
    text = f"{TOKENS.replace('methods', '# methods')}{quotas.split('[clients.carol]')[0]}"
    flags = {"tokens": write_tokens(tmp_path / "tokens.toml", f"{text}tokens_per_second = 1")}
    settings: dict[str, object] = {"client_burst_seconds": 1}
    shown = bearer(ALICE)
    with CheckedServer(tmp_path / "log", flags, settings, metadata=shown) as server:
        method = f"{OURS}/Verbalize"
        with server.wait_ready().open_channel() as channel:
            width = 128

            def ask(token: str, scale: float) -> tuple[str, str | None]:
                request = verbalize_request(scale * np.ones((1, width)), "same", max_new_tokens=4)
                return answer(channel, method, bearer(token), request.SerializeToString())

            poor = ALICE.replace("alice", "poor")
            assert [ask(poor, 1.0), ask(ALICE, 2.0), ask(BOB, 3.0)] == [("OK", None)] * 3
            # The same again is no run; another is one.
            assert ask(ALICE, 2.0) == ("OK", None)
            assert ask(ALICE, 3.0) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
            request = verbalize_request(np.ones((1, width)), max_new_tokens=4).SerializeToString()
            limited = answer(channel, method, bearer(poor), request)
            assert limited == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
            assert answer(channel, method, bearer(ALICE), request) == ("OK", None)
        server.wait_for(lambda: len(server.events("call")) == 7)
        assert [line["client"] for line in server.events("call")] == [
            *("poor", "alice", "bob", "alice", "alice", "poor", "alice")
        ]


def test_what_is_too_large_is_refused_and_the_connection_lives(tmp_path: Path) -> None:
    """Fault 19, also of clients that gRPC's own would have stopped."""
    settings = {"max_request_bytes": 100_000, "max_metadata_bytes": 4096, "reflection": "true"}
    flags = {"tokens": write_tokens(tmp_path / "tokens.toml")}
    shown = bearer(ALICE)
    with CheckedServer(tmp_path / "log", flags, settings, metadata=shown) as server:
        token = (b"authorization", f"Bearer {ALICE}".encode())
        path, header = f"/{OURS}/GetStats", b"x-large"
        with RawConnection(server.wait_ready().address) as connection:

            def status(*headers: Header, message: bytes = b"") -> int:
                found = connection.status(connection.call(path, headers, message))
                (server.calls.add_lost if found == EXHAUSTED else server.calls.add)("GetStats")
                return found

            assert status(token) == OK
            for size in (4096, 20_000, 300_000):
                assert status(token, (header, b"y" * size)) == EXHAUSTED
                assert status((header, b"y" * size)) == EXHAUSTED
                # Many small ones are as much as a large one.
                many = [(b"x-%d" % index, b"y" * 100) for index in range(size // 100)]
                assert status(token, *many) == EXHAUSTED
                assert status(token) == OK
            assert status(token, (header, b"y" * 2000)) == OK
            assert status(token, message=b"\0" * 100_001) == EXHAUSTED
            # Not even taken in.
            assert status(message=b"\0" * 100_001) == UNAUTHENTICATED
            assert status(token, (b"x-odd", b"\xff\xfe\x01\x1b[2J")) == OK
            assert status((b"authorization", b"Bearer \xff\xfe")) == UNAUTHENTICATED
            assert status(token) == OK
        with server.open_channel() as channel:
            assert answer(channel, REFLECTION, []) == MISSING
            assert answer(channel, REFLECTION, bearer(ALICE)) == ("OK", None)
            assert answer(channel, REFLECTION, bearer(BOB)) == DENIED


def test_the_commands_through_tls_with_a_token(
    secured: ServerProcess, certificates: Certificates, gloss: Command, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(f"{ALICE}\n")
    trusted = ["--tls-ca", certificates.ca]
    shown = [*trusted, "--token-file", token]
    there = ["--address", secured.address, *shown]
    with others(secured):
        assert gloss("health", secured.address, *trusted).stdout == "SERVING\n"
        assert gloss("health", secured.ports["admin"]).stdout == "SERVING\n"
        stats = json.loads(gloss("top", secured.address, "--json", *shown).stdout)
        assert stats["stats"]["state"] == "SERVING_STATE_SERVING"
        rows, text = tmp_path / "rows.jsonl", "The hero is Leo, a tailor."
        np.save(tmp_path / "rows.npy", np.ones((2, 128), np.float32))
        few = ["--max-new-tokens", 3, "--no-score"]
        assert gloss("verbalize", tmp_path / "rows.npy", "--output", rows, *there, *few).status == 0
        assert len(read_rows(rows)) == 2
        assert gloss("explain", text, "--positions", "last", *there, *few).status == 0
        assert gloss("watch", text, "--target-max-new-tokens", 2, *there, *few).status == 0
        secured.wait_for(lambda: {"Verbalize", "Explain", "Watch"} <= methods_of(secured, "alice"))
        for command in (["top", secured.address, "--json"], ["watch", text, "--address"]):
            address = [secured.address] if command[-1] == "--address" else []
            ended = gloss(*command, *address, *trusted)
            assert "UNAUTHENTICATED" in ended.error or "MISSING_TOKEN" in ended.error
            assert ended.error.endswith("Name the token's file with --token-file")


def test_load_through_mutual_tls_with_a_token(certificates: Certificates, tmp_path: Path) -> None:
    flags = {
        "address": "localhost:0",
        "tls-cert": certificates.server_cert,
        "tls-key": certificates.server_key,
        "tls-client-ca": certificates.ca,
        "tokens": write_tokens(tmp_path / "tokens.toml"),
    }
    (tmp_path / "token").write_text(f"{ALICE}\n")
    load = [
        *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--users=1"),
        *("--run-time=60s", "--stop-timeout=10", "--max-new-tokens=3", "--mix=Verbalize=1"),
        *(f"--ca-file={certificates.ca}", f"--cert-file={certificates.cert}"),
        *(f"--key-file={certificates.key}", f"--token-file={tmp_path / 'token'}"),
    ]
    with ServerProcess(tmp_path / "log", flags) as server:
        load.append(f"--host={server.wait_ready().address}")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(load, **pipes, text=True) as locust:
            # However long it takes to start.
            server.wait_for(
                lambda: locust.poll() is not None or "Verbalize" in methods_of(server, "alice")
            )
            locust.terminate()
            said, _ = locust.communicate(timeout=60)
        # Its status says whether any call failed.
        assert locust.returncode == 0, said
        assert "Verbalize" in methods_of(server, "alice"), said
        assert {line["code"] for line in server.events("call")} == {"OK"}


def methods_of(server: ServerProcess, client: str) -> set[str]:
    """What a client has called, as the log says it."""
    return {line["method"] for line in server.events("call") if line["client"] == client}
