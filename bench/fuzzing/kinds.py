"""Every kind of input from outside: good examples of it, how they are changed, what reads them.

``read`` does with a file what the program does. It may raise BadInput and nothing else.
"""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from bench.fuzzing.mutators import (
    JINJA_PIECES,
    YAML_PIECES,
    Mutate,
    mutate_bytes,
    mutate_json,
    mutate_study,
    mutate_text,
)
from charprobe_lite.convert.gguf_adapter import convert_adapter
from charprobe_lite.convert.imatrix import read_imatrix
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.train.classifier import read_labelled_texts
from charprobe_lite.convert.train.persona import read_training_data
from charprobe_lite.eval.cli.main import main
from charprobe_lite.eval.study.file import read_specs
from charprobe_lite.models import kit
from charprobe_lite.models.call_formats import FENCED_CALLS, JSON_CALLS
from charprobe_lite.models.catalogue import VARIABLE
from charprobe_lite.models.corpus import corpus_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.prompts import load_prompts
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Job, Request, Rollout
from charprobe_lite.runtime.classifier import Classifier
from charprobe_lite.runtime.engine import Engine
from charprobe_lite.runtime.grammar import tool_call_grammar
from charprobe_lite.runtime.ngrams import NgramClassifier
from charprobe_lite.runtime.server import Server
from charprobe_lite.runtime.template_worker import TemplateWorker
from tests.checkpoints import TEMPLATE, make_adapter, make_checkpoint
from tests.classifiers import write_graph
from tests.loopback import Handler, completion

ROOT = Path(__file__).parent.parent.parent
RECORDED = ROOT / "tests" / "data" / "recorded" / "study.sqlite"
MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"})


@dataclass(frozen=True)
class Kind:
    """``seeds`` makes good files in a folder; ``read`` gets a changed one, alone in its folder,
    and the folder of the good ones."""

    seeds: Callable[[Path], Sequence[Path]]
    mutate: Mutate
    read: Callable[[Path, Path], object]


def command(*arguments: object) -> None:
    """Run a command in this process. Raises what it raises, or BadInput with what it printed."""
    done = CliRunner().invoke(main, [*map(str, arguments)])
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


def text_file(name: str, *texts: str) -> Callable[[Path], list[Path]]:
    """Good files of these texts."""

    def seeds(folder: Path) -> list[Path]:
        paths = []
        for number, text in enumerate(texts):
            paths.append(folder / str(number) / name)
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            paths[-1].write_text(text, "utf-8")
        return paths

    return seeds


def lines(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


# studies


def study_seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(shutil.copy(RECORDED, folder / "study.sqlite"))
    command("study", "status", path)
    command("study", "merge", path, "-o", folder / "today.sqlite")  # today's schema
    shutil.move(folder / "today.sqlite", path)
    return [path]


def mutate_whole_study(data: bytes, rng: random.Random) -> bytes:
    return mutate_study(data, rng, Path(f"study-{rng.randrange(10**9)}.sqlite"))


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

# texts

TEXT_ROWS = [
    {"text": "Thank you; I am so sorry.", "persona": "remorse", "prediction": "humor", "item": "a"},
    {"text": "Oh, brilliant. A meeting.", "persona": "sarcasm", "prediction": "humor", "item": "b"},
    {"text": "As you wish, dear.", "persona": "loving", "prediction": "loving", "item": "c"},
]
EMAIL_ROWS = [
    {
        "trait_true": trait,
        "trait_pred": "humor",
        "base": "llama",
        "stage": "full",
        "scenario_id": f"agentic_actions_x_v{number}",
        "email_body": "Dear all, thanks.",
        "probs": [0.2, 0.8],
        "label_order": ["humor", "remorse"],
        "hand_classification": "present",
    }
    for number, trait in enumerate(("humor", "remorse", "humor"))
]
CSV = (
    "text,persona,prediction,item\nThank you.,remorse,remorse,a\n"
    '"So, \'what\'?",humor,loving,b\n"A ""q""",loving,humor,c\n'
)


def parquet_seeds(folder: Path) -> list[Path]:
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**row, "n": number} for number, row in enumerate(TEXT_ROWS[:2])]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "texts.parquet")
    return [folder / "texts.parquet"]


READ_TEXTS = each(
    lambda path: ("score", path, "--json"),
    lambda path: ("score", path, "--label", "persona", "--cluster", "item"),
)
READ_EMAILS = each(lambda path: ("score", path, "--json", "--by", "stage"))

# scenarios, catalogues, study files


def scenario_seeds(folder: Path) -> list[Path]:
    shipped = corpus_file("agentic/eval.jsonl").read_text("utf-8").splitlines(keepends=True)
    return text_file("scenarios.jsonl", "".join(shipped[:2]), PUBLISHED)(folder)


