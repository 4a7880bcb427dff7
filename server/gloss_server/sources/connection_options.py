"""How a command connects to a server: whom it trusts and what it shows, from flags and environment.

A token itself is never a flag, since every user of a machine sees the flags of its processes. This
is the only place that reads the environment for a command that asks a server.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gloss_client import TlsOptions
from gloss_server.command_error import CommandError
from gloss_server.sources.client_environment import TOKEN, TOKEN_FILE


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """Options of a connection, as the command line names them.

    Attributes:
        tls: encrypt; so does each of the following.
        tls_ca: certificates of the authorities to trust; None: the public ones.
        tls_cert, tls_key: the client's own, for mutual TLS.
        tls_server_name: what the server's certificate must hold; None: the address's host.
        token_file: holds the bearer token; None: what the environment says.
    """

    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_server_name: str | None = None
    token_file: Path | None = None

    def tls_options(self) -> TlsOptions | None:
        """How the connection is encrypted; None: not at all."""
        given = (self.tls_ca, self.tls_cert, self.tls_key, self.tls_server_name)
        if not self.tls and all(option is None for option in given):
            return None
        return TlsOptions(
            ca_file=self.tls_ca,
            cert_file=self.tls_cert,
            key_file=self.tls_key,
            server_name=self.tls_server_name,
        )

    def token_source(self) -> tuple[str | None, Path | None]:
        """The token, or the file that holds it; neither: there is none.

        Raises:
            CommandError: the environment has both.
        """
        if self.token_file is not None:
            return None, self.token_file
        token, file = os.environ.get(TOKEN) or None, os.environ.get(TOKEN_FILE) or None
        if token is not None and file is not None:
            raise CommandError(f"environment: got {TOKEN} and {TOKEN_FILE}, expected one of them")
        return token, None if file is None else Path(file)
