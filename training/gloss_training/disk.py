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
def writing(what: str, kept: str) -> Iterator[None]:
    """Turns a failure to write in the body into a DiskError.

    Args:
        what: what is written.
        kept: what is there whatever happens.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DiskError(what, _as_os_error(error), kept) from error


def _as_os_error(error: Exception) -> OSError:
    """The system's error, which safetensors tells in words only."""
    if isinstance(error, OSError):
        return error
    match = _OS_ERROR.search(str(error))
    return OSError(int(match.group(1)) if match else 0, str(error))
