"""A local HTTP server that speaks Anthropic's Messages API and OpenAI's chat completions.

The bodies, status codes and headers are the real ones; `answer` decides what each question gets. It
refuses requests that the real APIs refuse, so that a client that sends them wrong fails a test.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789abcdef"
GOOD = (
    "<features>\nThe story follows a baker named Ben, whose find of a kite sets the next event.\n"
    "The final word “red” is an adjective, so a noun such as “kite” must follow at once.\n"
    "</features>"
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it came.

    Attributes:
        path: of the URL.
        prompt: the user's message.
        body: the whole JSON.
        headers: with names in lower case.
        at: when, by the monotonic clock.
        number: of requests before it.
    """

    path: str
    prompt: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    at: float
    number: int


@dataclass(frozen=True, kw_only=True)
class Served:
    """One response.

    Attributes:
        status, body, headers: of it; a body of bytes goes out as it is.
        after_s: how long it takes.
        is_endless: it never ends: a byte now and then.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    is_endless: bool = False


Answers = Callable[[Asked], Served]


def message(text: str, stop_reason: str = "end_turn", **more: Any) -> Served:
    """An Anthropic message."""
    body = {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 310,
            "output_tokens": 120,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }
    return Served(body=body, **more)


def message_error(status: int, kind: str, said: str, **headers: str) -> Served:
    """An Anthropic error."""
    body = {"type": "error", "error": {"type": kind, "message": said}, "request_id": "req_011"}
    return Served(
        status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def completion(text: str | None, finish_reason: str = "stop", **more: Any) -> Served:
    """An OpenAI chat completion."""
    body = {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        "model": "test-model",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": text,
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": finish_reason,
            }
        ],
        "usage": {"prompt_tokens": 310, "completion_tokens": 120, "total_tokens": 430},
        "service_tier": "default",
    }
    return Served(body=body, **more)


def completion_error(status: int, code: str, said: str, **headers: str) -> Served:
    """An OpenAI error."""
    body = {"error": {"message": said, "type": code, "param": None, "code": code}}
    return Served(
        status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


class TeacherServer:
    """A running server.

    Attributes:
        answer: what each question gets; may be changed while it runs.
        count: what a token count gets.
        asked: every request for an answer; `counted`: those for a count.
    """

    def __init__(self, answer: Answers) -> None:
        self.answer = answer
        self.count: Answers = lambda asked: Served(body={"input_tokens": len(asked.prompt) // 4})
        self.asked: list[Asked] = []
        self.counted: list[Asked] = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """Base URL for Anthropic's client."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def openai_url(self) -> str:
        """Base URL for OpenAI's client."""
        return f"{self.url}/v1"

    def take(self, path: str, headers: Mapping[str, str], body: Any) -> Served:
        """The response to a request."""
        refused = _refusal(path, headers, body)
        if refused is not None:
            return refused
        is_count = path.endswith("count_tokens")
        with self._lock:
            into = self.counted if is_count else self.asked
            asked = Asked(
                path=path,
                prompt=body["messages"][0]["content"],
                body=body,
                headers=headers,
                at=time.monotonic(),
                number=len(into),
            )
            into.append(asked)
        return self.count(asked) if is_count else self.answer(asked)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and what it is sending."""
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextmanager
def teacher_server(answer: Answers) -> Iterator[TeacherServer]:
    """A server that runs within the block."""
    server = TeacherServer(answer)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _refusal(path: str, headers: Mapping[str, str], body: Any) -> Served | None:
    """What the real APIs say to a request that is wrong; None for one that is right."""
    if path.startswith("/v1/messages"):
        # Clients before version 2 send the first, later ones the second; the API takes both.
        if KEY not in (headers.get("x-api-key"), headers.get("authorization", "")[7:]):
            return message_error(401, "authentication_error", "invalid x-api-key")
        needed = {"model", "messages"} | ({"max_tokens"} if path == "/v1/messages" else set())
        if "anthropic-version" not in headers or not needed <= set(body):
            return message_error(400, "invalid_request_error", f"expected {sorted(needed)}")
        return None
    if path == "/v1/chat/completions":
        if headers.get("authorization") != f"Bearer {KEY}":
            said = f"Incorrect API key provided: {headers.get('authorization', '')[7:]}."
            return completion_error(401, "invalid_api_key", said)
        if not {"model", "messages"} <= set(body):
            return completion_error(400, "invalid_request_error", "expected model and messages")
        return None
    return Served(status=404, body={"error": {"message": f"no such path {path}"}})


def _handler(server: TeacherServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = json.loads(self.rfile.read(length))
            served = server.take(self.path, headers, body)
            if served.after_s:
                server.stopping.wait(served.after_s)
            try:
                self._send(served)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _send(self, served: Served) -> None:
            raw = served.body if isinstance(served.body, bytes) else json.dumps(served.body)
            data = raw if isinstance(raw, bytes) else raw.encode()
            self.send_response(served.status)
            kind = "text/html" if isinstance(served.body, bytes) else "application/json"
            self.send_header("content-type", kind)
            length = 1 << 40 if served.is_endless else len(data)
            self.send_header("content-length", str(length))
            for name, value in served.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()
            while served.is_endless and not server.stopping.wait(0.05):
                self.wfile.write(b" ")
                self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
