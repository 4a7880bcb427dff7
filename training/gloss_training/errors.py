"""The errors of training that its users meet; every message says what to do.

TrainingError
├── ConfigError       a configuration that no run can have (also a ValueError)
├── RunFolderError    a run directory that does not go with what was asked (also a ValueError)
├── DatasetError      a file of activations that does not go with the model (also a ValueError)
├── DocumentError     documents that cannot be read (also a ValueError)
├── TeacherError      a teacher that refuses, cannot be reached, or answers garbage
├── Declined          what a teacher will take was not confirmed
├── RolloutError      responses that the engine could not make, or weights that it did not get
├── DeviceFullError   a device's memory that was not enough
├── NotFiniteError    gradients that stay without a value, or such weights
└── DiskError         a file that could not be written; what was written before is whole
"""

from __future__ import annotations

import errno

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file is larger than the file system or a limit allows",
}
_LESS_MEMORY = {
    "ar": "ar.micro_batch lower, or ar.gradient_checkpointing = true",
    "av": "av.micro_batch or av.vocabulary_chunk lower, or av.gradient_checkpointing = true",
    "rl": "rl.micro_batch or rl.vocabulary_chunk lower, or rl.gradient_checkpointing = true",
    "evaluate": "evaluate.num_training_rows = 0, which leaves out the fresh AR",
}


class TrainingError(Exception):
    """Base of everything that training raises on purpose."""


class ConfigError(TrainingError, ValueError):
    """A configuration that is refused."""


class RunFolderError(TrainingError, ValueError):
    """A run directory that holds something else than what was asked for."""


class DatasetError(TrainingError, ValueError):
    """A file of activations that does not go with the model.

    Args:
        what: the file and the field at fault.
        got, expected: what was found, and what the model or the configuration says.
        fix: what the user can do about it.
    """

    def __init__(self, what: str, *, got: object, expected: object, fix: str) -> None:
        super().__init__(f"{what}: got {got}, expected {expected}. {fix}")


class DocumentError(TrainingError, ValueError):
    """Documents that cannot be read. See `DatasetError`."""

    def __init__(self, what: str, *, got: object, expected: object, fix: str) -> None:
        super().__init__(f"{what}: got {got}, expected {expected}. {fix}")


class TeacherError(TrainingError):
    """A teacher that cannot go on; what it has answered is kept."""


class Declined(TrainingError):
    """What a teacher will take was not confirmed: nobody was asked, nothing was captured."""


class NotFiniteError(TrainingError):
    """Gradients that were not finite for too many steps in a row, or weights that are not."""


class RolloutError(TrainingError):
    """Responses that the engine could not make, or weights that did not arrive in it."""


class DeviceFullError(TrainingError):
    """A device's memory was not enough for a stage.

    Args:
        stage: which.
        error: what torch says.
    """

    def __init__(self, stage: str, error: Exception) -> None:
        settings = _LESS_MEMORY.get(stage, "")
        mend = f"Set {settings}, then give" if settings else "Free some of it, then give"
        said = str(error).partition("\n")[0].rstrip(".")
        super().__init__(
            f"stage {stage}: the device's memory is full: {said}. Checkpoints and finished stages "
            f"are whole. {mend} the same command again, with --resume where it takes that."
        )


class DiskError(TrainingError):
    """A file could not be written.

    Args:
        what: what was being written.
        error: why it could not be.
        kept: what is there still, to go on from.
        room: what makes room on a full disk, beside removing files.
        again: how the same command is given again.
    """

    def __init__(
        self, what: str, error: OSError, kept: str, *, room: str = "", again: str = "again"
    ) -> None:
        mend = "Put that right"
        if error.errno in _FULL:
            mend = f"Make room ({room})" if room else "Make room"
        reason = _FULL.get(error.errno or 0, error.strerror or str(error))
        super().__init__(
            f"{what} could not be written: {reason}. {kept} {mend}, then give the same command "
            f"{again}."
        )
