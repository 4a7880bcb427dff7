"""The page's own files: what is served, by which tag, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from gloss_server.page.guard import SECURITY_HEADERS
from gloss_server.page.static_files import ROOT, StaticFiles


def test_the_page_is_served(site: Any) -> None:
    answer = site.ask("GET", "/")
    assert answer.status == 200 and answer.body == (ROOT / "index.html").read_bytes()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    head = site.ask("HEAD", "/")
    assert head.headers["etag"] == answer.headers["etag"]


def test_every_file_comes_as_what_it_is(site: Any) -> None:
    kinds = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    paths = [path for path in ROOT.rglob("*") if path.suffix in kinds]
    assert paths
    for path in paths:
        answer = site.ask("GET", f"/static/{path.relative_to(ROOT)}")
        assert answer.body == path.read_bytes()
        assert answer.headers["content-type"].partition(";")[0] == kinds[path.suffix]


def test_a_file_that_is_known_is_not_sent_again(tmp_path: Path, site: Any) -> None:
    (tmp_path / "a.js").write_text("one")
    files = StaticFiles(tmp_path)
    site.app = Starlette(routes=[Route("/static/{path:path}", files.file)])
    first = site.ask("GET", "/static/a.js")
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = site.ask("GET", "/static/a.js", {"if-none-match": known})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert site.ask("GET", "/static/a.js", {"if-none-match": '"other"'}).body == b"one"
    # The same size at the same moment.
    (tmp_path / "a.js").write_text("two")
    changed = site.ask("GET", "/static/a.js", {"if-none-match": tag})
    assert (changed.status, changed.body) == (200, b"two")


@pytest.mark.parametrize(
    "name",
    [
        *("../app.py", "..", ".", "", "vendor", "none.js", "../static/../app.py"),
        *("/etc/passwd", "//etc/passwd", "a\0.js", "x" * 5000 + ".js", "%2e%2e/app.py"),
    ],
)
def test_nothing_else_is_served(site: Any, name: str) -> None:
    answer = site.ask("GET", f"/static/{name}")
    assert answer.status == 404
    assert answer.json()["reason"] in ("NO_SUCH_FILE", "NO_SUCH_ROUTE")
    assert answer.headers["x-content-type-options"] == SECURITY_HEADERS["X-Content-Type-Options"]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, site: Any) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    site.app = Starlette(routes=[Route("/{path:path}", StaticFiles(folder).file)])
    with pytest.raises(Exception, match="no such file"):
        site.ask("GET", "/link.txt")
