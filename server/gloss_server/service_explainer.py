"""Explanations from a server: `gloss verbalize --address`.

Requests run on threads that wait for their replies, several at once. The client tries again what
found no server. A server that is full, or starts its engine again, is waited for; one that does not
answer at all ends the run, which the same command continues.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path

import numpy as np

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
    TlsOptions,
    Unauthenticated,
    Unavailable,
    VerbalizeResult,
)
from gloss_server.activation_file import ActivationChunk
from gloss_server.command_error import CommandError, SourceLost
from gloss_server.explainer import Advance, FinishedChunk, RequestTemplate
from gloss_server.run_state import Option
from gloss_server.terminal import RunProgress
from gloss_server.verbalize_options import VerbalizeOptions

ASK_SECONDS, HEALTH_SECONDS = 20.0, 5.0
RUN_SECONDS = 3600.0
"""A request may wait behind everybody else's: the server's heartbeat and the connection's end
what hangs, not the clock."""
PATIENCE_SECONDS = 600.0
"""How long a server may be full, or have no engine, before a request fails."""
_RESTART_PAUSE_SECONDS = 0.5
_MAX_CALLS = 64
_DEFAULT_SLOTS = 256
_MAX_MESSAGE = 500
_REFUSALS = (
    ConfigError,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)


class ServiceExplainer:
    """A server, or several behind one address.

    Args:
        address: HOST:PORT, or what else the client takes.
        token_file: holds the bearer token; None: none.
        tls_ca: certificates to trust; None: no TLS.
    """

    def __init__(
        self, address: str, token_file: Path | None = None, tls_ca: Path | None = None
    ) -> None:
        self._address, self._token_file = address, token_file
        self._tls = None if tls_ca is None else TlsOptions(ca_file=tls_ca)

    def check(self, options: VerbalizeOptions) -> None:
        """See Explainer: asks what the server has loaded."""
        if options.score and self._info.ar is None:
            raise CommandError(
                f"--score: the server at {self._address} has no AR loaded; leave --score out"
            )

    def scores(self, options: VerbalizeOptions) -> bool:
        """See Explainer."""
        return options.score is not False and self._info.ar is not None

    def deciding(self, options: VerbalizeOptions) -> dict[str, Option]:
        """See Explainer. Not the address: what runs there decides."""
        return {
            "the service's fingerprint": self._info.fingerprint,
            "--score": self.scores(options),
        }

    def open(
        self, options: VerbalizeOptions, template: RequestTemplate, progress: RunProgress
    ) -> ServiceRunner:
        """See Explainer."""
        client = self._connect()
        try:
            num_slots = client.stats().num_slots or _DEFAULT_SLOTS
        except GlossClientError as error:
            client.close()
            raise command_error(error) from error
        return ServiceRunner(client, self._info, template, num_slots)

    @cached_property
    def _info(self) -> ModelInfo:
        with self._connect() as client:
            try:
                return client.model_info()
            except Unavailable as error:
                hint = "Start one there with gloss serve, or add --local to run in this process"
                raise SourceLost(f"{command_error(error)}. {hint}") from error
            except GlossClientError as error:
                raise command_error(error) from error

    def _connect(self) -> Client:
        """A connection of its own.

        Raises:
            CommandError: an address or file that cannot be used.
        """
        try:
            return Client(
                self._address, tls=self._tls, token_file=self._token_file, timeout=ASK_SECONDS
            )
        except ConfigError as error:
            raise CommandError(f"cannot connect: {error}") from error


class ServiceRunner:
    """Requests to a server; a chunk is one request. See Runner.

    Args:
        client: closed with it.
        info: what the server has loaded.
        template: how.
        num_slots: explanations that run at once there.
    """

    def __init__(
        self, client: Client, info: ModelInfo, template: RequestTemplate, num_slots: int
    ) -> None:
        self.d_model, self.explains = info.d_model, f"the model that {info.model} explains"
        limits, most_tokens = info.limits, max(template.sampling.max_new_tokens, 1)
        # Half of what may queue there is left to others.
        self.num_ahead = max(
            min(
                3 * num_slots,
                limits.max_queued_explanations // 2,
                limits.max_queued_tokens // most_tokens // 2,
            ),
            1,
        )
        self._client, self._info, self._template = client, info, template
        self._pool = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="gloss-request")
        self._open: dict[Future[VerbalizeResult], ActivationChunk] = {}
        self._closing = threading.Event()

    def check(self) -> None:
        """Let the server judge a request like all others whose row is zero: that row fails alone,
        so nothing is generated."""
        probe = ActivationChunk(start=0, activations=np.zeros((1, self.d_model), np.float32))
        try:
            self._explain(probe)
        except GlossClientError as error:
            raise command_error(error) from error

    def submit(self, chunk: ActivationChunk) -> None:
        """See Runner."""
        self._open[self._pool.submit(self._explain, chunk)] = chunk

    def advance(self) -> Advance:
        """Wait for a reply, and take all that are there."""
        ended, _ = wait(self._open, return_when=FIRST_COMPLETED)
        finished, num_new = [], 0
        for future in ended:
            chunk = self._open.pop(future)
            try:
                result = future.result()
            except GlossClientError as error:
                raise command_error(error) from error
            self._check_origin(result)
            num_new += len(result.explanations)
            finished.append(FinishedChunk(start=chunk.start, explanations=result.explanations))
        return Advance(num_new=num_new, finished=finished)

    def close(self) -> None:
        """Cancel what is in flight and let go of the connection."""
        self._closing.set()
        self._client.close()
        self._pool.shutdown(cancel_futures=True)

    def _check_origin(self, result: VerbalizeResult) -> None:
        if result.fingerprint != self._info.fingerprint:
            raise SourceLost(
                f"the service now answers with other checkpoints or settings: got fingerprint "
                f"{result.fingerprint}, expected {self._info.fingerprint}, with which the run began"
            )

    def _explain(self, chunk: ActivationChunk) -> VerbalizeResult:
        """Runs on a thread of the pool."""
        patience_ends = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._call(chunk)
            except (ResourceExhausted, Unavailable) as error:
                pause = self._pause(error)
                if pause is None or time.monotonic() + pause > patience_ends:
                    raise
                if self._closing.wait(pause):
                    raise

    def _pause(self, error: GlossClientError) -> float | None:
        """Seconds until the same request may succeed; None: it is given up."""
        if isinstance(error, ResourceExhausted):
            return error.retry_after
        # Whoever says how he is, be it NOT_SERVING, is there and may serve again.
        try:
            self._client.health(timeout=HEALTH_SECONDS)
        except GlossClientError:
            return None
        return _RESTART_PAUSE_SECONDS

    def _call(self, chunk: ActivationChunk) -> VerbalizeResult:
        start, num_rows, template = chunk.start, len(chunk.activations), self._template
        sampling = template.sampling
        return self._client.verbalize(
            chunk.activations,
            num_samples=template.num_samples,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            max_new_tokens=sampling.max_new_tokens,
            seed=template.seed,
            score=template.score,
            item_keys=range(start, start + num_rows),
            positions=chunk.positions,
            token_ids=chunk.token_ids,
            layer_index=template.layer_index,
            allow_layer_mismatch=template.allow_layer_mismatch,
            timeout=RUN_SECONDS,
        )


def command_error(error: GlossClientError) -> CommandError:
    """What a failed call means for the command: refused for good, or lost for now."""
    text = str(error)
    message = text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."
    return (CommandError if isinstance(error, _REFUSALS) else SourceLost)(message)
