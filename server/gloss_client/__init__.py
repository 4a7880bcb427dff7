"""The Gloss client: explanations of activations over gRPC, for threads and asyncio. No torch."""

from gloss_client.async_client import AsyncClient
from gloss_client.async_stream import AsyncEventStream, AsyncExplanationStream
from gloss_client.capture_call import CaptureOptions
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
from gloss_client.explain_call import ExplainOptions
from gloss_client.generation import Priority, SamplingOptions, VerbalizeOptions
from gloss_client.model_info import Checkpoint, Limits, ModelInfo
from gloss_client.positions import Positions
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
    TokenPlace,
    Usage,
    VerbalizeResult,
)
from gloss_client.retry_policy import RetryPolicy
from gloss_client.server_stats import LatencyQuantiles, ServerStats
from gloss_client.stream import EventStream, ExplanationStream
from gloss_client.tensors import WireDtype
from gloss_client.text_input import Text
from gloss_client.text_results import (
    ActivationRows,
    Captured,
    CaptureEvent,
    CaptureResult,
    CaptureSummary,
    ExplainEvent,
    ExplainResult,
    Skipped,
    TargetEnd,
    TargetToken,
    TextFailure,
    TextOpened,
    WatchEvent,
    WatchSummary,
)
from gloss_client.watch_call import WatchOptions

__all__ = [
    "ActivationRows",
    "AlreadyExists",
    "AsyncClient",
    "AsyncEventStream",
    "AsyncExplanationStream",
    "Cancelled",
    "CaptureEvent",
    "CaptureOptions",
    "CaptureResult",
    "CaptureSummary",
    "Captured",
    "Checkpoint",
    "Client",
    "ConfigError",
    "DeadlineExceeded",
    "EventStream",
    "ExplainEvent",
    "ExplainOptions",
    "ExplainResult",
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
    "Positions",
    "Priority",
    "ReconstructResult",
    "ResourceExhausted",
    "RetryPolicy",
    "SamplingOptions",
    "Score",
    "ScoreResult",
    "ServerError",
    "ServerStats",
    "Skipped",
    "StreamEvent",
    "StreamSummary",
    "TargetEnd",
    "TargetToken",
    "Text",
    "TextDelta",
    "TextFailure",
    "TextOpened",
    "Timings",
    "TlsOptions",
    "TokenPlace",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Usage",
    "VerbalizeOptions",
    "VerbalizeResult",
    "WatchEvent",
    "WatchOptions",
    "WatchSummary",
    "WireDtype",
]
