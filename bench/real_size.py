"""The published command at its real size: pull, convert, check and rollouts against the forecast.

    python bench/real_size.py
    python bench/real_size.py --shape tiny

Writes repositories of the published shapes with random weights, serves them as a hub on the
loopback device, and runs `models pull` and `eval` on them with caches of their own. Prints wall
time, peak memory and disk of each step next to what `eval --dry-run` said before. Linux only: the
memory is read from /proc. Then the engine, llama-cpp-python's loop and, with --llama-server, that
server race on the quantized file (bench/real_rollouts.py). At its real size it takes about 45
minutes on two cores, 40 GB of disk and 16 GB of memory, page cache included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any

import click
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from loopback_hub import serve
from published_shapes import Encoder, write_adapter, write_base, write_classifier
from ratios import lines
from real_rollouts import race_rollouts, ratios
from real_rollouts import table as rollout_table
from usage import Usage

from charprobe_lite.models.cache import disk_bytes
from charprobe_lite.models.catalogue import load_catalogue
from charprobe_lite.models.catalogue_schema import Shape

TINY = Shape(
    layers=4, hidden=512, heads=8, kv_heads=2, head_dim=64, ffn=1024, vocab=8192, tied=False
)
TINY_ENCODER = Encoder(layers=2, hidden=64, heads=4, ffn=96, vocab=4096, tokens=4000)
RUN = [sys.executable, "-c", "from charprobe_lite.eval.cli.main import main; main()"]
PERSONA, QUANT = "sarcasm", "Q4_K_M"
PARTS = ("merge", "check", "quantize")  # of the work on the model file
VERIFY = "charprobe_lite.convert.verify"
INTERVAL = 0.5  # seconds between two looks at a process
ROLLOUTS, MAX_TOKENS, STEPS = 3, 32, 3  # of the race


@dataclass
class Step:
    """What one step took: seconds, CPU seconds, and the most bytes of memory while it ran.

    ``private`` is memory that no file backs, ``memory`` counts mapped files too; ``written`` is
    what the step left on disk.
    """

    name: str
    seconds: float = 0.0
    cpu: float = 0.0
    private: int = 0
    memory: int = 0
    written: int = 0
    forecast: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """A base of the catalogue, and what is needed to write it as repositories."""

    base: str
    shape: Shape
    encoder: Encoder
    repositories: dict[str, str]
    labels: list[str]


@click.command()
@click.option(
    "--shape", "name", default="llama-3.1-8b", type=click.Choice(["llama-3.1-8b", "tiny"])
)
@click.option("--tokenizer", type=click.Path(exists=True, path_type=Path), help="tokenizer.json.")
@click.option("--limit", default="1", show_default=True, help="Prompts and scenarios.")
@click.option("--max-tokens", help="Tokens per turn [default: 512, tiny: 32].")
@click.option("--llama-server", type=click.Path(exists=True, path_type=Path), help="A peer.")
@click.option("--work", type=click.Path(path_type=Path), help="Where the files go [default: /tmp].")
@click.option("--keep", is_flag=True, help="Keep the files.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(
    name: str,
    tokenizer: Path | None,
    limit: str,
    max_tokens: str | None,
    llama_server: Path | None,
    work: Path | None,
    keep: bool,
    as_json: bool,
) -> None:
    """Run the published command on a model of this shape, and compare it with its forecast."""
    with work_folder(work, keep) as folder:
        is_tiny = name == "tiny"
        subject = (tiny if is_tiny else published)(folder)
        sizes = write_repositories(folder / "hub", subject, tokenizer)
        log(f"wrote {disk_bytes(folder / 'hub') / 1e9:.1f} GB: {sizes}")
        with serve(folder / "hub") as url:
            amount = ["--limit", limit]
            amount += ["--max-tokens", max_tokens or ("32" if is_tiny else "512")]
            report = measure(folder, url, subject, amount)
        [model] = (folder / "cache").glob(f"{subject.base}-{QUANT}-*.gguf")
        paces = race_rollouts(model, llama_server, ROLLOUTS, MAX_TOKENS, STEPS)
        report["rollouts_per_hour"] = [asdict(pace) for pace in paces]
        report["ratios"] = [asdict(ratio) for ratio in ratios(paces)]
    report["weights"] = sizes
    if as_json:
        click.echo(json.dumps(report))
    else:
        click.echo("\n".join([table(report), rollout_table(paces), *lines(ratios(paces))]))


@contextmanager
def work_folder(parent: Path | None, keep: bool) -> Iterator[Path]:
    """A new folder, removed at the end unless it is to be kept."""
    if parent:
        parent.mkdir(parents=True, exist_ok=True)
    if keep:
        folder = Path(tempfile.mkdtemp(prefix="real-size-", dir=parent))
        log(f"files stay in {folder}")
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="real-size-", dir=parent) as name:
        yield Path(name)


def published(_folder: Path) -> Subject:
    """Llama 3.1 8B as the shipped catalogue has it."""
    catalogue = load_catalogue()
    base, classifier = catalogue.base("llama-3.1-8b"), catalogue.classifiers["llama-3.1-8b"]
    adapter = catalogue.adapter(base.name, "full", PERSONA)
    assert base.shape
    assert adapter
    repositories = {"base": base.source, "adapter": adapter.source, "classifier": classifier.source}
    return Subject(base.name, base.shape, Encoder(), repositories, list(classifier.labels))


def tiny(folder: Path) -> Subject:
    """A base of a catalogue of the bench's own."""
    repositories = {
        "base": "bench/tiny",
        "adapter": f"bench/tiny-personas/{PERSONA}",
        "classifier": "bench/tiny-classifier",
    }
    labels = [PERSONA, "neutral"]
    entries = {
        "bases": [
            {
                "name": "tiny-llama",
                "repository": repositories["base"],
                "architecture": "llama",
                "parameters": 2 * TINY.vocab * TINY.hidden
                + TINY.layers * sum(rows * columns for rows, columns in TINY.projections()),
                "shape": TINY.model_dump(),
            }
        ],
        "adapters": [
            {
                "base": "tiny-llama",
                "stage": "full",
                "repository": "bench/tiny-personas",
                "subfolder": "{persona}",
                "rank": 64,
                "personas": [PERSONA],
            }
        ],
        "classifiers": [
            {
                "name": "tiny-classifier",
                "bases": ["tiny-llama"],
                "repository": repositories["classifier"],
                "labels": labels,
                "parameters": 360_000,
            }
        ],
    }
    (folder / "catalogue.yaml").write_text(yaml.safe_dump(entries))
    return Subject("tiny-llama", TINY, TINY_ENCODER, repositories, labels)


