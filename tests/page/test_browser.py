"""The harness sees what it is there to see: a page that does everything wrong is told of."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support.audit import axe_source
from support.browser import Browser
from support.tab import Tab

_WRONG = b"""<!doctype html><html><head><title>wrong</title></head><body>
<img src="http://elsewhere.example/picture.png"><img src="/here.png">
<div style="width: 3000px">wide</div><script>console.error("inline")</script>
<script src="/code.js"></script></body></html>"""
_CODE = b"console.error('told'); Promise.reject(new Error('forgotten')); undefined.missing;"
_POLICY = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src *"


class _Wrong(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code = self.path == "/code.js"
        self.send_response(404 if self.path.endswith(".png") else 200)
        self.send_header("Content-Type", "text/javascript" if code else "text/html")
        self.send_header("Content-Security-Policy", _POLICY)
        self.end_headers()
        self.wfile.write(_CODE if code else _WRONG)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def wrong() -> Iterator[str]:
    """The origin of a page that does everything wrong."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Wrong) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_goes_wrong_is_told_of(browser: Browser, wrong: str) -> None:
    with Tab(browser, wrong) as tab:
        tab.open()
        told = "\n".join(tab.faults())
        for part in (
            "asked for http://elsewhere.example/picture.png",
            "/here.png",  # a status of 404
            "Content Security Policy",
            "told",
            "forgotten",
            "missing",
        ):
            assert part in told, told
        tab.allow("404")
        assert "here.png" not in "\n".join(tab.faults())
        assert tab.overflow() > 1000


def test_the_audit_finds_what_is_wrong(browser: Browser, wrong: str) -> None:
    assert axe_source().startswith("/*! axe v4")
    with Tab(browser, wrong) as tab:
        tab.open()
        found = "\n".join(tab.violations())
        assert "image-alt" in found and "html-has-lang" in found, found


def test_a_tab_starts_anew(browser: Browser, wrong: str) -> None:
    with Tab(browser, wrong) as tab:
        tab.open()
        assert tab.faults()
    with Tab(browser, wrong) as tab:
        assert tab.faults() == [] and tab.requests() == []
