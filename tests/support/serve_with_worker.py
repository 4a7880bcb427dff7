"""`gloss serve` with another engine process: arguments as there, the worker's module in front."""

from __future__ import annotations

import sys

from gloss_server.front.server import serve
from gloss_server.settings_sources import read_settings

if __name__ == "__main__":
    module, *flags = sys.argv[1:]
    names = [flag.removeprefix("--").replace("-", "_") for flag in flags[::2]]
    settings = read_settings(dict(zip(names, flags[1::2], strict=True)))
    sys.exit(serve(settings, (sys.executable, "-m", module)))
