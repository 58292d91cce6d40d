"""An OpenAI-compatible server in this process, for tests: it says what the test tells it to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-very-secret-0123456789"
PROFILE = "User identity: film fan, night owl, home cook; User interests: Alien, space ships, robots."
SOON = {"retry-after-ms": "1"}
"""Asks a client to come again at once."""

Reply = tuple[int, Any, dict[str, str]]
"""Status, body (bytes, or sent as JSON) and headers; a body that is a function writes to the socket itself."""


def completion(text: str | None, finish: str = "stop", usage: tuple[int, int] | None = (100, 20)) -> Reply:
    """An answer as the API words it."""
    body: dict[str, Any] = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "teacher",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}},
        ],
    }
    if usage:
        read, new = usage
        body["usage"] = {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}
    return 200, body, {}


def fault(status: int, message: str, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    """A refusal as the API words it."""
    return status, {"error": {"message": message, "type": "error", "param": None} | fields}, headers or {}


class FakeServer:
    """What the server says, and what it was asked.

    Attributes:
        reply: called with the request's body; by default every question is answered with :data:`PROFILE`.
        models: what it lists; None: it has no list.
        asked: the bodies of all chat requests, in the order they came.
        keys: the Authorization headers.
        peak: most chats in work at once.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.reply: Callable[[dict[str, Any]], Reply] = lambda request: completion(PROFILE)
        self.models: list[str] | None = ["teacher"]
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.peak = self._now = 0
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return self.url.split("/")[2]

    def chat(self, request: dict[str, Any], key: str | None) -> Reply:
        with self._lock:
            self.asked.append(request)
            self.keys.append(key)
            self._now += 1
            self.peak = max(self.peak, self._now)
        try:
            return self.reply(request)
        finally:
            with self._lock:
                self._now -= 1

    def listing(self) -> Reply:
        if self.models is None:
            return fault(404, "no such page")
        return 200, {"object": "list", "data": [{"id": one, "object": "model"} for one in self.models]}, {}


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    """A server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found = self.path == "/v1/chat/completions"
            key = self.headers.get("Authorization")
            self._send(*(fake.chat(json.loads(body), key) if found else fault(404, "no such page")))

        def do_GET(self) -> None:
            self._send(*(fake.listing() if self.path == "/v1/models" else fault(404, "no such page")))

        def _send(self, status: int, body: Any, headers: dict[str, str]) -> None:
            if callable(body):
                self.close_connection = True
                with suppress(OSError):
                    body(self.wfile.write)
                return
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except ConnectionError:
                self.close_connection = True  # the client was killed, or gave up

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake = FakeServer(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
