"""Who the client is and whom it trusts: TLS options and the bearer token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from gloss_client.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TlsOptions:
    """How the connection is encrypted. Files are PEM and are read when the client is made.

    Attributes:
        ca_file: certificates of the authorities to trust; None: the public ones gRPC ships.
        cert_file: the client's certificate chain, for mutual TLS; None: none.
        key_file: its private key.
        server_name: name the server's certificate must hold; None: the address's host. Needed with
            several addresses.
    """

    ca_file: Path | str | None = None
    cert_file: Path | str | None = None
    key_file: Path | str | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """The channel's credentials.

        Raises:
            ConfigError: a certificate without its key, or a file that cannot be read.
        """
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("tls: cert_file and key_file belong together; got only one of them")
        return grpc.ssl_channel_credentials(
            root_certificates=_pem("ca_file", self.ca_file),
            private_key=_pem("key_file", self.key_file),
            certificate_chain=_pem("cert_file", self.cert_file),
        )


@dataclass(frozen=True)
class BearerToken:
    """The token that calls carry as `authorization: Bearer ...`. Its text is in no repr.

    A token file is read again for every call, so that a rotated token takes effect at once.
    """

    _text: str | None
    _file: Path | None

    @classmethod
    def of(cls, token: str | None, token_file: Path | str | None) -> BearerToken | None:
        """The token of a client; None without one.

        Raises:
            ConfigError: both kinds, an empty token, or one that no header can hold.
        """
        if token is not None and token_file is not None:
            raise ConfigError("token: got token and token_file, expected one of them")
        if token is None and token_file is None:
            return None
        bearer = cls(token, None if token_file is None else Path(token_file))
        bearer.metadata()
        return bearer

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call sends.

        Raises:
            ConfigError: the file cannot be read, or holds no token.
        """
        text = self._text
        if self._file is not None:
            text = _read("token_file", self._file).decode(errors="replace")
        text = (text or "").strip()
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            where = self._file or "the argument"
            raise ConfigError(f"token: {where} holds no token: one line of printable ASCII")
        return (("authorization", f"Bearer {text}"),)

    def __repr__(self) -> str:
        return "BearerToken(...)"


def _pem(name: str, path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    content = _read(f"tls: {name}", Path(path))
    if b"-----BEGIN " not in content:
        raise ConfigError(f"tls: {name}: {path} holds no PEM block")
    return content


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot read {path}: {error.strerror or error}") from error
