"""The C library's memory on a CPU: what a step gives back is kept for the next one.

A step makes and drops buffers of megabytes. glibc hands those back to the kernel, which clears the
pages of the next ones anew: tens of thousands of page faults a second. Other C libraries, and
allocators that are loaded before them, are left as they are.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_TRIM_THRESHOLD: Final = (-1, 1 << 30)
_TOP_PAD: Final = (-2, 64 << 20)
_MMAP_THRESHOLD: Final = (-3, 32 << 20)
"""glibc's option and what it is set to, bytes: free memory at the heap's end that is given back,
what is taken beyond a request, and from when on a buffer is a mapping of its own, the latter the
largest that glibc takes."""


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB that it has freed; whether the C library can."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    options = (_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD)
    return all([mallopt(option, value) == 1 for option, value in options])
