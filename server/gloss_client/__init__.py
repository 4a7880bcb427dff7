"""The Gloss client: explanations of activations over gRPC, for threads and asyncio. No torch."""

from gloss_client.async_client import AsyncClient
from gloss_client.async_stream import AsyncExplanationStream
from gloss_client.client import Client
from gloss_client.credentials import TlsOptions
from gloss_client.errors import (
    AlreadyExists,
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    FailedPrecondition,
    GlossClientError,
    InconsistentReply,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServerError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from gloss_client.generation import VerbalizeOptions
from gloss_client.model_info import Checkpoint, Limits, ModelInfo
from gloss_client.results import (
    Explanation,
    ItemError,
    ReconstructResult,
    Score,
    ScoreResult,
    StreamEvent,
    StreamSummary,
    TextDelta,
    Timings,
    Usage,
    VerbalizeResult,
)
from gloss_client.retry_policy import RetryPolicy
from gloss_client.server_stats import LatencyQuantiles, ServerStats
from gloss_client.stream import ExplanationStream
from gloss_client.tensors import WireDtype

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "AsyncExplanationStream",
    "Cancelled",
    "Checkpoint",
    "Client",
    "ConfigError",
    "DeadlineExceeded",
    "Explanation",
    "ExplanationStream",
    "FailedPrecondition",
    "GlossClientError",
    "InconsistentReply",
    "InvalidRequest",
    "ItemError",
    "LatencyQuantiles",
    "Limits",
    "ModelInfo",
    "NotFound",
    "PermissionDenied",
    "ReconstructResult",
    "ResourceExhausted",
    "RetryPolicy",
    "Score",
    "ScoreResult",
    "ServerError",
    "ServerStats",
    "StreamEvent",
    "StreamSummary",
    "TextDelta",
    "Timings",
    "TlsOptions",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Usage",
    "VerbalizeOptions",
    "VerbalizeResult",
    "WireDtype",
]
