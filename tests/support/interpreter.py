"""Triton's interpreter without its repetitions.

It puts its own functions into triton.language before a launch, and again before every call of a
function inside a kernel: thousands of times a launch, a fifth of its time. Once is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


class _Nothing:
    """What a patch returns that changed nothing."""

    def restore(self) -> None:
        pass


def once_a_launch(patch: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The interpreter's `_patch_lang`, idle for languages that the launch has patched.

    Only what the launch itself patches is ever restored, at its end.
    """
    patched: set[str] = set()

    def patch_once(function: Any) -> Any:
        languages = {
            value.__name__
            for value in function.__globals__.values()
            if value is tl or value is tl.core
        }
        if languages <= patched:
            return _Nothing()
        scope = patch(function)
        patched.update(languages)
        restore = scope.restore

        def restore_all() -> None:
            restore()
            patched.clear()

        scope.restore = restore_all
        return scope

    return patch_once


def speed_up() -> None:
    """For all launches of this process."""
    interpreter._patch_lang = once_a_launch(interpreter._patch_lang)
