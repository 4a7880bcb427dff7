"""A row of `gloss verbalize`'s output. Others script against its fields.

`result_schema.py` has them as columns of parquet; `gloss explain` adds where the activation stands
(`explain_row.py`).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

Row = dict[str, Any]


class Failure(Protocol):
    """Why there is no explanation: what the engine's and the client's ItemError have in common."""

    @property
    def code(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def message(self) -> str: ...


class Explained(Protocol):
    """What the engine's and the client's Explanation have in common; the engine's says more."""

    @property
    def index(self) -> int: ...
    @property
    def sample(self) -> int: ...
    @property
    def explanation(self) -> str: ...
    @property
    def raw_text(self) -> str: ...
    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def logprob(self) -> float: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def cosine(self) -> float | None: ...
    @property
    def mse(self) -> float | None: ...
    @property
    def fve(self) -> float | None: ...
    @property
    def flags(self) -> tuple[str, ...]: ...
    @property
    def error(self) -> Failure | None: ...


def result_row(explanation: Explained, index: int, seed: int, place: str = "") -> Row:
    """The row of an explanation.

    Args:
        explanation: what was made.
        index: the input's row.
        seed: of the draws.
        place: stands behind the row where an error is said.
    """
    row: Row = {
        "index": index,
        "sample": explanation.sample,
        "seed": seed,
        "explanation": explanation.explanation,
        "raw_text": explanation.raw_text,
        "token_ids": list(explanation.token_ids),
        "finish_reason": explanation.finish_reason,
        "logprob": finite(explanation.logprob),
        "cosine": finite(explanation.cosine),
        "mse": finite(explanation.mse),
        "fve": finite(explanation.fve),
        "flags": list(explanation.flags),
        "error": None,
    }
    error = explanation.error
    if error is not None:
        message = f"row {index}{place}: {error.message}"
        row["error"] = {"code": error.code, "reason": error.reason, "message": message}
    return row


def finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None
