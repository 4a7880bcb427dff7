"""How the demo looks: the story, a table of its explanations, a summary, what to run next."""

from __future__ import annotations

import re
from collections import Counter

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gloss_engine import Explanation
from gloss_server.demo import DemoResult, Reading
from gloss_server.terminal import print_page, visible

_TOKEN_WIDTH = 18
_NUM_SHOWN = 12
_MARK = "!"
_FACTS_KEY = Text.assemble(("green", "green"), (" what the story has told by then\n", "dim"))
_GOOD_FVE, _FAIR_FVE = 0.7, 0.4
_FLAG_MEANINGS = {
    "unclosed": "cut off before its closing tag",
    "no_tag": "came without tags",
    "norm_outlier": "the activation's norm is unusual",
    "early_position": "read earlier than the AV was trained on",
    "special_token": "read on a special token",
    "unknown_token": "read on a token the target does not know",
    "suspect_script": "reads like a failed injection",
    "low_fidelity": "reconstructs worse than the mean activation",
    "no_fve_baseline": "no baseline for FVE is known",
}


def print_demo(result: DemoResult, console: Console, show_all: bool = False) -> None:
    """Print a demo's result at the console's width.

    Args:
        result: what to show.
        console: where.
        show_all: every reading rather than a dozen spread over the story.
    """
    is_coloured = console.is_terminal and console.color_system is not None
    print_page(_page(result, show_all, is_coloured), console)


def _page(result: DemoResult, show_all: bool, is_coloured: bool) -> RenderableType:
    where = "" if result.layer_index is None else f", read at block {result.layer_index}"
    title = Text.assemble(
        (f"Story {result.story} of {result.num_stories}", "bold"),
        (f", held out of training{where}", "dim"),
    )
    shown = result.readings if show_all else _spread(result.readings)
    return Group(
        title,
        Padding(Text(visible(result.text)), (1, 2)),
        _table(shown),
        Text(),
        *([_FACTS_KEY] if is_coloured else []),
        *_legend(result),
        _summary(result),
        Text(),
        _next_steps(result, all_shown=len(shown) == len(result.readings)),
    )


def _spread(readings: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """At most a dozen readings, evenly over the story, the last among them."""
    num_shown = min(_NUM_SHOWN, len(readings))
    return tuple(
        readings[(index + 1) * len(readings) // num_shown - 1] for index in range(num_shown)
    )


def _table(readings: tuple[Reading, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False)
    table.add_column("token", no_wrap=True, width=_TOKEN_WIDTH, overflow="ellipsis")
    table.add_column("explanation", ratio=1, overflow="fold")
    table.add_column("cosine", justify="right", no_wrap=True)
    table.add_column("FVE", justify="right", no_wrap=True)
    table.add_column("", width=1)
    for reading in readings:
        for explanation in reading.explanations:
            table.add_row(*_cells(reading, explanation))
    return table


def _cells(reading: Reading, explanation: Explanation) -> tuple[Text, Text, Text, Text, Text]:
    token = _token(reading) if explanation.sample == 0 else Text()
    cosine = Text("-" if explanation.cosine is None else f"{explanation.cosine:.3f}")
    mark = Text(_MARK if explanation.flags or explanation.error else "", style="yellow")
    return token, _explained(reading, explanation), cosine, _fve(explanation.fve), mark


def _token(reading: Reading) -> Text:
    """The token, after as many of the words before it as fit."""
    token = visible(reading.token)
    room = _TOKEN_WIDTH - len(token)
    words: list[str] = []
    for word in reversed(visible(reading.before).split()):
        room -= len(word) + 1
        if room < 0:
            break
        words.insert(0, word)
    return Text.assemble((" ".join([*words, ""]), "dim"), (token, "bold"))


def _explained(reading: Reading, explanation: Explanation) -> Text:
    """The explanation, with the facts that the story had told by then set off."""
    if explanation.error is not None:
        return Text(visible(explanation.error.message), style="red")
    text = Text(visible(explanation.explanation))
    for fact in set(reading.facts):
        text.highlight_regex(rf"\b{re.escape(visible(fact))}\b", "green")
    return text


def _fve(fve: float | None) -> Text:
    if fve is None:
        return Text("-")
    style = "green" if fve >= _GOOD_FVE else "yellow" if fve >= _FAIR_FVE else "red"
    return Text(f"{fve:.2f}", style=style)


def _legend(result: DemoResult) -> list[Text]:
    """A line for each flag that occurs."""
    counts = Counter(flag for r in result.readings for e in r.explanations for flag in e.flags)
    lines = [
        Text.assemble((f"{_MARK} ", "yellow"), f"{count} {flag}: {_FLAG_MEANINGS.get(flag, '')}")
        for flag, count in sorted(counts.items())
    ]
    return [*lines, Text()] if lines else []


def _summary(result: DemoResult) -> Text:
    mean = result.mean_fve
    rate = result.num_explanations / max(result.seconds, 1e-9)
    return Text.assemble(
        ("mean FVE ", "dim"),
        ("-" if mean is None else f"{mean:.2f}", "bold"),
        (f"  {result.num_explanations} explanations, {rate:.0f}/s, seed {result.seed}", "dim"),
    )


def _next_steps(result: DemoResult, all_shown: bool) -> Table:
    this, other = result.story, result.story % result.num_stories + 1
    steps = [
        ("another story", f"gloss demo --story {other}"),
        ("your own", "gloss verbalize X.npy --local --av AV --ar AR --output OUT.jsonl"),
        ("a checkpoint", "gloss doctor DIR"),
    ]
    if not all_shown:
        steps.insert(0, ("every token", f"gloss demo --story {this} --all"))
    table = Table.grid(padding=(0, 2))
    for label, command in steps:
        table.add_row(Text(label, style="dim"), Text(command))
    return table
