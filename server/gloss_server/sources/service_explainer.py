"""Explanations of activations from a server: `gloss verbalize --address`.

Requests run on threads that wait for their replies, several at once.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import numpy as np

from gloss_client import (
    Client,
    GlossClientError,
    ResourceExhausted,
    Unavailable,
    VerbalizeResult,
)
from gloss_server.files.activation_chunk import ActivationChunk
from gloss_server.sources.explainer import Advance, FinishedChunk, RequestTemplate
from gloss_server.sources.service_connection import (
    DEFAULT_SLOTS,
    RUN_SECONDS,
    Patience,
    ServiceConnection,
    command_error,
    sampling_options,
)
from gloss_server.sources.verbalize_options import VerbalizeOptions
from gloss_server.terminal import RunProgress

_MAX_CALLS = 64


class ServiceExplainer(ServiceConnection):
    """A server that explains activations. See Explainer for what it can do."""

    def check(self, options: VerbalizeOptions) -> None:
        """See Explainer: asks what the server has loaded."""
        self.check_score(options)

    def open(
        self, options: VerbalizeOptions, template: RequestTemplate, progress: RunProgress
    ) -> ServiceRunner:
        """See Explainer."""
        client = self.connect()
        try:
            num_slots = client.stats().num_slots or DEFAULT_SLOTS
        except GlossClientError as error:
            client.close()
            raise command_error(error) from error
        return ServiceRunner(client, self, template, num_slots)


class ServiceRunner:
    """Requests to a server; a chunk is one request. See Runner.

    Args:
        client: closed with it.
        service: where it leads.
        template: how.
        num_slots: explanations that run at once there.
    """

    def __init__(
        self,
        client: Client,
        service: ServiceConnection,
        template: RequestTemplate,
        num_slots: int,
    ) -> None:
        info = service.info
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
        self._client, self._service, self._template = client, service, template
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
            self._service.check_origin(result.fingerprint)
            num_new += len(result.explanations)
            finished.append(FinishedChunk(start=chunk.start, explanations=result.explanations))
        return Advance(num_new=num_new, finished=finished)

    def close(self) -> None:
        """Cancel what is in flight and let go of the connection."""
        self._closing.set()
        self._client.close()
        self._pool.shutdown(cancel_futures=True)

    def _explain(self, chunk: ActivationChunk) -> VerbalizeResult:
        """Runs on a thread of the pool."""
        patience = Patience(self._client, self._closing)
        while True:
            try:
                return self._call(chunk)
            except (ResourceExhausted, Unavailable) as error:
                if not patience.wait(error):
                    raise

    def _call(self, chunk: ActivationChunk) -> VerbalizeResult:
        start, num_rows, template = chunk.start, len(chunk.activations), self._template
        return self._client.verbalize(
            chunk.activations,
            num_samples=template.num_samples,
            score=template.score,
            item_keys=range(start, start + num_rows),
            positions=chunk.positions,
            token_ids=chunk.token_ids,
            layer_index=template.layer_index,
            allow_layer_mismatch=template.allow_layer_mismatch,
            timeout=RUN_SECONDS,
            # Of a file nobody waits for a row.
            priority="batch",
            **sampling_options(template.sampling),
        )
