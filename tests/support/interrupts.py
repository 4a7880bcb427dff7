"""Signals reach what tests start."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """Also where a shell's `&` or nohup started the tests: they have interrupts or hang-ups
    ignored, and the commands that tests start and signal would inherit that."""
    for number, heard in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, heard)
