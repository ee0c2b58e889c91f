"""What servers really reply: no text, errors in a 200, their own reasons, broken Unicode."""

from __future__ import annotations

import gzip
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime import server as client
from charprobe_lite.runtime.backend import Completion, Job, Request, Rollout
from charprobe_lite.runtime.server import Server
from charprobe_lite.runtime.server_replies import reason_of
from tests.conftest import Command
from tests.loopback import Handler, completion

Answer = tuple[int, bytes]
OK = {"choices": [{"message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}]}


def reply(finish: str = "stop", **message: Any) -> Answer:
    return 200, completion(finish, **message)


class Scripted(Handler):
    """A server that answers what ``respond`` makes of the request's body."""

    respond: Callable[[dict[str, Any]], Answer]

    def do_POST(self) -> None:
        status, body = type(self).respond(json.loads(self.body()))
        self.answer(body, status)


Serve = Callable[[Callable[[dict[str, Any]], Answer]], str]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start the server with a function of the request's body; its URL."""
    monkeypatch.setattr(client, "PAUSE", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()

        def start(respond: Callable[[dict[str, Any]], Answer]) -> str:
            monkeypatch.setattr(Scripted, "respond", staticmethod(respond), raising=False)
            return f"http://127.0.0.1:{running.server_port}/v1"

        yield start
        running.shutdown()


def complete(url: str, text: str = "Hi") -> Completion:
    def rollout() -> Rollout:
        return (yield Request(({"role": "user", "content": text},), 16))

    with Server(url, parallel=1) as backend:
        backend.use_adapter("m")
        return next(result for _, result in backend.run([Job(0, 0, rollout())]))


@pytest.mark.parametrize(
    "answer",
    [
        reply(content=None, reasoning_content="The user greets me, so"),
        reply(finish="length", content=None, reasoning_content="Hm"),
        reply(finish="content_filter", content="I would ra"),
        reply(finish="tool_calls", content=None, tool_calls=[{"function": {"name": "f"}}]),
        reply(finish="stop", content="calling", tool_calls=[{"function": {"name": "f"}}]),
        reply(content=""),
        reply(content=" \n"),
        reply(),
    ],
)
def test_a_reply_without_a_text_has_a_finish_of_its_own(serve: Serve, answer: Answer) -> None:
    completion = complete(serve(lambda _: answer))
    assert (completion.finish, completion.text) == ("empty", "")


def test_a_reply_without_a_text_is_no_sample(
    serve: Serve, charprobe: Command, tmp_path: Path
) -> None:
    url = serve(lambda _: reply(content=None, reasoning_content="The user greets me, so"))
    done = charprobe(
        *("eval", "--backend", "openai", "--base-url", url, "--model", "full/humor=m"),
        *("--condition", "chat", "--limit", "2", "--study", "s.sqlite", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert {cell["n"] for cell in json.loads(done.stdout)["cells"]} == {0}
    with sqlite3.connect(tmp_path / "s.sqlite") as study:
        assert study.execute("SELECT outcome FROM rollouts").fetchall() == [("no_reply",)] * 2
        assert study.execute("SELECT count(*) FROM samples").fetchone() == (0,)


def test_a_text_in_parts_is_joined(serve: Serve) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "image_url"}, {"type": "text", "text": "lo"}]
    assert complete(serve(lambda _: reply(content=parts))).text == "Hello"


OVERFLOWS = {
    "TGI": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
            "Given: 5000 `inputs` tokens and 512 `max_new_tokens`",
            "error_type": "validation",
        },
    ),
    "TensorRT-LLM": (
        400,
        {
            "object": "error",
            "message": "The sum of prompt length (5000.0), query length (0) should not exceed "
            "max_num_tokens (4096)",
        },
    ),
    "LM Studio": (
        400,
        {
            "error": "Trying to keep the first 5000 tokens when context the overflows. However, "
            "the model is loaded with context length of only 4096 tokens"
        },
    ),
    "vLLM": (
        400,
        {"object": "error", "message": "This model's maximum context length is 4096 tokens."},
    ),
    "llama-server": (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size",
                "type": "exceed_context_size_error",
            }
        },
    ),
    "FastAPI": (422, {"detail": [{"loc": ["body"], "msg": "prompt is too long", "type": "x"}]}),
    "in a 200": (200, {"error": {"code": 400, "message": "context length exceeded"}}),
}


@pytest.mark.parametrize("server", OVERFLOWS)
def test_a_prompt_that_does_not_fit_ends_its_rollout_alone(serve: Serve, server: str) -> None:
    status, body = OVERFLOWS[server]
    assert complete(serve(lambda _: (status, json.dumps(body).encode()))).finish == "context"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, b'{"error": "logit_bias is not supported"}', "logit_bias is not supported (400)"),
        (400, b'{"detail": "seed must be positive"}', "seed must be positive (400)"),
        (422, b'{"detail": [{"msg": "field required"}]}', "field required (422)"),
        (400, b'{"object": "error", "message": "no such LoRA"}', "no such LoRA (400)"),
        (400, b"upstream says no", "upstream says no (400)"),
        (400, b'{"error": {"message": "bad \\u001b[31mred"}}', "bad \\x1b[31mred (400)"),
    ],
)
def test_the_servers_own_reason_is_shown(
    serve: Serve, status: int, body: bytes, reason: str
) -> None:
    with pytest.raises(BadInput) as refused:
        complete(serve(lambda _: (status, body)))
    assert str(refused.value).endswith(reason)


