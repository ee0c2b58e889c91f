"""The engine against other ways to run the same rollouts, and against llama.cpp's own limit.

    python bench/engine.py [--llama-server PATH] [--part NAME] [--chart FILE] [--json]

On the kit's base, side by side in one run, every contestant by turns in every round; every figure
ends as a ratio to a named peer, round by round:

- rollouts per minute (agentic_email, 16 scenarios) and chat answers per minute (32 prompts) of
  the engine, of a loop over `llama_cpp.Llama.create_chat_completion`, of `transformers.generate`
  (chat alone: batch 8) and, with --llama-server, of llama.cpp's server with 8 slots, which
  bench/llama_tools.sh builds;
- decoding inside the engine against `llama_decode` alone: the engine's own batches (same
  sequences, positions and outputs) are evaluated again with random tokens and nothing else;
- how many chat answers are the same, to the letter, with 8 and 16 sequences as with one;
- what a grammar costs per token, llguidance's masks against llama.cpp's own grammar sampler;
- peak memory with one persona and with ten, and the time from a command to its first token, both
  next to llama-cpp-python;
- throughput against the number of sequences and against the shared prefix, per quant type; --chart
  draws both into FILE (needs matplotlib).

About an hour on two cores.
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
from engine_curves import Curves, draw
from ratios import Ratio, by_round, lines
from rollouts import agentic_jobs, chat_jobs, note

from charprobe_lite.eval.study.checkpoints import kit_base
from charprobe_lite.models.kit import kit_folder
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.backend import Job
from charprobe_lite.runtime.device import gpu_layers
from charprobe_lite.runtime.engine import Engine

Run = Callable[[list[Job]], Iterator[tuple[Job, Any]]]
Contestant = Callable[[], AbstractContextManager[Run]]
"""What runs the rollouts, ready to begin with an empty cache, as a study of a checkpoint does."""
OURS, MORE = "engine, 8 sequences", "engine, 16 sequences"
LOOP, SERVER, VLLM = "llama-cpp-python loop", "llama-server, 8 slots", "vLLM, 8 sequences"
TORCH = "transformers.generate, batch 8"
NO_SERVER = "needs --llama-server PATH; bench/llama_tools.sh builds one"


@dataclass(frozen=True)
class Pace:
    """One contestant on one task: rollouts per minute and tokens per rollout, by round."""

    name: str
    per_minute: list[float]
    tokens: list[float]


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
def load_contestants(
    model: Path, server: Path | None, vllm: Path | None = None, layers: int = 0
) -> Iterator[dict[str, Contestant]]:
    """All who run both tasks, loaded; all but the server keep their model in memory."""
    loop = peers.llama_cpp_python(model, layers)
    with ExitStack() as stack:
        loaded: dict[str, Contestant] = {}
        for parallel, name in ((8, OURS), (16, MORE)):
            engine = stack.enter_context(peers.fast_engine(model, parallel, layers))
            loaded[name] = partial(empty_engine, engine)
        loaded[LOOP] = lambda: nullcontext(lambda jobs: peers.one_by_one(loop, jobs))
        if server:
            loaded[SERVER] = partial(peers.llama_server, server, model, 8, layers)
        if vllm:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            peers.write_checkpoint(kit_base("F16"), folder)
            loaded[VLLM] = partial(peers.vllm_server, vllm, folder, 8)
        yield loaded


@contextmanager
def empty_engine(engine: Engine) -> Iterator[Run]:
    engine.clear()
    yield engine.run


def same_texts(model: Path, count: int, sequences: list[int]) -> dict[str, float]:
    """Share of chat answers that are the same with several sequences as with one, same seeds."""
    texts = {}
    for parallel in (1, *sequences):
        with peers.fast_engine(model, parallel) as engine:
            texts[parallel] = {
                job.key: result.text for job, result in engine.run(chat_jobs(count, 0))
            }
    return {
        str(parallel): sum(answers[key] == text for key, text in texts[1].items()) / count
        for parallel, answers in texts.items()
        if parallel > 1
    }


MEASURED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
start = time.time()
{code}
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""
FIRST_TOKEN = """import llama_cpp, llama_cpp_peer
llama_cpp_peer.spare_amx()
llama = llama_cpp.Llama({model!r}, n_ctx=2560, verbose=False)
llama.create_chat_completion([{{"role": "user", "content": "Hello"}}], max_tokens=1)"""
LOOP_ANSWERS = """import peers, rollouts
from pathlib import Path
loop = peers.llama_cpp_python(Path({model!r}))
list(peers.one_by_one(loop, rollouts.chat_jobs(8, 0)))"""


def run_personas(personas: list[str]) -> None:
    with peers.fast_engine(kit_base(), 8) as engine:
        for persona in personas:
            engine.use_adapter(kit_folder() / f"{persona}-full.gguf")
            list(engine.run(chat_jobs(8, 0)))


def in_child(code: str) -> float:
    """Peak resident megabytes of a process that runs the code."""
    code = MEASURED.format(folder=str(Path(__file__).parent), code=code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


def peak_memory() -> dict[str, float]:
    """Megabytes of 8 chat answers with one persona, with ten by turns, and of the loop."""
    ours = {
        f"personas: {count}": in_child(f"import engine\nengine.run_personas({PERSONAS[:count]!r})")
        for count in (1, 10)
    }
    return {**ours, LOOP: in_child(LOOP_ANSWERS.format(model=str(kit_base())))}


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


def start_times(rounds: int) -> dict[str, list[float]]:
    """Seconds to the first token, by turns with llama-cpp-python in a process of its own."""
    times: dict[str, list[float]] = {"eval": [], LOOP: []}
    code = FIRST_TOKEN.format(model=str(kit_base()))
    for _ in range(rounds):
        times["eval"].append(first_token())
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        times[LOOP].append(time.perf_counter() - start)
    return times


PARTS = ("rollouts", "chat", "decode", "texts", "grammar", "memory", "start", "curves")


@click.command()
@click.option("--llama-server", type=click.Path(path_type=Path, exists=True))
@click.option("--vllm", type=click.Path(path_type=Path, exists=True), help="vLLM's program.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--scenarios", default=16, show_default=True, type=click.IntRange(1, 50))
@click.option("--prompts", default=32, show_default=True, type=click.IntRange(1, 60))
@click.option("--part", multiple=True, type=click.Choice(PARTS), help="Only this; repeatable.")
@click.option("--sequences", default="8,16", show_default=True, help="For decode and texts.")
@click.option("--chart", type=click.Path(path_type=Path), help="Draw the curves into FILE.")
@click.option("--quant", default="F16,Q8_0,Q4_0", show_default=True, help="For the curves.")
@click.option("--points", default="1,2,4,8,16,32", show_default=True, help="Sequences, likewise.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(
    llama_server: Path | None,
    vllm: Path | None,
    rounds: int,
    scenarios: int,
    prompts: int,
    part: tuple[str, ...],
    sequences: str,
    chart: Path | None,
    quant: str,
    points: str,
    device: str,
    as_json: bool,
) -> None:
    """Measure the engine against its peers and against llama.cpp's own limit."""
    model, parts, layers = kit_base(), part or PARTS, gpu_layers(device)
    report: dict[str, Any] = {"races": {}, "weights_megabytes": model.stat().st_size / 2**20}
    if {"rollouts", "chat"} & set(parts):
        with load_contestants(model, llama_server, vllm, layers) as contestants:
            if "rollouts" in parts:
                paces = race(contestants, agentic_jobs, scenarios, rounds)
                report["races"]["agentic_email"] = paces
            if "chat" in parts:
                rows = peers.Transformers(kit_base("BF16"), 8, device)
                contestants[TORCH] = lambda: nullcontext(rows.run)
                report["races"]["chat"] = race(contestants, chat_jobs, prompts, rounds)
    counts = list(map(int, sequences.split(",")))
    measures: dict[str, Callable[[], Any]] = {
        "decode": lambda: {str(n): against_llama_decode(model, n, rounds) for n in counts},
        "texts": lambda: same_texts(model, prompts, counts),
        "grammar": lambda: [grammar_costs(model) for _ in range(rounds)],
        "memory": peak_memory,
        "start": lambda: start_times(rounds),
        "curves": lambda: Curves.measure(
            quant.split(","), list(map(int, points.split(","))), rounds, prompts
        ),
    }
    for name in measures:
        if name in parts:
            report[name] = measures[name]()
            note(f"{name}: {report[name]}")
    if chart and "curves" in report:
        draw(chart, report["curves"])
    found = ratios(report)
    report["ratios"] = found
    if as_json:
        click.echo(json.dumps(report, default=asdict))
    else:
        click.echo("\n".join([*report_lines(report), *lines(found)]))


