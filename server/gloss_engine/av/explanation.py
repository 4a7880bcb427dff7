"""From generated text to the explanation: what stands between the tags."""

from __future__ import annotations

from dataclasses import dataclass

OPENING_TAG, CLOSING_TAG = "<explanation>", "</explanation>"


@dataclass(frozen=True, kw_only=True)
class Extract:
    """What a generation says.

    Attributes:
        text: the explanation, stripped. The AR scores exactly this string.
        has_opening, has_closing: which tags were there.
    """

    text: str
    has_opening: bool
    has_closing: bool


def extract(generated: str) -> Extract:
    """Cut the explanation out of generated text.

    Between the tags if both are there; after the opening tag if it is never closed; the whole text
    if there is no opening tag, up to a closing tag.

    Args:
        generated: decoded text without a final end-of-sequence token.
    """
    before, opening, rest = generated.partition(OPENING_TAG)
    body = rest if opening else before
    body, closing, _ = body.partition(CLOSING_TAG)
    return Extract(text=body.strip(), has_opening=bool(opening), has_closing=bool(closing))
