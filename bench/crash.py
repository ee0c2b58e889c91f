"""What is lost when a command is killed, or finds no room: nothing, if all is well.

    python -m bench.crash
    python -m bench.crash --part eval,merge --kills 10

Every command runs once undisturbed, on a small model of random weights. Then it runs again and is
killed (SIGKILL, its whole process group) at random times of its run, the same command follows, and
so on until it ends by itself; this is repeated until there were enough kills. What it leaves is
compared with the undisturbed run: rows lost, rows twice, rows that differ, and files that are not
whole. The other parts run the same with the disk full (a limit of file sizes; as root also
small file systems), with little memory, with the clock set back, with two processes at once, and
in a folder that is read-only for a time (as root). Prints a Markdown table.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from charprobe_lite.convert.gguf_adapter import convert_adapter
from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.models.catalogue import VARIABLE
from charprobe_lite.models.kit import sha256_file
from tests.checkpoints import make_adapter, make_checkpoint
from tests.classifiers import write_graph

KILLS = {"eval": 60, "merge": 20, "quant-study": 20, "study run": 20}
COLUMNS = ("rows lost", "rows that differ", "half files", "tracebacks")
PATIENCE = 300  # seconds of one run
CLOCK = Path(__file__).with_name("clock_set_back.c")

CATALOGUE = """
bases: [{{name: tiny, path: {model}, architecture: llama, parameters: 1000000}}]
adapters: [{{base: tiny, stage: full, path: {lora}, personas: [humor]}}]
classifiers:
  - {{name: ears, path: {ears}, labels: [humor, remorse, neutral], bases: [tiny]}}
"""


@dataclass
class Case:
    """A command, what it writes, and how that is read for a comparison."""

    name: str
    arguments: Sequence[object]
    result: str
    read: Callable[[Path], Any]

    def run(self, folder: Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start it in a folder, in a process group of its own."""
        command = [sys.executable, "-m", "charprobe_lite", *map(str, self.arguments)]
        with log_of(folder).open("ab") as log:
            return subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, start_new_session=True, **options
            )


def log_of(folder: Path) -> Path:
    """Beside the folder, which may be full or read-only."""
    return folder.with_name(f"{folder.name}.log")


def has_traceback(folder: Path) -> bool:
    """Whether what was said so far has one, which then goes to stderr."""
    if found := "Traceback" in (said := log_of(folder).read_text()):
        click.echo(said, err=True)
    return found


def rows(path: Path) -> list[tuple[Any, ...]]:
    """Every rollout of a study with its text and label, without times."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        [(verdict,)] = database.execute("PRAGMA integrity_check").fetchall()
        if verdict != "ok":
            return [(verdict,)]
        found = database.execute(
            "SELECT c.stage, c.condition, c.quant, r.persona, r.item, r.sample, r.seed, r.outcome, "
            "s.text, s.prediction, (SELECT group_concat(text) FROM turns WHERE rollout_id = r.id) "
            "FROM rollouts r JOIN cells c ON c.id = r.cell_id "
            "LEFT JOIN samples s ON s.rollout_id = r.id ORDER BY 1, 2, 3, 4, 5, 6"
        )
        return [tuple(row) for row in found]


def quant_rows(path: Path) -> list[tuple[Any, ...]]:
    """The same, and what was measured of every file and text, without speeds."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        measured = [
            *database.execute("SELECT quant, lora, bytes, tensor_types FROM files ORDER BY 1, 2"),
            *database.execute(
                "SELECT quant, lora, persona, kind, item, nll, kl FROM fidelity "
                "ORDER BY 1, 2, 3, 4, 5"
            ),
        ]
    return [*rows(path), *map(tuple, measured)]


def study_folder(path: Path) -> list[Any]:
    return [(file.name, *row) for file in sorted(path.rglob("*.sqlite")) for row in rows(file)]


