"""Parts of the front without processes: a model, a dispatcher with a played engine, reports."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gloss_engine.info import CheckpointInfo, ModelInfo
from gloss_engine.stats import EngineStats
from gloss_server.front.call_log import CallLog
from gloss_server.front.dispatcher import Dispatcher
from gloss_server.front.gate import Caller
from gloss_server.front.telemetry import Telemetry
from gloss_server.link.messages import (
    EngineRequest,
    Loaded,
    StepReport,
    TargetTokenColumns,
    TokenColumns,
)
from gloss_server.link.trace_context import TraceContext
from gloss_server.settings import ServeSettings

_CHECKPOINT = CheckpointInfo(
    architecture="qwen2", num_layers=4, d_model=8, vocab_size=600, fingerprint="f", template="t"
)
_INFO = ModelInfo(
    fingerprint="f",
    av=_CHECKPOINT,
    ar=None,
    layer_index=1,
    injection_scale=1.0,
    injection_mode="replace",
    mse_scale=None,
    fve_baseline=None,
    baseline_source=None,
    norm_median=None,
    min_position=None,
    prefix_tokens=5,
    suffix_tokens=3,
    max_new_tokens=50,
    num_slots=4,
    num_pages=9,
    device="cpu",
    dtype="float32",
    quantization="none",
    kernels="reference",
    batch_invariant=False,
    tokenizer="",
)


def make_info(tokenizer: Path, d_model: int = 8, **changes: Any) -> ModelInfo:
    """What an engine with a target says of itself.

    Args:
        tokenizer: a checkpoint's directory; AV and target have its tokenizer.
        changes: fields that are other than usual.
    """
    content = (tokenizer / "tokenizer.json").read_text()
    checkpoint = replace(_CHECKPOINT, d_model=d_model)
    usual = {
        "av": checkpoint,
        "target": replace(checkpoint, fingerprint="target"),
        "tokenizer": content,
        "target_tokenizer": content,
        "target_generates": True,
        "max_text_tokens": 100,
        "max_watch_tokens": 60,
        "watch_max_pending": 4,
    }
    return replace(_INFO, **(usual | changes))


class PlayedEngine:
    """Stands where the supervisor does: hears requests, and reports what a test says.

    Attributes:
        submitted, cancelled: what it was told.
        dispatcher: over it; a model is loaded.
    """

    def __init__(self, info: ModelInfo, log: CallLog, **settings: Any) -> None:
        self.submitted: dict[int, EngineRequest] = {}
        self.cancelled: list[int] = []
        self.telemetry = Telemetry()
        self.dispatcher = Dispatcher(ServeSettings(**settings), self.telemetry, log)
        self.dispatcher.connect(self)  # type: ignore[arg-type]
        self.dispatcher.engine_loaded(Loaded(info=info, load_seconds=1.0, warm_up_seconds=0.0))
        self.now = time.monotonic()

    def submit(
        self, run_id: int, request: EngineRequest, trace: TraceContext | None = None
    ) -> None:
        """See Supervisor."""
        self.submitted[run_id] = request

    def cancel(self, run_id: int) -> None:
        """See Supervisor."""
        self.cancelled.append(run_id)

    def report(
        self,
        *,
        tokens: list[tuple[int, int, int]] | None = None,
        target_tokens: list[tuple[int, int, int]] | None = None,
        **brought: Any,
    ) -> None:
        """Report a step.

        Args:
            tokens: (run, sequence, token id); target_tokens: (run, position, token id).
            brought: other fields of a StepReport.
        """
        self.now += 1.0
        usual: dict[str, Any] = {
            "began": self.now,
            "seconds": 0.5,
            "num_rows": 0,
            "started": {},
            "explanations": [],
            "texts": [],
            "opened": [],
            "captured": [],
            "target_ends": [],
            "skipped": [],
            "readings": [],
            "finished": [],
            "failed": {},
            "refusals": [],
            "stats": EngineStats(),
        }
        runs, sequences, ids = _columns(tokens)
        target_runs, positions, target_ids = _columns(target_tokens)
        report = StepReport(
            tokens=TokenColumns(run_ids=runs, sequences=sequences, token_ids=ids),
            target_tokens=TargetTokenColumns(
                run_ids=target_runs, positions=positions, token_ids=target_ids
            ),
            **(usual | brought),
        )
        self.dispatcher.engine_reported(report)


def caller(name: str = "", client: str = "ipv4:1.2.3.4", deadline: float = 1e12) -> Caller:
    """Somebody with time."""
    return Caller(
        request_id=name, digest=name.encode(), client=client, arrived=0.0, deadline=deadline
    )


def _columns(rows: list[tuple[int, int, int]] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.array(rows or [], np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]
