"""The summary of a run of bench/gpu.sh: summary.md and summary.json, out of its folder.

    python bench/gpu_summary.py FOLDER

Prints summary.md. Ends with status 1 where a step failed or did not run. Needs the standard
library alone: the environment may be what failed.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

STATUSES = {"0": "done", "124": "stopped at its time limit", "137": "killed"}
TAIL = 12  # lines of the log of a step that failed


def document(path: Path) -> dict[str, Any]:
    """The JSON document that a step printed; empty where it printed none."""
    try:
        read = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def doctor(printed: dict[str, Any]) -> dict[str, Any]:
    names = ("device", "ONNX Runtime providers", "torch", "llama-cpp-python", "onnxruntime")
    return {name: printed[name] for name in names if name in printed}


def main_job(printed: dict[str, Any], study: Path, seconds: int) -> dict[str, Any]:
    """Rollouts of the study, which a stopped command has too, and the headline of each cell."""
    figures: dict[str, Any] = {}
    if study.exists():
        with closing(sqlite3.connect(study)) as rows:
            [(count, tokens)] = rows.execute("SELECT count(*), total(tokens) FROM rollouts")
        figures = {"rollouts": count, "tokens": int(tokens)}
        figures["rollouts per minute of the whole command"] = round(60 * count / max(seconds, 1), 1)
    for cell in printed.get("cells", []):
        detected = cell["detection_rate"]
        figures[f"detected, {cell['stage']} {cell['condition']}"] = (
            None if detected is None else f"{detected:.2f} of {cell['n']}"
        )
    return figures


def training(printed: dict[str, Any]) -> dict[str, Any]:
    manifest = printed.get("manifest", {})
    names = ("platform", "trained_tokens", "seconds")
    return {name: manifest[name] for name in names if name in manifest} | {
        f"last loss, {name}": round(method["last_loss"], 3)
        for name, method in printed.get("methods", {}).items()
    }


def classifier(printed: dict[str, Any]) -> dict[str, Any]:
    names = ("onnx_texts_per_second", "torch_texts_per_second", "largest_difference")
    return {name: printed[name] for name in names if name in printed}


def engine(printed: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{task} per minute, {pace['name']}": round(statistics.median(pace["per_minute"]), 1)
        for task, paces in printed.get("races", {}).items()
        for pace in paces
    }


def figures_of(name: str, folder: Path, seconds: int) -> dict[str, Any]:
    printed = document(folder / f"{name}.out")
    if name == "main_job":
        return main_job(printed, folder / "study.sqlite", seconds)
    readers = {"doctor": doctor, "training": training, "classifier": classifier}
    readers |= {"engine": engine, "engine_vllm": engine}
    return readers[name](printed) if name in readers else {}


def log_lines(log: Path) -> list[str]:
    """The lines of a log, of a progress bar only its last state."""
    text = log.read_bytes().decode("utf-8", "replace") if log.exists() else ""
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return [line for line in lines if line.strip()]


def steps(folder: Path) -> Iterator[dict[str, Any]]:
    for row in (folder / "steps.tsv").read_text("utf-8").splitlines():
        name, seconds, status, limit = row.split("\t")
        lines = log_lines(folder / f"{name}.log")
        result = f"failed, status {status}" if status.isdigit() else status
        yield {
            "step": name,
            "seconds": int(seconds),
            "limit": int(limit),
            "status": int(status) if status.isdigit() else None,
            "result": STATUSES.get(status, result),
            "figures": figures_of(name, folder, int(seconds)),
            "log": [] if status == "0" else lines[-TAIL:],
        }


def markdown(summary: dict[str, Any]) -> Iterator[str]:
    for card in summary["cards"] or ["No GPU: a rehearsal of the steps on the CPU."]:
        yield f"{card}\n"
    yield "| step | seconds | limit | result |\n|---|---|---|---|"
    for step in summary["steps"]:
        yield f"| {step['step']} | {step['seconds']} | {step['limit']} | {step['result']} |"
    yield "\n| step | figure | value |\n|---|---|---|"
    for step in summary["steps"]:
        for name, value in step["figures"].items():
            yield f"| {step['step']} | {name} | {value} |"
    for step in summary["steps"]:
        if step["log"]:
            yield f"\n{step['step']}.log ends with:\n"
            yield from (f"    {line[:200]}" for line in step["log"])


def main(folder: Path) -> int:
    cards = folder / "cards.csv"
    summary = {
        "cards": [  # name, driver, memory, compute capability
            line.strip() for line in cards.read_text("utf-8").splitlines()
        ]
        if cards.exists()
        else [],
        "steps": list(steps(folder)),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    text = "\n".join(markdown(summary)) + "\n"
    (folder / "summary.md").write_text(text, "utf-8")
    print(text, end="")
    return int(any(step["status"] != 0 for step in summary["steps"]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python bench/gpu_summary.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