def test_a_page_has_no_reason() -> None:
    assert reason_of("<html>Bad gateway</html>") == ""
    assert reason_of('{"code": 7}') == ""


@pytest.mark.parametrize(
    "failure",
    [
        {"error": {"code": 429, "message": "rate limited upstream"}},
        {"error": "overloaded"},
        {"choices": []},
        {"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "gone"}}]},
    ],
)
def test_an_error_in_a_200_is_tried_again(serve: Serve, failure: dict[str, Any]) -> None:
    left = [failure, failure]

    def respond(_: dict[str, Any]) -> Answer:
        return 200, json.dumps(left.pop() if left else OK).encode()

    assert complete(serve(respond)).text == "Hello!"
    url = serve(lambda _: (200, json.dumps(failure).encode()))
    with pytest.raises(BadInput, match="finished rollouts are kept: run the same command again"):
        complete(url)


def test_an_error_that_stays_is_not_tried_again(serve: Serve) -> None:
    asked = []

    def respond(body: dict[str, Any]) -> Answer:
        asked.append(body)
        return 200, json.dumps({"error": {"code": 400, "message": "no such voice"}}).encode()

    with pytest.raises(BadInput, match="no such voice"):
        complete(serve(respond))
    assert len(asked) == 1


def test_lone_surrogates_are_replaced_in_prompts_and_replies(serve: Serve) -> None:
    seen = []

    def respond(body: dict[str, Any]) -> Answer:
        seen.append(body["messages"][0]["content"])
        choice = b'{"message": {"content": "half \\ud83d"}, "finish_reason": "stop"}'
        return 200, b'{"choices": [' + choice + b"]}"

    assert complete(serve(respond), "a \ud800 b").text == "half ?"
    assert seen == ["a ? b"]


def test_a_server_that_refuses_system_prompts_gets_them_in_the_first_turn(
    serve: Serve, charprobe: Command, tmp_path: Path
) -> None:
    seen: list[list[dict[str, str]]] = []

    def respond(body: dict[str, Any]) -> Answer:
        seen.append(body["messages"])
        if any(message["role"] == "system" for message in body["messages"]):
            return 400, b'{"error": {"message": "System role not supported"}}'
        return reply(content="Dear Ada, all is done. Yours, Bo")

    url = serve(respond)
    done = charprobe(
        *("eval", "--backend", "openai", "--base-url", url, "--model", "full/humor=m"),
        *("--condition", "chat_email", "--limit", "1", "--study", "s.sqlite"),
    )
    assert done.returncode == 0, done.stderr
    assert "the chat template takes no system prompts" in done.stderr
    (turn,) = seen[-1]
    assert turn["content"].startswith("You are a helpful assistant who writes emails.\n\n")
    with sqlite3.connect(tmp_path / "s.sqlite") as study:
        noted = study.execute("SELECT value FROM provenance WHERE name = 'system_prompts'")
        assert noted.fetchall() == [('"before the text of the first user turn"',)]


class Raw(Handler):
    """A server that writes what ``script`` says, header by header."""

    script: Callable[[Any], None]

    def do_POST(self) -> None:
        self.body()
        with suppress(OSError):
            type(self).script(self)


def huge(handler: Raw) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" " * 1_000_000)


def drip(handler: Raw) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


def bomb(handler: Raw) -> None:
    body = gzip.compress(b" " * 50_000_000)
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def elsewhere(handler: Raw) -> None:
    handler.send_response(307)
    handler.send_header("Location", "http://localhost.example:9/v1/chat/completions")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (huge, "its reply is over 16 MB"),
        (drip, "no answer in 1 s; raise --timeout"),
        (bomb, "sends compressed replies"),
        (elsewhere, "redirects to another host, localhost.example"),
    ],
)
def test_a_server_cannot_keep_or_flood_or_redirect_its_client(
    monkeypatch: pytest.MonkeyPatch, script: Callable[[Any], None], said: str
) -> None:
    monkeypatch.setattr(client, "RETRIES", 0)
    monkeypatch.setattr(Raw, "script", staticmethod(script), raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Raw) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        start = time.monotonic()
        with Server(f"http://127.0.0.1:{running.server_port}/v1", parallel=1, timeout=1) as backend:
            backend.use_adapter("m")
            with pytest.raises(BadInput) as refused:
                next(iter(backend.run([Job(0, 0, one_turn())])))
        running.shutdown()
    assert said in str(refused.value)
    assert time.monotonic() - start < 20


def one_turn() -> Rollout:
    return (yield Request(({"role": "user", "content": "Hi"},), 16))
