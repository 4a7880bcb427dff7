"""The output of `gloss explain`: JSON lines, which a killed run continues.

A row is known by its text's number, its position and its sample; they stand in the order in which
they were finished. How many tokens a text has is only known once the target's tokenizer has seen
it, so that is kept beside the output (`OUTPUT.texts.jsonl`), before the text's first row: then what
is missing of it can be said later without any model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gloss_engine.capture.positions import MAX_LISTED, Positions
from gloss_server.command_error import CommandError
from gloss_server.files.jsonl_file import JsonlFile
from gloss_server.files.result_row import Row


class ExplainResults:
    """An open output, locked against a second run.

    Args:
        path: the file, new or begun.
        num_texts: texts in the input.
        positions: which positions of each.
        num_samples: explanations of each.
        begin: called once the output is this process's alone, where the run is new; else None.

    Attributes:
        num_rows, num_failed: rows that are there, and those among them with an error.
        num_ended: texts of which nothing is missing.

    Raises:
        CommandError: another suffix, another run that writes it, or contents that are not rows of
            this run.
        OutputError: a path that cannot be written.
    """

    def __init__(
        self,
        path: Path,
        num_texts: int,
        positions: Positions,
        num_samples: int,
        begin: Callable[[], None] | None,
    ) -> None:
        self.path = path
        self._num_texts, self._positions, self._num_samples = num_texts, positions, num_samples
        self._chosen: dict[int, frozenset[int]] = {}
        self._done: dict[int, set[tuple[int, int]]] = {}
        self._ended: set[int] = set()
        self.num_rows = self.num_failed = 0
        self._file: JsonlFile | None = None
        # Read first: rows need it.
        self._texts = JsonlFile(texts_path(path), path, self._take_text, begin)
        try:
            self._file = JsonlFile(path, path, self._take_row)
        except BaseException:
            self._texts.close()
            raise

    @property
    def num_ended(self) -> int:
        return len(self._ended)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return self.num_ended == self._num_texts

    def missing(self, index: int) -> Positions | None:
        """The positions of a text that lack an explanation; None: none does."""
        if index in self._ended:
            return None
        done = self._done.get(index, set())
        samples = range(self._num_samples)
        left = tuple(
            at
            for at in sorted(self._chosen.get(index, ()))
            if any((at, sample) not in done for sample in samples)
        )
        # What is asked for again beyond a list's length is left out when it comes.
        return Positions(indices=left) if 1 <= len(left) <= MAX_LISTED else self._positions

    def open(self, index: int, num_tokens: int) -> None:
        """Note how long a text is; its rows may come then.

        Raises:
            OutputError: it could not be written.
        """
        if index not in self._chosen:
            text = {"index": index, "num_tokens": num_tokens}
            self._texts.append([text])
            self._take_text(text)

    def append(self, rows: list[Row]) -> None:
        """Write rows so that they survive whatever comes next; those already there are left out.

        Raises:
            OutputError: they could not be written; what was there before still is.
        """
        assert self._file is not None
        fresh = [row for row in rows if not self._holds(row)]
        if fresh:
            self._file.append(fresh)
        for row in fresh:
            self._take_row(row)

    def close(self) -> None:
        """Let go of the files; nothing is lost that was appended."""
        self._texts.close()
        if self._file is not None:
            self._file.close()

    def _holds(self, row: Row) -> bool:
        place = (row["position"], row["sample"])
        return row["index"] in self._ended or place in self._done.get(row["index"], ())

    def _take_text(self, text: Any) -> bool:
        index, num_tokens = text["index"], text["num_tokens"]
        if not self._has(index) or index in self._chosen or not isinstance(num_tokens, int):
            return False
        self._chosen[index] = frozenset(self._positions.resolve(num_tokens))
        return True

    def _take_row(self, row: Any) -> bool:
        """Note a row; False where it cannot be one of this run, or is there twice."""
        index, position, sample = row["index"], row["position"], row["sample"]
        if not self._has(index) or self._holds(row):
            return False
        if position is None:
            # A text that cannot be read has this row alone.
            if index in self._done or row["error"] is None:
                return False
            self._ended.add(index)
        elif not self._add(index, position, sample):
            return False
        self.num_rows += 1
        self.num_failed += row["error"] is not None
        return True

    def _add(self, index: int, position: object, sample: object) -> bool:
        chosen = self._chosen.get(index, frozenset())
        if position not in chosen or sample not in range(self._num_samples):
            return False
        assert isinstance(position, int) and isinstance(sample, int)
        done = self._done.setdefault(index, set())
        done.add((position, sample))
        if len(done) == len(chosen) * self._num_samples:
            self._ended.add(index)
            self._chosen[index] = frozenset()
            del self._done[index]
        return True

    def _has(self, index: object) -> bool:
        return isinstance(index, int) and 0 <= index < self._num_texts


def check_suffix(path: Path) -> None:
    """Refuse an output of another format.

    Raises:
        CommandError: as it says.
    """
    if path.suffix != ".jsonl":
        raise CommandError(f"--output {path}: got suffix {path.suffix!r}, expected .jsonl")


def texts_path(output: Path) -> Path:
    """Where it is kept how long texts are."""
    return output.with_name(f"{output.name}.texts.jsonl")
