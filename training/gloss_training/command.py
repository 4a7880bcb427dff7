"""Entry point of the `gloss-train` command.

Installed with the base package, whose extras may be missing: so this module imports nothing but
the standard library and our errors until it knows that the command can run.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from gloss_training.errors import INTERRUPTED

_NEEDED = (
    *("numpy", "typer", "rich", "pyarrow", "pydantic", "yaml", "torch", "transformers"),
    *("tokenizers", "safetensors", "tensorboard", "matplotlib"),
)


def main() -> None:
    """Run the command, or say which extra it needs."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"error: gloss-train needs {', '.join(missing)}: pip install 'gloss-nla[training]'",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        from gloss_training.cli import main as run

        run()
    except KeyboardInterrupt:
        # Before a command has begun: the imports take seconds.
        print("stopped; nothing was begun", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
