"""What the published agentic emails say: scores, yield, bounds, intervals, matched tasks.

    python bench/published.py classifier_f1_per_email.jsonl --chat classifier_f1_id.jsonl

Both are in ``results/`` of github.com/nmitrani/depth-character-training. A rollout is one task, a
persona on a scenario, so it is known which are missing: they count in the intervals of the bounds.
The difference between stages is taken over the tasks on which both stages sent an email, and
resampled by scenario. Prints the tables of docs/published.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import click
from rich.table import Table

from charprobe_lite.eval.cli.progress import print_result
from charprobe_lite.eval.scores.terminal import plain_table
from charprobe_lite.eval.stats.classification import MISSED, Labels
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metrics
from charprobe_lite.eval.texts.reader import Columns, ScoredText, read_texts
from charprobe_lite.eval.texts.scores import GroupScore, score_groups
from charprobe_lite.models.errors import BadInput, printable
from charprobe_lite.models.files import read_json_rows

Cell = tuple[str, str]
"""Base and stage."""
Task = tuple[str, str]
"""Persona and scenario."""
TRAINED = ("distillation", "full")


def predictions(texts: Sequence[ScoredText]) -> dict[Cell, dict[Task, str]]:
    """The predicted label of each cell's tasks. Raises BadInput for a task with two emails."""
    cells: dict[Cell, dict[Task, str]] = {}
    for text in texts:
        (_, base), (_, stage) = text.group
        tasks, task = cells.setdefault((base, stage), {}), (text.true[0], str(text.cluster))
        if task in tasks:
            problem = f"a second email of {' on '.join(task)}; give a file with one of each"
            raise BadInput(f"{text.place}: field scenario_id: {problem}")
        tasks[task] = str(text.prediction)
    return cells


def matched(before: Mapping[Task, str], after: Mapping[Task, str]) -> tuple[Labels, Labels]:
    """Both cells' rows of the tasks that both have."""
    tasks = [task for task in before if task in after]
    rows = ([(task[0], cell[task], task[1]) for task in tasks] for cell in (before, after))
    first, second = map(Labels.of, rows)
    return first, second


def completed(cell: Mapping[Task, str], tasks: Sequence[Task], hit: bool) -> Labels:
    """The rows of all ``tasks``; one without an email is a hit, or else a miss."""
    rows = [(task[0], cell.get(task, task[0] if hit else MISSED), task[1]) for task in tasks]
    return Labels.of(rows)


def all_tasks(cells: Mapping[Cell, Mapping[Task, str]], asked: int) -> list[Task]:
    """Every persona on every scenario of the file. Raises BadInput if those are not ``asked``."""
    personas, scenarios = (dict.fromkeys(t[n] for c in cells.values() for t in c) for n in (0, 1))
    if len(personas) * len(scenarios) != asked:
        counts = f"{len(personas)} personas on {len(scenarios)} scenarios"
        raise BadInput(f"--asked {asked}: the file has {counts}; give their product")
    return list(product(personas, scenarios))


def cell_table(scenario: Sequence[GroupScore], family: Sequence[GroupScore]) -> Table:
    """Score, yield, bounds, three intervals and kappa of each cell."""
    numbers = ["emails", "yield", "macro-F1", "bounds", "rows", "scenarios", "families", "kappa"]
    table = plain_table("emails of the agents", ["base", "stage"], numbers)
    for score, wide in zip(scenario, family, strict=True):
        kappa = score.human and score.human.kappa
        table.add_row(
            *dict(score.group).values(),
            str(score.n),
            "-" if score.yield_ is None else f"{score.yield_:.1%}",
            f"{score.macro_f1:.4f}",
            *map(ends, (score.bounds, score.ci_rows, score.ci_cluster, wide.ci_cluster)),
            "-" if kappa is None else f"{kappa:.2f}",
        )
    return table


