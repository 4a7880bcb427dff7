"""What tests of operations run besides Python: on the path, or as `make tools` unpacks it."""

from __future__ import annotations

import shutil
from pathlib import Path

TOOLS = Path(__file__).parents[2] / ".tools"


def program(name: str) -> str:
    """The path of a program.

    Raises:
        FileNotFoundError: it is nowhere.
    """
    found = shutil.which(name) or shutil.which(name, path=str(TOOLS / "usr" / "bin"))
    if found is None:
        raise FileNotFoundError(f"{name} is neither on PATH nor in {TOOLS}; run make tools")
    return found


def libfaketime() -> Path:
    """The library that shifts a process' clocks, for threads.

    Raises:
        FileNotFoundError: it is nowhere.
    """
    for root in (TOOLS, Path("/")):
        found = sorted(root.glob("usr/lib/*/faketime/libfaketimeMT.so.1"))
        if found:
            return found[0]
    raise FileNotFoundError(f"libfaketime is neither installed nor in {TOOLS}; run make tools")
