"""What a teacher is to the rest of training, and its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gloss_training.passage import Passage

KEPT: Final = "kept"
UNANSWERED: Final = "unanswered"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one question.

    Attributes:
        text: the explanation; "" where there is none of use.
        outcome: kept, unanswered, or why it was dropped.
    """

    text: str
    outcome: str


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run of questions will take.

    Attributes:
        teacher: who is asked.
        num_questions: all of them.
        num_answered: of these, answered before and not asked again.
        input_tokens: of the questions to ask.
        output_tokens, most_output_tokens: about as many, and never more.
        counted_by: who counted the tokens.
        cost, most_cost: in `currency`; None where no prices are set.
        minutes: at least so many, by the rate limits; 0 where there are none.
        lacks: what the teacher cannot be asked without; "" where there is nothing.
    """

    teacher: str
    num_questions: int
    num_answered: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    most_output_tokens: int = 0
    counted_by: str = ""
    cost: float | None = 0.0
    most_cost: float | None = 0.0
    currency: str = ""
    minutes: float = 0.0
    lacks: str = ""

    @property
    def num_to_ask(self) -> int:
        """Questions that will be asked."""
        return self.num_questions - self.num_answered

    @property
    def is_free(self) -> bool:
        """Whether nobody is paid."""
        return self.num_to_ask == 0 or self.cost == 0.0

    def lines(self) -> list[str]:
        """For people."""
        asked = f"{self.num_to_ask:,} questions to {self.teacher}"
        if self.num_answered:
            asked += f" ({self.num_answered:,} more are the same as others, or answered already)"
        lines = [asked]
        if self.counted_by:
            lines.append(
                f"about {self.input_tokens:,} tokens in (counted by {self.counted_by}), "
                f"{self.output_tokens:,} out, {self.most_output_tokens:,} at most"
            )
        if self.cost is None or self.most_cost is None:
            lines.append("cost unknown: input_price and output_price are not set")
        elif self.counted_by:
            cost, most = self.cost, self.most_cost
            lines.append(f"about {cost:,.2f} {self.currency}, {most:,.2f} at most")
        if self.minutes:
            lines.append(f"at least {self.minutes:,.0f} minutes by the rate limits")
        if self.lacks:
            lines.append(f"before anybody is asked: {self.lacks}")
        return lines


class Teacher(Protocol):
    """Explains, judges and rewords."""

    @property
    def name(self) -> str:
        """As a dataset names it."""

    async def estimate(self, passages: Iterable[Passage]) -> Estimate:
        """What explaining these will take; asks no question that costs."""

    async def explain(
        self, passages: Iterable[Passage], on_answer: Callable[[Answer], None]
    ) -> list[Answer]:
        """One answer for each passage, in their order.

        Args:
            passages: taken one by one, as they are asked.
            on_answer: hears of each as it comes.

        Raises:
            TeacherError: the teacher cannot go on; what it has answered is kept.
            DiskError: an answer could not be kept.
        """

    async def estimate_judging(self, passages: Sequence[Passage], num_pairs: int) -> Estimate:
        """What judging so many explanations will take; asks no question that costs.

        Args:
            passages: some of those that they are about.
            num_pairs: how many explanations.
        """

    async def judge(self, pairs: Sequence[tuple[Passage, str]]) -> list[float]:
        """How well each explanation fits the text before its position, 0 to 1; NaN: no score.

        Raises:
            TeacherError, DiskError: as `explain`.
        """

    async def estimate_rewording(self, num_explanations: int) -> Estimate:
        """What rewording so many explanations will take; asks no question that costs."""

    async def reword(self, explanations: Sequence[str]) -> list[str | None]:
        """The same facts in other words, for each explanation; None: no rewording.

        Raises:
            TeacherError, DiskError: as `explain`.
        """

    async def close(self) -> None:
        """Lets go of connections and files."""
