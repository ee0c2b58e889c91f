"""Hostile inputs of every kind, and what became of them.

    python -m bench.fuzz --inputs 350
    python -m bench.fuzz --kind onnx,gguf-model --inputs 20 --seed 7
    python -m bench.fuzz --minutes 10 --keep failures

Each kind of input (`bench/fuzzing/kinds.py`) has good examples, ways to change them, and what
reads them. Input ``n`` of a kind depends on the seed alone. An input may be taken or refused in a
few lines. It fails by a signal, a traceback, a control character on the terminal, more than 10 s,
2 GB of memory, or a file outside its folder. Prints a Markdown table, and the failures on stderr;
``--keep`` writes them to a folder as ``KIND/REASON-NUMBER/FILE``. Two processes run at once.
"""

from __future__ import annotations

import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench.fuzzing.kinds import KINDS, Kind
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.speed import peak_memory

SECONDS, START_SECONDS, MEMORY = 10.0, 120.0, 2 * 1024**3
COLUMNS = ("taken", "refused", "signal", "traceback", "slow", "memory", "outside")


@dataclass
class Tally:
    """What became of the inputs of a kind, and the failures: (number, outcome, what was said)."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, number: int, outcome: str, said: str) -> None:
        self.counts[outcome] += 1
        if outcome not in COLUMNS[:2]:
            self.failures.append((number, outcome, said))


def changed(kind: Kind, files: list[Path], seed: int, number: int, folder: Path) -> Path:
    """Input ``number``, written to a file in ``folder``."""
    rng = random.Random(f"{seed}/{number}")
    source = rng.choice(files)
    path = folder / source.name
    path.write_bytes(kind.mutate(source.read_bytes(), rng))
    return path


def run_input(kind: Kind, files: list[Path], seed: int, number: int, good: Path) -> tuple[str, str]:
    """What became of an input: (outcome, what was said)."""
    room = Path.cwd() / str(number)
    inner = room / "inner"
    inner.mkdir(parents=True)
    _forget_peak()
    try:
        outcome, said = attack(kind, changed(kind, files, seed, number, inner), good)
        if [path.name for path in room.iterdir()] != ["inner"]:
            return "outside", f"{[path.name for path in room.iterdir()]}"
        peak = peak_memory()
        return ("memory", f"{peak / 1e9:.1f} GB") if peak > MEMORY else (outcome, said)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def refused_examples(kind: Kind, files: list[Path], good: Path) -> Iterator[tuple[str, str]]:
    """Good examples that are not taken: what is made of them would test little."""
    for file in files:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as room:
            outcome, said = attack(kind, Path(shutil.copy(file, room)), good)
        if outcome != "taken":
            yield "traceback", f"good example {file}: {outcome}: {said}"


def attack(kind: Kind, path: Path, good: Path) -> tuple[str, str]:
    """Read a file as the program does."""
    try:
        kind.read(path, good)
    except BadInput as error:
        return "refused", str(error)[:300]
    except (Exception, SystemExit):
        return "traceback", traceback.format_exc()[-1500:]
    except BaseException as error:  # a panic of a library in Rust
        if isinstance(error, KeyboardInterrupt):
            raise
        return "traceback", f"{type(error).__name__}: {str(error)[:300]}"
    return "taken", ""


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def work(name: str, seed: int, first: int, last: int, good: Path) -> None:
    """The process that reads inputs: a line of JSON before and after each."""
    out, kind = os.fdopen(os.dup(1), "w"), KINDS[name]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # commands print
    os.dup2(1, 2)
    files = list(kind.seeds(good))
    if not first:
        for outcome, said in refused_examples(kind, files, good):
            print(json.dumps({"number": -1, "outcome": outcome, "said": said}), file=out)
    for number in range(first, last):
        print(json.dumps({"number": number}), file=out, flush=True)
        outcome, said = run_input(kind, files, seed, number, good)
        line = {"number": number, "outcome": outcome, "said": said}
        print(json.dumps(line), file=out, flush=True)


def run_kind(name: str, seed: int, inputs: int, deadline: float, good: Path) -> Tally:
    """Read the inputs of a kind, in a new process after each that ended one."""
    tally, first = Tally(), 0
    while first < inputs and time.monotonic() < deadline:
        for number, outcome, said in _from_process(name, seed, first, inputs, deadline, good):
            tally.add(number, outcome, said)
            first = number + 1
    return tally


def _from_process(
    name: str, seed: int, first: int, last: int, deadline: float, good: Path
) -> Iterator[tuple[int, str, str]]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as room:
        arguments = [name, str(seed), str(first), str(last), str(good)]
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.fuzz", "--worker", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=room,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path[:2]))},
            start_new_session=True,
        )
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(process, lines), daemon=True).start()
        number, patience = first, START_SECONDS
        try:
            while line := lines.get(timeout=patience):
                done = json.loads(line)
                number, patience = done["number"], SECONDS
                if "outcome" in done:
                    yield number, done["outcome"], done["said"]
                    patience = START_SECONDS
                    if time.monotonic() > deadline:
                        return
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS)  # it ended by itself: its status tells how
        except queue.Empty:
            yield number, "slow", f"more than {patience:.0f} s"
            return
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        if status > 0 or (status < -1 and number < last - 1):
            yield number, "signal", f"the process ended with {status}"


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")


def keep_failures(name: str, tally: Tally, seed: int, good: Path, target: Path) -> None:
    """Write the inputs that failed."""
    files = list(KINDS[name].seeds(good))
    for number, outcome, _ in tally.failures:
        folder = target / name / f"{outcome}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        changed(KINDS[name], files, seed, number, folder)


@click.command()
@click.option("--kind", "names", default=",".join(KINDS), help="Only these kinds of input.")
@click.option("--inputs", default=350, show_default=True, help="Inputs of each kind.")
@click.option("--seed", default=0, show_default=True)
@click.option("--minutes", type=float, default=None, help="Stop after so many.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for the inputs that fail.")
@click.option("--worker", nargs=5, hidden=True)
def main(
    names: str,
    inputs: int,
    seed: int,
    minutes: float | None,
    keep: Path | None,
    worker: tuple[str, str, str, str, str] | None,
) -> None:
    """Print the table; exit status 1 where an input failed."""
    if worker:
        name, *numbers, good = worker
        work(name, *map(int, numbers), good=Path(good))
        return
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    with tempfile.TemporaryDirectory(prefix="good-") as folder, ThreadPoolExecutor(2) as pool:
        os.environ["CHARPROBE_CACHE"] = str(Path(folder) / "cache")

        def run(name: str) -> Tally:
            return run_kind(name, seed, inputs, deadline, Path(folder) / name)

        click.echo(f"| kind | inputs | {' | '.join(COLUMNS)} |")
        click.echo("|---" * (len(COLUMNS) + 2) + "|")
        chosen, total, failed = names.split(","), Counter[str](), 0
        for name, tally in zip(chosen, pool.map(run, chosen), strict=True):
            total += tally.counts
            failed += len(tally.failures)
            click.echo(table_row(name, tally.counts))
            for number, outcome, said in tally.failures:
                click.echo(f"{name} {number}: {outcome}: {said}", err=True)
            if keep:
                keep_failures(name, tally, seed, Path(folder) / name, keep)
        click.echo(table_row("all", total))
    sys.exit(1 if failed else 0)


def table_row(name: str, counts: Counter[str]) -> str:
    cells = [name, f"{counts.total():,}", *(f"{counts[column]:,}" for column in COLUMNS)]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
