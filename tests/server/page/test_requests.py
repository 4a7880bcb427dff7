"""What the page asks of the service, and what it refuses before it asks."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gloss_client import AsyncClient, GlossClientError
from gloss_server.page import request_body
from gloss_server.page.problem import Problem
from gloss_server.page.wanted import explain_arguments, watch_arguments
from support.echo_server import EchoServer

TEXT = st.text("a1:-,\ud800", max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=4,
)
FIELDS = (
    *("text", "chat", "token_ids", "positions", "num_samples", "temperature", "max_new_tokens"),
    *("seed", "every", "max_pending", "tokens_per_second", "prompt_positions", "target", "other"),
    "num_generated",
)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": "a", "chat": []}, "text"),
        ({"text": ["a"]}, "text"),
        ({"token_ids": "1,2"}, "token_ids"),
        ({"token_ids": [{"role": "user", "content": "a"}]}, "token_ids"),
        ({"token_ids": []}, "token_ids"),
        ({"token_ids": [1.5]}, "token_ids[0]"),
        ({"token_ids": [-1]}, "token_ids[0]"),
        ({"chat": [1]}, "chat"),
        ({"chat": [{"role": "user"}]}, "chat[0]"),
        ({"text": "\ud800"}, "text"),
        ({"text": "a", "sample": 2}, "sample"),
        ({"text": "a", "num_samples": True}, "num_samples"),
        ({"text": "a", "num_samples": 2.0}, "num_samples"),
        ({"text": "a", "num_samples": 2**40}, "num_samples"),
        ({"text": "a", "seed": -1}, "seed"),
        ({"text": "a", "seed": "1"}, "seed"),
        ({"text": "a", "temperature": "x" * 100000}, "temperature"),
        ({"text": "a", "temperature": 10**400}, "temperature"),
        ({"text": "a", "positions": "some"}, "positions"),
        ({"text": "a", "positions": {"a": 1}}, "positions[0]"),
        ({"text": "a", "positions": [1, "2"]}, "positions[1]"),
    ],
)
def test_an_explain_that_cannot_work_is_refused_here(
    site: Any, server: EchoServer, body: Any, field: str
) -> None:
    answer = site.ask("POST", "/api/explain", body=body)
    problem = answer.json()
    assert (answer.status, problem["code"], problem["field"]) == (400, "INVALID_ARGUMENT", field)
    assert problem["message"].startswith(f"{field}: got")
    assert len(problem["message"]) <= 1000
    assert server.service.received == []


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"positions": "all"}, "positions"),
        ({"target": 1}, "target"),
        ({"target": {"top_k": 1}}, "target.top_k"),
        ({"target": {"max_new_tokens": 1.5}}, "target.max_new_tokens"),
        ({"target": {"seed": -1}}, "target.seed"),
        ({"every": "2"}, "every"),
        ({"num_generated": True}, "num_generated"),
        ({"text": None, "token_ids": [1, -1]}, "token_ids[1]"),
        ({"tokens_per_second": "fast"}, "tokens_per_second"),
    ],
)
def test_a_watch_that_cannot_work_is_refused_here(
    site: Any, server: EchoServer, more: Any, field: str
) -> None:
    answer = site.ask("POST", "/api/watch", body={"text": "a"} | more)
    assert (answer.status, answer.json()["field"]) == (400, field)
    assert server.service.received == []


@pytest.mark.parametrize(
    ("body", "kind", "status", "reason"),
    [
        (b"{", "application/json", 400, "NOT_JSON"),
        (b"", "application/json", 400, "NOT_JSON"),
        (b"[]", "application/json", 400, "NOT_JSON"),
        (b"\xff", "application/json", 400, "NOT_JSON"),
        (b'{"text": NaN}', "application/json", 400, "NOT_JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "application/json", 400, "NOT_JSON"),
        (b"[" * 200000, "application/json; charset=utf-8", 400, "NOT_JSON"),
        # What a form on another site could send without being asked first.
        (b'{"text": "a"}', "text/plain", 415, "NOT_JSON"),
        (b'{"text": "a"}', "", 415, "NOT_JSON"),
    ],
)
def test_a_body_that_is_none_is_refused(
    site: Any, server: EchoServer, body: bytes, kind: str, status: int, reason: str
) -> None:
    answer = site.ask("POST", "/api/explain", {"content-type": kind}, body=body)
    assert (answer.status, answer.json()["reason"]) == (status, reason)
    assert len(answer.body) < 1000 and server.service.received == []


def test_a_body_that_is_too_large_is_refused(
    site: Any, server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "MAX_BODY_BYTES", 100)
    answer = site.ask("POST", "/api/explain", body={"text": "a" * 100})
    assert (answer.status, answer.json()["reason"]) == (413, "BODY_TOO_LARGE")
    fits = site.ask("POST", "/api/explain", body={"text": "a" * 88})
    assert fits.status == 200


def test_a_body_that_does_not_end_is_given_up(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "READ_SECONDS", 0.05)

    async def stalled() -> Any:
        exchange = site.begin("POST", "/api/explain", {"content-type": "application/json"})
        exchange._body = None
        return await exchange.end()

    answer = site.run(stalled)
    assert (answer.status, answer.json()["reason"]) == (408, "SLOW_REQUEST")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/explain", 405),
        ("PUT", "/api/watch", 405),
        ("POST", "/api/model", 405),
        ("OPTIONS", "/api/explain", 405),
        ("POST", "/", 405),
        ("GET", "/api", 404),
        ("GET", "/api/", 404),
        ("GET", "/none", 404),
    ],
)
def test_other_routes_are_refused(site: Any, method: str, path: str, status: int) -> None:
    answer = site.ask(method, path)
    assert (answer.status, answer.json()["reason"]) == (status, "NO_SUCH_ROUTE")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_whatever_is_asked_is_sent_or_refused(body: Any) -> None:
    """Never a defect of the page. No call begins before its first event is asked for."""
    client = AsyncClient("127.0.0.1:1")
    routes: list[tuple[Any, Any]] = [
        (explain_arguments, client.stream_explain),
        (watch_arguments, client.watch),
    ]
    for arguments, call in routes:
        with suppress(Problem, GlossClientError):
            text, options = arguments(body)
            call(text, **options)


def test_the_model_is_told(site: Any, server: EchoServer) -> None:
    model = site.ask("GET", "/api/model").json()
    assert (model["model"], model["fingerprint"], model["layer_index"]) == ("echo", "echo-0", 2)
    assert (model["fve_baseline"], model["fve_baseline_source"]) == (0.5, "setting")
    assert model["limits"]["max_text_tokens"] == 4096 and model["ar"] is None
    assert model["target"]["architecture"] == "qwen2" and model["target_generates"] is True


def test_a_service_that_is_away_is_said_in_words(site: Any, server: EchoServer) -> None:
    server.set_serving(False)
    for method, path, body in (
        ("GET", "/api/model", b""),
        ("POST", "/api/explain", {"text": "a"}),
    ):
        answer = site.ask(method, path, body=body)
        assert (answer.status, answer.json()["code"]) == (503, "UNAVAILABLE")
        assert "NOT_SERVING" in answer.json()["message"] and answer.json()["hint"]
