"""`gloss demo`: what it runs, and that it reads well at any width."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from gloss_engine import Explanation, ItemError, SamplingParams, VerbalizeRequest, load_engine
from gloss_engine.av import flags
from gloss_server.command_error import CommandError
from gloss_server.commands.demo.page import print_demo, print_stories
from gloss_server.commands.demo.run import DemoResult, Reading, run_demo
from gloss_server.commands.demo.stories import Story
from gloss_server.display.evidence_cells import FLAG_MEANINGS
from gloss_server.embedded import EmbeddedPair, embedded_pair
from support.checkpoints import LAYER_INDEX, Pair, write_target
from support.command_runs import Command

STORY = "the river runs north at dawn and nobody waits"


@pytest.fixture(scope="module")
def embedded(small_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> EmbeddedPair:
    """A package's data with two stories and an untrained pair."""
    root = tmp_path_factory.mktemp("embedded")
    for name, path in (("av", small_pair.av), ("ar", small_pair.ar)):
        (root / name).symlink_to(path)
    write_target(root / "target", "qwen2", seed=7)
    rows = [
        {
            "doc_id": doc_id,
            "position": position,
            "text": STORY[: 5 * position],
            "facts": json.dumps({"hero": "river"} | ({"time": "dawn"} if position > 1 else {})),
        }
        for doc_id, positions in (("story-b", range(1, 4)), ("story-a", (1, 2)))
        for position in positions
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "activations.parquet")
    return embedded_pair(root)


@pytest.fixture
def shipped(embedded: EmbeddedPair, monkeypatch: pytest.MonkeyPatch) -> EmbeddedPair:
    """The command finds the untrained pair."""
    monkeypatch.setattr("gloss_server.embedded.embedded_pair", lambda: embedded)
    return embedded


def test_one_story_is_read_and_explained_token_by_token(embedded: EmbeddedPair) -> None:
    result = run_demo(embedded, None, story=2, num_samples=3, seed=5)
    assert (result.story, result.num_stories, result.layer_index) == (2, 2, LAYER_INDEX)
    assert result.text == STORY[:10]
    assert "".join(reading.token for reading in result.readings) == result.text
    assert [reading.before + reading.token for reading in result.readings][-1] == result.text
    assert len(result.explanations) == 3 * len(result.readings)
    for reading in result.readings:
        assert [e.sample for e in reading.explanations] == [0, 1, 2]
        assert len({e.token_ids for e in reading.explanations}) == 3
        assert all(-1 <= e.cosine <= 1 for e in reading.explanations if e.cosine is not None)
    again = run_demo(embedded, None, story=2, num_samples=3, seed=5)
    other = run_demo(embedded, None, story=2, num_samples=3, seed=6)
    assert again.readings == result.readings and other.readings != result.readings


def test_what_a_story_has_told_between_two_known_positions() -> None:
    story = Story(
        text="Leo is a tailor. It is dawn",
        positions=(1, 6),
        facts=(frozenset({"Leo"}), frozenset({"Leo", "tailor", "dawn"})),
    )
    assert story.told(0, "Leo") == {"Leo"}, "its word is there"
    assert story.told(0, "") == set()
    assert story.told(3, "Leo is a tailor") == {"Leo", "tailor"}
    assert story.told(6, "Leo is a tailor. It is dawn") == {"Leo", "tailor", "dawn"}
    assert story.told(9, "") == {"Leo", "tailor", "dawn"}


def test_the_command_prints_it_the_same_every_time(shipped: EmbeddedPair, gloss: Command) -> None:
    ended = gloss("demo")
    assert ended.status == 0 and ended.stderr == ""
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("Story 1 of 2")
    assert any(line.split() == ["token", "explanation", "cosine", "FVE"] for line in lines)
    assert " explanations, " in ended.stdout and "gloss watch --local" in ended.stdout

    def without_rate(text: str) -> str:
        return "\n".join(line for line in text.splitlines() if "explanations, " not in line)

    assert without_rate(gloss("demo").stdout) == without_rate(ended.stdout)


def test_stories_are_listed(shipped: EmbeddedPair, gloss: Command) -> None:
    ended = gloss("demo", "--stories")
    assert ended.status == 0 and ended.stderr == ""
    first, second, *_ = ended.stdout.splitlines()
    assert first.split() == ["1", *STORY[:15].split()]
    assert second.split() == ["2", *STORY[:10].split()]
    printed = _printed_stories("Leo is a tailor. \x1b[2J" + "He meets Hugo. " * 9)
    assert "1  Leo is a tailor. \\x1b[2JHe meets" in printed and "He meets ...\n" in printed
    assert max(map(len, printed.splitlines())) < 80


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--story", "3"], "--story: got 3, expected 1 to 2"),
        (["--story", "0"], "--story: got 0"),
        (["--samples", "0"], "num_samples: got 0"),
        (["--seed", "-1"], "seed: got -1"),
        (["Leo", "--story", "1"], "got TEXT and --story"),
        ([""], "input: got no token"),
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
        Reading(
            token=token,
            before="Leo is a ",
            facts=frozenset({"Leo", "tailor"}),
            explanations=(each,),
        )
        for each in explanations
    )
    return DemoResult(
        story=1,
        num_stories=3,
        text="Leo is a tailor.",
        readings=readings,
        layer_index=4,
        seed=0,
        seconds=0.5,
    )


