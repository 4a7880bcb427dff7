"""File descriptors of the process: a connection takes one, and the soft limit is often 1,024."""

from __future__ import annotations

import resource

OWN = 256
"""Besides connections: files, pipes, the engine's socket, scrapes of the metrics."""


def raise_limit(num_needed: int) -> int:
    """Raise the soft limit to what is needed, as far as the hard one allows.

    Returns:
        The soft limit that holds now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return num_needed
    if soft >= num_needed:
        return soft
    wanted = num_needed if hard == resource.RLIM_INFINITY else min(num_needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
