"""`charprobe-lite techniques`: grids of training techniques, planned, run and reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import click

from charprobe_lite.eval.cli.options import json_option, shard_option
from charprobe_lite.eval.cli.progress import note, print_result, progress_bar
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import file_format


@click.group()
def techniques() -> None:
    """Compare training techniques: which way of training carries over from chat to the agent?

    \b
    technique: [sft, why, documents, my_technique.py]
    persona: [sarcasm, remorse, loving]
    train_seed: [0, 1, 2]
    condition: [chat, agentic_email]
    limit: {prompts: 40, scenarios: 25}
    base: smollm2-135m            # a name, a checkpoint folder or a GGUF file
    tokens: 36000                 # each adapter's budget
    checkpoints: 4                # adapters evaluated on the way, the last one with them
    out: adapters                 # folder of the adapters
    """


@techniques.command()
@click.argument("file", type=FILE)
@shard_option
@json_option
def plan(file: Path, shard: tuple[int, int] | None, as_json: bool) -> None:
    """Print what a grid would decide and test, its time, and the difference that it can find.

    Every training is checked: its texts, its budget, leaks of the evaluation. Nothing is trained. A
    file of a technique of your own is code, and runs.

    \b
    charprobe-lite techniques plan grid.yaml
    """
    from charprobe_lite.eval.techniques.grid import read_grid
    from charprobe_lite.eval.techniques.run import plan_grid

    require_training()
    grid = read_grid(file)
    planned = plan_grid(grid, shard)
    decided = planned.plan
    lines = [
        f"techniques: {', '.join(decided.techniques)}; personas: {', '.join(decided.personas)}; "
        f"training seeds: {', '.join(map(str, decided.train_seeds))}",
        f"primary outcome: {decided.outcomes[0]} (then {', '.join(decided.outcomes[1:])}) in "
        f"{decided.primary} by {', '.join(decided.instruments)}, minus the base's",
        f"contrasts with {decided.reference}: {', '.join(decided.contrasted)}"
        if decided.contrasted
        else "contrasts: none, there is one technique",
        *decided.rules,
        *planned.forecast.lines(),
        f"adapters: {grid.out}; study: {grid.study}",
    ]
    if not planned.is_checked:
        lines.append("not checked yet: budgets and leaks, which need the base; run checks them")
    document = {
        "plan": decided.model_dump(mode="json"),
        "forecast": planned.forecast.as_json(),
        "checked": planned.is_checked,
        "adapters": str(grid.out),
        "study": str(grid.study),
    }
    print_result(as_json, document, lines)


@techniques.command()
@click.argument("file", type=FILE)
@shard_option
@json_option
def run(file: Path, shard: tuple[int, int] | None, as_json: bool) -> None:
    """Train every adapter of a grid and evaluate it and the base, in one study.

    The plan is written to the study before the first rollout. After an interrupt, the same command
    continues: finished trainings and rollouts are kept, the training that it stopped in starts
    again. With --shard 1/4, 2/4, ... several machines each train and evaluate a part; study merge
    joins their studies.

    \b
    charprobe-lite techniques run grid.yaml
    charprobe-lite techniques run grid.yaml --shard 1/4
    """
    from charprobe_lite.eval.cli.results import DISPLAY
    from charprobe_lite.eval.cli.training import missing_files
    from charprobe_lite.eval.techniques.grid import read_grid
    from charprobe_lite.eval.techniques.run import run_grid

    require_training()
    grid = read_grid(file)
    with missing_files(grid.out or file):
        done = run_grid(grid, DISPLAY, _training_bar, shard)
    document = {
        "study": str(done.study),
        "trained": done.trained,
        "rollouts": done.rollouts,
        "left": [each.model_dump(mode="json") for each in done.left],
    }
    lines = [f"adapters trained now: {len(done.trained)}, in {grid.out}", f"study: {done.study}"]
    print_result(as_json, document, lines)
    if not as_json:
        note(f"next: charprobe-lite techniques report {quote(str(done.study))}")


@techniques.command()
@click.argument("file", type=FILE)
@shard_option
@json_option
def status(file: Path, shard: tuple[int, int] | None, as_json: bool) -> None:
    """Print how far a grid is, adapter by adapter; also while it runs.

    Its texts are read and checked as for a run, so that a file of a technique of your own runs.

    \b
    charprobe-lite techniques status grid.yaml
    """
    from charprobe_lite.eval.techniques.grid import read_grid
    from charprobe_lite.eval.techniques.status import grid_status

    require_training()
    found = grid_status(read_grid(file), shard)
    print_result(as_json, found.as_json(), [found.table()])


@techniques.command()
@click.argument("sources", metavar="STUDY|ENTRY.json...", nargs=-1, required=True, type=FILE)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["html", "md", "json"]),
    default="html",
    help="A page with its figures, Markdown to paste, or the entry of one study.",
)
@click.option(
    *("-o", "--output"),
    type=FILE,
    help="Folder of the page and figures  [default: STUDY-techniques for html; md and json go to "
    "stdout].",
)
def report(sources: tuple[Path, ...], kind: str, output: Path | None) -> None:
    """Report a study of techniques: effects, contrasts, curves, and where the plan was left.

    An entry is what --format json prints of a study. Several studies and entries are put side by
    side. Figures are those of the first. Needs the extra report for html, and for md with -o.

    \b
    charprobe-lite techniques report grid.sqlite
    charprobe-lite techniques report grid.sqlite --format json > mine.json
    charprobe-lite techniques report theirs.json grid.sqlite --format md
    """
    from charprobe_lite.eval.techniques.entry import read_entry
    from charprobe_lite.eval.techniques.findings import study_entry
    from charprobe_lite.eval.techniques.pages import markdown, write_page

    entries = [
        read_entry(source) if file_format(source) == ".json" else study_entry(source)
        for source in sources
    ]
    for number, entry in enumerate(entries):
        if entry in entries[:number]:
            raise BadInput(f"{sources[number]}: is an entry that is there already; name each once")
    if kind == "json":
        if len(entries) > 1:
            raise BadInput("--format json: is one entry; name one study")
        click.echo(json.dumps(entries[0].as_json(), allow_nan=False))
    elif kind == "md" and output is None:
        click.echo(markdown(entries), nl=False)
    else:
        first = sources[0]
        folder = output or first.with_name(f"{first.stem}-techniques")
        page, *figures = write_page(entries, kind, folder)
        click.echo(page)
        note(f"{len(figures)} figure files next to it")


def require_training() -> None:
    """Raises BadInput where the packages that train are not installed."""
    from charprobe_lite.eval.cli.train import require_training as require

    require()


@contextmanager
def _training_bar(name: str) -> Iterator[Callable[[int, int, float], None]]:
    from charprobe_lite.eval.cli.training import watched

    with progress_bar() as progress:
        yield watched(progress, progress.add_task(name, total=None), name)
