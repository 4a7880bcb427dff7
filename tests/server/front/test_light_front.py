"""The front's process stays light: no torch, no transformers, whatever it imports."""

from __future__ import annotations

import subprocess
import sys

_IMPORT = """
import sys
import {module}
heavy = {{"torch", "transformers", "pyarrow", "typer", "opentelemetry"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""


def test_the_front_imports_no_torch() -> None:
    code = _IMPORT.format(module="gloss_server.front.server")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
