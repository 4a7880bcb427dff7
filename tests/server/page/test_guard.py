"""Who may ask the page, and what every answer says about itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from gloss_server.page.guard import SECURITY_HEADERS, Guard
from support.asgi import Answer, ask

HOST = "127.0.0.1:8080"
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def _asked(headers: dict[str, str], method: str = "GET", path: str = "/api/model") -> Answer:
    guard = Guard(PlainTextResponse("ours"), ("Page.example", "10.1.2.3"))
    return asyncio.run(ask(guard, method, path, headers))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:8080", "127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:8080", "127.9.9.9"),
        *("page.example", "PAGE.example:443", "10.1.2.3:8080"),
    ],
)
def test_our_names_are_served(host: str) -> None:
    assert _asked({"host": host}).body == b"ours"
    assert _asked({"host": host, "origin": f"http://{host}"}, "POST").body == b"ours"
    assert _asked({"host": host, "origin": f"https://{host}"}, "POST").body == b"ours"


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "page.example.evil.example", "127.0.0.1.evil.example", "10.1.2.4", ""),
        *("localhost.evil.example:8080", "[::2]", "[", "page.example@evil.example", "0.0.0.0"),
        *("evil.example:127.0.0.1", "169.254.1.1", "page.example,evil.example"),
    ],
)
def test_another_name_is_refused(host: str) -> None:
    """A site may let its own name lead to this machine."""
    answer = _asked({"host": host})
    assert (answer.status, answer.json()["reason"]) == (403, "HOST_NOT_ALLOWED")
    assert "--allow-host" in answer.json()["hint"]
    assert "gloss" not in answer.json()["message"]


def test_a_request_for_two_names_is_refused() -> None:
    async def twice() -> Answer:
        guard = Guard(PlainTextResponse("ours"))
        return await ask(guard, "GET", "/", {"host": HOST, "Host": "evil.example"})

    assert asyncio.run(twice()).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://localhost:8080"},
        {"origin": f"http://{HOST}.evil.example"},
        {"origin": f"http://{HOST}@evil.example"},
        {"origin": ""},
        {"origin": f"http://{HOST}", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "unheard of"},
        LINK,
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_site_is_refused(headers: dict[str, str], method: str) -> None:
    answer = _asked({"host": HOST} | headers, method)
    assert (answer.status, answer.json()["reason"]) == (403, "CROSS_ORIGIN")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_our_own_page_and_no_browser_are_served(site: str) -> None:
    for headers in (
        {},
        {"sec-fetch-site": site},
        {"sec-fetch-site": site, "origin": f"http://{HOST}"},
    ):
        assert _asked({"host": HOST} | headers, "POST").body == b"ours"


def test_a_link_leads_to_the_page_alone() -> None:
    assert _asked({"host": HOST} | LINK, path="/").body == b"ours"
    assert _asked({"host": HOST} | LINK, path="/static/main.js").status == 403
    assert _asked({"host": HOST, "sec-fetch-site": "cross-site"}, path="/").status == 403


def test_every_answer_has_the_headers(site: Any) -> None:
    paths = ("/", "/static/main.js", "/static/none.js", "/api/model", "/none", "/api/explain")
    for path in paths:
        for headers in ({}, {"origin": "http://evil.example"}, {"host": "evil.example"}):
            answer = site.ask("GET", path, headers)
            for name, value in SECURITY_HEADERS.items():
                assert answer.headers[name.lower()] == value, path
            assert answer.headers["cache-control"] in ("no-cache", "no-store")
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy and "*" not in policy and "http" not in policy


def test_a_defect_says_nothing_of_itself(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(site.client, "model_info", broken)
    exchange: list[Any] = []

    async def asked() -> None:
        exchange.append(site.begin("GET", "/api/model"))
        with pytest.raises(RuntimeError, match="a secret"):
            await exchange[0].end()

    site.run(asked)
    answer = exchange[0].answer
    assert (answer.status, answer.json()["reason"]) == (500, "PAGE_DEFECT")
    assert b"secret" not in answer.body
    assert "content-security-policy" in answer.headers
