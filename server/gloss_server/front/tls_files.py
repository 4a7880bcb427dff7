"""The certificates of the service's port, checked before gRPC gets them and again when they change.

gRPC says of a bad certificate only that it is bad. Every new connection asks here first, so that a
certificate is rotated by replacing its files; those that stand keep the one they began with.
"""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc

from gloss_server.command_error import CommandError
from gloss_server.front.watched_files import ReadAgain, WatchedFiles
from gloss_server.settings import ServeSettings

_CERTIFICATE, _PRIVATE_KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files of a server.

    Attributes:
        cert: its certificate, then those between it and the authority.
        key: of the certificate, not encrypted.
        client_ca: authorities whose clients are served; None: any client.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def of(cls, settings: ServeSettings) -> TlsFiles | None:
        """A server's files; None: it serves in the clear.

        Raises:
            CommandError: one is missing beside another.
        """
        cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
        if cert is not None and key is not None:
            return cls(cert=cert, key=key, client_ca=client_ca)
        for name, path, fix in (
            ("--tls-cert", cert, "--tls-key, the file of its private key"),
            ("--tls-key", key, "--tls-cert, the file of its certificate"),
            ("--tls-client-ca", client_ca, "--tls-cert and --tls-key, the server's own"),
        ):
            if path is not None:
                raise CommandError(f"{name}: got {path} alone, expected it with {fix}")
        return None

    @property
    def paths(self) -> list[Path]:
        """All there are."""
        return [self.cert, self.key, *([] if self.client_ca is None else [self.client_ca])]

    def read(self) -> grpc.ServerCertificateConfiguration:
        """What is in them, checked.

        Raises:
            CommandError: a file that cannot be read or used, by name.
        """
        cert = _pem("--tls-cert", self.cert, _CERTIFICATE, "a certificate")
        key = _pem("--tls-key", self.key, _PRIVATE_KEY, "a private key")
        self._check_pair()
        roots = None
        if self.client_ca is not None:
            roots = _pem("--tls-client-ca", self.client_ca, _CERTIFICATE, "a certificate")
            _check_authorities(self.client_ca, roots)
        return grpc.ssl_server_certificate_configuration([(key, cert)], roots)

    def _check_pair(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Without a password of ours OpenSSL would ask for one at the terminal.
            context.load_cert_chain(self.cert, self.key, password=_no_password)
        except _Encrypted:
            raise CommandError(
                f"--tls-key: got {self.key}, which is encrypted, expected a key without a "
                "passphrase: openssl pkey -in KEY -out PLAIN_KEY, readable by the server alone"
            ) from None
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise CommandError(
                    f"--tls-key: got {self.key}, which is not the key of the certificate in "
                    f"{self.cert}; name the one that it was issued for, first in its file"
                ) from None
            raise CommandError(
                f"--tls-cert: got {self.cert} with {self.key}, expected a certificate chain and "
                f"its key in PEM: {_why(error)}"
            ) from None
        except OSError as error:
            raise CommandError(f"--tls-cert, --tls-key: {error.strerror or error}") from None


class TlsCredentials:
    """A port's credentials, which follow the files.

    Args:
        files: of the server.
        tell: hears of every change.

    Raises:
        CommandError: files that cannot be used.

    Attributes:
        credentials: for grpc.
    """

    def __init__(self, files: TlsFiles, tell: ReadAgain) -> None:
        self._files = WatchedFiles(files.paths, files.read, tell)
        self._lock = threading.Lock()
        self._given = self._files.current()
        self.credentials = grpc.dynamic_ssl_server_credentials(
            self._given,
            self._next,  # type: ignore[arg-type]  # grpc takes None for no change.
            require_client_authentication=files.client_ca is not None,
        )

    def _next(self) -> grpc.ServerCertificateConfiguration | None:
        """What another connection gets, on a thread of gRPC's; None: what the last one got."""
        with self._lock:
            current = self._files.current()
            if current is self._given:
                return None
            self._given = current
            return current


class _Encrypted(Exception):
    """OpenSSL wants a password."""


def _no_password() -> str:
    raise _Encrypted


def _pem(name: str, path: Path, begins: bytes, what: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CommandError(f"{name}: cannot read {path}: {error.strerror or error}") from error
    if begins not in content:
        raise CommandError(
            f"{name}: got {path}, which holds no {begins.decode().strip('-')}; expected {what} in "
            "PEM: openssl x509 and openssl pkey convert others"
        )
    return content


def _check_authorities(path: Path, roots: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=roots.decode("ascii", errors="replace"))
    except (ssl.SSLError, ValueError) as error:
        raise CommandError(
            f"--tls-client-ca: got {path}, expected certificates of authorities in PEM: "
            f"{_why(error)}"
        ) from None


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)
