"""`gloss token`: a new bearer token, and the entry of the server's file that knows it."""

from __future__ import annotations

import hashlib
import secrets

from gloss_server.command_error import CommandError
from gloss_server.front.token_file import NAME

_TOKEN_BYTES = 32


def new_token(name: str) -> tuple[str, str]:
    """A token and its entry, which has the token's SHA-256 alone.

    Raises:
        CommandError: a name that no client can have.
    """
    if NAME.fullmatch(name) is None:
        raise CommandError(
            f"NAME: got {name!r}, expected 1 to 64 letters, digits, dots, dashes, underlines and @"
        )
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    digest = hashlib.sha256(token.encode()).hexdigest()
    return token, f'[clients."{name}"]\nsha256 = "{digest}"'
