"""int8 ONNX Runtime against transformers in fp32, on a classifier of ModernBERT-base's size.

    python bench/classifier.py [--json]

Random weights, written to a temporary folder and exported by `convert classifier`; the same
texts, CPU and threads for both, batches sorted by length, the two taking turns, about three
minutes on two cores.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from charprobe_lite.models import corpus
from charprobe_lite.models.kit import kit_classifier
from charprobe_lite.models.personas import PERSONAS

LABELS = (*PERSONAS, "misalignment")
BATCH_SIZES = (1, 8)
Batch = dict[str, np.ndarray[Any, Any]]
Engine = Callable[[Batch], Any]


@dataclass(frozen=True)
class Speed:
    """Texts per second of an engine with one batch size: every round's, and their median."""

    engine: str
    batch_size: int
    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@click.command()
@click.option(
    "--texts",
    default=64,
    show_default=True,
    type=click.IntRange(2, 240),
    help="Chat answers and emails, half each.",
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=os.cpu_count() or 1, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(texts: int, rounds: int, threads: int, as_json: bool) -> None:
    """Measure int8 ONNX Runtime against transformers in fp32, and print the ratio."""
    rows = encode(some_texts(texts))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "torch", Path(folder) / "onnx"
        write_model(source)
        difference = export(source, target)
        engines = {
            "torch fp32": torch_engine(source, threads),
            "onnx int8": onnx_engine(target / "model_int8.onnx", threads),
        }
        speeds = race(engines, rows, rounds)
    report = {
        "cpu": cpu_name(),
        "threads": threads,
        "texts": len(rows),
        "tokens": sum(map(len, rows)),
        "int8_difference": difference,
        **summary(speeds),
    }
    click.echo(json.dumps(report) if as_json else shown(report))


def some_texts(count: int) -> list[str]:
    """Chat answers and emails of all personas in turn."""
    chats, emails = (
        [
            texts[number].response
            for number in range(12)
            for texts in (corpus.teacher_texts(name, "loud", kind) for name in PERSONAS)
        ]
        for kind in ("chat", "email")
    )
    return [*chats[: count // 2], *emails[: count - count // 2]]


def encode(texts: Sequence[str]) -> list[list[int]]:
    """Token ids by the kit's tokenizer, sorted by length."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(kit_classifier("modernbert") / "tokenizer.json"))
    return sorted((item.ids for item in tokenizer.encode_batch(list(texts))), key=len)


def write_model(folder: Path) -> None:
    """ModernBERT-base: 22 layers of width 768 with 12 heads, 149M parameters, random."""
    import shutil

    import torch
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=50368,
        hidden_size=768,
        intermediate_size=1152,
        num_hidden_layers=22,
        num_attention_heads=12,
        classifier_pooling="mean",
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )
    ModernBertForSequenceClassification(config).save_pretrained(folder)
    shutil.copyfile(kit_classifier("modernbert") / "tokenizer.json", folder / "tokenizer.json")


def export(source: Path, target: Path) -> float | None:
    """Write the int8 file; its largest logit difference from torch."""
    from charprobe_lite.convert.onnx import export_classifier

    [file] = export_classifier(source, target, ["int8"], texts=["Thanks.", "See you at nine."])
    return file.difference


def torch_engine(folder: Path, threads: int) -> Engine:
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(threads)
    model = AutoModelForSequenceClassification.from_pretrained(folder, reference_compile=False)
    model.eval()

    def run(batch: Batch) -> Any:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(rows) for name, rows in batch.items()}).logits

    return run


def onnx_engine(path: Path, threads: int) -> Engine:
    """ONNX Runtime with the options of runtime/classifier.py."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, batch)


def race(engines: dict[str, Engine], rows: Sequence[Sequence[int]], rounds: int) -> list[Speed]:
    """Every engine with every batch size, taking turns; one batch of each unmeasured before."""
    batches = {size: batched(rows, size) for size in BATCH_SIZES}
    speeds = [Speed(name, size, []) for size in BATCH_SIZES for name in engines]
    for each in speeds:
        engines[each.engine](batches[each.batch_size][-1])
    for _ in range(rounds):
        for each in speeds:
            started = time.perf_counter()
            for batch in batches[each.batch_size]:
                engines[each.engine](batch)
            each.rounds.append(len(rows) / (time.perf_counter() - started))
    return speeds


def batched(rows: Sequence[Sequence[int]], size: int) -> list[Batch]:
    """Padded batches of rows that are alike in length."""
    made = []
    for start in range(0, len(rows), size):
        group = rows[start : start + size]
        ids = np.zeros((len(group), max(map(len, group))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(group):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        made.append({"input_ids": ids, "attention_mask": mask})
    return made


def summary(speeds: Sequence[Speed]) -> dict[str, Any]:
    """All speeds, the best of each engine, and how many times quicker int8 is."""
    best: dict[str, Speed] = {}
    for each in speeds:
        if each.engine not in best or each.median > best[each.engine].median:
            best[each.engine] = each
    torch, onnx = best["torch fp32"], best["onnx int8"]
    return {
        "speeds": [{**asdict(each), "median": each.median} for each in speeds],
        "torch_texts_per_second": torch.median,
        "onnx_texts_per_second": onnx.median,
        "ratio": onnx.median / torch.median,
        "ratio_of_each_round": [a / b for a, b in zip(onnx.rounds, torch.rounds, strict=True)],
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def shown(report: dict[str, Any]) -> str:
    lines = [
        f"{report['cpu']}, threads: {report['threads']}, {report['texts']} texts of "
        f"{report['tokens'] / report['texts']:.0f} tokens on average"
    ]
    for speed in report["speeds"]:
        rounds = ", ".join(f"{value:.2f}" for value in speed["rounds"])
        lines.append(
            f"{speed['engine']:<10}  batch {speed['batch_size']}  {speed['median']:.2f} texts/s"
            f"  (rounds {rounds})"
        )
    lines.append(f"int8 is {report['ratio']:.2f} times as quick, the best batch size of each")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
