"""A row of `gloss explain`: JSON whatever the activation was."""

from __future__ import annotations

import json
import math

import pytest

from gloss_client import Explanation, ItemError, TokenPlace
from gloss_server.files.explain_row import PLACE_FIELDS, explain_row


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_an_activation_that_is_not_finite_has_no_norm(norm: float) -> None:
    place = TokenPlace(position=3, token_id=7, token="a", norm=norm, layer_index=2)
    error = ItemError(code="INVALID_ARGUMENT", reason="NON_FINITE_VECTOR", message="got NaN")
    explanation = Explanation(index=1, sample=0, error=error, place=place)
    row = explain_row(explanation, 0, "0", 5)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert [row[name] for name in PLACE_FIELDS] == [3, 7, "a", None, 2]
    assert row["error"]["message"] == "row 0, position 3: got NaN"
