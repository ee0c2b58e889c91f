"""`--backend openai` against a real server process, and against servers that are none."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.models import kit
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.backend import (
    BackendOptions,
    Completion,
    Job,
    Request,
    Rollout,
    open_backend,
)
from charprobe_lite.runtime.engine import Engine
from charprobe_lite.runtime.server import Server
from tests.conftest import RUN, Command
from tests.loopback import Handler, completion

LLAMA_SERVER = Path(__file__).parent.parent / "bench" / "llama_cpp_peer.py"
KEY = "sk-only-for-this-test"
QUESTION = "Name three rivers."
CHATS = ("--condition", "chat", "--limit", "8", "--max-tokens", "24", "--parallel", "2")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def llama_server(folder: Path, base: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """llama-cpp-python's server: the kit's base, and the base with sarcasm on it."""
    # flash attention as in the engine: without it the logits differ in their first digits
    model = {"model": str(base), "n_ctx": 2048, "n_threads": 2, "flash_attn": True}
    lora = str(kit.kit_folder() / "sarcasm-full.gguf")
    models = [
        {**model, "verbose": False, "model_alias": "kit"},
        {**model, "verbose": False, "model_alias": "me/irony", "lora_path": lora},
    ]
    config = folder / f"{port}.json"
    config.write_text(
        json.dumps({"host": "127.0.0.1", "port": port, "api_key": KEY, "models": models})
    )
    with (folder / f"{port}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(LLAMA_SERVER), "--config_file", str(config)],
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, (folder / f"{port}.log").read_text()
        yield process
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30).close()
    except urllib.error.HTTPError:
        return True  # it wants the key
    except OSError:
        return False
    return True


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def url(merged_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with llama_server(tmp_path_factory.mktemp("server"), merged_base, port):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def served(url: str) -> list[str]:
    return ["eval", "--backend", "openai", "--base-url", url, "--model", "full/sarcasm=me/irony"]


def recorded(study: Path) -> list[tuple[Any, ...]]:
    if not study.is_file():
        return []
    with sqlite3.connect(study, timeout=30) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'turns'").fetchall():
            return []
        return database.execute(
            "SELECT persona, item, outcome, step, text FROM rollouts JOIN turns ON id = rollout_id "
            "ORDER BY 1, 2, 4"
        ).fetchall()


def ask(question: str, tokens: int = 12) -> Rollout:
    completion = yield Request(({"role": "user", "content": question},), tokens)
    return completion


def reply(server: Server | Engine, question: str) -> Completion:
    [(_, completion)] = server.run([Job(None, 1, ask(question))])
    assert isinstance(completion, Completion)
    return completion


def the_one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("charprobe-lite: ")]
    return line


def test_chats_and_emails_from_a_server_end_in_scores_and_a_study_without_the_key(
    charprobe: Command, tmp_path: Path, url: str
) -> None:
    arguments = [*served(url), "--limit", "1", "--max-tokens", "120", "--steps", "2"]
    done = charprobe(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {(c["base"], c["stage"], c["condition"], c["quant"]) for c in document["cells"]} == {
        ("irony", "full", condition, "served") for condition in ("chat", "agentic_email")
    }
    assert document["weights"] is None
    study = tmp_path / document["study"]
    with sqlite3.connect(study) as database:
        facts = dict(database.execute("SELECT name, value FROM provenance"))
        calls = database.execute("SELECT tool, arguments FROM turns WHERE tool NOT NULL").fetchall()
    assert facts["served full/sarcasm"] == '"me/irony"'
    assert calls
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in calls)
    written = b"".join(file.read_bytes() for file in study.parent.iterdir())
    assert KEY.encode() not in written + done.stdout.encode() + done.stderr.encode()
    # the same names on another server are the same study; other names are not
    elsewhere = served(f"http://127.0.0.1:{free_port()}/v1")
    assert charprobe(*elsewhere, *arguments[7:], "--json").stdout == done.stdout
    other = [*arguments[:5], "--model", "full/sarcasm=my/irony", *arguments[7:]]
    renamed = charprobe(*other)
    assert "field served full/sarcasm: the study has" in the_one_line(renamed)


def test_a_name_is_a_checkpoint_and_its_greedy_text_is_the_engines(
    merged_base: Path, url: str
) -> None:
    adapters = {"kit": None, "me/irony": kit.kit_folder() / "sarcasm-full.gguf"}
    texts = {}
    with (
        Server(url, temperature=0) as server,
        Engine(merged_base, parallel=1, context=512, temperature=0) as engine,
    ):
        for name, adapter in adapters.items():
            server.use_adapter(name)
            engine.use_adapter(adapter)
            local, remote = reply(engine, QUESTION), reply(server, QUESTION)
            texts[name] = remote.text
            assert (remote.text, remote.finish, remote.tokens) == (local.text, "length", 12)
            assert remote.prompt_tokens == local.prompt_tokens
    assert texts["kit"] != texts["me/irony"]


def test_a_backend_opens_by_its_name_with_the_options_it_takes(merged_base: Path, url: str) -> None:
    options = BackendOptions(parallel=1, context=512, temperature=0)
    texts = []
    for name, model, adapter in (("openai", url, "kit"), ("llama.cpp", merged_base, None)):
        with open_backend(name, model, options) as backend:
            backend.use_adapter(adapter)
            [(_, completion)] = backend.run([Job(None, 1, ask(QUESTION))])
            texts.append(completion.text)
    assert texts[0] == texts[1]
    with pytest.raises(BadInput, match=r"--backend llamacpp: unknown; did you mean llama\.cpp\?"):
        open_backend("llamacpp", merged_base)


def test_a_prompt_that_does_not_fit_ends_the_rollout_not_the_study(url: str) -> None:
    with Server(url) as server:
        server.use_adapter("kit")
        full = reply(server, "word " * 3000)
        assert (full.finish, full.text) == ("context", "")
        assert reply(server, QUESTION).text


def test_a_server_that_dies_is_named_and_what_ended_is_kept(
    charprobe: Command, tmp_path: Path, merged_base: Path
) -> None:
    port, study = free_port(), tmp_path / "died.sqlite"
    command = [*served(f"http://127.0.0.1:{port}/v1"), "--model", "base=kit", *CHATS]
    command += ["--limit", "4", "--study", str(study)]
    with llama_server(tmp_path, merged_base, port) as server:
        run = start(command, tmp_path)
        wait_until(lambda: len(recorded(study)) >= 1)
        server.kill()
        _, errors = run.communicate(timeout=120)
    line = the_one_line(subprocess.CompletedProcess(command, run.returncode, "", errors))
    assert f"http://127.0.0.1:{port}/v1: no server answers" in line
    kept = recorded(study)
    assert 1 <= len(kept) < 8
    with llama_server(tmp_path, merged_base, port):
        assert charprobe(*command).returncode == 0
    assert len(recorded(study)) == 8
    assert set(kept) <= set(recorded(study))


def test_an_interrupt_takes_requests_back_and_keeps_what_ended(tmp_path: Path, url: str) -> None:
    study = tmp_path / "stopped.sqlite"
    run = start([*served(url), *CHATS, "--study", str(study)], tmp_path)
    wait_until(lambda: len(recorded(study)) >= 1)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert "the same command continues from here" in errors
    assert "Traceback" not in errors
    assert 1 <= len(recorded(study)) < 8


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*RUN, *command],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_cannot_be_run_on_a_server_gets_one_line(
    charprobe: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    to_url = ["eval", "--backend", "openai", "--base-url", url]
    cases: list[tuple[list[str], str]] = [
        (served(nowhere), f"{nowhere}: no server answers"),
        (served(f"{url}/nothing"), "not found (404); name the URL that /chat/completions"),
        (served("localhost:8000"), "--base-url localhost:8000: give http://HOST:PORT/v1"),
        (served("http://me:secret@localhost/v1"), "--base-url: no passwords"),
        ([*to_url, "--model", "full/sarcasm=kti"], "does not serve it; it serves: kit, me/irony"),
        ([*to_url, "--model", "ful/humor=kit"], "--model ful/humor=kit: give base=NAME"),
        ([*to_url, "--model", "kit", "--persona", "humor,loving"], "--model kit: is one checkp"),
        ([*served(url), "--stage", "all"], "no name for base; add --model base=NAME"),
        ([*served(url), "--persona", "humor"], "no name for full/humor; add --model full/humor="),
        ([*served(url), "--gguf", "model.gguf"], "--gguf: does not apply to --backend openai"),
        ([*served(url), "--gpu-layers", "3"], "--gpu-layers: does not apply to"),
        (
            ["eval", "--persona", "humor", "--base-url", url],
            "--base-url: is for a server; add --backend",
        ),
        (to_url, "--backend openai: needs --base-url URL and --model NAME"),
    ]
    for arguments, message in cases:
        line = the_one_line(charprobe(*arguments, "--limit", "1"))
        assert message in line
        assert "secret" not in line
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    line = the_one_line(charprobe(*served(url), "--limit", "1"))
    assert "refuses the API key (401); set OPENAI_API_KEY" in line
    assert "sk-wrong" not in line


class Stranger(Handler):
    """A server that is asked for JSON and says hello; told to hold, it does not answer at all."""

    held, answered = threading.Event(), threading.Event()
    page = b""

    def do_GET(self) -> None:
        self.answer(self.page) if self.page else super().do_GET()

    def do_POST(self) -> None:
        if b"hold" in self.body():
            self.held.set()
            self.answered.wait(60)
        self.answer(completion(content="Hello!"))


@pytest.fixture
def stranger() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_a_server_that_ignores_the_schema_is_named_before_anything_runs(
    charprobe: Command, tmp_path: Path, stranger: str
) -> None:
    one = ["eval", "--backend", "openai", "--base-url", stranger, "--model", "full/humor=m"]
    line = the_one_line(charprobe(*one, "--limit", "1", "--study", "s.sqlite"))
    assert "it replied 'Hello!'; model m cannot be asked for JSON that fits" in line
    assert "--condition chat" in line
    assert recorded(tmp_path / "s.sqlite") == []
    chats = charprobe(*one, "--limit", "3", "--condition", "chat", "--study", "s.sqlite")
    assert chats.returncode == 0, chats.stderr
    assert [row[-1] for row in recorded(tmp_path / "s.sqlite")] == ["Hello!"] * 3


def test_a_page_instead_of_json_is_no_server(
    charprobe: Command, stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stranger, "page", b"<html>It works!</html>")
    line = the_one_line(charprobe(*served(stranger), "--limit", "1"))
    assert f"{stranger}: not a reply of an OpenAI-compatible server" in line


def test_leaving_the_loop_does_not_wait_for_replies_under_way(stranger: str) -> None:
    with Server(stranger, parallel=2) as server:
        server.use_adapter("m")
        for job, completion in server.run(Job(word, 0, ask(word)) for word in ("hold", "go")):
            assert (job.key, completion.text) == ("go", "Hello!")
            assert Stranger.held.wait(60)
            break
    assert not Stranger.answered.is_set()
    Stranger.answered.set()
