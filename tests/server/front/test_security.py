"""Settings of the port's security: what fits together, what is refused by name, what is logged."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gloss_server.command_error import CommandError
from gloss_server.front.authentication import authenticate
from gloss_server.front.call_error import CallError
from gloss_server.front.call_log import CallLog
from gloss_server.front.security import Security
from gloss_server.front.tls_files import TlsFiles
from gloss_server.front.token_file import TokenClients, read_tokens
from gloss_server.settings import ServeSettings
from support.certificates import Certificates, write

TOKEN = "alice-0123456789abcdef"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once; read only."""
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.touch(mode=0o600)
    path.write_text(f'[clients.alice]\ntoken = "{TOKEN}"\ntokens_per_second = 7')
    return path


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "log")
    yield log
    log.close()


class Log:
    """A log into a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor = path, os.open(path, os.O_CREAT | os.O_WRONLY)
        self.log = CallLog("debug", descriptor=self._descriptor)

    def close(self) -> list[dict[str, Any]]:
        """Its lines; nothing is logged any more."""
        self.log.close()
        return [json.loads(line) for line in self._path.read_text().splitlines()]


def security(log: Log, **settings: Any) -> Security:
    return Security(ServeSettings(**settings), log.log)


def refusal(log: Log, **settings: Any) -> str:
    with pytest.raises(CommandError) as caught:
        security(log, **settings)
    message = str(caught.value)
    assert "\n" not in message and TOKEN not in message
    return message


def test_without_any_of_it(log: Log) -> None:
    plain = security(log)
    assert plain.credentials is plain.clients is plain.own_rate("alice") is None
    assert log.close() == []


def test_all_of_it(log: Log, certificates: Certificates, tokens: Path) -> None:
    whole = security(
        log,
        address="0.0.0.0:0",
        tls_cert=certificates.server_cert,
        tls_key=certificates.server_key,
        tls_client_ca=certificates.ca,
        tokens=tokens,
    )
    assert whole.credentials is not None and whole.clients is not None
    assert whole.own_rate("alice") == 7.0 and whole.own_rate("ipv4:1.2.3.4") is None
    tokens.write_text(f'[clients.bob]\ntoken = "{TOKEN}"')
    assert whole.clients().find(TOKEN).name == "bob"  # type: ignore[union-attr]
    tokens.write_text(f'[clients.bob]\ntoken = "{TOKEN}')
    assert len(whole.clients()) == 1 and whole.own_rate("alice") is None
    reloaded, refused = log.close()
    assert (reloaded["event"], refused["event"]) == ("tokens_reloaded", "tokens_refused")
    assert str(tokens) in refused["reason"] and TOKEN not in refused["reason"]


def test_secrets_that_everybody_may_read_are_warned_of(
    log: Log, certificates: Certificates, tokens: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(certificates.server_key.read_bytes())
    key.chmod(0o644)
    tokens.chmod(0o604)
    security(log, tls_cert=certificates.server_cert, tls_key=key, tokens=tokens)
    lines = log.close()
    assert [line["file"] for line in lines] == [str(key), str(tokens)]
    assert {(line["event"], line["level"]) for line in lines} == {
        ("secret_open_to_others", "warning")
    }


def test_a_secret_that_is_gone_once_it_was_read(
    log: Log, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another is about to take its place: no call fails by it."""

    def gone(path: Path) -> TokenClients:
        found = read_tokens(path)
        path.unlink()
        return found

    whole = security(log, tokens=tokens)
    monkeypatch.setattr("gloss_server.front.security.read_tokens", gone)
    tokens.write_text(tokens.read_text() + "\n")
    assert whole.clients is not None and len(whole.clients()) == 1
    assert [line["event"] for line in log.close()] == ["tokens_reloaded"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("tls_cert",), "--tls-cert: got {} alone, expected it with --tls-key"),
        (("tls_key",), "--tls-key: got {} alone, expected it with --tls-cert"),
        (("tls_client_ca",), "--tls-client-ca: got {} alone, expected it with --tls-cert and"),
        (("tls_client_ca", "tls_cert"), "--tls-cert: got {} alone, expected it with --tls-key"),
        (("tls_client_ca", "tls_key"), "--tls-key: got {} alone, expected it with --tls-cert"),
    ],
)
def test_files_that_belong_together(
    log: Log, certificates: Certificates, given: tuple[str, ...], message: str
) -> None:
    files = {
        "tls_cert": certificates.server_cert,
        "tls_key": certificates.server_key,
        "tls_client_ca": certificates.ca,
    }
    got = refusal(log, **{name: files[name] for name in given})
    assert got.startswith(message.format(files[given[-1]]))


