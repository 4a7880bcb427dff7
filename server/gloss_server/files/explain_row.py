"""A row of `gloss explain`'s output: verbalize's, and where the activation stands."""

from __future__ import annotations

from gloss_client import Explanation, ItemError, TokenPlace
from gloss_server.files.result_row import Row, finite, result_row

PLACE_FIELDS = ("position", "token_id", "token", "norm", "layer_index")


def explain_row(explanation: Explanation, index: int, doc_id: str, seed: int) -> Row:
    """The row of an explanation.

    Args:
        explanation: what was made; it has a place.
        index: the text's number in the input.
        doc_id: the text's name.
        seed: of the draws.
    """
    place = explanation.place
    assert place is not None
    row = result_row(explanation, index, seed, f", position {place.position}")
    return row | {"doc_id": doc_id} | place_row(place)


def place_row(place: TokenPlace) -> Row:
    """Where an activation stands; that of one that is not finite has no norm."""
    row = {name: getattr(place, name) for name in PLACE_FIELDS}
    return row | {"norm": finite(place.norm)}


def failed_row(error: ItemError, index: int, doc_id: str, seed: int) -> Row:
    """The one row of a text that could not be read: it has no position."""
    row = result_row(Explanation(index=index, sample=0, error=error), index, seed)
    return row | {"doc_id": doc_id} | dict.fromkeys(PLACE_FIELDS)
