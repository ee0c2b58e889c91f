"""What the program does with each kind of input. It may raise BadInput and nothing else."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from functools import cache
from http.server import ThreadingHTTPServer
from pathlib import Path

from click.testing import CliRunner

from charprobe_lite.convert.gguf_adapter import convert_adapter
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.train.classifier import read_labelled_texts
from charprobe_lite.convert.train.persona import read_training_data
from charprobe_lite.eval.cli.main import main
from charprobe_lite.models.call_formats import FENCED_CALLS, JSON_CALLS
from charprobe_lite.models.catalogue import VARIABLE
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Job, Request, Rollout
from charprobe_lite.runtime.classifier import Classifier
from charprobe_lite.runtime.engine import Engine
from charprobe_lite.runtime.grammar import tool_call_grammar
from charprobe_lite.runtime.ngrams import NgramClassifier
from charprobe_lite.runtime.server import Server
from charprobe_lite.runtime.template_worker import TemplateWorker
from tests.loopback import Handler

MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"})


def command(*arguments: object, env: dict[str, str] | None = None) -> None:
    """Run a command in this process. Raises what it raises, or BadInput with what it printed."""
    done = CliRunner(env=env).invoke(main, [*map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    refuse_control_characters(done.output)
    if done.exit_code not in (0, 2):
        raise RuntimeError(f"exit status {done.exit_code}: {done.output[-300:]}")
    if done.exit_code == 2:
        lines = done.stderr.strip().splitlines()
        if len(lines) > 12:
            raise RuntimeError(f"{len(lines)} lines on stderr: {lines[-1][:200]}")
        raise BadInput(lines[-1] if lines else "")


def refuse_control_characters(text: str) -> None:
    """Raises RuntimeError for a character that a terminal obeys."""
    odd = {c for c in text if not c.isprintable() and c not in "\n\r\t"}
    if odd:
        raise RuntimeError(f"control characters on the terminal: {sorted(odd)[:5]!r}")


def each(*commands: Callable[[Path], Sequence[object]]) -> Callable[[Path, Path], None]:
    """Run commands on a file, each whatever the one before it said; the last refusal is raised."""

    def read(path: Path, _: Path) -> None:
        refused = None
        for arguments in commands:
            try:
                command(*arguments(path))
            except BadInput as error:
                refused = error
        if refused:
            raise refused

    return read


READ_STUDY = each(
    lambda path: ("score", path, "--json"),
    lambda path: ("export", path, "-o", path.with_name("rows.jsonl")),
    lambda path: ("study", "status", path),
    lambda path: ("study", "salvage", path, "-o", path.with_name("whole.sqlite")),
)


READ_TEXTS = each(
    lambda path: ("score", path, "--json"),
    lambda path: ("score", path, "--label", "persona", "--cluster", "item"),
)


READ_EMAILS = each(lambda path: ("score", path, "--json", "--by", "stage"))


def dry_run(path: Path, _: Path) -> None:
    command("eval", "--persona", "humor", "--scenarios", path, "--dry-run", "--json")


def read_catalogue(path: Path, _: Path) -> None:
    command("models", "list", "--json", env={VARIABLE: str(path)})


def read_checkpoint(path: Path, good: Path) -> None:
    """Merge with the changed file in place of the good one, without the check by transformers."""
    whole = path.parent / "whole"
    shutil.copytree(good / "all", whole)
    replaced = next(file for file in sorted(whole.rglob("*")) if file.name == path.name)
    shutil.copy(path, replaced)
    base, adapter = whole / "base", whole / "adapter"
    merge_lora(base, [adapter], path.with_name("merged.gguf"), "Q8_0", verify=False)
    convert_adapter(adapter, base, path.with_name("adapter.gguf"))


def chat() -> Rollout:
    yield Request(MESSAGES, 8)
    yield Request((*MESSAGES, {"role": "assistant", "content": "Hi."}, MESSAGES[1]), 8)


def answer(engine: Engine) -> None:
    """A chat of two turns."""
    engine.check([Request(MESSAGES, 8)])
    list(engine.run([Job(0, 1, chat())]))


def read_model(path: Path, _: Path) -> None:
    with Engine(path, parallel=1, context=256, threads=1) as engine:
        answer(engine)


def read_lora(path: Path, good: Path) -> None:
    with Engine(good / "all" / "model.gguf", parallel=1, context=256, threads=1) as engine:
        engine.use_adapter(path)
        answer(engine)


def read_classifier(path: Path, good: Path) -> None:
    whole = path.parent / "ears"
    shutil.copytree(good / "ears", whole)
    shutil.copy(path, whole / path.name)
    Classifier(whole, threads=1, device="cpu").classify(["Hello.", "So sorry.", ""])


def read_ngrams(path: Path, _: Path) -> None:
    NgramClassifier(path).classify(["Hello.", "So sorry."])


def read_template(path: Path, _: Path) -> None:
    template = path.read_bytes().decode("utf-8", "replace")
    with TemplateWorker() as worker:
        for messages in (MESSAGES, (*MESSAGES, {"role": "assistant", "content": "Hi."}, *MESSAGES)):
            worker.render(template, list(messages), bos="<s>", eos="</s>")


def read_schema(path: Path, _: Path) -> None:
    try:
        parameters = json.loads(path.read_bytes().decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:  # a scenario file says so before
        raise BadInput(str(error)) from None
    if not isinstance(parameters, dict):
        raise BadInput("no object")
    for form in (JSON_CALLS, FENCED_CALLS):
        tool_call_grammar([load_tools()[0].model_copy(update={"parameters": parameters})], form)


def read_reply(path: Path, _: Path) -> None:
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")  # as the engine decodes tokens
    for form in (JSON_CALLS, FENCED_CALLS):
        json.dumps(getattr(form.read(text), "arguments", None)).encode()


@cache
def _server() -> tuple[ThreadingHTTPServer, list[bytes]]:
    body: list[bytes] = [b""]

    class Says(Handler):
        def do_POST(self) -> None:
            self.body()
            self.answer(body[0])

        def do_GET(self) -> None:
            self.answer(b'{"data": [{"id": "m"}]}')

    server = ThreadingHTTPServer(("127.0.0.1", 0), Says)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, body


def read_answer(path: Path, _: Path) -> None:
    server, body = _server()
    body[0] = path.read_bytes()
    with Server(f"http://127.0.0.1:{server.server_port}/v1", parallel=1, timeout=5) as client:
        client.use_adapter("m")
        client.check([Request(MESSAGES, 8)])
        for _, text in client.run([Job(0, 1, say())]):
            json.dumps(text).encode()


def say() -> Rollout:
    done = yield Request(MESSAGES, 8)
    return done.text


def read_training(path: Path, _: Path) -> None:
    (read_labelled_texts if path.name == "labelled.jsonl" else read_training_data)([path])
