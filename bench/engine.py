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
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import llama_cpp as llama
import numpy as np
import peers

from charprobe_lite.eval.conditions import agentic_email, chat
from charprobe_lite.eval.conditions.condition import RolloutSettings
from charprobe_lite.eval.study.checkpoints import kit_base
from charprobe_lite.eval.study.runner import in_turn
from charprobe_lite.eval.study.seeds import rollout_seed
from charprobe_lite.models.kit import kit_folder
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.models.prompts import load_prompts
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Job, Message, Request, Rollout
from charprobe_lite.runtime.engine import Engine
from charprobe_lite.runtime.grammar import tool_call_grammar

MAX_TOKENS, MAX_STEPS = 384, 8
Run = Callable[[list[Job]], Iterator[tuple[Job, Any]]]
Contestant = Callable[[], AbstractContextManager[Run]]
"""What runs the rollouts, ready to begin with an empty cache, as a study of a checkpoint does."""


def agentic_jobs(count: int, seed: int) -> list[Job]:
    ask = RolloutSettings(MAX_TOKENS, MAX_STEPS, load_tools(), format="json", grammar="on")
    return [
        Job(
            scenario.id,
            rollout_seed(seed, "bench", item=scenario.id, sample=0),
            agentic_email.rollout(scenario, ask),
        )
        for scenario in in_turn(load_scenarios())[:count]
    ]


def chat_jobs(count: int, seed: int) -> list[Job]:
    return [
        Job(
            prompt.id,
            rollout_seed(seed, "bench", item=prompt.id, sample=0),
            chat.rollout(prompt, RolloutSettings(MAX_TOKENS)),
        )
        for prompt in load_prompts()[:count]
    ]


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
                started = time.perf_counter()
                results = [result for _, result in run(jobs(count, number))]
                took = time.perf_counter() - started
            paces[name].per_minute.append(60 * count / took)
            tokens = sum(turn.completion.tokens for each in results for turn in each.turns)
            paces[name].tokens.append(tokens / count)
            note(f"{name}: {60 * count / took:.1f} per minute, {tokens / count:.0f} tokens each")
    return list(paces.values())


@contextmanager
def contestants(model: Path, server: Path | None) -> Iterator[dict[str, Contestant]]:
    """All who run both tasks, loaded; each keeps its model in memory, but for the server."""
    loop = peers.llama_cpp_python(model)
    with ExitStack() as stack:
        found: dict[str, Contestant] = {}
        for parallel in (8, 16):
            engine = stack.enter_context(Engine(model, parallel=parallel))
            found[f"engine, {parallel} sequences"] = partial(emptied, engine)
        found["llama-cpp-python loop"] = lambda: nullcontext(
            lambda jobs: peers.one_after_the_other(loop, jobs)
        )
        if server:
            found["llama-server, 8 slots"] = partial(peers.llama_server, server, model, 8)
        yield found


@contextmanager
def emptied(engine: Engine) -> Iterator[Run]:
    engine.forget()
    yield engine.run


@dataclass(frozen=True)
class Batch:
    """What one llama_decode was given, and the time to the next one."""

    tokens: int
    sequences: list[int]
    positions: list[int]
    outputs: list[bool]
    seconds: float

    @property
    def decodes(self) -> bool:
        """Whether every sequence had one token, and its logits were asked for."""
        return all(self.outputs)


@contextmanager
def recorded(batches: list[Batch]) -> Iterator[None]:
    """Record every llama_decode of the engine with its time, its sampling included."""
    decode, started = llama.llama_decode, 0.0

    def record(context: Any, batch: Any) -> int:
        nonlocal started
        now, count = time.perf_counter(), batch.n_tokens
        if batches:
            batches[-1] = replace(batches[-1], seconds=now - started)
        batches.append(
            Batch(
                count,
                [batch.seq_id[i][0] for i in range(count)],
                list(batch.pos[:count]),
                [bool(batch.logits[i]) for i in range(count)],
                0.0,
            )
        )
        started = time.perf_counter()
        return int(decode(context, batch))

    llama.llama_decode = record
    try:
        yield
    finally:
        batches[-1] = replace(batches[-1], seconds=time.perf_counter() - started)
        llama.llama_decode = decode


