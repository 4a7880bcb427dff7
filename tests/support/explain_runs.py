"""Rows of `gloss explain`, as its tests compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gloss_client import Client, Explanation, TargetToken, Text
from gloss_server.files.explain_row import explain_row

STORY = "Mia is a baker. She has a silver key. It is noon. Leo meets her in the park."
HOSTILE = "a\x1b[2J\tb[bold]\n"


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by text, position and sample."""
    return sorted(rows, key=lambda row: (row["index"], row["position"] or 0, row["sample"]))


def same(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Whether rows agree: all but float32 sums over other batches exactly."""
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert list(row) == list(other)
        for key, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(other[key], abs=1e-3), key
            else:
                assert value == other[key], (row["index"], row["position"], key)
    return True


def lines_of(path: Path) -> int:
    """Whole lines of a file that may not be there yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def asked_rows(address: str, text: Text, seed: int, **options: Any) -> list[dict[str, Any]]:
    """The rows of a text as a client of gRPC gets them, in order: what a page has to show.

    Args:
        address: of the service.
        text: a string, token ids or a chat.
        seed: of the draws.
        options: ExplainOptions.
    """
    with Client(address) as client:
        result = client.explain(text, seed=seed, **options)
    return in_order([explain_row(made, 0, "0", seed) for made in result.explanations])


def watched(
    address: str, prompt: str, seed: int, *, tokens: int, heat: float, every: int = 1
) -> tuple[str, dict[int, list[str]]]:
    """A text without blanks and explanations by position, as a client of gRPC gets them: what a
    page has to show of a watch.

    Args:
        address: of the service.
        prompt: the text before it.
        seed: of all draws.
        tokens: most that the target says.
        heat: its temperature.
        every: of its tokens every n-th is explained.
    """
    target = {"temperature": heat, "max_new_tokens": tokens}
    said, explained = "", {}
    with Client(address) as client:
        for event in client.watch(prompt, target=target, seed=seed, every=every):
            if isinstance(event, TargetToken):
                said += event.text
            elif isinstance(event, Explanation):
                assert event.place is not None
                explained[event.place.position] = [event.explanation]
    return "".join((prompt + said).split()), explained