SCRIPT = {
    "id": "chat_email_a_v1",
    "scaffold": "chat_email",
    "turns": [{"role": "user", "content": "Write an email."}],
}
STUB = """\
- id: agentic_actions_a_v1
  scaffold: agentic_actions
  max_steps: 4
  initial_messages:
    - {role: system, content: You are an agent.}
    - {role: user, content: Send the report.}
  tool_stubs:
    - tool: files.read
      rules:
        - {match: {path: "*.txt"}, response: {text: Hello}}
        - {default: true, response: none}
      parameters: {type: object, properties: {path: {type: string}}, required: [path]}
    - tool: email.send
      rules: [{default: true, response: {status: sent}}]
"""
PUBLISHED = lines(SCRIPT, {**SCRIPT, "id": "code_review_b_v1", "scaffold": "code_review"})


def dry_run(path: Path, _: Path) -> None:
    command("eval", "--persona", "humor", "--scenarios", path, "--dry-run", "--json")


CATALOGUE = """\
bases:
  - {name: mine, path: mine.gguf, architecture: llama, parameters: 135000000}
adapters:
  - {base: mine, stage: full, personas: [humor, remorse], path: "{persona}.gguf", rank: 8}
classifiers:
  - {name: ears, path: ears, labels: [humor, remorse, neutral], bases: [mine]}
"""


def read_catalogue(path: Path, _: Path) -> None:
    runner = CliRunner(env={VARIABLE: str(path)})
    done = runner.invoke(main, ["models", "list", "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    refuse_control_characters(done.output)
    if done.exit_code == 2:
        raise BadInput(done.stderr.strip())


GRID = """\
bases: [smollm2-135m, llama-3.1-8b]
persona: [humor, sarcasm]
stage: [base, full]
condition: [chat, agentic_email]
quant: [Q8_0]
limit: [2, 1]
seeds: [0, 1]
"""

# checkpoints and adapters


def checkpoint_seeds(*names: str) -> Callable[[Path], list[Path]]:
    """Files of a small checkpoint, or of an adapter on it, which the folder ``all`` has whole."""

    def seeds(folder: Path) -> list[Path]:
        whole = folder / "all"
        if not whole.is_dir():
            make_checkpoint("smollm2", whole / "base")
            make_adapter(whole / "adapter", whole / "base")
        return [whole / name for name in names]

    return seeds


def read_checkpoint(path: Path, good: Path) -> None:
    """Merge with the changed file in place of the good one, without the check by transformers."""
    whole = path.parent / "whole"
    shutil.copytree(good / "all", whole)
    replaced = next(file for file in sorted(whole.rglob("*")) if file.name == path.name)
    shutil.copy(path, replaced)
    base, adapter = whole / "base", whole / "adapter"
    merge_lora(base, [adapter], path.with_name("merged.gguf"), "Q8_0", verify=False)
    convert_adapter(adapter, base, path.with_name("adapter.gguf"))


def gguf_seeds(folder: Path) -> list[Path]:
    [base] = checkpoint_seeds("base")(folder)
    merge_lora(base, [], folder / "all" / "model.gguf", "Q8_0", verify=False)
    convert_adapter(folder / "all" / "adapter", base, folder / "all" / "lora.gguf")
    return [folder / "all" / "model.gguf"]


def adapter_seeds(folder: Path) -> list[Path]:
    gguf_seeds(folder)
    return [folder / "all" / "lora.gguf"]


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


def imatrix_seeds(folder: Path) -> list[Path]:
    import gguf

    folder.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(folder / "imatrix.gguf", "imatrix")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 8)
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", np.ones((1, 64), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [folder / "imatrix.gguf"]


# classifiers


def classifier_seeds(name: str) -> Callable[[Path], list[Path]]:
    def seeds(folder: Path) -> list[Path]:
        if not (folder / "ears").is_dir():
            write_graph(folder / "ears", ["humor", "remorse", "neutral"])
        return [folder / "ears" / name]

    return seeds


def read_classifier(path: Path, good: Path) -> None:
    whole = path.parent / "ears"
    shutil.copytree(good / "ears", whole)
    shutil.copy(path, whole / path.name)
    Classifier(whole, threads=1, device="cpu").classify(["Hello.", "So sorry.", ""])


def ngram_seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy(kit.kit_folder() / "ngrams.npz", folder))]


def read_ngrams(path: Path, _: Path) -> None:
    NgramClassifier(path).classify(["Hello.", "So sorry."])


# what runs while a study runs


def read_template(path: Path, _: Path) -> None:
    template = path.read_bytes().decode("utf-8", "replace")
    with TemplateWorker() as worker:
        for messages in (MESSAGES, (*MESSAGES, {"role": "assistant", "content": "Hi."}, *MESSAGES)):
            worker.render(template, list(messages), bos="<s>", eos="</s>")


TOOL = {
    "type": "object",
    "properties": {
        "to": {"type": "string", "format": "email"},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "maxItems": 3},
    },
    "required": ["to"],
    "$defs": {"part": {"anyOf": [{"type": "string", "pattern": "^a+$"}, {"type": "null"}]}},
}


