"""The Gloss engine: natural-language explanations of activations, in process.

    engine = load_engine(Path("av"), Path("ar"))
    for explanation in engine.verbalize(VerbalizeRequest(activations=activations)):
        print(explanation.explanation, explanation.cosine)

`Engine.submit`, `step` and `cancel` are the same thing piece by piece. Knows nothing of gRPC,
files of activations or commands.
"""

from gloss_engine.config import ConfigError, EngineConfig
from gloss_engine.engine import Engine
from gloss_engine.errors import CheckpointError, GlossError, ItemError, RequestError
from gloss_engine.loading import load_engine
from gloss_engine.request import Explanation, StepOutput, TokenDelta, VerbalizeRequest
from gloss_engine.sampling import SamplingParams
from gloss_engine.stats import EngineStats

__all__ = [
    "CheckpointError",
    "ConfigError",
    "Engine",
    "EngineConfig",
    "EngineStats",
    "Explanation",
    "GlossError",
    "ItemError",
    "RequestError",
    "SamplingParams",
    "StepOutput",
    "TokenDelta",
    "VerbalizeRequest",
    "load_engine",
]
