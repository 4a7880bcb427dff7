"""How the demo looks: the text, a table of its explanations, a summary, what to run next."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gloss_engine import Explanation
from gloss_server.commands.demo.run import EARLY, DemoResult, Reading
from gloss_server.commands.demo.stories import Story
from gloss_server.display.evidence_cells import (
    cosine_cell,
    explanation_cell,
    fve_cell,
    legend,
    mark_cell,
)
from gloss_server.display.explanation_table import TableRow, explanation_table, fitting
from gloss_server.terminal import print_page, visible

_TOKEN_WIDTH = 18
_NUM_SHOWN = 12
_FACTS_KEY = Text.assemble(("green", "green"), (" what the story has told by then\n", "dim"))
_FIRST_WORDS = 60
"""Characters of a story in the list of them."""
_OWN = "Mia is a baker. She has a silver key."


def print_demo(result: DemoResult, console: Console, show_all: bool = False) -> None:
    """Print a demo's result at the console's width.

    Args:
        result: what to show.
        console: where.
        show_all: every reading rather than a dozen spread over the story; of a text of the
            caller's own every one is shown anyway.
    """
    is_coloured = console.is_terminal and console.color_system is not None
    print_page(_page(result, show_all, is_coloured, console.width), console)


def print_stories(stories: Sequence[Story], console: Console) -> None:
    """Print the first words of each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for number, story in enumerate(stories, start=1):
        table.add_row(Text(str(number), style="bold"), Text(visible(_first_words(story.text))))
    steps = _steps([("read one", "gloss demo --story 2"), ("your own", f'gloss demo "{_OWN}"')])
    print_page(Group(table, Text(), steps), console)


def _first_words(text: str) -> str:
    if len(text) <= _FIRST_WORDS:
        return text
    return f"{text[:_FIRST_WORDS].rpartition(' ')[0]} ..."


def _page(result: DemoResult, show_all: bool, is_coloured: bool, width: int) -> RenderableType:
    everything = show_all or result.story is None
    shown = result.readings if everything else _spread(result.readings)
    notes = legend(result.explanations)
    return Group(
        _title(result),
        Padding(Text(visible(result.text)), (1, 2)),
        *_unknown(result),
        _table(shown, width),
        Text(),
        *([_FACTS_KEY] if is_coloured and result.story is not None else []),
        *notes,
        *([Text()] if notes else []),
        _summary(result),
        Text(),
        _next_steps(result, all_shown=len(shown) == len(result.readings)),
    )


def _title(result: DemoResult) -> Text:
    where = "" if result.layer_index is None else f", read at block {result.layer_index}"
    if result.story is None:
        return Text.assemble(("Your text", "bold"), (where, "dim"))
    return Text.assemble(
        (f"Story {result.story} of {result.num_stories}", "bold"),
        (f", held out of training{where}", "dim"),
    )


def _unknown(result: DemoResult) -> list[Text]:
    """The words that the tiny world does not have."""
    if not result.unknown_words:
        return []
    named = visible(", ".join(result.unknown_words))
    world = f"the tiny world has {result.num_words} words, gloss demo --stories shows some\n"
    return [Text.assemble(("unknown words: ", "yellow"), named), Text(world, style="dim")]


def _spread(readings: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """At most a dozen readings, evenly over the story, the last among them."""
    num_shown = min(_NUM_SHOWN, len(readings))
    return tuple(
        readings[(index + 1) * len(readings) // num_shown - 1] for index in range(num_shown)
    )


def _table(readings: tuple[Reading, ...], width: int) -> Table:
    rows = [
        TableRow(
            token=Text(visible(reading.token) if explanation.sample == 0 else "", style="bold"),
            before=_before(reading) if explanation.sample == 0 else Text(),
            said=_explained(reading, explanation),
            told=cosine_cell(explanation.cosine),
            fve=fve_cell(explanation.fve),
            mark=mark_cell(explanation),
        )
        for reading in readings
        for explanation in reading.explanations
    ]
    layout = fitting(rows, width, token_width=_TOKEN_WIDTH, told_title="cosine")
    return explanation_table(rows, layout)


def _before(reading: Reading) -> Text:
    """As many of the words before a token as fit."""
    room = _TOKEN_WIDTH - len(visible(reading.token))
    words: list[str] = []
    for word in reversed(visible(reading.before).split()):
        room -= len(word) + 1
        if room < 0:
            break
        words.insert(0, word)
    return Text(" ".join([*words, ""]), style="dim")


def _explained(reading: Reading, explanation: Explanation) -> Text:
    """The explanation, with the facts that the story had told by then set off."""
    text = explanation_cell(explanation)
    if explanation.error is None:
        for fact in reading.facts:
            text.highlight_regex(rf"\b{re.escape(visible(fact))}\b", "green")
    return text


def _summary(result: DemoResult) -> Text:
    mean, count = result.mean_fve, len(result.explanations)
    early = sum(EARLY in explanation.flags for explanation in result.explanations)
    without = f", {early} early ones apart" if early else ""
    rate = count / max(result.seconds, 1e-9)
    return Text.assemble(
        ("mean FVE ", "dim"),
        ("-" if mean is None else f"{mean:.2f}", "bold"),
        (f"{without}  {count} explanations, {rate:.0f}/s, seed {result.seed}", "dim"),
    )


def _next_steps(result: DemoResult, all_shown: bool) -> Table:
    this = result.story or 0
    steps = [
        ("another story", f"gloss demo --story {this % result.num_stories + 1}"),
        ("your own text", f'gloss demo "{_OWN}"'),
        ("as it is said", 'gloss watch --local "Mia is a baker. She"'),
        ("a model of yours", "gloss explain TEXT --local --av AV --ar AR --target MODEL"),
        ("a checkpoint", "gloss doctor DIR"),
    ]
    if not all_shown:
        steps.insert(0, ("every token", f"gloss demo --story {this} --all"))
    return _steps(steps)


def _steps(steps: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for label, command in steps:
        table.add_row(Text(label, style="dim"), Text(command))
    return table