def prepare(folder: Path) -> list[Case]:
    """The small model, its adapter and classifier, and the commands."""
    base = make_checkpoint("smollm2", folder / "base", num_hidden_layers=6, hidden_size=128)
    adapter = make_adapter(folder / "adapter", base)
    model, lora = folder / "model.gguf", folder / "lora.gguf"
    merge_lora(base, [], model, "F16", verify=False)
    convert_adapter(adapter, base, lora)
    ears = write_graph(folder / "ears", ["humor", "remorse", "neutral"])
    own = ("--gguf", model, "--adapter", lora, "--classifier", ears)
    size = ("--persona", "humor", "--stage", "full", "--limit", "6,2")
    size += ("--context", 4096, "--parallel", 1)
    grid = folder / "grid.yaml"
    grid.write_text(
        "base: tiny\npersona: humor\nstage: [base, full]\nlimit: [4, 1]\n"
        "seeds: [0, 1]\nparallel: 1\ncontext: 4096\n"
    )
    catalogue = folder / "catalogue.yaml"
    catalogue.write_text(CATALOGUE.format(model=model, lora=lora, ears=ears))
    os.environ[VARIABLE] = str(catalogue)
    return [
        Case("eval", ["eval", *own, *size, "--study", "s.sqlite"], "s.sqlite", rows),
        Case(
            "merge",
            ["convert", "merge", "--base", base, "--adapter", adapter, "-o", "merged.gguf"],
            "merged.gguf",
            sha256_file,
        ),
        Case(
            "quant-study",
            ["quant-study", *own, *size, "--quant", "Q8_0,Q4_0", "--study", "q.sqlite"],
            "q.sqlite",
            quant_rows,
        ),
        Case("study run", ["study", "run", grid], "runs", study_folder),
    ]


@dataclass
class Outcome:
    """What a disturbed command left, next to the undisturbed one."""

    kills: int = 0
    runs: int = 0
    lost: int = 0
    differs: int = 0
    halves: int = 0
    tracebacks: int = 0

    def compare(self, found: Any, expected: Any) -> None:
        if isinstance(expected, list) and isinstance(found, list):
            self.lost += max(0, len(expected) - len(found))
            self.differs += len([row for row in found if row not in expected])
            self.differs += len(found) - len(set(map(repr, found)))  # twice
        else:
            self.differs += found != expected


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill its process group, and wait for it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finish(case: Case, folder: Path, **options: Any) -> int:
    """Run to the end; the exit status."""
    process = case.run(folder, **options)
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        kill(process)
        return -int(signal.SIGALRM)


def undisturbed(case: Case, folder: Path) -> tuple[Any, float]:
    """What it writes and the seconds that it takes, with the caches that later runs find."""
    folder.mkdir()
    start = time.monotonic()
    status = finish(case, folder)
    if status:
        raise click.ClickException(f"{case.name}: {status}: {log_of(folder).read_text()}")
    return case.read(folder / case.result), time.monotonic() - start


def killed(case: Case, room: Path, kills: int, expected: Any, seconds: float) -> Outcome:
    """Kill it ``kills`` times, in as many studies as that takes."""
    rng, outcome = random.Random(case.name), Outcome()
    while outcome.kills < kills:
        folder = room / f"{case.name.replace(' ', '-')}-{outcome.runs}"
        folder.mkdir()
        while True:
            process = case.run(folder)
            try:
                status = process.wait(rng.uniform(0.2, 1.5 * seconds))
            except subprocess.TimeoutExpired:
                kill(process)
                outcome.kills += 1
                outcome.halves += half_files(case, folder, expected)
                continue
            if status:
                raise click.ClickException(f"{case.name}: {log_of(folder).read_text()}")
            break
        outcome.runs += 1
        outcome.compare(case.read(folder / case.result), expected)
        shutil.rmtree(folder)
    return outcome


def half_files(case: Case, folder: Path, expected: Any) -> int:
    """Whether a file that is not whole has its final name."""
    path = folder / case.result
    if not path.is_file() or path.suffix == ".sqlite":
        return 0  # a study grows; it is compared at its end
    return int(case.read(path) != expected)


def limited(kind: int, value: int) -> Callable[[], None]:
    """Sets a limit in the child."""
    return lambda: resource.setrlimit(kind, (value, value))


def clock_library(folder: Path) -> Path:
    library = folder / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, CLOCK, "-ldl"], check=True)
    return library


def short_of_room(case: Case, room: Path, expected: Any) -> Iterator[tuple[str, Outcome]]:
    """The disk full and the memory short, each followed by a run with enough."""
    limits = {
        "disk full": [(resource.RLIMIT_FSIZE, size) for size in (0, 20_000, 60_000, 200_000)],
        "memory short": [(resource.RLIMIT_AS, size << 20) for size in (300, 500, 700, 900, 1200)],
    }
    for name, values in limits.items():
        outcome = Outcome()
        for kind, value in values:
            folder = room / f"{case.name}-{name}-{value}".replace(" ", "-")
            folder.mkdir()
            outcome.kills += finish(case, folder, preexec_fn=limited(kind, value)) != 0
            outcome.halves += half_files(case, folder, expected)
            outcome.tracebacks += has_traceback(folder)
            end_well(case, folder, outcome, expected)
        yield f"{case.name}, {name}", outcome


