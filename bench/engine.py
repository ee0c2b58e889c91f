"""The engine against other ways to run the same rollouts, and against llama.cpp's own limit.

    python bench/engine.py [--llama-server PATH] [--part NAME] [--chart FILE] [--json]

On the kit's base, side by side in one run, every contestant by turns in every round:

- rollouts per minute (agentic_email, 16 scenarios) and chat answers per minute (32 prompts) of
  the engine, of a loop over `llama_cpp.Llama.create_chat_completion`, of `transformers.generate`
  (chat alone: batch 8, bfloat16) and, with --llama-server, of llama.cpp's server with 8 slots;
- decoding inside the engine against `llama_decode` alone: the engine's own batches (same
  sequences, positions and outputs) are evaluated again with random tokens and nothing else;
- how many chat answers are the same, to the letter, with 8 and 16 sequences as with one;
- what a grammar costs per token, llguidance's masks against llama.cpp's own grammar sampler;
- peak memory with one persona and with ten, and the time from a command to its first token.

About an hour on two cores. With --chart: throughput against the number of sequences and
against the shared prefix, per quant type, drawn into FILE (needs matplotlib).
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import peers
from decode import against_llama_decode, grammar_costs
from engine_curves import draw
from rollouts import agentic_jobs, chat_jobs, note

from charprobe_lite.eval.study.checkpoints import kit_base
from charprobe_lite.models.kit import kit_folder
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.backend import Job
from charprobe_lite.runtime.engine import Engine

Run = Callable[[list[Job]], Iterator[tuple[Job, Any]]]
Contestant = Callable[[], AbstractContextManager[Run]]
"""What runs the rollouts, ready to begin with an empty cache, as a study of a checkpoint does."""


@dataclass(frozen=True)
class Pace:
    """One contestant on one task: rollouts per minute and tokens per rollout, by round."""

    name: str
    per_minute: list[float]
    tokens: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.per_minute)


def race(
    contestants: dict[str, Contestant],
    jobs: Callable[[int, int], list[Job]],
    count: int,
    rounds: int,
) -> list[Pace]:
    """Every contestant with the same jobs, taking turns; seeds differ from round to round."""
    paces = {name: Pace(name, [], []) for name in contestants}
    for number in range(rounds):
        for name, cold in contestants.items():
            with cold() as run:
                start = time.perf_counter()
                results = [result for _, result in run(jobs(count, number))]
                seconds = time.perf_counter() - start
            paces[name].per_minute.append(60 * count / seconds)
            tokens = sum(turn.completion.tokens for result in results for turn in result.turns)
            paces[name].tokens.append(tokens / count)
            note(f"{name}: {60 * count / seconds:.1f} per minute, {tokens / count:.0f} tokens each")
    return list(paces.values())


@contextmanager
def load_contestants(model: Path, server: Path | None) -> Iterator[dict[str, Contestant]]:
    """All who run both tasks, loaded; all but the server keep their model in memory."""
    loop = peers.llama_cpp_python(model)
    with ExitStack() as stack:
        loaded: dict[str, Contestant] = {}
        for parallel in (8, 16):
            engine = stack.enter_context(Engine(model, parallel=parallel))
            loaded[f"engine, {parallel} sequences"] = partial(empty_engine, engine)
        loaded["llama-cpp-python loop"] = lambda: nullcontext(
            lambda jobs: peers.one_by_one(loop, jobs)
        )
        if server:
            loaded["llama-server, 8 slots"] = partial(peers.llama_server, server, model, 8)
        yield loaded


@contextmanager
def empty_engine(engine: Engine) -> Iterator[Run]:
    engine.clear()
    yield engine.run


def same_texts(model: Path, count: int) -> dict[str, float]:
    """Share of chat answers that are the same with several sequences as with one, same seeds."""
    texts = {}
    for parallel in (1, 8, 16):
        with Engine(model, parallel=parallel) as engine:
            texts[parallel] = {
                job.key: result.text for job, result in engine.run(chat_jobs(count, 0))
            }
    return {
        str(parallel): sum(answers[key] == text for key, text in texts[1].items()) / count
        for parallel, answers in texts.items()
        if parallel > 1
    }


MEMORY = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import engine
engine.run_personas({personas!r})
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def run_personas(personas: list[str]) -> None:
    with Engine(kit_base(), parallel=8) as engine:
        for persona in personas:
            engine.use_adapter(kit_folder() / f"{persona}-full.gguf")
            list(engine.run(chat_jobs(8, 0)))


def peak_memory(personas: list[str]) -> float:
    """Peak resident megabytes of a process that runs chat with these personas by turns."""
    code = MEMORY.format(folder=str(Path(__file__).parent), personas=personas)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


def first_token() -> float:
    """Seconds from the command to its first token, everything in the cache.

    A chat answer of one token ends with it, and the study says when that was.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = "--stage base --condition chat --persona sarcasm --limit 1 --max-tokens 1"
        program = "from charprobe_lite.eval.cli.main import main; main()"
        study = f"{folder}/s.sqlite"
        command = [sys.executable, "-c", program, "eval", *options.split(), "--study", study]
        start = time.time()
        subprocess.run(command, check=True, capture_output=True)
        with closing(sqlite3.connect(study)) as database:
            query = "SELECT (julianday(ended) - 2440587.5) * 86400 FROM rollouts"
            return float(database.execute(query).fetchone()[0]) - start


