"""Values as JSON that every browser reads."""

from __future__ import annotations

import json
import math
from typing import Any

Json = dict[str, Any]


def json_text(value: object) -> str:
    """Compact JSON; a number that JSON does not have, NaN or an infinity, becomes null."""
    try:
        return _dumps(value)
    except ValueError:
        return _dumps(_finite(value))


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