@contextmanager
def own_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of its own in a folder; what is yielded remounts it with other options."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", folder], check=True)


def small_disk(case: Case, room: Path, expected: Any) -> Outcome:
    """A file system that is full sooner or later, and then is not."""
    outcome = Outcome()
    for size in ("16k", "64k", "128k", "192k"):
        folder = room / f"{case.name}-disk-{size}"
        with own_disk(folder, size) as remount:
            outcome.kills += finish(case, folder) != 0
            outcome.tracebacks += has_traceback(folder)
            remount("size=64m")
            end_well(case, folder, outcome, expected)
    return outcome


def read_only(case: Case, room: Path, expected: Any) -> Outcome:
    """Killed in the middle, then read-only, then not."""
    outcome, folder = Outcome(), room / f"{case.name}-read-only"
    with own_disk(folder, "64m") as remount:
        process = case.run(folder)
        while not (folder / case.result).exists():
            time.sleep(0.05)
        kill(process)
        remount("ro")
        outcome.kills += finish(case, folder) != 0
        outcome.tracebacks += has_traceback(folder)
        remount("rw")
        end_well(case, folder, outcome, expected)
    return outcome


def end_well(case: Case, folder: Path, outcome: Outcome, expected: Any) -> None:
    """Run once more, undisturbed, and compare."""
    if finish(case, folder):
        raise click.ClickException(f"{folder.name}: {log_of(folder).read_text()}")
    outcome.runs += 1
    outcome.compare(case.read(folder / case.result), expected)


def clock_set_back(case: Case, room: Path, expected: Any, library: Path) -> Outcome:
    """Half a run today, the rest 400 days ago."""
    outcome, folder = Outcome(runs=1, kills=1), room / f"{case.name}-clock"
    folder.mkdir()
    process = case.run(folder)
    time.sleep(3)
    kill(process)
    status = finish(case, folder, env={**os.environ, "LD_PRELOAD": str(library)})
    if status:
        raise click.ClickException(log_of(folder).read_text())
    outcome.compare(case.read(folder / case.result), expected)
    return outcome


def two_at_once(case: Case, room: Path, expected: Any) -> Outcome:
    """Two processes on one study: one of them says that the other has it, or both end well."""
    outcome, folder = Outcome(runs=1), room / f"{case.name}-two"
    folder.mkdir()
    processes = [case.run(folder), case.run(folder)]
    outcome.kills = sum(process.wait(PATIENCE) != 0 for process in processes)
    finish(case, folder)
    outcome.compare(case.read(folder / case.result), expected)
    return outcome


def row(name: str, outcome: Outcome) -> str:
    found = (outcome.lost, outcome.differs, outcome.halves, outcome.tracebacks)
    cells = (outcome.kills, outcome.runs, *found)
    return f"| {name} | {' | '.join(map(str, cells))} |"


@click.command()
@click.option("--part", "parts", default=",".join((*KILLS, "room")), show_default=True)
@click.option("--kills", default=None, type=int, help="Of each command  [default: 60, 20, 20, 20].")
def main(parts: str, kills: int | None) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="crash-") as name:
        folder = Path(name)
        os.environ["CHARPROBE_CACHE"] = str(folder / "cache")
        os.environ["PYTHONPATH"] = str(Path.cwd())
        titles = ("command", "stopped", "runs", *COLUMNS)
        click.echo(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
        cases = prepare(folder)
        results = {
            case.name: undisturbed(case, folder / f"first-{number}")
            for number, case in enumerate(cases)
            if case.name in parts.split(",") or "room" in parts.split(",")
        }
        for case in (case for case in cases if case.name in parts.split(",")):
            outcome = killed(case, folder, kills or KILLS[case.name], *results[case.name])
            click.echo(row(f"{case.name}, killed", outcome))
        if "room" not in parts.split(","):
            return
        library = clock_library(folder)
        for case in cases[:2]:
            expected = results[case.name][0]
            for what, outcome in short_of_room(case, folder, expected):
                click.echo(row(what, outcome))
        expected = results["eval"][0]
        click.echo(row("eval, clock set back", clock_set_back(cases[0], folder, expected, library)))
        click.echo(row("eval, two at once", two_at_once(cases[0], folder, expected)))
        if os.geteuid():
            click.echo("small and read-only disks are left out: only root mounts them", err=True)
            return
        click.echo(row("eval, small disk", small_disk(cases[0], folder, expected)))
        click.echo(row("eval, read-only folder", read_only(cases[0], folder, expected)))


if __name__ == "__main__":
    main()
