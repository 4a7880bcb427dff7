"""The clients' file: who is in it, whose token is whose, what is refused without a word of it."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from gloss_server.command_error import CommandError
from gloss_server.front.token_file import read_tokens

ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def refusal(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(CommandError) as caught:
        read_tokens(path)
    message = str(caught.value)
    assert message.startswith("--tokens: ") and str(path) in message and "\n" not in message
    # Neither it nor what it was raised from: a traceback is logged with both.
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
    assert "s3cret" not in message
    return message


def test_clients_with_what_they_may(path: Path) -> None:
    digest = hashlib.sha256(BOB.encode()).hexdigest()
    path.write_text(
        f'[clients.alice]\ntoken = "{ALICE}"\n'
        f'[clients."bob@example.com"]\nsha256 = "{digest.upper()}"\ntokens_per_second = 5\n'
        'methods = ["GetStats", "Verbalize"]\n'
    )
    clients = read_tokens(path)
    alice, bob = clients.find(ALICE), clients.find(BOB)
    assert alice is not None and bob is not None and len(clients) == 2
    assert (alice.name, alice.methods, alice.tokens_per_second) == ("alice", None, None)
    assert (bob.name, bob.methods) == ("bob@example.com", {"GetStats", "Verbalize"})
    assert clients.tokens_per_second("bob@example.com") == 5.0
    assert clients.tokens_per_second("alice") is clients.tokens_per_second("nobody") is None
    for token in ("", ALICE[:-1], f"{ALICE} ", ALICE.upper(), digest, "ü" * 20, "x" * 100_000):
        assert clients.find(token) is None
    assert ALICE not in repr(alice) and hashlib.sha256(ALICE.encode()).digest() == alice.digest
    assert repr(alice.digest) not in repr(alice)


def test_all_are_compared_whoever_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"client-{number}" for number in range(7)]
    path.write_text("".join(f'[clients.{name}]\ntoken = "{name}-{"x" * 16}"\n' for name in names))
    clients, compared = read_tokens(path), []

    def compare(one: bytes, other: bytes) -> bool:
        assert len(one) == len(other) == 32
        compared.append(one)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in (f"client-0-{'x' * 16}", f"client-6-{'x' * 16}", "nobody's"):
        compared.clear()
        clients.find(token)
        assert len(compared) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "clients: holds nobody"),
        ("[clients]", "clients: holds nobody"),
        ("clients = 3", "clients: holds nobody"),
        ('token = "s3cret"', "'token': is no key of it; expected [clients.NAME] alone"),
        ('[clients]\n"s3cret-0123456789ab" = "alice"', "client 1 of the file: is no [clients"),
        ('[clients]\nalice = "s3cret"', "client 1 of the file: is no [clients.NAME]"),
        ('[clients."s3cret s3cret"]\ntoken = "x"', "client 1 of the file: is no [clients"),
        ("[clients.a]", "clients.a: has none of token and sha256; expected one of them"),
        (
            '[clients.a]\ntoken = "s3cret"\nsha256 = "s3cret"',
            "clients.a: has both of token and sha256; expected one of them",
        ),
        ('[clients.a]\ntoken = "s3cret"', "clients.a.token: expected 16 or more characters of"),
        ('[clients.a]\ntoken = "s3cret with blanks in it"', "clients.a.token: expected 16"),
        ('[clients.a]\ntoken = "s3cret-0123456789-ü"', "clients.a.token: expected 16"),
        ("[clients.a]\ntoken = 1234567890123456789", "clients.a.token: expected 16"),
        ('[clients.a]\nsha256 = "s3cret"', "clients.a.sha256: expected 64 hex digits"),
        ('[clients.a]\nquota = "s3cret"', "clients.a: 'quota': is none of token, sha256, tok"),
        ('[clients.a]\ns3cret-1234 = "token"', "clients.a: a key: is none of token, sha256"),
        (
            '[clients.a]\ntoken = "s3cret-0123456789"\ntokens_per_second = 0',
            "clients.a.tokens_per_second: expected a number above 0",
        ),
        (
            '[clients.a]\ntoken = "s3cret-0123456789"\ntokens_per_second = true',
            "clients.a.tokens_per_second: expected a number above 0",
        ),
        (
            '[clients.a]\ntoken = "s3cret-0123456789"\ntokens_per_second = inf',
            "clients.a.tokens_per_second: expected a number above 0",
        ),
        (
            '[clients.a]\ntoken = "s3cret-0123456789"\nmethods = ["Verbalise"]',
            "clients.a.methods: expected a list of some of Verbalize, StreamVerbalize",
        ),
        ('[clients.a]\ntoken = "s3cret-0123456789"\nmethods = []', "clients.a.methods: expected"),
        (
            '[clients.a]\ntoken = "s3cret-0123456789"\n[clients.b]\ntoken = "s3cret-0123456789"',
            "clients.b: has the token of a; expected one of its own",
        ),
        ('[clients.a]\ntoken = "s3cret', "is no TOML (at end of document)"),
        ("[clients.a]\ntoken = s3cret", "is no TOML (at line 2, column 9)"),
        ('[clients.a]\n"s3cret" = 1\n"s3cret" = 2\n', "is no TOML (at line 3"),
    ],
)
def test_what_is_refused(path: Path, text: str, message: str) -> None:
    assert message in refusal(path, text)


def test_files_that_cannot_be_read(path: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot read .*No such file or directory"):
        read_tokens(tmp_path / "none.toml")
    with pytest.raises(CommandError, match="cannot read .*Is a directory"):
        read_tokens(tmp_path)
    path.write_bytes(b'[clients.a]\ntoken = "\xff"')
    with pytest.raises(CommandError, match="expected TOML in UTF-8"):
        read_tokens(path)