def replay(engine: Engine, batches: list[Batch]) -> list[float]:
    """Seconds of each of the same batches with random tokens, and nothing but llama_decode.

    A sequence that goes back to an earlier position is cut there first, outside the time.
    """
    random, seconds = np.random.default_rng(0), []
    engine.forget()
    filled: dict[int, int] = {}
    for each in batches:
        for index in range(each.tokens):
            sequence, position = each.sequences[index], each.positions[index]
            if position < filled.get(sequence, 0):
                llama.llama_memory_seq_rm(engine._memory, sequence, position, -1)
            elif position > filled.get(sequence, 0):  # the engine copied a prefix here
                fill(engine, sequence, filled.get(sequence, 0), position)
            filled[sequence] = position + 1
            engine._batch.token[index] = int(random.integers(engine.model.vocabulary_size))
            engine._batch.pos[index] = position
            engine._batch.n_seq_id[index] = 1
            engine._batch.seq_id[index][0] = sequence
            engine._batch.logits[index] = each.outputs[index]
        engine._batch.n_tokens = each.tokens
        started = time.perf_counter()
        if llama.llama_decode(engine._context, engine._batch) != 0:
            raise RuntimeError("llama_decode refused a recorded batch")
        llama.llama_synchronize(engine._context)
        seconds.append(time.perf_counter() - started)
    engine.forget()
    return seconds


def fill(engine: Engine, sequence: int, start: int, end: int) -> None:
    """Evaluate tokens for the positions of a prefix that the engine copied."""
    batch = llama.llama_batch_init(end - start, 0, 1)
    for index in range(end - start):
        batch.token[index], batch.pos[index] = 1000, start + index
        batch.n_seq_id[index], batch.logits[index] = 1, False
        batch.seq_id[index][0] = sequence
    batch.n_tokens = end - start
    llama.llama_decode(engine._context, batch)
    llama.llama_batch_free(batch)


def against_llama_decode(model: Path, parallel: int, rounds: int) -> dict[str, list[float]]:
    """Share of llama_decode's own speed that the engine reaches, by task and round.

    ``free text``: batches in which every sequence decodes one token, of chat answers;
    ``JSON grammar``: the same of tool calls; ``whole rollouts``: every batch of those.
    """
    shares: dict[str, list[float]] = {"free text": [], "JSON grammar": [], "whole rollouts": []}
    with Engine(model, parallel=parallel) as engine:
        for number in range(rounds):
            for task, jobs in (("free text", chat_jobs), ("JSON grammar", agentic_jobs)):
                batches: list[Batch] = []
                engine.forget()
                with recorded(batches):
                    list(engine.run(jobs(2 * parallel, number)))
                limits = replay(engine, batches)
                pairs = [(b.seconds, t) for b, t in zip(batches, limits, strict=True) if b.decodes]
                shares[task].append(ratio(pairs))
                if task == "JSON grammar":
                    every = [(b.seconds, t) for b, t in zip(batches, limits, strict=True)]
                    shares["whole rollouts"].append(ratio(every))
    return shares


def ratio(pairs: list[tuple[float, float]]) -> float:
    """llama_decode's seconds over the engine's."""
    return sum(limit for _, limit in pairs) / sum(took for took, _ in pairs)


def same_texts(model: Path, count: int) -> dict[str, float]:
    """Share of chat answers that are the same with several sequences as with one, same seeds."""
    texts = {}
    for parallel in (1, 8, 16):
        with Engine(model, parallel=parallel) as engine:
            texts[parallel] = {
                job.key: found.text for job, found in engine.run(chat_jobs(count, 0))
            }
    return {
        str(parallel): sum(found[key] == text for key, text in texts[1].items()) / count
        for parallel, found in texts.items()
        if parallel > 1
    }


def grammar_costs(model: Path) -> dict[str, float]:
    """Microseconds per token of an email under the tool-call grammar."""
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    grammar = tool_call_grammar(load_tools())
    text = json.dumps({"name": "send_email", "arguments": {"to": ["a@b.example"]}})[:-2]
    text += ', "subject": "The pumps", "body": "' + "They come on Monday, all of them. " * 20
    with Engine(model, parallel=1) as engine:
        tokens = engine.model.tokenize(text)
        gbnf = json_schema_to_gbnf(grammar.schema).encode()
        size = engine.model.vocabulary_size
        kind = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        sampler = llama.llama_sampler_init_grammar(engine.model.vocab, gbnf, b"root")
        rows = np.zeros(size, kind)
        rows["id"] = np.arange(size)
        array = llama.llama_token_data_array(
            data=rows.ctypes.data_as(llama.llama_token_data_p), size=size, selected=-1, sorted=False
        )
        started = time.perf_counter()
        for token in tokens:
            llama.llama_sampler_apply(sampler, array)
            llama.llama_sampler_accept(sampler, token)
        native = time.perf_counter() - started
        llama.llama_sampler_free(sampler)
        state = engine._grammars.begin(grammar)
        started = time.perf_counter()
        for token in tokens:
            state.mask()
            state.accept(token)
        mask = time.perf_counter() - started
    return {"llama.cpp": 1e6 * native / len(tokens), "llguidance": 1e6 * mask / len(tokens)}