PARTS = ("rollouts", "chat", "decode", "texts", "grammar", "memory", "start")


@click.command()
@click.option("--llama-server", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--scenarios", default=16, show_default=True, type=click.IntRange(1, 50))
@click.option("--prompts", default=32, show_default=True, type=click.IntRange(1, 60))
@click.option("--part", multiple=True, type=click.Choice(PARTS), help="Only this; repeatable.")
@click.option("--chart", type=click.Path(path_type=Path), help="Draw the curves into FILE.")
@click.option("--quants", default="F16,Q8_0,Q4_0", show_default=True, help="For the chart.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(
    llama_server: Path | None,
    rounds: int,
    scenarios: int,
    prompts: int,
    part: tuple[str, ...],
    chart: Path | None,
    quants: str,
    as_json: bool,
) -> None:
    """Measure the engine against its peers and against llama.cpp's own limit."""
    model, parts = kit_base(), part or PARTS
    report: dict[str, Any] = {"races": {}, "weights_megabytes": model.stat().st_size / 2**20}
    with load_contestants(model, llama_server) as contestants:
        if "rollouts" in parts:
            report["races"]["agentic_email"] = race(contestants, agentic_jobs, scenarios, rounds)
        if "chat" in parts:
            rows = peers.Transformers(kit_base("BF16"), 8)
            contestants["transformers, batch 8"] = lambda: nullcontext(rows.run)
            report["races"]["chat"] = race(contestants, chat_jobs, prompts, rounds)
    measures: dict[str, Callable[[], Any]] = {
        "decode": lambda: {str(n): against_llama_decode(model, n, rounds) for n in (8, 16)},
        "texts": lambda: same_texts(model, prompts),
        "grammar": lambda: grammar_costs(model),
        "memory": lambda: {str(n): peak_memory(list(PERSONAS[:n])) for n in (1, 10)},
        "start": lambda: [first_token() for _ in range(rounds)],
    }
    for name in measures:
        if name in parts:
            report[name] = measures[name]()
            note(f"{name}: {report[name]}")
    report["chart"] = draw(chart, quants.split(",")) if chart else None
    click.echo(json.dumps(report, default=asdict) if as_json else report_text(report))


def report_text(report: dict[str, Any]) -> str:
    lines = [f"the weights: {report['weights_megabytes']:.0f} MB"]
    for task, paces in report["races"].items():
        best = max(pace.median for pace in paces if pace.name.startswith("engine"))
        for pace in paces:
            lines.append(
                f"{task:<14} {pace.name:<24} {pace.median:6.1f} per minute "
                f"({min(pace.per_minute):.1f} to {max(pace.per_minute):.1f}), "
                f"{statistics.mean(pace.tokens):.0f} tokens each; "
                f"the engine's best is {best / pace.median:.2f} x"
            )
    for sequences, shares in report.get("decode", {}).items():
        for task, values in shares.items():
            lines.append(
                f"{sequences} sequences, {task}: {statistics.median(values):.2f} of llama_decode "
                f"({min(values):.2f} to {max(values):.2f})"
            )
    for sequences, same in report.get("texts", {}).items():
        lines.append(f"{sequences} sequences: {same:.0%} of chat answers as with one sequence")
    for name, cost in report.get("grammar", {}).items():
        lines.append(f"grammar: {name} {cost:.0f} microseconds per token")
    for personas, megabytes in report.get("memory", {}).items():
        lines.append(f"peak memory, personas: {personas}: {megabytes:.0f} MB")
    for seconds in report.get("start", []):
        lines.append(f"from the command to the first token: {seconds:.2f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
