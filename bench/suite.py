"""A short form of every benchmark of docs/benchmarks.md, with the last recorded ratios beside.

    make bench
    python bench/suite.py [--part NAME] [--llama-server PATH] [--llama-perplexity PATH] [--record]

Runs the scripts of this folder one after another, each in a process of its own with a time limit,
and prints one table: each figure as a ratio to a named peer, the median of the rounds with the
lowest and the highest. What fails or lacks a peer is "not measured", with the reason; the others
go on. --record writes what was measured into bench/recorded.json, with machine, date and command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
from classifier import cpu_name
from ratios import Ratio, Records, from_json

HERE = Path(__file__).resolve().parent
PARTS = {
    "agents": "engine.py --part rollouts --rounds 2 --scenarios 3",
    "chat": "engine.py --part chat --rounds 2 --prompts 6",
    "decoding": "engine.py --part decode --rounds 1 --sequences 8",
    "texts": "engine.py --part texts --prompts 8 --sequences 8",
    "grammar": "engine.py --part grammar --rounds 3",
    "memory": "engine.py --part memory",
    "start": "engine.py --part start --rounds 3",
    "curves": "engine.py --part curves --rounds 1 --points 1,32 --prompts 8 --quant Q8_0,Q4_0",
    "fidelity": "quant.py --answers 1 --chunks 2",
    "merging": "convert.py --layers 1 --rounds 2",
    "classifier": "classifier.py --texts 16 --rounds 2",
    "intervals": "score.py --part scores --studies 20",
    "page": "page.py STUDY --rounds 3",
}
"""The short form of each part; the full ones are in docs/benchmarks.md."""
TOOLS = {"engine.py": "--llama-server", "quant.py": "--llama-perplexity"}
LIMIT = 300  # seconds of a part


def run(command: list[str], log: Path) -> list[Ratio] | str:
    """The ratios that a script prints as JSON, or in a line why there are none."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as errors:
        try:
            done = subprocess.run(
                [sys.executable, str(HERE / command[0]), *command[1:]],
                stdout=subprocess.PIPE,
                stderr=errors,
                timeout=LIMIT,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"took over {LIMIT} s; see {log}"
    if done.returncode:
        return f"ended with status {done.returncode}; see {log}"
    return from_json(json.loads(done.stdout)["ratios"])


def small_study(folder: Path) -> Path:
    """A study of a few chats, for the page."""
    study = folder / "page.sqlite"
    options = "--persona sarcasm --condition chat --limit 2 --max-tokens 64"
    program = "from charprobe_lite.eval.cli.main import main; main()"
    command = [sys.executable, "-c", program, "eval", *options.split(), "--study", str(study)]
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT)
    return study


def row(ratio: Ratio, last: Ratio | None) -> str:
    now = ratio.text + (f" ({ratio.missing})" if ratio.missing else "")
    return f"| {ratio.figure} | {ratio.peer} | {now} | {last.text if last else ''} |"


def recorded_rows(records: Records) -> Iterator[str]:
    """The recorded ratios as a Markdown table."""
    yield "| figure | over | ratio |"
    yield "|---|---|---|"
    for part in records.parts:
        for ratio in records.ratios(part).values():
            why = f" ({ratio.missing})" if ratio.missing else ""
            yield f"| {ratio.figure} | {ratio.peer} | {ratio.text}{why} |"


@click.command()
@click.option(
    "--part", multiple=True, type=click.Choice(list(PARTS)), help="Only this; repeatable."
)
@click.option("--llama-server", type=click.Path(path_type=Path, exists=True))
@click.option("--llama-perplexity", type=click.Path(path_type=Path, exists=True))
@click.option("--record", is_flag=True, help="Write the ratios into bench/recorded.json.")
@click.option("--recorded", is_flag=True, help="Only print the recorded ratios, as Markdown.")
def main(
    part: tuple[str, ...],
    llama_server: Path | None,
    llama_perplexity: Path | None,
    record: bool,
    recorded: bool,
) -> None:
    """Run the short form of the parts, and print their ratios."""
    records = Records(HERE / "recorded.json")
    if recorded:
        click.echo("\n".join(recorded_rows(records)))
        return
    tools = {"engine.py": llama_server, "quant.py": llama_perplexity}
    logs = Path(tempfile.mkdtemp(prefix="bench-"))
    click.echo("| figure | over | now | recorded |\n|---|---|---|---|")
    for name in part or PARTS:
        words = PARTS[name].split()
        if "STUDY" in words and shutil.which("chromium"):
            words = [str(small_study(logs)) if word == "STUDY" else word for word in words]
        tool = tools.get(words[0])
        extra = [TOOLS[words[0]], str(tool)] if tool else []
        if words[0] != "page.py":
            extra.append("--json")
        started = time.perf_counter()
        found = run([*words, *extra], logs / f"{name}.log")
        seconds = time.perf_counter() - started
        last = records.ratios(name)
        if isinstance(found, str):
            click.echo(f"| {name} | | not measured ({found}) | |")
            continue
        for ratio in found:
            click.echo(row(ratio, last.get((ratio.figure, ratio.peer))))
        click.echo(f"{name}: {seconds:.0f} s", err=True)
        if record:
            records.record(
                name,
                found,
                date=f"{datetime.now(UTC):%Y-%m-%d}",
                machine=f"{cpu_name()}, {len(os.sched_getaffinity(0))} core(s)",
                command=f"python bench/{PARTS[name]}",
                seconds=round(seconds),
            )


if __name__ == "__main__":
    main()
