"""Explain and Watch as a browser gets them: events, refusals, and those that leave or stall."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from gloss_server.files.explain_row import PLACE_FIELDS
from gloss_server.files.result_schema import SCHEMA
from gloss_server.page import stream_response
from gloss_server.page.problem import HTTP_STATUS
from support.asgi import Answer, events_of
from support.echo_server import EchoServer
from support.echo_service import Fault

EXPLAIN = {"text": "ab!", "num_samples": 2, "seed": 4}
WATCH = {"text": "abc", "seed": 4, "every": 2, "target": {"max_new_tokens": 5, "seed": 1}}
CALLS = (("/api/explain", EXPLAIN), ("/api/watch", WATCH))


def _names(answer: Answer) -> list[str]:
    return [name for name, _ in answer.events()]


def test_an_explain_comes_as_events(site: Any, server: EchoServer) -> None:
    answer = site.ask("POST", "/api/explain", body=EXPLAIN)
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    assert _names(answer) == ["opened", "captured", "captured", *["deltas"] * 3, "rows", "end"]
    # One message of the service, one chunk.
    assert len(answer.chunks) == len(answer.events())
    (opened, first, second, delta, *_, rows, end) = [values for _, values in answer.events()]
    request_id = server.service.received[0].request.request_id
    assert opened == {
        "token_ids": [1, 97, 98, 33],
        "tokens": ["<s>", "a", "b", "!"],
        "seed": 4,
        "fingerprint": "echo-0",
        "request_id": request_id,
    }
    places = first["places"] + second["places"]
    assert [place["index"] for place in places] == [0, 1, 2, 3]
    assert places[1] == {
        **{"index": 1, "position": 1, "token_id": 97, "token": "a", "norm": 1.5, "layer_index": 2}
    }
    assert {(one["index"], one["sample"]) for one in delta["deltas"]} == {
        (index, sample) for index in range(3) for sample in range(2)
    }
    assert delta["deltas"][0].keys() == {"index", "sample", "text"}
    assert len(rows["rows"]) == 8
    for row in rows["rows"]:
        # As gloss explain writes it, in that order, and which activation it is of.
        assert [*row] == [*SCHEMA.names, "doc_id", *PLACE_FIELDS, "activation"]
        assert (row["index"], row["doc_id"], row["seed"]) == (0, "0", 4)
        assert row["position"] == row["activation"]
    failed = next(row for row in rows["rows"] if row["token"] == "!")
    assert failed["error"]["reason"] == "NON_FINITE_VECTOR"
    assert end["finish_counts"] == {"eos": 8} and end["timings"]["total_seconds"] == 1
    assert end["usage"]["generated_tokens"] == 24


def test_a_watch_comes_as_events(site: Any, server: EchoServer) -> None:
    answer = site.ask("POST", "/api/watch", body=WATCH)
    assert answer.status == 200
    events = answer.events()
    tokens = [token for name, values in events if name == "tokens" for token in values["tokens"]]
    assert [token["position"] for token in tokens] == [4, 5, 6, 7, 8]
    assert tokens[0] == {"position": 4, "token_id": 97, "text": "a"}
    assert ("skipped", {"skipped": [{"position": 8, "reason": "target_ended"}]}) in events
    assert ("target_end", {"finish_reason": "length"}) in events
    name, end = events[-1]
    assert name == "end" and end["skip_counts"] == {"every": 2, "target_ended": 1}
    assert _names(answer)[:2] == ["opened", "tokens"]
    request = server.service.received[0].request
    assert (request.every, request.target_options.max_new_tokens) == (2, 5)


@pytest.mark.parametrize("path", ["/api/explain", "/api/watch"])
@pytest.mark.parametrize(
    "form",
    [
        {"text": "hi"},
        {"chat": [{"role": "user", "content": "hi"}]},
        {"token_ids": [1, 104]},
        {"text": "hi", "chat": None, "seed": None},
    ],
)
def test_every_form_of_a_text_is_sent(
    site: Any, server: EchoServer, path: str, form: dict[str, Any]
) -> None:
    answer = site.ask("POST", path, body=form)
    assert _names(answer)[-1] == "end"
    sent = server.service.received[0].request
    text = sent.input if path == "/api/explain" else sent.prompt
    (name,) = [name for name, value in form.items() if value is not None]
    assert text.WhichOneof("input") == name


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]])
@pytest.mark.parametrize(("path", "body"), CALLS)
def test_what_the_service_refuses_is_an_error_of_http(
    site: Any, server: EchoServer, code: grpc.StatusCode, path: str, body: Any
) -> None:
    fault = Fault(
        code=code, reason="SOME_REASON", message="got this, expected that", field="options.seed"
    )
    server.service.faults.append(fault)
    answer = site.ask("POST", path, body=body)
    problem = answer.json()
    assert answer.status == HTTP_STATUS.get(code.name, 502) >= 400
    assert (problem["code"], problem["reason"]) == (code.name, "SOME_REASON")
    assert (problem["message"], problem["field"]) == ("got this, expected that", "options.seed")
    says_all = answer.status in (400, 404) or code is grpc.StatusCode.ALREADY_EXISTS
    assert bool(problem["hint"]) != says_all
    assert (answer.headers.get("www-authenticate") == "Bearer") == (answer.status == 401)


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_when_to_try_again_is_told_and_is_left_to_the_browser(
    site: Any, server: EchoServer, path: str, body: Any
) -> None:
    fault = Fault(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="QUEUE_FULL", retry_after=2.25)
    server.service.faults.append(fault)
    answer = site.ask("POST", path, body=body)
    assert (answer.status, answer.json()["retry_seconds"]) == (429, 2.25)
    assert answer.headers["retry-after"] == "3"
    assert len(server.service.received) == 1


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_a_stream_that_breaks_off_says_why(
    site: Any, server: EchoServer, path: str, body: Any
) -> None:
    server.service.faults.append(
        Fault(code=grpc.StatusCode.UNAVAILABLE, reason="ENGINE_RESTARTED", retry_after=0.5, after=3)
    )
    answer = site.ask("POST", path, body=body)
    assert answer.status == 200 and answer.is_whole
    name, problem = answer.events()[-1]
    assert (name, problem["code"], problem["reason"]) == (
        *("failed", "UNAVAILABLE", "ENGINE_RESTARTED"),
    )
    assert problem["retry_seconds"] == 0.5 and problem["hint"]
    assert _names(answer)[0] == "opened"


@pytest.mark.parametrize(("path", "body"), CALLS)
@pytest.mark.parametrize("seen", [0, 1, 3])
def test_a_browser_that_goes_away_cancels_the_call(
    site: Any, server: EchoServer, path: str, body: Any, seen: int
) -> None:
    """While it is not answered yet, and while it is."""
    server.service.step_seconds = 0.02 if seen else 0

    async def leave() -> Answer:
        if not seen:
            _hold_first_message(site, server)
        exchange = site.begin("POST", path, body=body)
        if seen:
            await exchange.chunk(seen - 1)
        else:
            while not server.service.received:
                await asyncio.sleep(0.005)
        exchange.leave()
        return await exchange.end()

    answer = site.run(leave)
    assert not answer.is_whole and bool(answer.status) == bool(seen)
    assert server.service.cancelled.wait(30)


def _hold_first_message(site: Any, server: EchoServer) -> None:
    """Let the service take the call and say nothing."""
    messages = server.service._messages

    def held(*arguments: Any) -> Any:
        server.service.stopping.wait(5)
        return messages(*arguments)

    server.service._messages = held  # type: ignore[method-assign]


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_a_page_that_is_shut_down_says_so(
    site: Any, server: EchoServer, path: str, body: Any
) -> None:
    server.service.step_seconds = 0.05

    async def close() -> Answer:
        exchange = site.begin("POST", path, body=body)
        await exchange.chunk(0)
        site.closing.set()
        return await exchange.end()

    answer = site.run(close)
    name, problem = answer.events()[-1]
    assert answer.is_whole and (name, problem["reason"]) == ("failed", "PAGE_CLOSING")
    assert server.service.cancelled.wait(30)
    # One that begins then is told the same, or ended before.
    later = site.ask("POST", path, body=body)
    assert (later.status, later.json()["reason"]) == (503, "PAGE_CLOSING")


def test_nothing_is_read_ahead_of_a_browser_that_reads_slowly(
    site: Any, server: EchoServer
) -> None:
    """The page holds the chunk that waits, and the service the rest."""
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        chunk = stream_response.EventWriter.chunk

        def counted(*arguments: Any) -> str:
            taken.append(1)
            return chunk(*arguments)

        patch.setattr(stream_response.EventWriter, "chunk", counted)

        async def stall() -> Answer:
            exchange = site.begin(
                "POST", "/api/watch", body={"text": "a", "target": {"max_new_tokens": 200}}
            )
            await exchange.chunk(2)
            exchange.reading.clear()
            await asyncio.sleep(0.2)
            most = len(taken)
            await asyncio.sleep(0.1)
            assert len(taken) == most <= len(exchange.answer.chunks) + 1
            exchange.reading.set()
            return await exchange.end()

        assert _names(site.run(stall))[-1] == "end"


def test_a_browser_that_takes_nothing_for_long_is_given_up(
    site: Any, server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_response, "STALL_SECONDS", 0.05)
    server.service.step_seconds = 0.01

    async def stall() -> Answer:
        exchange = site.begin("POST", "/api/explain", body=EXPLAIN)
        await exchange.chunk(0)
        exchange.reading.clear()
        return await exchange.end()

    assert not site.run(stall).is_whole
    assert server.service.cancelled.wait(30)


def test_hostile_text_stays_inside_its_event(site: Any) -> None:
    text = "\n\nevent: end\ndata: {}\r\n\r\n\u2028</script>\u202e\0\x1b[2J"
    answer = site.ask("POST", "/api/explain", body={"text": text})
    assert _names(answer).count("end") == 1
    opened = answer.events()[0][1]
    assert "".join(opened["tokens"][1:]) == text
    assert all(b"\r" not in chunk for chunk in answer.chunks)
    assert events_of(answer.body.decode()) == answer.events()


def test_a_browsers_token_is_shown_in_place_of_the_pages(site: Any, server: EchoServer) -> None:
    for path, body in CALLS:
        site.ask("POST", path, {"authorization": "bearer  s3cret "}, body=body)
    site.ask("GET", "/api/model", {"authorization": "Bearer s3cret"})
    site.ask("GET", "/api/model")
    shown = [one.metadata.get("authorization") for one in server.service.received]
    assert shown == ["Bearer s3cret"] * 3 + [None]


@pytest.mark.parametrize("given", ["Basic dTpw", "Bearer", "Bearer ", "Bearer two words", "s3cret"])
@pytest.mark.parametrize("path", ["/api/model", "/api/stats", "/api/explain"])
def test_what_is_no_token_is_refused(site: Any, server: EchoServer, given: str, path: str) -> None:
    method, body = ("POST", EXPLAIN) if path == "/api/explain" else ("GET", b"")
    answer = site.ask(method, path, {"authorization": given}, body=body)
    assert (answer.status, answer.json()["code"]) == (401, "UNAUTHENTICATED")
    assert server.service.received == []
    # Nobody in a browser has given an argument.
    assert "argument" not in answer.json()["message"]
