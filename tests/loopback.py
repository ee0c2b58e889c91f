"""A server on this machine that is asked by the client of OpenAI-compatible servers."""

from __future__ import annotations

import json
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Serves one model, "m"; a test says what a chat completion is."""

    def do_GET(self) -> None:
        self.answer(json.dumps({"data": [{"id": "m"}]}).encode())

    def body(self) -> bytes:
        """What the client sent."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # the client has left
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def completion(finish: str = "stop", **message: Any) -> bytes:
    """A chat completion of one choice, with these fields in its message."""
    choice = {"message": {"role": "assistant", **message}, "finish_reason": finish}
    return json.dumps({"choices": [choice]}).encode()
