"""The tables of docs/results.md from a study.

    charprobe-lite eval --persona all --condition all --instrument all --study conditions.sqlite
    python bench/results.py conditions.sqlite

Prints Markdown: macro-F1 of every condition and stage; the controls by every instrument; what each
change from chat to agent does; the difference of the stages by every instrument; F1 of each
persona; what is kept of the ceilings; how often the instruments agree; rollouts without an email;
the tokens of a mean rollout.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import click

from charprobe_lite.eval.conditions import calls_tools
from charprobe_lite.eval.report.study import ReportStudy, report_study
from charprobe_lite.eval.scores.cells import CellScore, Scores
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.models.catalogue import CONDITIONS

STAGES, TRAINED = ("base", "distillation", "full"), ("distillation", "full")
CONTROLS = ("scenario_ceiling", "author_ceiling", "prompted_email")
OF_A_PERSONA = ("chat", "chat_email", "chat_email_json", "agentic_email")


def number(estimate: Estimate | None, signed: bool = False) -> str:
    """A value with its interval."""
    if estimate is None:
        return ""
    sign = "+" if signed else ""
    low, high = estimate.ends
    return f"{estimate.value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def table(titles: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if lines:
        head = f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|"
        click.echo("\n".join(["", head, *lines]))


def found(scores: Scores, condition: str, stage: str) -> CellScore | None:
    """The score of a cell."""
    cells = (s for s in scores.by_cell if (s.condition, s.stage) == (condition, stage))
    return next(cells, None)


def levels(study: ReportStudy) -> Iterator[Sequence[str]]:
    for condition in CONDITIONS:
        scores = [found(study.scores, condition, stage) for stage in STAGES]
        if condition not in CONTROLS and any(scores):
            yield f"`{condition}`", *(number(score and score.headline) for score in scores)


def controls(study: ReportStudy) -> Iterator[Sequence[str]]:
    pairs = {(s.condition, s.stage): None for s in study.scores.by_cell if s.condition in CONTROLS}
    for condition, stage in pairs:
        scores = [found(scores, condition, stage) for scores in study.readings.values()]
        yield f"`{condition}`, {stage}", *(number(score and score.headline) for score in scores)


def changes(scores: Scores) -> Iterator[Sequence[str]]:
    """Each step of either stage: where they have other conditions, their steps differ."""
    falls = {fall.cell.stage: fall for fall in scores.waterfalls if fall.cell.stage in TRAINED}
    steps = {
        stage: {
            (step.cause, level.cell.condition): number(step.change, signed=True)
            for level, step in zip(fall.levels[1:], fall.steps, strict=True)
            if step
        }
        for stage, fall in falls.items()
    }
    places = dict.fromkeys(place for values in steps.values() for place in values)
    if not places:  # a study of one condition
        return
    for cause, condition in sorted(places, key=lambda place: CONDITIONS.index(place[1])):
        values = (steps.get(stage, {}).get((cause, condition), "") for stage in TRAINED)
        yield str(cause), f"`{condition}`", *values
    totals = (stage in falls and falls[stage].total for stage in TRAINED)
    yield "all", "", *(number(total.change, signed=True) if total else "" for total in totals)


def stages(study: ReportStudy) -> Iterator[Sequence[str]]:
    for condition in CONDITIONS:
        row = []
        for scores in study.readings.values():
            pairs = (
                d.change
                for d in scores.comparison.stages
                if d.after.condition == condition and (d.before.stage, d.after.stage) == TRAINED
            )
            row.append(number(next(pairs, None), signed=True))
        if any(row):
            yield f"`{condition}`", *row


def personas(study: ReportStudy) -> Iterator[Sequence[str]]:
    scores = {(s.persona, s.condition, s.stage): s.f1 for s in study.scores.by_persona}
    for persona in study.personas:
        places = [(condition, "full") for condition in OF_A_PERSONA]
        places.insert(-1, ("agentic_email", "distillation"))
        places.append(("scenario_ceiling", "independent"))
        values = [scores.get((persona, *place)) for place in places]
        yield persona, *("" if value is None else f"{value:.2f}" for value in values)


def kept(study: ReportStudy) -> Iterator[Sequence[str]]:
    for name, scores in study.readings.items():
        for fall in scores.waterfalls:
            for ceiling, retention in fall.retention.items():
                place = f"{fall.cell.stage}, of {ceiling.condition} ({ceiling.stage})"
                low, high = (f"{100 * end:.0f}%" for end in retention.ends)
                yield name, place, f"{100 * retention.value:.0f}% [{low}, {high}]"


def agreement(study: ReportStudy) -> Iterator[Sequence[str]]:
    for other in study.others:
        if other.agreement:
            shares = {
                cell.stage: f"{100 * share:.0f}%"
                for cell, share in other.agreement.by_cell.items()
                if cell.condition == "agentic_email"
            }
            both = number(other.agreement.agreement)
            yield other.name, both, number(other.agreement.kappa), shares.get("full", "")


def missing(study: ReportStudy) -> Iterator[Sequence[str]]:
    for score in study.scores.by_cell:
        if calls_tools(score.condition) and score.stage in STAGES:
            bounds = " to ".join(f"{value:.3f}" for value in score.bounds or ())
            sent = "" if score.yield_ is None else f"{round(score.yield_ * score.started)}"
            place = f"{score.stage} {score.condition}"
            yield place, str(score.started), sent, str(score.forced), bounds


def tokens(path: Path) -> Iterator[Sequence[str]]:
    """Of the trained stages, for the forecasts of eval/study/pace.py."""
    query = (
        "SELECT condition, count(*), round(avg(evaluated_tokens)), round(avg(tokens)) "
        "FROM rollouts JOIN cells ON cells.id = cell_id "
        "WHERE stage IN (?, ?) AND tokens > 0 GROUP BY condition"
    )
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as study:
        for condition, *values in study.execute(query, TRAINED):
            yield f"`{condition}`", *(f"{value:.0f}" for value in values)


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
def main(path: Path) -> None:
    """Print the tables."""
    study = report_study(path)
    names = list(study.readings)
    table(("condition", *STAGES), levels(study))
    table(("control", *names), controls(study))
    for name, scores in study.readings.items():
        click.echo(f"\n{name}:")
        table(("change", "condition", *TRAINED), changes(scores))
    table(("condition", *(f"distillation to full, {name}" for name in names)), stages(study))
    titles = [f"`{name}`" for name in OF_A_PERSONA]
    titles.insert(-1, "`agentic_email`, distillation")
    table(("persona", *titles, "independent writers"), personas(study))
    table(("instrument", "stage and ceiling", "kept"), kept(study))
    table(("instrument", "same label", "kappa", "agent emails, full"), agreement(study))
    table(("cell", "rollouts", "emails", "forced", "macro-F1 if missing"), missing(study))
    table(("condition", "rollouts", "prompt tokens evaluated", "reply tokens"), tokens(path))
    for note in study.instrument_notes:
        click.echo(f"\n{note}")
    click.echo(f"\n{study.conclusion}")


if __name__ == "__main__":
    main()
