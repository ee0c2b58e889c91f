"""Every kind of input from outside: good examples, how they are changed, what reads them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.fuzzing.examples import (
    CATALOGUE,
    CSV,
    EMAIL_ROWS,
    GRID,
    REPLIES,
    STUB,
    TEXT_ROWS,
    TOOL,
    adapter_seeds,
    checkpoint_seeds,
    classifier_seeds,
    gguf_seeds,
    imatrix_seeds,
    kit_seeds,
    lines,
    ngram_seeds,
    parquet_seeds,
    scenario_seeds,
    study_seeds,
    text_file,
    training_seeds,
)
from bench.fuzzing.mutators import (
    JINJA_PIECES,
    YAML_PIECES,
    Mutate,
    mutate_bytes,
    mutate_json,
    mutate_study,
    mutate_text,
)
from bench.fuzzing.readers import (
    READ_EMAILS,
    READ_STUDY,
    READ_TEXTS,
    dry_run,
    read_answer,
    read_catalogue,
    read_checkpoint,
    read_classifier,
    read_lora,
    read_model,
    read_ngrams,
    read_reply,
    read_schema,
    read_template,
    read_training,
)
from charprobe_lite.convert.imatrix import read_imatrix
from charprobe_lite.eval.study.file import read_specs
from charprobe_lite.models import kit
from charprobe_lite.models.prompts import load_prompts
from tests.checkpoints import TEMPLATE
from tests.loopback import completion


@dataclass(frozen=True)
class Kind:
    """``seeds`` makes good files in a folder; ``read`` gets a changed one, alone in its folder,
    and the folder of the good ones."""

    seeds: Callable[[Path], Sequence[Path]]
    mutate: Mutate
    read: Callable[[Path, Path], object]


def mutate_whole_study(data: bytes, rng: random.Random) -> bytes:
    return mutate_study(data, rng, Path(f"study-{rng.randrange(10**9)}.sqlite"))


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
