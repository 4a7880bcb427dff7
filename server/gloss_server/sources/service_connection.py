"""A server that a command asks for explanations, and what its errors mean for the command.

The client tries again what found no server. A server that is full, or starts its engine again, is
waited for; one that does not answer at all ends the run, which the same command continues.
"""

from __future__ import annotations

import time
from functools import cached_property
from threading import Event

from gloss_client import (
    Client,
    ConfigError,
    FailedPrecondition,
    GlossClientError,
    InvalidRequest,
    ModelInfo,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    RetryPolicy,
    SamplingOptions,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from gloss_engine.sampling import SamplingParams
from gloss_server.command_error import CommandError, SourceLost
from gloss_server.files.run_state import Option
from gloss_server.sources.connection_options import ConnectionOptions
from gloss_server.sources.explanation_options import ExplanationOptions

ASK_SECONDS, HEALTH_SECONDS = 20.0, 5.0
RUN_SECONDS = 3600.0
"""A request may wait behind everybody else's: the server's heartbeat and the connection's end
what hangs, not the clock."""
PATIENCE_SECONDS = 600.0
"""How long a server may be full, or have no engine, before a request fails."""
DEFAULT_SLOTS = 256
_RESTART_PAUSE_SECONDS = 0.5
_MAX_MESSAGE = 500
_REFUSALS = (
    ConfigError,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unimplemented,
)


class ServiceConnection:
    """A server, or several behind one address.

    Args:
        address: HOST:PORT, or what else the client takes.
        options: how to connect.
    """

    def __init__(self, address: str, options: ConnectionOptions) -> None:
        self.address, self._options = address, options

    @cached_property
    def info(self) -> ModelInfo:
        """What the server has loaded.

        Raises:
            CommandError, SourceLost: it did not say.
        """
        with self.connect() as client:
            try:
                return client.model_info()
            except Unavailable as error:
                hint = (
                    "Start one there with gloss serve, reach one with TLS by --tls or --tls-ca and "
                    "by --tls-cert if it wants a certificate, or add --local to run in this process"
                )
                if "NOT_SERVING" in error.message:
                    hint = "gloss health says when, or add --local to run in this process"
                raise SourceLost(f"{command_error(error)}. {hint}") from error
            except GlossClientError as error:
                raise command_error(error) from error

    def check_score(self, options: ExplanationOptions) -> None:
        """Refuse scores of a server that has no AR.

        Raises:
            CommandError: as it says.
        """
        if options.score and self.info.ar is None:
            raise CommandError(
                f"--score: the server at {self.address} has no AR loaded; leave --score out"
            )

    def scores(self, options: ExplanationOptions) -> bool:
        """Whether explanations will be scored."""
        return options.score is not False and self.info.ar is not None

    def deciding(self, options: ExplanationOptions) -> dict[str, Option]:
        """What of it decides rows. Not the address: what runs there decides."""
        return {
            "the service's fingerprint": self.info.fingerprint,
            "--score": self.scores(options),
        }

    def connect(self, retry: RetryPolicy | None = None) -> Client:
        """A connection of its own.

        Args:
            retry: when calls are tried again by themselves; None: as the client does.

        Raises:
            CommandError: an address or file that cannot be used.
        """
        token, token_file = self._options.token_source()
        try:
            return Client(
                self.address,
                tls=self._options.tls_options(),
                token=token,
                token_file=token_file,
                timeout=ASK_SECONDS,
                retry=retry,
            )
        except ConfigError as error:
            raise CommandError(f"cannot connect: {error}") from error

    def check_origin(self, fingerprint: str | None) -> None:
        """Refuse an answer of other checkpoints than those the run began with.

        Raises:
            SourceLost: as it says.
        """
        if fingerprint != self.info.fingerprint:
            raise SourceLost(
                f"the service now answers with other checkpoints or settings: got fingerprint "
                f"{fingerprint}, expected {self.info.fingerprint}, with which the run began"
            )


class Patience:
    """How long one request waits for a server that is full, or starts its engine again.

    Args:
        client: asks how the server is.
        closing: set once nobody wants the result any more.
    """

    def __init__(self, client: Client, closing: Event) -> None:
        self._client, self._closing = client, closing
        self._ends = time.monotonic() + PATIENCE_SECONDS

    def wait(self, error: ResourceExhausted | Unavailable) -> bool:
        """Wait until the same request may succeed; False: it is given up."""
        pause = self._pause(error)
        if pause is None or time.monotonic() + pause > self._ends:
            return False
        return not self._closing.wait(pause)

    def _pause(self, error: GlossClientError) -> float | None:
        if isinstance(error, ResourceExhausted):
            return error.retry_after
        # Whoever says how he is, be it NOT_SERVING, is there and may serve again.
        try:
            self._client.health(timeout=HEALTH_SECONDS)
        except GlossClientError:
            return None
        return _RESTART_PAUSE_SECONDS


def sampling_options(sampling: SamplingParams) -> SamplingOptions:
    """How tokens are drawn, as the client takes it."""
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "max_new_tokens": sampling.max_new_tokens,
        "seed": sampling.seed,
    }


def command_error(error: GlossClientError) -> CommandError:
    """What a failed call means for the command: refused for good, or lost for now."""
    text = str(error)
    message = text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."
    if isinstance(error, Unauthenticated):
        message = f"{message}. Name the token's file with --token-file"
    return (CommandError if isinstance(error, _REFUSALS) else SourceLost)(message)
