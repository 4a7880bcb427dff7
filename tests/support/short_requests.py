"""A request of every method that a server of the embedded pair answers within a moment."""

from __future__ import annotations

from typing import Any

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from support.server_process import ServerProcess
from support.service_calls import stream_request, tensor, verbalize_request
from support.text_calls import capture_request, explain_request, watch_request

_ROWS = np.random.default_rng(0).normal(size=(2, 128)).astype(np.float32)
_SHORT = {"max_new_tokens": 3, "seed": 1}
REQUESTS: dict[str, Any] = {
    "Verbalize": verbalize_request(_ROWS, "", **_SHORT),
    "StreamVerbalize": stream_request(_ROWS, "", **_SHORT),
    "Explain": explain_request("Leo is a tailor.", **_SHORT),
    "Watch": watch_request("Leo is a tailor.", target_options=_SHORT, options=_SHORT),
    "Capture": capture_request("Leo is a tailor."),
    "Reconstruct": pb.ReconstructRequest(texts=["a tailor"]),
    "Score": pb.ScoreRequest(texts=["a tailor", "a fish"], activations=tensor(_ROWS)),
    "GetModelInfo": pb.GetModelInfoRequest(),
    "GetStats": pb.GetStatsRequest(),
}
STREAMS = {"StreamVerbalize", "Explain", "Watch", "Capture"}


def begin(server: ServerProcess, method: str, timeout: float = 30) -> Any:
    """A call that is not waited for."""
    call = getattr(server.stub, method)
    begin = call if method in STREAMS else call.future
    return begin(REQUESTS[method], timeout=timeout)
