"""The rules that cut an explanation out of generated text."""

from __future__ import annotations

import pytest

from gloss_engine.av.explanation import extract
from gloss_engine.av.flags import text_flags

CASES = [
    ("<explanation>\n A river. \n</explanation>", "A river.", True, True),
    ("Sure: <explanation>A</explanation> and more", "A", True, True),
    ("<explanation>cut off in the mid", "cut off in the mid", True, False),
    ("  no tag at all \n", "no tag at all", False, False),
    ("A river.</explanation>", "A river.", False, True),
    ("before</explanation><explanation>late", "late", True, False),
    ("<explanation>a<explanation>b</explanation>c</explanation>", "a<explanation>b", True, True),
    ("<explanation></explanation>", "", True, True),
    ("<explanation>", "", True, False),
    ("", "", False, False),
    (" \n ", "", False, False),
    ("<Explanation>A</Explanation>", "<Explanation>A</Explanation>", False, False),
    ("<explanation>a < b </ c {x} </explanation>", "a < b </ c {x}", True, True),
]


@pytest.mark.parametrize(("generated", "text", "opening", "closing"), CASES)
def test_extraction(generated: str, text: str, opening: bool, closing: bool) -> None:
    extracted = extract(generated)
    assert extracted.text == text
    assert (extracted.has_opening, extracted.has_closing) == (opening, closing)


@pytest.mark.parametrize(
    ("generated", "flags"),
    [
        ("<explanation>A</explanation>", []),
        ("<explanation>A", ["unclosed"]),
        ("A", ["no_tag"]),
        ("A</explanation>", ["no_tag"]),
        ("", ["no_tag"]),
        ("<explanation>\u6cb3\u5ddd\u6c34 ab</explanation>", ["suspect_script"]),
        ("<explanation>\u6cb3\u5ddd ab</explanation>", []),
        ("<explanation>\u320e\u320e</explanation>", ["suspect_script"]),
        ("<explanation>An enclosed CJK character.</explanation>", ["suspect_script"]),
        ("<explanation>a Chinese ideograph</explanation>", ["suspect_script"]),
        ("<explanation>A Chinese restaurant.</explanation>", []),
        ("<explanation>Chinese food. A strange character.</explanation>", []),
        ("\u6cb3\u5ddd", ["no_tag", "suspect_script"]),
    ],
)
def test_flags_of_the_text(generated: str, flags: list[str]) -> None:
    assert text_flags(extract(generated)) == flags
