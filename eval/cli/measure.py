"""What the commands that run studies show: scores, forecasts, progress."""

from __future__ import annotations

import json

import click

from charprobe_lite.eval.cli.progress import conversion_bar, note, table_console
from charprobe_lite.eval.scores.cells import scores_by_quant
from charprobe_lite.eval.scores.terminal import conclusion, gap_table, score_table
from charprobe_lite.eval.study.cost import Forecast, table
from charprobe_lite.eval.study.progress import watching
from charprobe_lite.eval.study.run import Display, ScoredStudy, forecast_study
from charprobe_lite.eval.study.spec import StudySpec

DISPLAY = Display(note, conversion_bar, watching)


def show(study: ScoredStudy) -> None:
    """Print the scores, quant type by quant type."""
    console = table_console(140)
    for quant, scores in scores_by_quant(study.scores).items():
        held = study.weights.get(quant)
        first, shown = scores.by_cell[0], quant or "no model"
        if held:
            shown += f", {held.bits_per_weight:.2f} bits per weight"
        console.print(score_table(scores.by_cell, f"{first.persona} on {first.base} ({shown})"))
        if scores.by_persona != scores.by_cell:
            console.print(score_table(scores.by_persona, "per persona"))
            console.print(gap_table(scores.comparison))
        console.print(conclusion(scores.by_cell), soft_wrap=True)
    click.echo(f"study: {study.path}")


def show_forecast(spec: StudySpec, as_json: bool) -> None:
    """Print what a study would fetch, make and cost. Raises BadInput for what does not fit."""
    estimate = forecast_study(spec)
    if as_json:
        click.echo(json.dumps(estimate.as_json()))
    else:
        print_forecast(estimate)
    estimate.refuse_what_does_not_fit()


def print_forecast(estimate: Forecast) -> None:
    """The forecast as a table and its totals in words."""
    console = table_console(140)
    console.print(table(estimate))
    for line in estimate.lines():
        click.echo(line)
