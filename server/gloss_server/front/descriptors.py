"""File descriptors of the process: a connection takes one, and the soft limit is often 1,024."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

OWN = 256
"""Besides connections: files, pipes, the engine's socket, scrapes of the metrics."""
KERNEL_BOUND = Path("/proc/sys/fs/nr_open")
"""Holds the most that Linux gives a process, whatever its limits say; elsewhere it is not there."""


def raise_limit(num_needed: int) -> int:
    """Raise the soft limit to what is needed, as far as the hard one and the kernel allow.

    Returns:
        How many there may be now.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = map(_count, limits)
    most = min(hard, int(KERNEL_BOUND.read_text()) if KERNEL_BOUND.exists() else sys.maxsize)
    wanted = min(num_needed, most)
    if soft >= wanted:
        return min(soft, most)
    # Beside a hard limit over its bound Linux sets none at all, however low.
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, limits[1] if hard == most else most))
    return wanted


def _count(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
