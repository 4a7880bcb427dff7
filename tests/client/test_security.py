"""Encryption, certificates and tokens: what is shown to whom, and what is refused before that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gloss_client import (
    AsyncClient,
    Client,
    ConfigError,
    RetryPolicy,
    TlsOptions,
    Unavailable,
)
from gloss_client.connection import Connection
from support.certificates import Certificates
from support.echo_server import EchoServer, echo_server

ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once; read only."""
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_server(certificates: Certificates) -> Iterator[EchoServer]:
    """Encrypted; clients need no certificate."""
    with echo_server(credentials=certificates.server_credentials(mutual=False)) as server:
        server.address = server.address.replace("127.0.0.1", "localhost")
        yield server


def test_tls(
    connect: Any, tls_server: EchoServer, certificates: Certificates, rows: np.ndarray
) -> None:
    client = connect(tls_server.address, tls=TlsOptions(ca_file=certificates.ca))
    assert client.verbalize(rows[:1]).explanations
    assert client.health() == "serving"


@pytest.mark.parametrize("options", ["plaintext", "public authorities", "other authority"])
def test_a_server_that_is_not_trusted(
    connect: Any,
    tls_server: EchoServer,
    certificates: Certificates,
    rows: np.ndarray,
    options: str,
) -> None:
    tls = {
        "plaintext": None,
        "public authorities": TlsOptions(),
        "other authority": TlsOptions(ca_file=str(certificates.other_ca)),
    }[options]
    client = connect(tls_server.address, tls=tls, retry=ONCE)
    with pytest.raises(Unavailable, match=tls_server.address):
        client.verbalize(rows[:1], timeout=5)
    assert tls_server.service.received == []


def test_the_servers_name_is_checked(
    connect: Any, tls_server: EchoServer, certificates: Certificates, rows: np.ndarray
) -> None:
    by_ip = tls_server.address.replace("localhost", "127.0.0.1")
    client = connect(by_ip, tls=TlsOptions(ca_file=certificates.ca), retry=ONCE)
    with pytest.raises(Unavailable):
        client.verbalize(rows[:1], timeout=5)
    named = TlsOptions(ca_file=certificates.ca, server_name="gloss.test")
    assert connect(by_ip, tls=named).verbalize(rows[:1]).explanations


def test_mutual_tls(connect: Any, certificates: Certificates, rows: np.ndarray) -> None:
    with echo_server(credentials=certificates.server_credentials(mutual=True)) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        own = TlsOptions(
            ca_file=certificates.ca, cert_file=certificates.cert, key_file=certificates.key
        )
        assert connect(address, tls=own).verbalize(rows[:1]).explanations
        without = connect(address, tls=TlsOptions(ca_file=certificates.ca), retry=ONCE)
        with pytest.raises(Unavailable):
            without.verbalize(rows[:1], timeout=5)
        assert len(server.service.received) == 1


@pytest.mark.parametrize("method", ["verbalize", "stream_verbalize", "model_info", "stats"])
def test_every_call_shows_the_token(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str
) -> None:
    client = connect(server.address, token="s3cret")
    arguments = (rows[:1],) if method.endswith("verbalize") else ()
    done = getattr(client, method)(*arguments)
    if method == "stream_verbalize":
        list(done)
    (received,) = server.service.received
    assert received.metadata["authorization"] == "Bearer s3cret"


def test_another_callers_token_goes_the_same_way(
    server: EchoServer, runner: asyncio.Runner
) -> None:
    async def ask() -> None:
        async with AsyncClient(server.address, token="mine") as client:
            other = client.with_token("theirs")
            await client.stats()
            assert [event async for event in other.stream_explain("a")]
            await other.stats()
            await client.stats()

    runner.run(ask())
    received = server.service.received
    shown = [one.metadata["authorization"] for one in received]
    assert shown == ["Bearer mine", "Bearer theirs", "Bearer theirs", "Bearer mine"]


def test_another_callers_token_is_not_shown_to_the_network() -> None:
    client = AsyncClient("10.0.0.1:50051")
    with pytest.raises(ConfigError, match="without TLS"):
        client.with_token("s3cret")
    with pytest.raises(ConfigError, match="no token"):
        client.with_token("two words")


def test_a_token_file_is_read_again(
    connect: Any, server: EchoServer, rows: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    client = connect(server.address, token_file=path)
    client.verbalize(rows[:1])
    path.write_text("second\n")
    client.verbalize(rows[:1])
    path.unlink()
    with pytest.raises(ConfigError, match="token_file: cannot read"):
        client.verbalize(rows[:1])
    shown = [received.metadata["authorization"] for received in server.service.received]
    assert shown == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(
    ("address", "encrypted", "allowed", "refused"),
    [
        ("10.0.0.1:50051", False, False, True),
        ("gloss.example:50051", False, False, True),
        ("127.0.0.1:1,10.0.0.1:1", False, False, True),
        ("dns:///gloss.example:50051", False, False, True),
        ("10.0.0.1:50051", True, False, False),
        ("10.0.0.1:50051", False, True, False),
        ("127.0.0.9:50051", False, False, False),
        ("[::1]:50051", False, False, False),
        ("localhost:50051", False, False, False),
        ("unix:/run/gloss.sock", False, False, False),
    ],
)
def test_a_token_is_not_shown_to_the_network(
    address: str, encrypted: bool, allowed: bool, refused: bool
) -> None:
    def make() -> None:
        Client(
            address,
            tls=TlsOptions() if encrypted else None,
            token="s3cret",
            allow_plaintext_token=allowed,
        ).close()

    if not refused:
        return make()
    with pytest.raises(ConfigError, match="without TLS") as caught:
        make()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "  ", "two words", "line\nbreak", "ümlaut"])
def test_what_is_no_token_is_refused(token: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(token)
    for options in ({"token": token}, {"token_file": path}):
        with pytest.raises(ConfigError, match="no token"):
            Client("127.0.0.1:1", **options)
    with pytest.raises(ConfigError, match="expected one of them"):
        Client("127.0.0.1:1", token="a", token_file=path)


def test_no_repr_shows_the_token() -> None:
    connection = Connection.of(
        "127.0.0.1:1",
        tls=None,
        token="s3cret",
        token_file=None,
        allow_plaintext_token=False,
        retry=None,
        wait_for_ready=False,
        timeout=1,
        max_in_flight=1,
    )
    assert "s3cret" not in repr(connection)


def test_tls_options_that_cannot_work(tmp_path: Path, certificates: Certificates) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for options, message in (
        (TlsOptions(cert_file=certificates.cert), "belong together"),
        (TlsOptions(ca_file=tmp_path / "none.pem"), "ca_file: cannot read"),
        (TlsOptions(ca_file=empty), "holds no PEM block"),
    ):
        with pytest.raises(ConfigError, match=message):
            Client("localhost:1", tls=options)
    with pytest.raises(ConfigError, match="server_name is needed"):
        Client("10.0.0.1:1,10.0.0.2:1", tls=TlsOptions(ca_file=certificates.ca))
