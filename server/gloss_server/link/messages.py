"""What front and engine say to each other: one message per engine step in each direction.

Values only; nothing here imports torch, so that the front never does. They travel pickled over a
socket pair that only the front and the engine it has started hold (`channel.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gloss_engine.errors import ItemError
from gloss_engine.info import ModelInfo
from gloss_engine.request import Explanation, TextRequest, TextResult, VerbalizeRequest
from gloss_engine.stats import EngineStats
from gloss_engine.text_request import (
    CapturedToken,
    CaptureRequest,
    ExplainRequest,
    OpenedText,
    SkippedToken,
    TargetEnd,
    WatchRequest,
)
from gloss_server.link.reading_parts import ReadingPart
from gloss_server.link.trace_context import TraceContext

EngineRequest = VerbalizeRequest | TextRequest | ExplainRequest | WatchRequest | CaptureRequest
"""What an engine can be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Front to engine, first of all: what to load.

    Attributes:
        av, ar, target: checkpoint directories.
        config: fields of EngineConfig.
        traces: URL that spans are sent to; None: there are none.
    """

    av: str
    ar: str | None
    target: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    traces: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmingUp:
    """Engine to front: the checkpoints are loaded, and what steps will run is being prepared.

    Attributes:
        load_seconds: how long loading took.
    """

    load_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Engine to front: loaded and warm; requests may come.

    Attributes:
        info: what is loaded.
        load_seconds, warm_up_seconds: how long each took.
    """

    info: ModelInfo
    load_seconds: float
    warm_up_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Engine to front: the last thing it says.

    Attributes:
        message: what is wrong, in a sentence.
        is_refusal: checkpoints or settings that no other try will make fit.
        traceback: of an error nobody foresaw; else empty.
    """

    message: str
    is_refusal: bool
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """A request to run; activations are numpy arrays.

    Attributes:
        sent: when, seconds on the machine's monotonic clock.
        trace: of its call; None: it is not traced.
    """

    run_id: int
    request: EngineRequest
    sent: float
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """Front to engine: everything since the message before. Submissions go first."""

    submits: list[Submit]
    cancels: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request the engine would not take; see RequestError."""

    run_id: int
    reason: str
    field: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenColumns:
    """One step's new tokens of all streaming runs, as columns: 256 objects of a run each would take
    the front ten times as long to read.

    Attributes:
        run_ids: [n] int64.
        sequences: [n] int32, index * num_samples + sample.
        token_ids: [n] int32.
    """

    run_ids: np.ndarray
    sequences: np.ndarray
    token_ids: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTokenColumns:
    """One step's new tokens of all targets that generate, as columns.

    Attributes:
        run_ids: [n] int64.
        positions: [n] int32, the prompt's counted.
        token_ids: [n] int32.
    """

    run_ids: np.ndarray
    positions: np.ndarray
    token_ids: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """Engine to front: what one step brought.

    Attributes:
        began: when the step began, seconds on the machine's monotonic clock, which all processes
            of a machine share.
        seconds: how long it took.
        num_rows: sequences that got a token.
        started: run id to the number of activations that began to run.
        tokens: new tokens, streaming runs only.
        explanations, texts: results; their request_id is the run id as text, as it is in all that
            follows but the columns.
        opened, captured, target_tokens, target_ends, skipped: as in StepOutput.
        readings: texts of Captures that were read by this step or before.
        finished: runs whose last result is among them.
        failed: of them, those that end with an error as a whole.
        refusals: runs that were not taken.
        stats: counters and gauges after the step.
    """

    began: float
    seconds: float
    num_rows: int
    started: dict[int, int]
    tokens: TokenColumns
    explanations: list[Explanation]
    texts: list[TextResult]
    opened: list[OpenedText]
    captured: list[CapturedToken]
    target_tokens: TargetTokenColumns
    target_ends: list[TargetEnd]
    skipped: list[SkippedToken]
    readings: list[ReadingPart]
    finished: list[int]
    failed: dict[int, ItemError]
    refusals: list[Refusal]
    stats: EngineStats


@dataclass(frozen=True, slots=True)
class Alive:
    """Engine to front: nothing to do, and nothing wrong."""


@dataclass(frozen=True, slots=True)
class SpansLost:
    """Engine to front: spans do not reach their collector; why, as the library says it."""

    reason: str


ToEngine = Load | Commands
FromEngine = WarmingUp | Loaded | Failed | StepReport | Alive | SpansLost
