"""Variables that commands which ask a server read, and that are no settings of `gloss serve`."""

from __future__ import annotations

TOKEN, TOKEN_FILE = "GLOSS_TOKEN", "GLOSS_TOKEN_FILE"
