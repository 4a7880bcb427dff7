"""The clients that a server answers, each with its bearer token, as a TOML file names them.

    [clients.alice]
    token = "..."                       # or sha256 = "..", of the token, in hex
    tokens_per_second = 500             # in place of client_tokens_per_second
    methods = ["Verbalize", "GetStats"] # that it may call; left out: all

Errors name the file and the key and never what stands behind it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from gloss_server.command_error import CommandError
from gloss_server.front.labels import METHODS

MIN_TOKEN_CHARS = 16
NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_KEYS = ("token", "sha256", "tokens_per_second", "methods")
_PLAIN_KEY = re.compile(r"[a-z_]{1,24}")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
# What tomllib says of a place; the rest of its messages may repeat what stands there.
_PLACE = re.compile(r"\((at .*)\)\Z")


@dataclass(frozen=True, kw_only=True)
class TokenClient:
    """A client of the file.

    Attributes:
        name: in the log, and of its quota.
        digest: SHA-256 of its token.
        tokens_per_second: its quota; None: the server's.
        methods: RPCs it may call; None: all.
    """

    name: str
    digest: bytes = field(repr=False)
    tokens_per_second: float | None = None
    methods: frozenset[str] | None = None


class TokenClients:
    """All clients of a file.

    Args:
        clients: with names and tokens of their own.
    """

    def __init__(self, clients: Iterable[TokenClient]) -> None:
        self._clients = tuple(clients)
        self._rates = {client.name: client.tokens_per_second for client in self._clients}

    def __len__(self) -> int:
        return len(self._clients)

    def find(self, token: str) -> TokenClient | None:
        """Whose token it is. It takes as long whoever it is and whatever is wrong with it."""
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        found = None
        for client in self._clients:
            if hmac.compare_digest(client.digest, digest):
                found = client
        return found

    def tokens_per_second(self, name: str) -> float | None:
        """A client's own quota; None: it has none, or is not here."""
        return self._rates.get(name)


def read_tokens(path: Path) -> TokenClients:
    """The clients of a file.

    Raises:
        CommandError: the file cannot be read or used: the key at fault and what was expected.
    """
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise CommandError(f"--tokens: cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise CommandError(f"--tokens: {path}: expected TOML in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        where = f" ({place[1]})" if place else ""
        # Not what it comes from either: a traceback would show it.
        raise CommandError(f"--tokens: {path}: is no TOML{where}") from None
    found = _clients(path, content)
    _check_apart(path, found)
    return TokenClients(found)


def _clients(path: Path, content: Mapping[str, Any]) -> list[TokenClient]:
    for key in content:
        if key != "clients":
            raise _wrong(path, _shown(key), "is no key of it; expected [clients.NAME] alone")
    tables = content.get("clients")
    if not isinstance(tables, dict) or not tables:
        raise _wrong(path, "clients", "holds nobody; expected one [clients.NAME] or more")
    clients = []
    for number, (name, table) in enumerate(tables.items(), 1):
        # What is no table may have the token for its name.
        if not isinstance(table, dict) or NAME.fullmatch(name) is None:
            raise _wrong(
                path,
                f"client {number} of the file",
                "is no [clients.NAME] with a name of 1 to 64 letters, digits, dots, dashes, "
                "underlines and @",
            )
        clients.append(_client(path, name, table))
    return clients


def _client(path: Path, name: str, table: Mapping[str, Any]) -> TokenClient:
    where = f"clients.{name}"
    for key in table:
        if key not in _KEYS:
            raise _wrong(path, f"{where}: {_shown(key)}", f"is none of {', '.join(_KEYS)}")
    rate = table.get("tokens_per_second")
    if rate is not None and not (_is_number(rate) and isfinite(rate) and rate > 0):
        raise _wrong(path, f"{where}.tokens_per_second", "expected a number above 0")
    methods = table.get("methods")
    if methods is not None and not (
        isinstance(methods, list) and methods and all(method in METHODS for method in methods)
    ):
        raise _wrong(path, f"{where}.methods", f"expected a list of some of {', '.join(METHODS)}")
    return TokenClient(
        name=name,
        digest=_digest(path, where, table),
        tokens_per_second=None if rate is None else float(rate),
        methods=None if methods is None else frozenset(methods),
    )


def _digest(path: Path, where: str, table: Mapping[str, Any]) -> bytes:
    if ("token" in table) == ("sha256" in table):
        both = "both of" if "token" in table else "none of"
        raise _wrong(path, where, f"has {both} token and sha256; expected one of them")
    if "sha256" in table:
        digest = table["sha256"]
        if not isinstance(digest, str) or _SHA256.fullmatch(digest) is None:
            raise _wrong(path, f"{where}.sha256", "expected 64 hex digits, the token's SHA-256")
        return bytes.fromhex(digest)
    token = table["token"]
    if (
        not isinstance(token, str)
        or len(token) < MIN_TOKEN_CHARS
        or not (token.isascii() and token.isprintable() and " " not in token)
    ):
        raise _wrong(
            path,
            f"{where}.token",
            f"expected {MIN_TOKEN_CHARS} or more characters of printable ASCII without blanks, "
            "as gloss token makes them",
        )
    return hashlib.sha256(token.encode()).digest()


def _check_apart(path: Path, clients: list[TokenClient]) -> None:
    names: dict[bytes, str] = {}
    for client in clients:
        other = names.setdefault(client.digest, client.name)
        if other != client.name:
            raise _wrong(
                path, f"clients.{client.name}", f"has the token of {other}; expected one of its own"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(key: str) -> str:
    """A key by its name, unless that may be a token in the wrong place."""
    return repr(key) if _PLAIN_KEY.fullmatch(key) else "a key"


def _wrong(path: Path, key: str, problem: str) -> CommandError:
    return CommandError(f"--tokens: {path}: {key}: {problem}")
