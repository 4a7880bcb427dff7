"""The data stage: documents in, activations with explanations out, a file for each split.

Plan (splits, tokens, positions), estimate, capture, ask the teacher, assemble. Each goes on where a
run that was stopped has left it: captured parts and answers are kept as they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from gloss_training.capture.parts import CAPTURED, CapturedParts, capture_parts
from gloss_training.capture.readers import ActivationReader
from gloss_training.dataset.sidecar import DatasetFacts
from gloss_training.documents.document import Document
from gloss_training.documents.plan import Plan, plan_documents
from gloss_training.documents.reading import Failure
from gloss_training.documents.settings import DataSettings
from gloss_training.errors import Declined, TeacherError
from gloss_training.models.prompts import marked_prompt
from gloss_training.passage import Passage
from gloss_training.run.progress_bar import progress_bar
from gloss_training.settings import PromptSettings
from gloss_training.stages.assembly import Assembled, assemble
from gloss_training.teachers.teacher import KEPT, UNANSWERED, Answer, Estimate, Teacher


@dataclass(frozen=True, kw_only=True)
class DataStage:
    """One run of the stage.

    Attributes:
        settings: which documents and positions.
        prompt: templates and marker of the rows' prompts.
        reader: what runs the target.
        teacher: who explains.
        folder: where the files go.
        seed: of the choice of positions.
        console: where it tells how far it is.
    """

    settings: DataSettings
    prompt: PromptSettings
    reader: ActivationReader
    teacher: Teacher
    folder: Path
    seed: int
    console: Console

    def run(
        self, documents: Iterable[Document | Failure], confirm: Callable[[Estimate], bool]
    ) -> dict[str, Any]:
        """Makes every split's file; its figures.

        Args:
            documents: the input.
            confirm: told what the teacher will take, before anything is asked or captured.

        Raises:
            Declined: it was not confirmed.
            ConfigError: a marker that is not one token of the AV's prompt.
            DocumentError, DatasetError: documents that are none, too few for a split, or without
                an activation to learn from.
            TeacherError: the teacher cannot go on, or its answers are no use.
            DiskError: something could not be written; what was written before stays.
        """
        with asyncio.Runner() as runner:
            try:
                facts = self._facts()
                plan = self._plan(documents)
                for line in plan.failure_lines():
                    self.console.print(f"left out: {line}", markup=False, soft_wrap=True)
                plan.require_splits(self.settings.shares)
                estimate = runner.run(self.teacher.estimate(self._planned(plan)))
                if not confirm(estimate):
                    raise Declined("not confirmed: nobody was asked and nothing was captured")
                parts = self._capture(plan)
                parts.require_rows()
                answers = runner.run(self._explain(parts))
            finally:
                runner.run(self.teacher.close())
        self._require_answers(answers)
        made = assemble(parts, answers, self.settings.explained, facts, self.folder)
        return {
            **plan.figures(),
            **_figures(made),
            "num_positions_left_out": parts.num_left_out(),
            **asdict(made.statistics),
        }

    def _facts(self) -> DatasetFacts:
        """What the files will say of themselves; a marker that is none is refused here."""
        reader = self.reader
        return DatasetFacts(
            d_model=reader.d_model,
            layer_index=reader.layer_index,
            target_fingerprint=reader.fingerprint,
            read_by=reader.how,
            min_position=self.settings.min_position,
            prompt=self.prompt,
            marked=marked_prompt(reader.tokenizer, self.prompt),
            teacher=self.teacher.name,
        )

    def _plan(self, documents: Iterable[Document | Failure]) -> Plan:
        def told() -> Iterator[Document | Failure]:
            for document in documents:
                yield document
                advance(1)

        with self._bar("plan", None) as advance:
            return plan_documents(told(), self.reader.tokenizer, self.settings, self.seed)

    def _planned(self, plan: Plan) -> Iterator[Passage]:
        """What the teacher will be asked about."""
        for planned in plan.documents:
            if planned.split in self.settings.explained:
                yield from planned.passages(self.settings.max_passage_chars)

    def _capture(self, plan: Plan) -> CapturedParts:
        with self._bar("capture", len(plan.documents)) as advance:
            return capture_parts(plan, self.reader, self.settings, self.folder / CAPTURED, advance)

    async def _explain(self, parts: CapturedParts) -> list[Answer]:
        explained = self.settings.explained
        with self._bar("teacher", parts.num_rows(explained)) as advance:
            return await self.teacher.explain(parts.passages(explained), lambda _: advance(1))

    def _require_answers(self, answers: list[Answer]) -> None:
        unanswered = sum(answer.outcome == UNANSWERED for answer in answers)
        if unanswered > self.settings.max_unanswered_share * len(answers):
            raise TeacherError(
                f"teacher {self.teacher.name}: {unanswered:,} of {len(answers):,} questions have "
                "no answer, expected a share of at most "
                f"{self.settings.max_unanswered_share:g} (data.max_unanswered_share). Give the "
                "same command again: only these will be asked"
            )

    @contextmanager
    def _bar(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A bar with the time left, where a total is known; what it yields advances it."""
        with progress_bar(self.console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda count: progress.advance(task, count)
            if total is None:
                progress.update(task, total=progress.tasks[0].completed)


def _figures(made: Assembled) -> dict[str, Any]:
    """Rows of each split, and what became of the questions."""
    figures: dict[str, Any] = {f"num_{split}_rows": n for split, n in made.num_rows.items()}
    total: dict[str, int] = {}
    for counts in made.outcomes.values():
        for outcome, count in counts.items():
            total[outcome] = total.get(outcome, 0) + count
    figures["num_questions"] = sum(total.values())
    for outcome, count in sorted(total.items()):
        if outcome != KEPT:
            figures[f"num_answers_{outcome}"] = count
    return figures