def _printed_stories(*texts: str) -> str:
    file = io.StringIO()
    stories = [Story(text=text, positions=(0,), facts=(frozenset(),)) for text in texts]
    print_stories(stories, Console(width=80, file=file))
    return file.getvalue()


def _printed(result: DemoResult, width: int = 80, show_all: bool = False) -> str:
    file = io.StringIO()
    print_demo(result, Console(width=width, file=file), show_all)
    return file.getvalue()


@pytest.mark.parametrize("width", [10, 20, 30, 40, 60])
def test_on_a_narrow_terminal_text_stays_and_numbers_are_whole_or_absent(width: int) -> None:
    whole = _explanation("He meets Hugo in the village.", cosine=-0.912, fve=-10.84)
    printed = _printed(_result(whole), width)
    assert max(map(len, printed.splitlines())) <= width
    table = printed.partition("Leo is a tailor.")[2] or printed
    table = table.partition("mean")[0]
    assert all(word in table for word in ("tailor", "meets", "Hugo", "village."))
    assert table.count("-10") == table.count("-10.84") == (width >= 20)
    assert table.count("-0.9") == 0


def test_stories_are_whole_on_a_narrow_terminal() -> None:
    file = io.StringIO()
    print_stories(
        [Story(text="Leo is a tailor.", positions=(0,), facts=(frozenset(),))],
        Console(width=10, file=file),
    )
    assert "Leoisatailor." in "".join(file.getvalue().removeprefix("1").split())


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
    assert set(documented) - {"flag"} == set(FLAG_MEANINGS)


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


def test_early_positions_are_flagged_and_left_out_of_the_mean() -> None:
    early = _explanation("early", flags=("early_position",), fve=-3.0)
    printed = _printed(_result(early, _explanation("fine")))
    assert "! 1 early_position" in printed
    assert "mean FVE 0.80, 1 early ones apart  2 explanations" in printed
    assert "apart" not in _printed(_result(_explanation("fine")))


def test_words_that_are_not_known_are_named_and_shown_as_text() -> None:
    result = replace(_result(_explanation("fine")), unknown_words=("dragon", "\x1b[2J[red]"))
    printed = _printed(replace(result, num_words=252))
    assert "unknown words: dragon, \\x1b[2J[red]" in printed and "\x1b" not in printed
    assert "the tiny world has 252 words" in printed
    assert "unknown words" not in _printed(_result(_explanation("fine")))


def test_of_a_text_of_ones_own_every_token_is_shown() -> None:
    result = _result(*[_explanation(f"number {index}.") for index in range(31)])
    printed = _printed(replace(result, story=None))
    assert printed.startswith("Your text, read at block 4\n")
    assert printed.count("number ") == 31 and "--all" not in printed
    assert "gloss demo --story 1" in printed


@pytest.fixture
def real() -> EmbeddedPair:
    """The pair that ships."""
    return embedded_pair()


def test_a_text_of_ones_own(real: EmbeddedPair, gloss: Command) -> None:
    text = "Mia meets a dragon; the dragon's spaceship is green. Leo's"
    ended = gloss("demo", text)
    assert ended.status == 0
    assert "unknown words: dragon;, dragon's, spaceship, 's\n" in ended.stdout
    assert "! 8 early_position" in ended.stdout and "unknown_token" in ended.stdout
    result = run_demo(real, text, None, num_samples=1, seed=0)
    flagged = [r.token for r in result.readings if "unknown_token" in r.explanations[0].flags]
    assert flagged == ["dragon", ";", "dragon", "'", "s", "spaceship", "'", "s"]
    odd = run_demo(real, "Leo is zorb. [bold]x zorb [bold]", None, num_samples=1, seed=0)
    assert odd.unknown_words == ("zorb", "[bold]x", "[bold]")
    known = run_demo(real, "Mia is a baker. She has a silver key.", None, num_samples=1, seed=0)
    assert known.unknown_words == () and known.num_words == 252
    assert "silver key" in known.readings[-1].explanations[0].explanation


def test_a_story_from_text_is_explained_as_its_stored_activations(real: EmbeddedPair) -> None:
    """Word for word: what the target reads here are the activations that were stored."""
    rows = pq.read_table(real.activations)
    first = rows.filter(pc.equal(rows["doc_id"], rows["doc_id"][0]))
    vectors = first["activation_vector"].combine_chunks().flatten().to_numpy()
    positions = tuple(first["position"].to_pylist())
    request = VerbalizeRequest(
        activations=vectors.reshape(len(first), -1),
        item_keys=positions,
        positions=positions,
        sampling=SamplingParams(seed=0),
    )
    stored = load_engine(real.av, real.ar).verbalize(request)
    result = run_demo(real, None, None, num_samples=1, seed=0)
    from_text = [result.readings[position].explanations[0] for position in positions]
    assert [e.explanation for e in from_text] == [e.explanation for e in stored]
    assert [e.fve for e in from_text] == pytest.approx([e.fve for e in stored], abs=1e-4)
    assert result.mean_fve is not None and result.mean_fve > 0.9
    told = json.loads(first["facts"][-1].as_py()).values()
    assert result.readings[positions[-1]].facts == set(told)