def test_files_that_cannot_be_used(log: Log, certificates: Certificates, tmp_path: Path) -> None:
    right = {
        "tls_cert": certificates.server_cert,
        "tls_key": certificates.server_key,
        "tls_client_ca": certificates.ca,
    }
    missing, empty, broken = (tmp_path / name for name in ("missing", "empty", "broken"))
    empty.write_text("nothing")
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for name in right:
        flag = f"--{name.replace('_', '-')}"
        assert refusal(log, **(right | {name: missing})).startswith(
            f"{flag}: cannot read {missing}"
        )
        assert f"{flag}: got {empty}, which holds no" in refusal(log, **(right | {name: empty}))
    for name in ("tls_cert", "tls_client_ca"):
        flag = f"--{name.replace('_', '-')}"
        message = refusal(log, **(right | {name: broken}))
        assert message.startswith(f"{flag}: got {broken}") and "expected" in message
    key = refusal(log, **(right | {"tls_key": certificates.key}))
    assert f"got {certificates.key}, which is not the key of the certificate in" in key
    # The key's file first, as some tools put both into one.
    swapped = refusal(log, **(right | {"tls_cert": certificates.server_key}))
    assert "--tls-cert: got" in swapped and "holds no BEGIN CERTIFICATE" in swapped


def test_an_encrypted_key_is_refused_and_nobody_is_asked(
    log: Log, certificates: Certificates, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(certificates.server_key.read_bytes(), None)
    path = tmp_path / "key.pem"
    path.write_bytes(
        key.private_bytes(
            form.Encoding.PEM,
            form.PrivateFormat.PKCS8,
            form.BestAvailableEncryption(b"passphrase"),
        )
    )
    message = refusal(log, tls_cert=certificates.server_cert, tls_key=path)
    assert f"--tls-key: got {path}, which is encrypted, expected a key without" in message


@pytest.mark.parametrize(
    ("address", "settings", "is_taken"),
    [
        ("127.0.0.1:0", {}, True),
        ("127.9.9.9:1", {}, True),
        ("[::1]:0", {}, True),
        ("localhost:0", {}, True),
        ("unix:/run/gloss.sock", {}, True),
        ("0.0.0.0:0", {}, False),
        ("[::]:0", {}, False),
        ("10.0.0.1:0", {}, False),
        ("localhost.example:0", {}, False),
        ("0.0.0.0:0", {"tokens_in_clear": True}, True),
    ],
)
def test_tokens_in_the_clear(
    log: Log, tokens: Path, address: str, settings: dict[str, Any], is_taken: bool
) -> None:
    if is_taken:
        assert security(log, address=address, tokens=tokens, **settings).clients is not None
        return
    message = refusal(log, address=address, tokens=tokens)
    assert message.startswith(f"--tokens: got --address {address} without --tls-cert")
    assert "expected TLS or a loopback or unix address" in message


def test_reflection_is_off_beside_tokens_unless_it_is_asked_for(tokens: Path) -> None:
    assert ServeSettings().reflects and not ServeSettings(tokens=tokens).reflects
    assert ServeSettings(tokens=tokens, reflection=True).reflects
    assert not ServeSettings(reflection=False).reflects


def test_a_certificate_is_asked_for_once_and_again_when_it_changes(
    certificates: Certificates, tmp_path: Path
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    files = TlsFiles(cert=cert, key=key)
    write(certificates.authority.issue_cert("one.test"), cert, key)
    first = files.read()
    assert first is not files.read()
    write(certificates.authority.issue_cert("two.test"), cert, tmp_path / "other.pem")
    with pytest.raises(CommandError, match="not the key of the certificate"):
        files.read()
    # What the check stands on.
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (None, "MISSING_TOKEN"),
        ((), "MISSING_TOKEN"),
        ((("authorization", "Bearer"),), "WRONG_TOKEN"),
        ((("authorization", "Bearer "),), "WRONG_TOKEN"),
        ((("authorization", f"Token {TOKEN}"),), "WRONG_TOKEN"),
        ((("authorization", b"Bearer " + TOKEN.encode()),), "WRONG_TOKEN"),
        ((("authorization", f"Bearer {TOKEN}"),) * 2, "WRONG_TOKEN"),
        ((("authorization", f"Bearer {TOKEN} x"),), "WRONG_TOKEN"),
        ((("authorization", "Bearer \udcff"),), "WRONG_TOKEN"),
        ((("other", "x"), ("authorization", f"BEARER {TOKEN}")), None),
        ((("authorization", f"Bearer  {TOKEN} "),), None),
    ],
)
def test_tokens_of_calls(tokens: Path, metadata: Any, reason: str | None) -> None:
    clients = read_tokens(tokens)
    if reason is None:
        assert authenticate(clients, metadata).name == "alice"
        return
    with pytest.raises(CallError) as caught:
        authenticate(clients, metadata)
    assert caught.value.reason == reason
    assert TOKEN not in str(caught.value) and "authorization: Bearer TOKEN" in str(caught.value)
