"""The tiny world's grammar as a teacher and as a judge of truth (an oracle, labelled as one).

It knows what a text has revealed, so it never invents, and asking it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gloss_training.passage import Passage
from gloss_training.seeds import generator_for
from gloss_training.teachers.teacher import KEPT, Answer, Estimate
from gloss_training.world import grammar
from gloss_training.world.claims import is_right, parse
from gloss_training.world.rewording import reword
from gloss_training.world.stories import words_of


@dataclass(frozen=True, kw_only=True)
class WorldTeacher:
    """See `Teacher`.

    Attributes:
        seed: of the choice of wordings.
        num_ending_words: last words that an explanation quotes, at most.
        most_stated: facts that it states, drawn anew each time, at least one, the last words
            counted as one; 0: all.
    """

    seed: int
    num_ending_words: int
    most_stated: int = 0
    name: str = "world grammar"

    async def estimate(self, passages: Iterable[Passage]) -> Estimate:
        """See `Teacher`."""
        return Estimate(teacher=self.name, num_questions=sum(1 for _ in passages))

    async def explain(
        self, passages: Iterable[Passage], on_answer: Callable[[Answer], None]
    ) -> list[Answer]:
        """See `Teacher`: facts revealed up to the position, and the last words."""
        answers = []
        for passage in passages:
            generator = generator_for(self.seed, f"teacher-{passage.doc_id}-{passage.position}")
            ending = grammar.ending_of(words_of(passage.text), self.num_ending_words)
            facts = dict(passage.facts or {})
            stated: tuple[dict[str, str], str | None] = facts, ending
            if self.most_stated:
                stated = grammar.some_of(facts, ending, self.most_stated, generator)
            text = grammar.write(*stated, generator)
            answers.append(Answer(text=text, outcome=KEPT))
            on_answer(answers[-1])
        return answers

    async def estimate_judging(self, passages: Sequence[Passage], num_pairs: int) -> Estimate:
        """See `Teacher`."""
        return Estimate(teacher=self.name, num_questions=num_pairs)

    async def judge(self, pairs: Sequence[tuple[Passage, str]]) -> list[float]:
        """See `Teacher`: the share of an explanation's statements that are true.

        A sentence in no known wording is one that is not; nothing stated scores 0.
        """
        scores = []
        for passage, explanation in pairs:
            reading = parse(explanation)
            words = words_of(passage.text)
            right = sum(is_right(claim, passage.facts or {}, words) for claim in reading.claims)
            stated = len(reading.claims) + reading.num_unparsed
            scores.append(right / stated if stated else 0.0)
        return scores

    async def estimate_rewording(self, num_explanations: int) -> Estimate:
        """See `Teacher`."""
        return Estimate(teacher=self.name, num_questions=num_explanations)

    async def reword(self, explanations: Sequence[str]) -> list[str | None]:
        """See `Teacher`: the claims that can be read, in other wordings of the grammar."""
        return [
            reword(text, generator_for(self.seed, f"reword-{index}-{text}"))
            for index, text in enumerate(explanations)
        ]

    async def close(self) -> None:
        """See `Teacher`."""
