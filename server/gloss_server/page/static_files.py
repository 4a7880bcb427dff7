"""The page's own files. Each comes with a tag of its content, and browsers ask again by it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from gloss_server.page.problem import Problem

ROOT = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}


class StaticFiles:
    """Files below a folder, read when they are asked for: they are few and small.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root.resolve()

    async def index(self, request: Request) -> Response:
        """The page itself."""
        return self._response("index.html", request)

    async def file(self, request: Request) -> Response:
        """What the page needs."""
        return self._response(request.path_params["path"], request)

    def _response(self, name: str, request: Request) -> Response:
        kind = _TYPES.get(Path(name).suffix)
        path = self._path(name)
        if kind is None or path is None:
            raise Problem("NOT_FOUND", "no such file of the page", reason="NO_SUCH_FILE")
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        known = request.headers.get("if-none-match", "").split(",")
        if tag in (one.strip().removeprefix("W/") for one in known):
            return Response(None, 304, headers)
        return Response(content, 200, headers, kind)

    def _path(self, name: str) -> Path | None:
        """A file below the root, whatever the name tries."""
        try:
            path = (self._root / name).resolve()
            is_file = path.is_relative_to(self._root) and path.is_file()
        except (OSError, ValueError):
            return None
        return path if is_file else None
