"""ONNX Runtime against transformers, on a classifier of ModernBERT-base's size.

    python bench/classifier.py [--json]

int8 against fp32 on the CPU; with --device cuda fp16 against fp16 on the GPU, where int8 has no
kernels. Random weights, written to a temporary folder and exported by `convert classifier`; the
same texts, CPU and threads for both, batches sorted by length, the two taking turns, about three
minutes on two cores.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ratios
from ratios import by_round

from charprobe_lite.models import corpus
from charprobe_lite.models.kit import kit_classifier
from charprobe_lite.models.personas import PERSONAS

OURS = {"cpu": "ONNX Runtime, int8", "cuda": "ONNX Runtime, fp16 on CUDA"}
THEIRS = {"cpu": "transformers, fp32", "cuda": "transformers, fp16 on CUDA"}
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
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(texts: int, rounds: int, threads: int, device: str, as_json: bool) -> None:
    """Measure ONNX Runtime against transformers, and print the ratio."""
    rows = encode(some_texts(texts))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "torch", Path(folder) / "onnx"
        write_model(source)
        kind = "int8" if device == "cpu" else "fp16"
        difference = export(source, target, kind)
        engines = {
            THEIRS[device]: torch_engine(source, threads, device),
            OURS[device]: onnx_engine(target / f"model_{kind}.onnx", threads, device),
        }
        speeds = race(engines, rows, rounds)
    report = {
        "cpu": cpu_name(),
        "threads": threads,
        "texts": len(rows),
        "tokens": sum(map(len, rows)),
        "largest_difference": difference,
        **summary(speeds, device),
    }
    click.echo(json.dumps(report, default=asdict) if as_json else shown(report))


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


def export(source: Path, target: Path, kind: str) -> float | None:
    """Write the file of this type; its largest logit difference from torch."""
    from charprobe_lite.convert.onnx import export_classifier

    [file] = export_classifier(source, target, [kind], texts=["Thanks.", "See you at nine."])
    return file.difference


def torch_engine(folder: Path, threads: int, device: str) -> Engine:
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(threads)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.eval().to(device, torch.float16 if device == "cuda" else torch.float32)

    def run(batch: Batch) -> Any:
        tensors = {name: torch.from_numpy(rows).to(device) for name, rows in batch.items()}
        with torch.inference_mode():
            return model(**tensors).logits.cpu()

    return run


def onnx_engine(path: Path, threads: int, device: str) -> Engine:
    """ONNX Runtime with the options of runtime/classifier.py."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(path, options, providers=[provider])
    if provider not in session.get_providers():  # it would take the CPU and say nothing
        raise click.ClickException(f"onnxruntime has no {provider}; pip install onnxruntime-gpu")
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


def summary(speeds: Sequence[Speed], device: str) -> dict[str, Any]:
    """All speeds, the best batch size of each engine, and their ratio round by round."""
    best: dict[str, Speed] = {}
    for each in speeds:
        if each.engine not in best or each.median > best[each.engine].median:
            best[each.engine] = each
    onnx, torch = best[OURS[device]], best[THEIRS[device]]
    rounds = onnx.rounds, torch.rounds
    return {
        "speeds": [{**asdict(each), "median": each.median} for each in speeds],
        "torch_texts_per_second": torch.median,
        "onnx_texts_per_second": onnx.median,
        "ratios": [by_round(f"texts per second, {OURS[device]}", THEIRS[device], *rounds)],
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
            f"{speed['engine']:<26}  batch {speed['batch_size']}  {speed['median']:.2f} texts/s"
            f"  (rounds {rounds})"
        )
    return "\n".join([*lines, *ratios.lines(report["ratios"])])


if __name__ == "__main__":
    main()
