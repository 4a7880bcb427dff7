"""Interrupts reach what tests start."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """Also where a shell's `&` started the tests: it has them ignored, and the commands that tests
    start and interrupt would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
