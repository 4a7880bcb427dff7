"""`gloss demo`: what it runs, and that it reads well at any width."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from gloss_engine import Explanation, ItemError
from gloss_engine.av import flags
from gloss_server import demo_page
from gloss_server import embedded as embedded_module
from gloss_server.command_error import CommandError
from gloss_server.demo import DemoResult, Reading, run_demo
from gloss_server.demo_page import print_demo
from gloss_server.embedded import EmbeddedPair, embedded_pair
from support.checkpoints import LAYER_INDEX, Pair
from support.command_runs import Command

STORY = "Leo is a tailor. He meets Hugo."
WORDS = ["Leo", "is", "a", "tailor", ".", "He", "meets", "Hugo", "."]


@pytest.fixture(scope="module")
def embedded(small_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> EmbeddedPair:
    """A package's data with two stories and an untrained pair."""
    root = tmp_path_factory.mktemp("embedded")
    for name, path in (("av", small_pair.av), ("ar", small_pair.ar), ("target", small_pair.av)):
        (root / name).symlink_to(path)
    rng = np.random.default_rng(4)
    rows = [
        {
            "activation_vector": rng.normal(size=72).astype(np.float32),
            "doc_id": doc_id,
            "position": position,
            "token_id": position + 20,
            "token": word,
            "norm": 8.0,
            "n_raw_tokens": position + 1,
            "activation_layer": LAYER_INDEX,
            "text": " ".join(WORDS[: position + 1]),
            "facts": json.dumps({"hero": "Leo"}),
        }
        for doc_id in ("story-b", "story-a")
        for position, word in list(enumerate(WORDS))[:: 1 if doc_id == "story-b" else 2]
    ]
    schema = pa.schema([("activation_vector", pa.list_(pa.float32(), 72))])
    table = pa.Table.from_pylist(rows)
    vectors = pa.array([row["activation_vector"] for row in rows], schema.types[0])
    table = table.set_column(0, "activation_vector", vectors)
    pq.write_table(table, root / "activations.parquet")
    return embedded_pair(root)


@pytest.fixture
def shipped(embedded: EmbeddedPair, monkeypatch: pytest.MonkeyPatch) -> EmbeddedPair:
    """The command finds the untrained pair."""
    monkeypatch.setattr("gloss_server.embedded.embedded_pair", lambda: embedded)
    return embedded


def test_one_story_is_explained_token_by_token(embedded: EmbeddedPair) -> None:
    result = run_demo(embedded, story=2, num_samples=3, seed=5)
    assert (result.story, result.num_stories, result.layer_index) == (2, 2, LAYER_INDEX)
    assert [reading.token for reading in result.readings] == WORDS[::2]
    assert result.text == " ".join(WORDS) and result.num_explanations == 15
    for reading in result.readings:
        assert [e.sample for e in reading.explanations] == [0, 1, 2]
        assert len({e.token_ids for e in reading.explanations}) == 3
        assert all(-1 <= e.cosine <= 1 for e in reading.explanations if e.cosine is not None)
        assert reading.facts == ("Leo",)
    again = run_demo(embedded, story=2, num_samples=3, seed=5)
    other = run_demo(embedded, story=2, num_samples=3, seed=6)
    assert again.readings == result.readings and other.readings != result.readings


def test_the_command_prints_it_the_same_every_time(shipped: EmbeddedPair, gloss: Command) -> None:
    ended = gloss("demo")
    assert ended.status == 0 and ended.stderr == ""
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("Story 1 of 2")
    assert any(line.split() == ["token", "explanation", "cosine", "FVE"] for line in lines)
    assert "9 explanations" in ended.stdout and "gloss verbalize" in ended.stdout

    def without_rate(text: str) -> str:
        return "\n".join(line for line in text.splitlines() if "explanations, " not in line)

    assert without_rate(gloss("demo").stdout) == without_rate(ended.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--story", "3"], "--story: got 3, expected 1 to 2"),
        (["--story", "0"], "--story: got 0"),
        (["--samples", "0"], "num_samples: got 0"),
        (["--seed", "-1"], "seed: got -1"),
    ],
)
def test_refused_options(
    shipped: EmbeddedPair, gloss: Command, arguments: list[str], said: str
) -> None:
    ended = gloss("demo", *arguments)
    assert ended.status == 2 and said in ended.error


