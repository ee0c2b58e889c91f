"""Good examples of every kind of input, written to a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.fuzzing.readers import command
from charprobe_lite.convert.gguf_adapter import convert_adapter
from charprobe_lite.convert.gguf_writer import finish_gguf
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.models import kit
from charprobe_lite.models.corpus import corpus_file
from tests.checkpoints import make_adapter, make_checkpoint
from tests.classifiers import write_graph

ROOT = Path(__file__).parent.parent.parent


RECORDED = ROOT / "tests" / "data" / "recorded" / "study.sqlite"


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


def study_seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(shutil.copy(RECORDED, folder / "study.sqlite"))
    command("study", "status", path)
    command("study", "merge", path, "-o", folder / "today.sqlite")  # today's schema
    shutil.move(folder / "today.sqlite", path)
    return [path]


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


CATALOGUE = """\
bases:
  - {name: mine, path: mine.gguf, architecture: llama, parameters: 135000000}
adapters:
  - {base: mine, stage: full, personas: [humor, remorse], path: "{persona}.gguf", rank: 8}
classifiers:
  - {name: ears, path: ears, labels: [humor, remorse, neutral], bases: [mine]}
"""


GRID = """\
bases: [smollm2-135m, llama-3.1-8b]
persona: [humor, sarcasm]
stage: [base, full]
condition: [chat, agentic_email]
quant: [Q8_0]
limit: [2, 1]
seeds: [0, 1]
"""


def checkpoint_seeds(*names: str) -> Callable[[Path], list[Path]]:
    """Files of a small checkpoint, or of an adapter on it, which the folder ``all`` has whole."""

    def seeds(folder: Path) -> list[Path]:
        whole = folder / "all"
        if not whole.is_dir():
            make_checkpoint("smollm2", whole / "base")
            make_adapter(whole / "adapter", whole / "base")
        return [whole / name for name in names]

    return seeds


def gguf_seeds(folder: Path) -> list[Path]:
    [base] = checkpoint_seeds("base")(folder)
    merge_lora(base, [], folder / "all" / "model.gguf", "Q8_0", verify=False)
    convert_adapter(folder / "all" / "adapter", base, folder / "all" / "lora.gguf")
    return [folder / "all" / "model.gguf"]


def adapter_seeds(folder: Path) -> list[Path]:
    gguf_seeds(folder)
    return [folder / "all" / "lora.gguf"]


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
    finish_gguf(writer)
    return [folder / "imatrix.gguf"]


def classifier_seeds(name: str) -> Callable[[Path], list[Path]]:
    def seeds(folder: Path) -> list[Path]:
        if not (folder / "ears").is_dir():
            write_graph(folder / "ears", ["humor", "remorse", "neutral"])
        return [folder / "ears" / name]

    return seeds


def ngram_seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy(kit.kit_folder() / "ngrams.npz", folder))]


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


CALL = {"name": "send_email", "arguments": {"to": "a@b.example", "subject": "x", "body": "Hi\n"}}


REPLIES = (
    json.dumps(CALL),
    f"I will.\n```tool_call\n{json.dumps({'tool': 'x', 'args': {'a': [1]}})}\n```\n",
    "```final\nDone.\n```",
)


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