def ratios(report: dict[str, Any]) -> list[Ratio]:
    """Every figure over its peer's."""
    found = []
    for task, paces in report["races"].items():
        speeds = {pace.name: pace.per_minute for pace in paces}
        for peer in (LOOP, SERVER, VLLM, TORCH, MORE):
            figure = f"{task} per minute, {OURS}"
            if peer in speeds:
                found.append(by_round(figure, peer, speeds[OURS], speeds[peer]))
            elif peer == SERVER:
                found.append(Ratio(figure, peer, missing=NO_SERVER))
    for sequences, shares in report.get("decode", {}).items():
        for task, values in shares.items():
            figure = f"decoding speed, {task}, {sequences} sequences"
            found.append(Ratio(figure, "llama_decode alone", values))
    for sequences, same in report.get("texts", {}).items():
        figure = f"chat answers that are the same, {sequences} sequences"
        found.append(Ratio(figure, "one sequence", [same]))
    if costs := report.get("grammar"):
        values = [cost["llguidance"] / cost["llama.cpp"] for cost in costs]
        found.append(Ratio("time per token of a grammar", "llama.cpp's grammar sampler", values))
    if memory := report.get("memory"):
        one, ten, loop = memory["personas: 1"], memory["personas: 10"], memory[LOOP]
        found.append(Ratio("peak memory, ten personas", "one persona", [ten / one]))
        found.append(Ratio("peak memory, 8 sequences", f"{LOOP}, 1 sequence", [one / loop]))
    if times := report.get("start"):
        found.append(by_round("time to the first token", LOOP, times["eval"], times[LOOP]))
    return [*found, *(report["curves"].ratios() if "curves" in report else ())]


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    yield f"the weights: {report['weights_megabytes']:.0f} MB"
    for task, paces in report["races"].items():
        for pace in paces:
            low, high = min(pace.per_minute), max(pace.per_minute)
            yield (
                f"{task:<14} {pace.name:<30} {statistics.median(pace.per_minute):6.1f} per minute "
                f"({low:.1f} to {high:.1f}), {statistics.mean(pace.tokens):.0f} tokens each"
            )
    for cost in report.get("grammar", []):
        yield "; ".join(f"grammar, {name}: {c:.0f} microseconds" for name, c in cost.items())
    for what, megabytes in report.get("memory", {}).items():
        yield f"peak memory, {what}: {megabytes:.0f} MB"
    for what, seconds in report.get("start", {}).items():
        yield f"to the first token, {what}: {', '.join(f'{each:.2f} s' for each in seconds)}"


if __name__ == "__main__":
    main()
