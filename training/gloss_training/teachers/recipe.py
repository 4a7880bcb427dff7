"""What a teacher is asked, and what of its answers is kept: the reference recipe.

Two or three features of the text that matter most for the next token, the last about the final
token, 80 to 100 words. What was cut off, holds fewer than two features, or is no prose is dropped.
Replies are kept as they came, so what no file can hold is dropped here, each time that it is read.
"""

from __future__ import annotations

import json
import re
from typing import Final

from gloss_training.teachers.teacher import KEPT, Answer

EXPLAIN: Final = """\
A language model has read the text below and is about to predict its next token. Name the 2 or 3
features of the text that matter most for this prediction, the most important first: what the model
must have in mind at this point. A feature may be a demand of grammar or structure, a meaning that
is expected next, a register or genre, a line of thought or of story, or a repetition. Be concrete
and quote words of the text where that helps. The last feature must be about the very end of the
text: the final token, what it is part of, and what can follow it. The model never sees more than
this text, so do not say that the text breaks off.

Write 80 to 100 words in all, one feature a line, plain prose without numbers, bullets, headings or
JSON, between these tags:
<features>
first feature
last feature, about the end of the text
</features>

The text:
<text>
{text}
</text>"""

JUDGE: Final = """\
A language model has read the text below up to its last token. Somebody claims that the explanation
says what the model had in mind at that point. Judge the explanation by the text alone: do its
statements hold for this text, and do they say what matters at its end? Wrong or invented statements
weigh more than missing ones.

<text>
{text}
</text>

<explanation>
{explanation}
</explanation>

Answer with one number from 0 (nothing of it holds) to 1 (all of it holds and it says what
matters), and nothing else, between these tags: <score>0.5</score>"""

REWORD: Final = """\
Put the explanation below into other words. Keep every fact that it states, names, numbers and
quoted words included, and add none; keep its order and about its length. Change the wording and the
build of every sentence as far as you can.

<explanation>
{explanation}
</explanation>

Answer with the new explanation and nothing else, between these tags:
<reworded>
the new explanation
</reworded>"""

OUTCOMES: Final = ("truncated", "refused", "empty", "no_tags", "no_prose", "few_features", "long")
"""Why an answer is dropped."""

USUAL_ANSWER_TOKENS: Final = 150
"""100 words and the tags, at about 1.35 tokens a word."""

USUAL_SCORE_TOKENS: Final = 12
"""A number and the tags."""

_FEATURES: Final = re.compile(r"<features>(.*?)</features>", re.DOTALL)
_REWORDED: Final = re.compile(r"<reworded>(.*?)</reworded>", re.DOTALL)
_SCORE: Final = re.compile(r"<score>\s*([01](?:\.\d+)?|\.\d+)\s*</score>")
_LIST_MARK: Final = re.compile(r"^(?:[-*•+–—]|\(?\d{1,2}[.)]|\(?[a-zA-Z][.)]|#+)\s+")
_BOLD: Final = re.compile(r"\*\*(.+?)\*\*")
_TAGS: Final = re.compile(r"</?(?:explanation|features|text|concept)>")
_JSON_LINE: Final = re.compile(
    r'^(?:[{}\[\]],?|"[^"]*"\s*:\s*(?:"(?:[^"\\]|\\.)*"|[\[{].*|-?[\d.]+|true|false|null),?'
    r'|".*",)$'
)
"""A line of JSON; prose may begin with words of the text in quotes and a colon."""
_MIN_FEATURES: Final = 2
_MIN_WORDS: Final = 3
_MAX_WORDS: Final = 220
"""Twice what was asked for, and a little."""


def explain_prompt(text: str) -> str:
    """What is asked about a text."""
    return EXPLAIN.replace("{text}", text)


def judge_prompt(text: str, explanation: str) -> str:
    """What is asked about an explanation; neither's braces mean anything."""
    before, _, rest = JUDGE.partition("{text}")
    between, _, after = rest.partition("{explanation}")
    return f"{before}{text}{between}{explanation}{after}"


def reword_prompt(explanation: str) -> str:
    """What is asked for, so that an explanation stands in other words."""
    return REWORD.replace("{explanation}", explanation)


def read_explanation(reply: str, *, is_cut_off: bool = False, is_refused: bool = False) -> Answer:
    """The explanation of a reply, its features as paragraphs, or why there is none."""
    if is_cut_off:
        return _dropped("truncated")
    if is_refused:
        return _dropped("refused")
    if not reply.strip():
        return _dropped("empty")
    found = _FEATURES.findall(reply)
    if len(found) != 1:
        return _dropped("no_tags")
    if not _is_encodable(found[0]) or _is_json(found[0]):
        return _dropped("no_prose")
    features = [feature for line in found[0].splitlines() if (feature := _plain(line))]
    if any(_TAGS.search(feature) or _JSON_LINE.match(feature) for feature in features):
        return _dropped("no_prose")
    if sum(len(feature.split()) >= _MIN_WORDS for feature in features) < _MIN_FEATURES:
        return _dropped("few_features")
    if sum(len(feature.split()) for feature in features) > _MAX_WORDS:
        return _dropped("long")
    return Answer(text="\n\n".join(features), outcome=KEPT)


def read_score(reply: str) -> float | None:
    """The score of a reply; None where it holds none, or several."""
    found = _SCORE.findall(reply)
    if len(found) != 1:
        return None
    score = float(found[0])
    return score if 0.0 <= score <= 1.0 else None


def read_reworded(reply: str) -> str | None:
    """The rewording of a reply; None where it holds none, or several."""
    found = [text.strip() for text in _REWORDED.findall(reply)]
    if len(found) != 1 or not found[0] or _TAGS.search(found[0]):
        return None
    return found[0] if _is_encodable(found[0]) else None


def _plain(line: str) -> str:
    """A line without what marks lists, headings and emphasis."""
    return _BOLD.sub(r"\1", _LIST_MARK.sub("", line.strip())).strip(" *_")


def _is_encodable(text: str) -> bool:
    """Whether UTF-8 can hold it: JSON's escapes can state half a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_json(text: str) -> bool:
    stripped = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        return isinstance(json.loads(stripped), dict | list)
    except (ValueError, RecursionError):
        return False


def _dropped(outcome: str) -> Answer:
    assert outcome in OUTCOMES
    return Answer(text="", outcome=outcome)