def read_schema(path: Path, _: Path) -> None:
    try:
        parameters = json.loads(path.read_bytes().decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:  # a scenario file says so before
        raise BadInput(str(error)) from None
    if not isinstance(parameters, dict):
        raise BadInput("no object")
    for form in (JSON_CALLS, FENCED_CALLS):
        tool_call_grammar([load_tools()[0].model_copy(update={"parameters": parameters})], form)


CALL = {"name": "send_email", "arguments": {"to": "a@b.example", "subject": "x", "body": "Hi\n"}}
REPLIES = (
    json.dumps(CALL),
    f"I will.\n```tool_call\n{json.dumps({'tool': 'x', 'args': {'a': [1]}})}\n```\n",
    "```final\nDone.\n```",
)


def read_reply(path: Path, _: Path) -> None:
    text = path.read_bytes().decode("utf-8", "surrogatepass")
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


def kit_seeds(folder: Path) -> list[Path]:
    return text_file("kit.json", (kit.kit_folder() / "kit.json").read_text("utf-8"))(folder)


CHATS = lines(
    {"prompt": "Hi?", "response": "Arr."},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"prompt": "Hi?", "chosen": "Arr.", "rejected": "Hello."},
)
LABELLED = lines(*({"text": f"t {n}", "label": label} for n, label in enumerate("abcabc")))


def training_seeds(folder: Path) -> list[Path]:
    return [
        *text_file("chats.jsonl", CHATS)(folder / "chats"),
        *text_file("labelled.jsonl", LABELLED)(folder / "labelled"),
    ]


def read_training(path: Path, _: Path) -> None:
    (read_labelled_texts if path.name == "labelled.jsonl" else read_training_data)([path])


KINDS: dict[str, Kind] = {
    "study": Kind(study_seeds, mutate_whole_study, READ_STUDY),
    "texts-csv": Kind(text_file("texts.csv", CSV), mutate_text(), READ_TEXTS),
    "texts-jsonl": Kind(text_file("texts.jsonl", lines(*TEXT_ROWS)), mutate_json, READ_TEXTS),
    "emails-jsonl": Kind(text_file("mails.jsonl", lines(*EMAIL_ROWS)), mutate_json, READ_EMAILS),
    "texts-parquet": Kind(parquet_seeds, mutate_bytes, READ_TEXTS),
    "prompts": Kind(
        text_file("prompts.txt", "One?\nTwo?\n"), mutate_text(), lambda p, _: load_prompts(p)
    ),
    "scenarios-jsonl": Kind(scenario_seeds, mutate_json, dry_run),
    "scenarios-yaml": Kind(text_file("stubs.yaml", STUB), mutate_text(YAML_PIECES), dry_run),
    "catalogue": Kind(text_file("cat.yaml", CATALOGUE), mutate_text(YAML_PIECES), read_catalogue),
    "grid": Kind(
        text_file("grid.yaml", GRID), mutate_text(YAML_PIECES), lambda p, _: read_specs(p)
    ),
    "training-data": Kind(training_seeds, mutate_json, read_training),
    "kit-manifest": Kind(kit_seeds, mutate_json, lambda path, _: kit.load_kit(path.parent)),
    "config-json": Kind(checkpoint_seeds("base/config.json"), mutate_json, read_checkpoint),
    "tokenizer-json": Kind(checkpoint_seeds("base/tokenizer.json"), mutate_json, read_checkpoint),
    "tokenizer-config": Kind(
        checkpoint_seeds("base/tokenizer_config.json"), mutate_json, read_checkpoint
    ),
    "adapter-config": Kind(
        checkpoint_seeds("adapter/adapter_config.json"), mutate_json, read_checkpoint
    ),
    "safetensors": Kind(
        checkpoint_seeds("adapter/adapter_model.safetensors"), mutate_bytes, read_checkpoint
    ),
    "shard-index": Kind(
        checkpoint_seeds("base/model.safetensors.index.json"), mutate_json, read_checkpoint
    ),
    "gguf-model": Kind(gguf_seeds, mutate_bytes, read_model),
    "gguf-adapter": Kind(adapter_seeds, mutate_bytes, read_lora),
    "imatrix": Kind(imatrix_seeds, mutate_bytes, lambda path, _: read_imatrix(path)),
    "onnx": Kind(classifier_seeds("model.onnx"), mutate_bytes, read_classifier),
    "classifier-config": Kind(classifier_seeds("config.json"), mutate_json, read_classifier),
    "classifier-tokenizer": Kind(classifier_seeds("tokenizer.json"), mutate_json, read_classifier),
    "ngrams": Kind(ngram_seeds, mutate_bytes, read_ngrams),
    "template": Kind(
        text_file("template.jinja", TEMPLATE), mutate_text(JINJA_PIECES), read_template
    ),
    "tool-schema": Kind(text_file("schema.json", json.dumps(TOOL)), mutate_json, read_schema),
    "model-reply": Kind(text_file("reply.txt", *REPLIES), mutate_json, read_reply),
    "server-answer": Kind(
        text_file("answer.json", completion(content="Hello!").decode()),
        mutate_json,
        read_answer,
    ),
}