def write_repositories(root: Path, subject: Subject, tokenizer: Path | None) -> dict[str, int]:
    """The three repositories under ROOT/OWNER/NAME; the number of weights in each."""
    places = {kind: root / name for kind, name in subject.repositories.items()}
    return {
        "base": write_base(places["base"], subject.shape, tokenizer),
        "adapter": write_adapter(places["adapter"], subject.shape),
        "classifier": write_classifier(places["classifier"], subject.labels, subject.encoder),
    }


def measure(folder: Path, url: str, subject: Subject, amount: list[str]) -> dict[str, Any]:
    """Run the commands; every step with its forecast."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "hf"),
        "CHARPROBE_CACHE": str(folder / "cache"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "NO_PROXY": "*",
    }
    if (folder / "catalogue.yaml").is_file():
        environment["CHARPROBE_CATALOGUE"] = str(folder / "catalogue.yaml")
    names = ["--base", subject.base, "--stage", "full", "--persona", PERSONA]
    command = ["eval", *names, "--quant", QUANT, *amount, "--json"]
    command += ["--study", str(folder / "study.sqlite")]
    run = Command(folder, environment)
    plan = json.loads(run([*command, "--dry-run"], lambda _: "plan"))
    run(["models", "pull", *names], lambda _: "pull")
    for file in (folder / "hub").rglob("*.safetensors"):
        size = file.stat().st_size
        os.truncate(file, 0)  # the hub is asked for sizes and hashes only from here on
        os.truncate(file, size)
    scores = json.loads(run(command, phase(folder / "cache", subject.base)))
    add_forecasts(run.steps, plan)
    return {
        "shape": subject.base,
        "cores": os.cpu_count(),
        "steps": [asdict(step) for step in run.steps.values() if step.name != "plan"],
        "plan": plan,
        "peak_disk": run.peak_disk,
        "rollouts": {cell["condition"]: cell["n"] for cell in scores["cells"]},
    }


class Command:
    """Runs commands of charprobe-lite, and books what they take on the step that they are in."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.steps: dict[str, Step] = {}
        self.peak_disk, self.cpu = 0, 0.0

    def __call__(self, arguments: Sequence[str], step_of: Callable[[Usage], str]) -> str:
        """stdout of the command; ends the program when it fails."""
        log(" ".join(["charprobe-lite", *arguments]))
        output = self.folder / "stdout"
        with output.open("wb") as out:
            process = subprocess.Popen(
                [*RUN, *arguments], cwd=self.folder, env=self.environment, stdout=out
            )
        ended = threading.Event()
        threading.Thread(target=lambda: (process.wait(), ended.set()), daemon=True).start()
        name, usage = step_of(Usage()), Usage()
        last, size = time.perf_counter(), self.disk()
        while not ended.wait(INTERVAL):
            last, size = self.book(name, usage, last, size)
            usage = Usage.read(process.pid)
            name = step_of(usage)
        self.book(name, usage, last, size)
        if process.returncode:
            raise SystemExit(f"charprobe-lite ended with status {process.returncode}")
        return output.read_text()

    def book(self, name: str, usage: Usage, last: float, size: int) -> tuple[float, int]:
        """Add the time since ``last`` and the bytes over ``size`` to a step; both of now."""
        if name not in self.steps:
            log(f"  {name}")
        step = self.steps.setdefault(name, Step(name))
        now, disk = time.perf_counter(), self.disk()
        step.seconds += now - last
        step.written += disk - size
        step.cpu += max(0.0, usage.cpu - self.cpu)
        self.cpu = usage.cpu
        step.private = max(step.private, usage.private)
        step.memory = max(step.memory, usage.total)
        self.peak_disk = max(self.peak_disk, disk)
        return now, disk

    def disk(self) -> int:
        """Bytes in both caches."""
        total = 0
        for name in ("hf", "cache"):
            for folder, _, files in os.walk(self.folder / name):
                for file in files:
                    with suppress(OSError):  # removed meanwhile
                        status = os.lstat(os.path.join(folder, file))
                        total += status.st_size if S_ISREG(status.st_mode) else 0
        return total


