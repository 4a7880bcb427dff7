"""The demo's run: a text through the embedded target and pair. No rendering."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gloss_engine import (
    Engine,
    EngineConfig,
    ExplainRequest,
    Explanation,
    SamplingParams,
    TextInput,
    load_engine,
)
from gloss_server.command_error import CommandError
from gloss_server.commands.demo.stories import Story, read_stories
from gloss_server.display.evidence_cells import mean_fve
from gloss_server.embedded import EmbeddedPair

EARLY = "early_position"
"""The flag of positions that the AV has not been trained on."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One token of the text and what was made of its activation.

    Attributes:
        token: as the text has it.
        before: the text before it.
        facts: what a story had told by then.
        explanations: one per sample.
    """

    token: str
    before: str
    facts: frozenset[str] = frozenset()
    explanations: tuple[Explanation, ...]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """A text and its explanations.

    Attributes:
        story: which of the shipped ones, from 1; None: the caller's own text.
        num_stories: how many are shipped.
        text: what was read.
        readings: a token each, in the order of the text.
        unknown_words: those that the target has no token for, each once.
        num_words: words that it has one for.
        layer_index: layer the activations were read at, or None.
        seed: of the draws.
        seconds: spent reading and explaining, loading apart.
    """

    story: int | None
    num_stories: int
    text: str
    readings: tuple[Reading, ...]
    unknown_words: tuple[str, ...] = ()
    num_words: int = 0
    layer_index: int | None
    seed: int
    seconds: float

    @property
    def explanations(self) -> list[Explanation]:
        """Of all readings."""
        return [explanation for reading in self.readings for explanation in reading.explanations]

    @property
    def mean_fve(self) -> float | None:
        """Mean over scored explanations but those of early positions, which the AV has not been
        trained on; None where there is none."""
        return mean_fve(e for e in self.explanations if EARLY not in e.flags)


def run_demo(
    pair: EmbeddedPair, text: str | None, story: int | None, num_samples: int, seed: int
) -> DemoResult:
    """Explain a text, or a shipped story.

    Args:
        pair: the shipped files.
        text: the caller's own; None: a story.
        story: from 1; None: the first, if there is no text.
        num_samples: explanations per activation.
        seed: of the draws.

    Raises:
        CommandError: both, or no such story.
        GlossError: a text or setting that cannot be used.
    """
    if text is not None and story is not None:
        raise CommandError("got TEXT and --story, expected one of both")
    sampling = SamplingParams(seed=seed)
    stories = read_stories(pair.activations)
    number = None if text is not None else 1 if story is None else story
    if number is not None and not 1 <= number <= len(stories):
        raise CommandError(f"--story: got {number}, expected 1 to {len(stories)}")
    chosen = None if number is None else stories[number - 1]
    read = text if chosen is None else chosen.text
    assert read is not None
    config = EngineConfig(max_new_tokens=sampling.max_new_tokens, target_generates=False)
    engine = load_engine(pair.av, pair.ar, config, target=pair.target)
    request = ExplainRequest(input=TextInput(text=read), num_samples=num_samples, sampling=sampling)
    started = time.perf_counter()
    explanations = _explain(engine, request)
    seconds = time.perf_counter() - started
    assert engine.target is not None
    tokens = _Tokens(engine.target.target.tokenizer, read)
    return DemoResult(
        story=number,
        num_stories=len(stories),
        text=read,
        readings=_readings(tokens, explanations, num_samples, chosen),
        unknown_words=tokens.unknown_words(),
        num_words=tokens.num_words,
        layer_index=engine.facts.layer_index,
        seed=seed,
        seconds=seconds,
    )


def _explain(engine: Engine, request: ExplainRequest) -> list[Explanation]:
    """Explanations of all positions, by position and sample."""
    engine.submit_explain(request)
    found: list[Explanation] = []
    while engine.has_work:
        found += engine.step().explanations
    return sorted(found, key=lambda one: (one.index, one.sample))


class _Tokens:
    """A text's tokens as they stand in it.

    Args:
        tokenizer: the target's, which knows where each begins and ends.
        text: what it reads.
    """

    def __init__(self, tokenizer: Any, text: str) -> None:
        encoded = tokenizer(text, return_offsets_mapping=True)
        self._text, self._ids = text, encoded["input_ids"]
        self._spans: list[tuple[int, int]] = encoded["offset_mapping"]
        self._tokenizer = tokenizer
        self.num_words = sum(token.isalpha() for token in tokenizer.get_vocab())

    def token(self, index: int) -> str:
        """A token as the text has it; a special one that the tokenizer added by its name."""
        start, stop = self._spans[index]
        if start == stop:
            return str(self._tokenizer.decode([self._ids[index]]))
        return self._text[start:stop]

    def before(self, index: int) -> str:
        """The text before it."""
        return self._text[: self._spans[index][0]]

    def until(self, index: int) -> str:
        """The text up to it."""
        return self._text[: self._spans[index][1]]

    def unknown_words(self) -> tuple[str, ...]:
        """What has no token of its own, each once: neighbours without a space between are one."""
        unknown: str | None = self._tokenizer.unk_token
        spans: list[tuple[int, int]] = []
        for token_id, (start, stop) in zip(self._ids, self._spans, strict=True):
            # A story may have the unknown token itself, written out.
            if token_id != self._tokenizer.unk_token_id or self._text[start:stop] == unknown:
                continue
            if spans and spans[-1][1] == start:
                start, _ = spans.pop()
            spans.append((start, stop))
        return tuple(dict.fromkeys(self._text[start:stop] for start, stop in spans))


def _readings(
    tokens: _Tokens, explanations: Sequence[Explanation], num_samples: int, story: Story | None
) -> tuple[Reading, ...]:
    return tuple(
        Reading(
            token=tokens.token(index),
            before=tokens.before(index),
            facts=frozenset() if story is None else story.told(index, tokens.until(index)),
            explanations=tuple(explanations[index * num_samples : (index + 1) * num_samples]),
        )
        for index in range(len(explanations) // num_samples)
    )