def matched_table(cells: Mapping[Cell, Mapping[Task, str]], resamples: int) -> Table:
    """Full against distillation on the tasks that both have an email of."""
    names = ["emails each", *TRAINED, "difference", "95% interval"]
    table = plain_table("full against distillation, matched tasks", ["base"], names)
    for base in dict.fromkeys(base for base, _ in cells):
        if any((base, stage) not in cells for stage in TRAINED):
            continue
        before, after = matched(*(cells[base, stage] for stage in TRAINED))
        if not before.true:
            continue
        pair = dict(zip(TRAINED, (before, after), strict=True))
        metrics = ResampledMetrics(label_metrics(pair), resamples=resamples)
        change = metrics.difference(("full", "macro_f1"), ("distillation", "macro_f1")).change
        scores = (metrics.estimate((stage, "macro_f1")).value for stage in TRAINED)
        table.add_row(
            *(base, str(len(before.true)), *(f"{score:.3f}" for score in scores)),
            *(f"{change.value:+.3f}", f"{change.low:+.3f} to {change.high:+.3f}"),
        )
    return table


def bound_table(
    cells: Mapping[Cell, Mapping[Task, str]],
    tasks: Sequence[Task],
    chat: Mapping[Cell, float],
    resamples: int,
) -> Table:
    """The bounds with intervals by scenario, and the drop from ``chat`` that they allow."""
    numbers = ["every one a miss", "95% interval", "every one a hit", "95% interval"]
    numbers += ["chat", "drop"] if chat else []
    title = f"bounds, all {len(tasks)} tasks counted"
    table = plain_table(title, ["base", "stage"], numbers)
    for cell, predicted in cells.items():
        pair = {hit: completed(predicted, tasks, hit) for hit in (False, True)}
        metrics = ResampledMetrics(label_metrics(pair), resamples=resamples)
        low, high = (metrics.estimate((hit, "macro_f1")) for hit in pair)
        row = [text for end in (low, high) for text in (f"{end.value:.3f}", ends(end.ends))]
        if cell in chat:
            drops = (chat[cell] - end.value for end in (high, low))
            row += [f"{chat[cell]:.3f}", " to ".join(f"{drop:+.3f}" for drop in drops)]
        table.add_row(*cell, *row)
    return table


def ends(pair: tuple[float, float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.3f}-{pair[1]:.3f}"


def chat_scores(path: Path) -> dict[Cell, float]:
    """The published macro-F1 of the chats. Raises BadInput."""
    scores = {}
    for place, row in read_json_rows(path):
        base, stage, score = (row.get(name) for name in ("base", "stage", "macro_f1"))
        if not isinstance(score, float):
            raise BadInput(f"{place}: field macro_f1: must be a number")
        scores[str(base), str(stage)] = score
    return scores


def tables(emails: Path, chat: Path | None, asked: int, resamples: int) -> list[Table]:
    """All tables. Raises BadInput for files that are not the published ones."""
    by = ("base", "stage")
    texts = read_texts(emails, Columns(cluster="scenario_id", by=by, asked=asked))
    families = read_texts(emails, Columns(cluster="family", by=by))
    cells = predictions(texts)
    by_scenario, by_family = (score_groups(t, resamples=resamples) for t in (texts, families))
    return [
        cell_table(by_scenario, by_family),
        matched_table(cells, resamples),
        bound_table(cells, all_tasks(cells, asked), chat_scores(chat) if chat else {}, resamples),
    ]


@click.command(help=__doc__)
@click.argument("emails", type=click.Path(path_type=Path))
@click.option("--chat", type=click.Path(path_type=Path), help="Scores of the chats, JSON lines.")
@click.option("--asked", default=500, help="Rollouts asked for in each cell.")
@click.option("--resamples", default=10_000, help="Bootstrap resamples.")
def main(emails: Path, chat: Path | None, asked: int, resamples: int) -> None:
    try:
        print_result(False, None, tables(emails, chat, asked, resamples))
    except BadInput as error:
        click.echo(f"published.py: {printable(str(error))}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