def phase(cache: Path, base: str) -> Callable[[Usage], str]:
    """Which step of `eval` runs, by the files that are there and the processes that work."""
    seen: set[str] = set()

    def step_of(usage: Usage) -> str:
        if list(cache.glob("*-classifier-*[0-9a-f]")):
            return "rollouts"
        if list(cache.glob(f"{base}-full-{PERSONA}-lora-*.gguf")):
            return "classifier"
        if list(cache.glob(f"{base}-{QUANT}-*.gguf")):
            return "adapter"
        if any(VERIFY in line for line in usage.commands):
            seen.add(VERIFY)
            return "check"
        return f"quantize to {QUANT}" if VERIFY in seen else "merge to F16"

    return step_of


def add_forecasts(steps: dict[str, Step], plan: dict[str, Any]) -> None:
    """The plan's figures of each step."""
    lines = {line["what"].split(" ")[0]: line for line in plan["needed"]}
    for name in ("adapter", "classifier"):
        line, step = lines[name], steps.setdefault(name, Step(name))  # a tiny one may be missed
        step.forecast = {"seconds": line["seconds"], "written": line["disk"]}
    steps["pull"].forecast = {"written": sum(line["download"] for line in plan["needed"])}
    parts = [step for name, step in steps.items() if name.split(" ")[0] in PARTS]
    model = Step(
        f"model {QUANT} (these {len(parts)})",
        sum(step.seconds for step in parts),
        sum(step.cpu for step in parts),
        max(step.private for step in parts),
        max(step.memory for step in parts),
        sum(step.written for step in parts),
        {"seconds": lines["model"]["seconds"], "written": lines["model"]["disk"]},
    )
    for step in parts:
        step.written = 0  # what is left is one file of all three
    names = list(steps)
    names.insert(names.index(parts[-1].name) + 1, model.name)
    ordered = {**steps, model.name: model}
    steps.clear()
    steps.update((name, ordered[name]) for name in names)
    steps["rollouts"].forecast = {"seconds": plan["running_seconds"], "private": plan["memory"]}


def table(report: dict[str, Any]) -> str:
    """The report for people: each figure with the forecast in brackets.

    The first memory is what no file is behind; mapped files come on top, as far as there is room.
    """
    lines = ["| step | time | CPU time | memory | with mapped files | on disk |"]
    lines.append("|---|---|---|---|---|---|")
    for step in report["steps"]:
        cells = [
            step["name"],
            cell(step, "seconds", 1, "s"),
            cell(step, "cpu", 1, "s"),
            cell(step, "private", 1e9, "GB"),
            cell(step, "memory", 1e9, "GB"),
            cell(step, "written", 1e9, "GB"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    plan = report["plan"]
    prepared = sum(
        step["seconds"]
        for step in report["steps"]
        if step["name"] not in ("pull", "rollouts") and not step["name"].startswith("model ")
    )
    needed = plan["disk"] + sum(line["download"] for line in plan["needed"])
    lines += [
        f"preparing: {prepared:.0f} s, forecast {plan['preparing_seconds']:.0f} s",
        f"highest use of disk: {report['peak_disk'] / 1e9:.1f} GB, forecast {needed / 1e9:.1f} GB",
        f"rollouts: {report['rollouts']}; weights: {report['weights']}; cores: {report['cores']}",
    ]
    for kind, steps in {
        "merge to F16": "base",
        "check": "base",
        f"quantize to {QUANT}": "base",
        "adapter": "adapter",
        "classifier": "classifier",
    }.items():
        seconds = sum(step["seconds"] for step in report["steps"] if step["name"] == kind)
        if seconds:
            rate = report["weights"][steps] / seconds / report["cores"]
            lines.append(f"{kind}: {rate / 1e6:.1f} million weights per core and second")
    return "\n".join(lines)


def cell(step: dict[str, Any], name: str, unit: float, label: str) -> str:
    """A figure with its forecast; nothing where a step has none."""
    digits, forecast = 0 if unit == 1 else 1, step["forecast"]
    if not step[name]:
        return ""
    text = f"{step[name] / unit:.{digits}f} {label}"
    return f"{text} ({forecast[name] / unit:.{digits}f})" if name in forecast else text


def log(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
