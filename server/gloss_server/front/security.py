"""What secures the service's port, as the settings say: certificates and clients' tokens."""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc

from gloss_server.address import Address
from gloss_server.command_error import CommandError
from gloss_server.front.call_log import CallLog
from gloss_server.front.tls_files import TlsCredentials, TlsFiles
from gloss_server.front.token_file import TokenClients, read_tokens
from gloss_server.front.watched_files import ReadAgain, WatchedFiles
from gloss_server.settings import ServeSettings


class Security:
    """Of one server. Files are read at once, and again when they change.

    Args:
        settings: name the files.
        log: hears of changes.

    Raises:
        CommandError: settings that do not fit together, or files that cannot be used.

    Attributes:
        credentials: of the port; None: it is in the clear.
    """

    def __init__(self, settings: ServeSettings, log: CallLog) -> None:
        self._log = log
        self.credentials: grpc.ServerCredentials | None = None
        self._tokens: WatchedFiles[TokenClients] | None = None
        files, tokens = TlsFiles.of(settings), settings.tokens
        if files is not None:
            tell = self._teller("tls", files.key)
            self.credentials = TlsCredentials(files, tell).credentials
            self._warn(files.key)
        if tokens is not None:
            _check_not_in_clear(settings, is_encrypted=files is not None)
            tell = self._teller("tokens", tokens)
            self._tokens = WatchedFiles([tokens], lambda: read_tokens(tokens), tell)
            self._warn(tokens)

    @property
    def clients(self) -> Callable[[], TokenClients] | None:
        """The clients of the moment; None: whoever calls is answered."""
        return None if self._tokens is None else self._tokens.current

    def own_rate(self, client: str) -> float | None:
        """A client's own tokens per second; None: it has none."""
        return None if self._tokens is None else self._tokens.last.tokens_per_second(client)

    def _teller(self, what: str, secret: Path) -> ReadAgain:
        """Logs what came of files that have changed."""

        def tell(problem: str | None) -> None:
            if problem is None:
                self._log.lifecycle(f"{what}_reloaded")
                self._warn(secret)
            else:
                self._log.lifecycle(f"{what}_refused", reason=problem)

        return tell

    def _warn(self, secret: Path) -> None:
        # One that is being replaced may be gone for a moment: the call that looked goes on.
        with suppress(FileNotFoundError):
            if secret.stat().st_mode & stat.S_IROTH:
                self._log.lifecycle("secret_open_to_others", file=str(secret))


def _check_not_in_clear(settings: ServeSettings, is_encrypted: bool) -> None:
    """Refuse tokens that anybody on the way could read.

    Raises:
        CommandError: as it says.
    """
    is_local = Address.parse(settings.address, unix=True).is_local
    if not (is_encrypted or is_local or settings.tokens_in_clear):
        raise CommandError(
            f"--tokens: got --address {settings.address} without --tls-cert, where everybody on "
            "the way could read them; expected TLS or a loopback or unix address, or the setting "
            "tokens_in_clear where a proxy in front ends TLS"
        )
