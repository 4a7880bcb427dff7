"""Certificates and tokens that are replaced while a server runs and its clients are connected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from support.certificates import SERVER_NAMES, Certificates, write
from support.server_process import ServerProcess
from support.token_calls import ALICE, BOB, OURS, TOKENS, answer, bearer, write_tokens

METHOD = f"{OURS}/GetStats"
NEW = "carol-0123456789abcdef"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """Files of its own, to be replaced."""
    return Certificates.make(tmp_path)


@pytest.fixture
def server(certificates: Certificates, tmp_path: Path) -> Iterator[ServerProcess]:
    """TLS with files of its own and tokens in `tokens.toml`."""
    flags: dict[str, object] = {
        "address": "localhost:0",
        "tls-cert": certificates.server_cert,
        "tls-key": certificates.server_key,
        "tls-client-ca": certificates.ca,
        "tokens": write_tokens(tmp_path / "tokens.toml"),
    }
    with ServerProcess(tmp_path / "log", flags) as server:
        yield server.wait_ready()


def connect(server: ServerProcess, certificates: Certificates) -> grpc.Channel:
    """A connection of its own: channels of one process share theirs else."""
    credentials = certificates.channel_credentials(mutual=True)
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(server.address, credentials, options)


def ask(server: ServerProcess, certificates: Certificates) -> str:
    """The code of a call on a new connection."""
    with connect(server, certificates) as channel:
        return answer(channel, METHOD, bearer(ALICE))[0]


def refused(server: ServerProcess, event: str) -> list[str]:
    return [line["reason"] for line in server.events(event)]


def test_certificates_are_rotated_under_a_connection(
    server: ServerProcess, certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Certificates.make(tmp_path / "other")
    with connect(server, certificates) as standing:
        assert answer(standing, METHOD, bearer(ALICE)) == ("OK", None)
        # A certificate of another key: half of a rotation, or a mistake.
        leaf = certificates.authority.issue_cert(*SERVER_NAMES)
        write(leaf, certificates.server_cert, tmp_path / "its-key.pem")
        assert [ask(server, certificates) for _ in range(3)] == ["OK"] * 3
        server.wait_for(lambda: len(server.events("tls_refused")) == 1)
        certificates.server_key.unlink()
        assert ask(server, certificates) == "OK"
        server.wait_for(lambda: len(server.events("tls_refused")) == 2)
        mismatch, missing = refused(server, "tls_refused")
        assert "which is not the key of the certificate in" in mismatch
        assert f"--tls-key: cannot read {certificates.server_key}" in missing
        # Another authority, for server and clients alike.
        certificates.ca.write_bytes(other.ca.read_bytes())
        write(
            other.authority.issue_cert(*SERVER_NAMES),
            certificates.server_cert,
            certificates.server_key,
        )
        assert ask(server, other) == ask(server, other) == "OK"
        server.wait_for(lambda: len(server.events("tls_reloaded")) == 1)
        # Who trusts the new one and shows what the old one signed is nobody.
        assert ask(server, certificates) == "UNAVAILABLE"
        assert answer(standing, METHOD, bearer(ALICE)) == ("OK", None)
    assert len(server.events("tls_refused")) == 2


def test_tokens_are_rotated_under_a_connection(
    server: ServerProcess, certificates: Certificates, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    with connect(server, certificates) as channel:

        def codes() -> list[str]:
            return [answer(channel, METHOD, bearer(token))[0] for token in (ALICE, BOB, NEW)]

        assert codes() == ["OK", "OK", "UNAUTHENTICATED"]
        write_tokens(path, TOKENS.replace(BOB, NEW).replace("GetStats", "Score"))
        assert codes() == ["OK", "UNAUTHENTICATED", "PERMISSION_DENIED"]
        for bad in (TOKENS[:-3], TOKENS.replace("methods", "method"), ""):
            write_tokens(path, bad)
            assert codes() == ["OK", "UNAUTHENTICATED", "PERMISSION_DENIED"]
        path.unlink()
        assert codes() == ["OK", "UNAUTHENTICATED", "PERMISSION_DENIED"]
        write_tokens(path, TOKENS.replace(ALICE, NEW))
        assert codes() == ["UNAUTHENTICATED", "OK", "OK"]
    server.wait_for(lambda: len(server.events("tokens_reloaded")) == 2)
    toml, key, empty, gone = refused(server, "tokens_refused")
    assert "is no TOML" in toml and "clients.bob: 'method': is none of token" in key
    assert "clients: holds nobody" in empty and f"cannot read {path}" in gone
    assert not any(secret in server.output() for secret in (ALICE, BOB, NEW))