MEMORY = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import engine
engine.one_persona_after_the_other({personas!r})
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def one_persona_after_the_other(personas: list[str]) -> None:
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
        started = time.time()
        subprocess.run(command, check=True, capture_output=True)
        with closing(sqlite3.connect(study)) as database:
            query = "SELECT (julianday(ended) - 2440587.5) * 86400 FROM rollouts"
            return float(database.execute(query).fetchone()[0]) - started


def ask(messages: tuple[Message, ...], max_tokens: int) -> Rollout:
    completion = yield Request(messages, max_tokens)
    return completion


def sequences_curve(model: Path, counts: list[int]) -> list[float]:
    """Chat tokens per second with each number of sequences, two prompts per sequence."""
    speeds = []
    for parallel in counts:
        with Engine(model, parallel=parallel, context=1024) as engine:
            jobs = chat_jobs(min(60, max(8, 2 * parallel)), 0)
            started = time.perf_counter()
            results = [result for _, result in engine.run(jobs)]
            took = time.perf_counter() - started
        speeds.append(sum(r.turns[0].completion.tokens for r in results) / took)
        note(f"{model.name}: {parallel} sequences, {speeds[-1]:.0f} tokens/s")
    return speeds


def prefix_curve(model: Path, lengths: list[int]) -> list[float]:
    """Requests per minute: 16 prompts of 1,024 tokens, 16 to answer, by what they share."""
    words = "pump valve ledger clinic window garden letter engine basket silver " * 400
    speeds = []
    with Engine(model, parallel=8, context=1536) as engine:
        tokens = engine.model.tokenize(words)
        pieces = [engine.model.piece(token).decode() for token in tokens]
        for length in lengths:
            engine.forget()
            jobs = []
            for number in range(16):
                own = pieces[1 + number : 1 + number + 1024 - length]
                text = "".join(pieces[:length]) + f" {number * 7919}" + "".join(own)
                messages = ({"role": "user", "content": text},)
                jobs.append(Job(number, number, ask(messages, 16)))
            started = time.perf_counter()
            list(engine.run(jobs))
            speeds.append(60 * len(jobs) / (time.perf_counter() - started))
            note(f"{model.name}: {length} shared, {speeds[-1]:.0f} requests per minute")
    return speeds


def draw(path: Path, quants: list[str]) -> dict[str, Any]:
    """Both curves per quant type, as a figure; returns the numbers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts, lengths = [1, 2, 4, 8, 16, 32], [0, 256, 512, 768, 960]
    models = {quant: kit_base(quant) for quant in quants}
    by_sequences = {q: sequences_curve(model, counts) for q, model in models.items()}
    by_prefix = {q: prefix_curve(model, lengths) for q, model in models.items()}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for (quant, speeds), marker in zip(by_sequences.items(), "osD^v*", strict=False):
        left.plot(counts, speeds, marker=marker, label=quant)
        right.plot(lengths, by_prefix[quant], marker=marker, label=quant)
    left.set(xscale="log", xticks=counts, xlabel="sequences", ylabel="chat tokens per second")
    left.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    left.minorticks_off()
    right.set(xlabel="shared prefix, tokens of 1,024", ylabel="requests per minute")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    left.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return {"sequences": counts, **by_sequences, "prefix": lengths, "by_prefix": by_prefix}


def note(text: str) -> None:
    click.echo(text, err=True)


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
    with contestants(model, llama_server) as found:
        if "rollouts" in parts:
            report["races"]["agentic_email"] = race(found, agentic_jobs, scenarios, rounds)
        if "chat" in parts:
            rows = peers.Transformers(kit_base("BF16"), 8)
            found["transformers, batch 8"] = lambda: nullcontext(rows.run)
            report["races"]["chat"] = race(found, chat_jobs, prompts, rounds)
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
    click.echo(json.dumps(report, default=asdict) if as_json else shown(report))


def shown(report: dict[str, Any]) -> str:
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
