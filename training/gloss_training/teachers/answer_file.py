"""Replies that were paid for, one JSON line each, appended as they come.

A line is written before the next question is asked, so a process that is killed loses what was in
flight and nothing else. A torn last line is dropped on opening. A question is known by a hash of
its words and of who was asked, so nothing is asked twice, whatever else of a run changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Final

from gloss_training.errors import DiskError, TeacherError
from gloss_training.teachers.api import Reply
from gloss_training.teachers.settings import TeacherSettings

ANSWERS_FILE: Final = "answers.jsonl"
"""What a teacher has explained, within the data stage's folder: never asked for again."""
_KEPT: Final = "Every answer before it is kept and will not be asked again."
_SYNC_SECONDS: Final = 1.0
"""What a power failure can cost; a killed process loses nothing that was written."""


class AnswerFile:
    """The replies of one folder, locked against a second run.

    Args:
        path: the file, new or begun.

    Raises:
        TeacherError: another run writes it, or it is no file of replies.
        DiskError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DiskError(str(path), error, _KEPT) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise TeacherError(f"{path}: another run is writing it; wait for it") from None
        self._replies: dict[str, Reply] = {}
        self._end = self._read()
        self._synced = time.monotonic()

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The reply to a question; None where it was never answered."""
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keeps a reply.

        Raises:
            DiskError: it could not be written; what was there before still is.
        """
        line = json.dumps({"key": key, **vars(reply)}) + "\n"
        rest = memoryview(line.encode())
        try:
            try:
                os.lseek(self._file, self._end, os.SEEK_SET)
                while rest:
                    rest = rest[os.write(self._file, rest) :]
                if time.monotonic() - self._synced >= _SYNC_SECONDS:
                    self._sync()
            except OSError:
                os.ftruncate(self._file, self._end)
                raise
        except OSError as error:
            raise DiskError(str(self.path), error, _KEPT) from error
        self._end += len(line)
        self._replies[key] = reply

    def close(self) -> None:
        """Lets go of the file, with everything on the disk.

        Raises:
            DiskError: it could not all be written there.
        """
        try:
            self._sync()
        except OSError as error:
            raise DiskError(str(self.path), error, _KEPT) from error
        finally:
            os.close(self._file)

    def _sync(self) -> None:
        os.fsync(self._file)
        self._synced = time.monotonic()

    def _read(self) -> int:
        """Takes in what is there and cuts a torn line off its end; where the next one goes."""
        end = 0
        with open(self._file, "rb", closefd=False) as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    fields = json.loads(line)
                    key: str = fields.pop("key")
                    self._replies[key] = Reply(**fields)
                except (ValueError, KeyError, TypeError, AttributeError):
                    os.close(self._file)
                    raise TeacherError(
                        f"{self.path}: got no reply in line {number}, expected a file that "
                        "gloss-train has written; move it away or mend that line"
                    ) from None
                end += len(line)
        os.ftruncate(self._file, end)
        return end


def question_key(settings: TeacherSettings, prompt: str) -> str:
    """32 hex digits of what decides a reply: who is asked, how, and what."""
    asked = [
        *(settings.provider, settings.model, settings.max_tokens, settings.temperature),
        prompt,
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
