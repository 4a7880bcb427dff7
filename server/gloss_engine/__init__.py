"""The Gloss engine: natural-language explanations of activations, in process.

    engine = load_engine(Path("av"), Path("ar"))
    for explanation in engine.verbalize(VerbalizeRequest(activations=activations)):
        print(explanation.explanation, explanation.cosine)

`Engine.submit`, `step` and `cancel` are the same thing piece by piece. `tap` reads activations off
any transformers model. Knows nothing of gRPC, files of activations or commands.

Names are looked up when they are first used: a process that only handles requests and results
(`request`, `sampling`, `errors`, `stats`, `info`) never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gloss_engine.capture.captured import Captured
    from gloss_engine.capture.positions import Positions
    from gloss_engine.capture.tapping import tap
    from gloss_engine.config import ConfigError, EngineConfig
    from gloss_engine.engine import Engine
    from gloss_engine.errors import (
        CheckpointError,
        GlossError,
        ItemError,
        MemoryTooSmall,
        RequestError,
        TapError,
        WeightsError,
    )
    from gloss_engine.info import CheckpointInfo, ModelInfo
    from gloss_engine.loading import load_engine
    from gloss_engine.request import (
        Explanation,
        StepOutput,
        TextRequest,
        TextResult,
        TokenDelta,
        VerbalizeRequest,
    )
    from gloss_engine.sampling import SamplingParams
    from gloss_engine.stats import EngineStats
    from gloss_engine.text_request import (
        CaptureRequest,
        ExplainRequest,
        TextInput,
        TokenPlace,
        WatchRequest,
    )

_HOMES = {
    "CaptureRequest": "text_request",
    "Captured": "capture.captured",
    "CheckpointError": "errors",
    "CheckpointInfo": "info",
    "ConfigError": "config",
    "Engine": "engine",
    "EngineConfig": "config",
    "EngineStats": "stats",
    "ExplainRequest": "text_request",
    "Explanation": "request",
    "GlossError": "errors",
    "ItemError": "errors",
    "MemoryTooSmall": "errors",
    "ModelInfo": "info",
    "Positions": "capture.positions",
    "RequestError": "errors",
    "SamplingParams": "sampling",
    "StepOutput": "request",
    "TapError": "errors",
    "TextInput": "text_request",
    "TextRequest": "request",
    "TextResult": "request",
    "TokenDelta": "request",
    "TokenPlace": "text_request",
    "VerbalizeRequest": "request",
    "WatchRequest": "text_request",
    "WeightsError": "errors",
    "load_engine": "loading",
    "tap": "capture.tapping",
}

__all__ = [
    "CaptureRequest",
    "Captured",
    "CheckpointError",
    "CheckpointInfo",
    "ConfigError",
    "Engine",
    "EngineConfig",
    "EngineStats",
    "ExplainRequest",
    "Explanation",
    "GlossError",
    "ItemError",
    "MemoryTooSmall",
    "ModelInfo",
    "Positions",
    "RequestError",
    "SamplingParams",
    "StepOutput",
    "TapError",
    "TextInput",
    "TextRequest",
    "TextResult",
    "TokenDelta",
    "TokenPlace",
    "VerbalizeRequest",
    "WatchRequest",
    "WeightsError",
    "load_engine",
    "tap",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
