"""Warnings that travel with an explanation, each with a stated threshold.

| flag | set when |
|---|---|
| unclosed | an opening tag and no closing tag |
| no_tag | no opening tag |
| norm_outlier | the activation's norm is over 4 times or under a quarter of the usual norm |
| early_position | the position is below the checkpoint's `min_position` |
| special_token | the activation stands on a special token |
| unknown_token | the activation stands on the tokenizer's unknown token |
| suspect_script | over half of the letters are CJK, or the text speaks of a CJK character |
| low_fidelity | FVE is below 0: worse than the mean activation |
| no_fve_baseline | scored, but no baseline is known |
"""

from __future__ import annotations

import re

from gloss_engine.av.explanation import Extract

NORM_OUTLIER_FACTOR = 4.0
SUSPECT_SCRIPT_SHARE = 0.5
LOW_FIDELITY_FVE = 0.0
_CJK = re.compile(
    "[\u2e80-\u2fdf\u3040-\u33ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]"
)
_CJK_TALK = re.compile(
    r"\b(cjk|chinese|japanese|korean|enclosed|parenthesi[sz]ed)\b[^.]{0,30}"
    r"\b(character|ideograph|symbol|glyph)s?\b",
    re.IGNORECASE,
)


def text_flags(extracted: Extract) -> list[str]:
    """Flags of the text alone."""
    flags = []
    if not extracted.has_opening:
        flags.append("no_tag")
    elif not extracted.has_closing:
        flags.append("unclosed")
    letters = sum(char.isalpha() for char in extracted.text)
    num_cjk = len(_CJK.findall(extracted.text))
    if num_cjk > SUSPECT_SCRIPT_SHARE * max(letters, 1) or _CJK_TALK.search(extracted.text):
        flags.append("suspect_script")
    return flags


def activation_flags(
    norm: float,
    norm_median: float | None,
    position: int | None,
    min_position: int | None,
    token_id: int | None,
    special_ids: frozenset[int],
    unknown_id: int | None,
) -> list[str]:
    """Flags of the activation and of where it was read; what is not known raises none."""
    flags = []
    if norm_median is not None and not (
        norm_median / NORM_OUTLIER_FACTOR <= norm <= norm_median * NORM_OUTLIER_FACTOR
    ):
        flags.append("norm_outlier")
    if position is not None and min_position is not None and position < min_position:
        flags.append("early_position")
    if token_id is not None and token_id == unknown_id:
        flags.append("unknown_token")
    if token_id is not None and token_id in special_ids:
        flags.append("special_token")
    return flags


def score_flags(fve: float | None) -> list[str]:
    """Flags of the evidence of a scored explanation."""
    if fve is None:
        return ["no_fve_baseline"]
    return ["low_fidelity"] if fve < LOW_FIDELITY_FVE else []
