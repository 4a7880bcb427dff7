"""A real server's encryption and tokens: who is answered, and what changes without a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from support.certificates import Certificates
from support.server_process import ServerProcess

ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"
TOKENS = f"""
[clients.alice]
token = "{ALICE}"
[clients.bob]
token = "{BOB}"
methods = ["GetStats"]
"""
OURS = "gloss_api.v1.GlossService"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
SERVING = health_pb2.HealthCheckResponse.SERVING
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
def secured(
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
    with ServerProcess(folder / "log", flags) as server:
        yield server.wait_ready()


@pytest.fixture
def channel(secured: ServerProcess, certificates: Certificates) -> Iterator[grpc.Channel]:
    with grpc.secure_channel(secured.address, certificates.channel_credentials()) as channel:
        yield channel


def write_tokens(path: Path, text: str = TOKENS) -> Path:
    """A file of clients that nobody else may read, replaced in one step."""
    replacement = path.with_suffix(".new")
    replacement.touch(mode=0o600)
    replacement.write_text(text)
    return replacement.rename(path)


def bearer(token: str | None) -> list[tuple[str, str]]:
    return [] if token is None else [("authorization", f"Bearer {token}")]


def answer(
    channel: grpc.Channel, method: str, metadata: list[tuple[str, str]], content: bytes = b""
) -> tuple[str, str | None]:
    """The status of a call and its reason."""
    try:
        # The form that fits every method.
        list(channel.stream_stream(f"/{method}")(iter([content]), metadata=metadata, timeout=10))
    except grpc.RpcError as error:
        return error.code().name, reason_of(error)
    return "OK", None


def reason_of(error: grpc.RpcError) -> str | None:
    status = rpc_status.from_call(error)
    for detail in () if status is None else status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            assert info.domain == "gloss"
            return info.reason
    return None


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
    for method in (f"{OURS}/GetModelInfo", f"{OURS}/Watch", f"{OURS}/None", "x/y", REFLECTION):
        for content in (b"", NO_MESSAGE):
            assert answer(channel, method, metadata, content) == expected, method


def test_who_is_answered(channel: grpc.Channel) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        shown = [("authorization", f"{scheme} {ALICE}")]
        assert answer(channel, f"{OURS}/GetModelInfo", shown) == ("OK", None)
    assert answer(channel, f"{OURS}/GetStats", bearer(BOB)) == ("OK", None)
    malformed = answer(channel, f"{OURS}/GetStats", bearer(BOB), NO_MESSAGE)
    assert malformed == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert answer(channel, f"{OURS}/None", bearer(ALICE))[0] == "UNIMPLEMENTED"
    assert answer(channel, REFLECTION, bearer(ALICE))[0] == "UNIMPLEMENTED"


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
