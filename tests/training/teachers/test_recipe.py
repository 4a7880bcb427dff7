"""What of a teacher's answers is kept, and what garbage comes to."""

from __future__ import annotations

import json

import pytest

from gloss_training.teachers.recipe import (
    explain_prompt,
    judge_prompt,
    read_explanation,
    read_reworded,
    read_score,
    reword_prompt,
)
from gloss_training.teachers.teacher import KEPT

ONE = "The story follows a baker named Ben."
TWO = "The final word “red” asks for a noun."


def tagged(content: str) -> str:
    return f"<features>\n{content}\n</features>"


@pytest.mark.parametrize(
    "content",
    [
        f"{ONE}\n{TWO}",
        f"- {ONE}\n\n* {TWO}",
        f"1. {ONE}\n2) {TWO}",
        f"**{ONE}**\n(b) {TWO}",
        f"  • {ONE}  \n# {TWO}",
    ],
)
def test_features_are_kept_as_plain_paragraphs(content: str) -> None:
    answer = read_explanation(f"Here you are:\n{tagged(content)}\nAnything else?")
    assert (answer.text, answer.outcome) == (f"{ONE}\n\n{TWO}", KEPT)


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("", "empty"),
        (" \n", "empty"),
        (f"{ONE}\n{TWO}", "no_tags"),
        (f"<features>\n{ONE}\n{TWO}", "no_tags"),
        (tagged(f"{ONE}\n{TWO}") * 2, "no_tags"),
        (json.dumps({"features": [ONE, TWO]}), "no_tags"),
        (tagged(json.dumps({"features": [ONE, TWO]})), "no_prose"),
        (tagged(json.dumps([ONE, TWO], indent=2)), "no_prose"),
        (tagged(f"```json\n{json.dumps([ONE, TWO], indent=2)}\n```"), "no_prose"),
        (tagged(f'"first": "{ONE}"\n"list": [\n"number": 3\n{TWO}'), "no_prose"),
        (tagged(f'{ONE}\n"at the end": "the word \\"red\\" ends it",\n{TWO}'), "no_prose"),
        (tagged(f'{ONE}\n"at the end": null\n{TWO}'), "no_prose"),
        (tagged(f'{{\n"first": "{ONE}",\n"last": "{TWO}",\n'), "no_prose"),
        (tagged(f"{ONE}\n<explanation>{TWO}</explanation>"), "no_prose"),
        (tagged(f"{ONE}\n{TWO} \ud800"), "no_prose"),
        (tagged(ONE), "few_features"),
        (tagged(""), "few_features"),
        (tagged(f"{ONE}\nNo idea."), "few_features"),
        (tagged(f"{ONE}\n{'and so on ' * 80}"), "long"),
    ],
)
def test_garbage_is_dropped_by_its_reason(reply: str, outcome: str) -> None:
    answer = read_explanation(reply)
    assert (answer.text, answer.outcome) == ("", outcome)


@pytest.mark.parametrize("says", ["the kite comes back", '"kite" is said again.'])
def test_a_feature_may_begin_with_quoted_words(says: str) -> None:
    feature = f'"red kite": {says}'
    assert read_explanation(tagged(f"{feature}\n{TWO}")).text == f"{feature}\n\n{TWO}"


def test_what_was_cut_off_or_refused_is_dropped_whatever_it_says() -> None:
    good = tagged(f"{ONE}\n{TWO}")
    assert read_explanation(good, is_cut_off=True).outcome == "truncated"
    assert read_explanation(good, is_refused=True).outcome == "refused"


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("<score>0.75</score>", 0.75),
        ("I say <score> 1 </score>.", 1.0),
        ("<score>.5</score>", 0.5),
        ("<score>0</score>", 0.0),
        ("<score>1.5</score>", None),
        ("<score>-1</score>", None),
        ("<score>75%</score>", None),
        ("<score>nan</score>", None),
        ("0.75", None),
        ('{"score": 0.75}', None),
        ("<score>0.1</score> or <score>0.9</score>", None),
        ("", None),
    ],
)
def test_scores_are_read_or_missing(reply: str, score: float | None) -> None:
    assert read_score(reply) == score


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("Here: <reworded>\n A kite is red.\n</reworded>", "A kite is red."),
        ("<reworded>One.\n\nTwo.</reworded>", "One.\n\nTwo."),
        ("A kite is red.", None),
        ("<reworded> </reworded>", None),
        ("<reworded>One.</reworded><reworded>Two.</reworded>", None),
        ("<reworded><explanation>One.</explanation></reworded>", None),
        ("<reworded>One \udfff.</reworded>", None),
    ],
)
def test_a_rewording_is_read_or_missing(reply: str, text: str | None) -> None:
    assert read_reworded(reply) == text


def test_braces_of_texts_mean_nothing() -> None:
    assert "a {text} {explanation} b" in explain_prompt("a {text} {explanation} b")
    asked = judge_prompt("a {explanation} b", "c {text} d")
    assert "<explanation>\na {text} {explanation} b\n</explanation>" in reword_prompt(
        "a {text} {explanation} b"
    )
    assert asked.count("a {explanation} b") == 1 and asked.count("c {text} d") == 1
