"""Rows of `gloss explain` as no model should write them, and many rows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

# What each would do where it were obeyed: run, turn what stands behind it round, pile up, overflow.
HOSTILE = {
    "script": "<script>window.obeyed = 'script'</script>",
    "handler": '"><img src=x onerror="window.obeyed = 1"><svg onload="window.obeyed = 1">',
    "link": '<a href="javascript:window.obeyed = 1">javascript:window.obeyed=1</a>',
    "style": "<style>* { display: none }</style></section></main></body>",
    "entity": "&lt;b&gt; &#x3c;script&#x3e;",
    "template": "{{constructor.constructor('window.obeyed = 1')()}} ${window.obeyed = 1}",
    "bidi": "\u202egnorw\u202c \u2066\u2067\u200f\u200eabc \u05e9\u05dc\u05d5\u05dd",
    "control": "\x00\x07\x1b[2J\r\n\t\u2028\u2029\ufeff\ufffe",
    "lone": "\ud800 \udfff",
    "marks": "e" + "\u0301" * 1_000_000,
    "unbroken": "w" * 100_000,
    "lines": "\n" * 20_000,
    "wide": "\ufdfd" * 2_000,
    "proto": "__proto__ constructor hasOwnProperty",
}


def row(position: int, token: str, explanation: str, fve: float | None = 0.5) -> dict[str, Any]:
    """A row, of which only this is worth anything."""
    return {
        "index": 0,
        "sample": 0,
        "seed": 7,
        "explanation": explanation,
        "raw_text": f"<explanation>{explanation}</explanation>",
        "token_ids": [3, 5],
        "finish_reason": "closing_tag",
        "logprob": -1.5,
        "cosine": fve if fve is None else math.sqrt(abs(fve)),
        "mse": fve if fve is None else 1 - fve,
        "fve": fve,
        "flags": [],
        "error": None,
        "doc_id": "0",
        "position": position,
        "token_id": position % 200,
        "token": token,
        "norm": 12.5,
        "layer_index": 2,
    }


def hostile_rows() -> list[dict[str, Any]]:
    """Every hostile text as an explanation, and as a token."""
    texts = list(HOSTILE.values())
    return [row(n, texts[-1 - n], text, fve=-0.5 + n / 8) for n, text in enumerate(texts)]


def many_rows(number: int) -> list[dict[str, Any]]:
    """A long text, of every fidelity, words of several lengths."""
    words = [
        "Leo",
        " is",
        " a",
        " tailor",
        ".",
        " Hugo",
        " walks",
        " slowly",
        " to",
        " the",
        " old",
    ]
    return [
        row(n, words[n % len(words)], f"The text is at {n} of {number}.", math.sin(n / 50))
        for n in range(number)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As `gloss explain --output` writes them."""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path
