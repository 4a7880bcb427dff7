"""How commands connect: what flags and environment say, and what is not shown to whom."""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path

import pytest

from gloss_client import TlsOptions
from gloss_server.command_error import CommandError
from gloss_server.front.token_file import read_tokens
from gloss_server.settings_sources import read_settings
from gloss_server.sources.connection_options import ConnectionOptions
from support.certificates import Certificates
from support.command_runs import Command
from support.echo_server import echo_server

SECRET = "s3cret-0123456789abcdef"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith("GLOSS_"):
            monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"token_file": Path("t")}, None),
        ({"tls": True}, TlsOptions()),
        ({"tls_ca": Path("ca")}, TlsOptions(ca_file=Path("ca"))),
        ({"tls_server_name": "x"}, TlsOptions(server_name="x")),
        (
            {"tls_cert": Path("c"), "tls_key": Path("k")},
            TlsOptions(cert_file=Path("c"), key_file=Path("k")),
        ),
    ],
)
def test_any_option_of_tls_encrypts(
    options: dict[str, object], expected: TlsOptions | None
) -> None:
    assert ConnectionOptions(**options).tls_options() == expected  # type: ignore[arg-type]


def test_where_the_token_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    flag = ConnectionOptions(token_file=Path("flag"))
    assert ConnectionOptions().token_source() == (None, None)
    monkeypatch.setenv("GLOSS_TOKEN_FILE", "file")
    assert ConnectionOptions().token_source() == (None, Path("file"))
    monkeypatch.setenv("GLOSS_TOKEN", SECRET)
    assert flag.token_source() == (None, Path("flag"))
    with pytest.raises(CommandError) as caught:
        ConnectionOptions().token_source()
    assert str(caught.value).startswith("environment: got GLOSS_TOKEN and GLOSS_TOKEN_FILE")
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("GLOSS_TOKEN_FILE", "")
    assert ConnectionOptions().token_source() == (SECRET, None)
    # No settings of a server, which may be started in the same environment.
    assert read_settings({}).tokens is None


@pytest.mark.parametrize("command", ["top", "verbalize", "explain", "watch"])
def test_a_token_is_not_shown_to_the_network(
    gloss: Command, command: str, monkeypatch: pytest.MonkeyPatch, npy: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("GLOSS_TOKEN", SECRET)
    arguments = {
        "top": ["10.0.0.1:1", "--once"],
        "verbalize": [npy, "--output", tmp_path / "out.jsonl", "--address", "10.0.0.1:1"],
    }
    given = arguments.get(command, ["text", "--address", "10.0.0.1:1"])
    ended = gloss(command, *given)
    assert ended.status == 2 and SECRET not in ended.stderr
    assert "cannot connect: token: without TLS anyone on the way to 10.0.0.1:1" in ended.error


def test_health_by_tls_needs_no_token(
    gloss: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOSS_TOKEN_FILE", "none")
    certificates = Certificates.make(tmp_path)
    with echo_server(credentials=certificates.server_credentials(mutual=True)) as server:
        server.set_serving(True)
        shown = ["--tls-cert", certificates.cert, "--tls-key", certificates.key]
        trusted = ["--tls-ca", certificates.ca, "--tls-server-name", "gloss.test"]
        ended = gloss("health", server.address, *trusted, *shown)
        assert (ended.status, ended.stdout) == (0, "SERVING\n")
        for refused in ([], trusted, [*trusted[:2], *shown], ["--tls", *shown]):
            ended = gloss("health", server.address, *refused)
            # The server's own gRPC, in this process, says there what it thinks of it.
            (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
            assert ended.status == 1 and "no server answers there" in line
            assert line.endswith("or --tls-ca, and may want a certificate: --tls-cert")
    assert gloss("health", "x:1", "--tls-ca", "none").error.endswith(
        "cannot connect: tls: ca_file: cannot read none: No such file or directory"
    )


def test_a_new_token_and_its_entry(gloss: Command, tmp_path: Path) -> None:
    file, tokens = tmp_path / "tokens.toml", {}
    for name in ("alice", "bob@example.com", "a.b"):
        ended = gloss("token", name)
        said, _, tokens[name] = ended.stderr.rstrip("\n").rpartition(": ")
        assert ended.status == 0 and said == f"token of {name}"
        assert tokens[name] not in ended.stdout
        with file.open("a") as entries:
            entries.write(ended.stdout)
    clients = read_tokens(file)
    assert len(clients) == 3 and len(set(tokens.values())) == 3
    for name, token in tokens.items():
        found = clients.find(token)
        assert found is not None and found.name == name and len(token) == 43
    digests = {table["sha256"] for table in tomllib.loads(file.read_text())["clients"].values()}
    assert digests == {hashlib.sha256(token.encode()).hexdigest() for token in tokens.values()}
    assert gloss("token", "a b").error.startswith("error: NAME: got 'a b', expected 1 to 64")
