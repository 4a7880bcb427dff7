"""Writing to a disk that may be full: whatever fails says what is still there and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from safetensors import SafetensorError

from gloss_training.errors import DiskError

_OS_ERROR: Final = re.compile(r"os error (\d+)")


@contextmanager
def writing(what: str, kept: str, *, room: str = "", again: str = "again") -> Iterator[None]:
    """Turns a failure to write in the body into a DiskError.

    Args:
        what, kept, room, again: as DiskError has them.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        error = _as_os_error(error)
        raise DiskError(what, error, kept, room=room, again=again) from error


@contextmanager
def writing_of_stage(what: str, kept: str, *, room: str = "") -> Iterator[None]:
    """`writing` where a stage goes on from its newest checkpoint."""
    with writing(what, kept, room=room, again="again, with --resume where it takes that"):
        yield


def _as_os_error(error: Exception) -> OSError:
    """The system's error, which safetensors tells in words only."""
    if isinstance(error, OSError):
        return error
    match = _OS_ERROR.search(str(error))
    return OSError(int(match.group(1)) if match else 0, str(error))