def test_a_package_without_the_pair_says_so(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="expected part of the embedded pair"):
        embedded_pair(tmp_path)


def _explanation(text: str, **changes: object) -> Explanation:
    whole = Explanation(
        request_id="r", index=0, sample=0, seed=0, explanation=text, cosine=0.9, mse=0.2, fve=0.8
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def _result(*explanations: Explanation, token: str = "tailor") -> DemoResult:
    readings = tuple(
        Reading(token=token, before="Leo is a ", facts=("Leo", "tailor"), explanations=(each,))
        for each in explanations
    )
    return DemoResult(
        story=1,
        num_stories=3,
        text=STORY,
        readings=readings,
        layer_index=4,
        seed=0,
        seconds=0.5,
    )


def _printed(result: DemoResult, width: int = 80, show_all: bool = False) -> str:
    file = io.StringIO()
    print_demo(result, Console(width=width, file=file), show_all)
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal_or_padded(width: int) -> None:
    long = _explanation("He meets Hugo in the village and has found a brown coin. " * 3)
    lines = _printed(_result(long, long), width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
    assert " ".join(" ".join(lines).split()).count("brown coin") == 6


def test_text_is_shown_not_obeyed() -> None:
    hostile = "[red]not red[/red] \x1b[2Jgone \u202eback [/] :smile:"
    printed = _printed(_result(_explanation(hostile), token="\x1b[1m\n"), width=120)
    assert "[red]not red[/red] \\x1b[2Jgone \\u202eback [/] :smile:" in printed
    assert "\\x1b[1m\\n" in printed
    assert "\x1b" not in printed and "\u202e" not in printed


def test_flags_are_marked_and_explained() -> None:
    flagged = _explanation("cut", flags=("unclosed", "low_fidelity"), fve=-0.5)
    failed = _explanation(
        "",
        cosine=None,
        fve=None,
        error=ItemError(code="INTERNAL", reason="NON_FINITE_OUTPUT", message="logits were NaN"),
    )
    printed = _printed(_result(_explanation("fine"), flagged, failed))
    marked = [line for line in printed.splitlines() if line.endswith("!")]
    assert len(marked) == 2 and "-0.50" in marked[0] and "logits were NaN" in marked[1]
    assert "! 1 unclosed: cut off before its closing tag" in printed
    assert "! 1 low_fidelity: reconstructs worse" in printed
    assert "mean FVE 0.15" in printed
    assert "!" not in _printed(_result(_explanation("fine")))


def test_every_flag_of_the_engine_has_a_meaning() -> None:
    documented = re.findall(r"^\| (\w+) \|", flags.__doc__ or "", re.MULTILINE)
    assert set(documented) - {"flag"} == set(demo_page._FLAG_MEANINGS)


def test_a_long_story_shows_a_dozen_tokens_unless_all_are_asked_for() -> None:
    result = _result(*[_explanation(f"number {index}.") for index in range(31)])
    some, every = _printed(result), _printed(result, show_all=True)
    assert some.count("number ") == 12 and "number 30." in some
    assert every.count("number ") == 31
    assert "gloss demo --story 1 --all" in some and "--all" not in every
    assert "gloss demo --story 2" in some


def test_facts_the_story_has_told_are_set_off() -> None:
    file = io.StringIO()
    console = Console(width=80, file=file, force_terminal=True, color_system="standard")
    print_demo(_result(_explanation("Leo the tailor meets Leonora.")), console)
    assert "\x1b[32mLeo\x1b[0m the \x1b[32mtailor\x1b[0m meets Leonora." in file.getvalue()
    assert "what the story has told" in file.getvalue()
    assert "what the story has told" not in _printed(_result(_explanation("Leo")))


@pytest.mark.skipif(
    not (Path(embedded_module.__file__).parent / "embedded" / "av").is_dir(),
    reason="a checkout without the embedded pair",
)
def test_the_shipped_pair_explains_its_story_well(gloss: Command) -> None:
    result = run_demo(embedded_pair(), story=1, num_samples=1, seed=0)
    assert result.mean_fve is not None and result.mean_fve > 0.3
    assert gloss("demo").status == 0
