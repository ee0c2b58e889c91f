"""What commands that run studies print: progress, scores, quant types, forecasts."""

from __future__ import annotations

import click

from charprobe_lite.eval.cli.progress import conversion_bar, note, table_console
from charprobe_lite.eval.quant.run import QuantFindings
from charprobe_lite.eval.quant.tables import terminal_tables
from charprobe_lite.eval.scores.cells import scores_by_quant
from charprobe_lite.eval.scores.terminal import conclusion, gap_table, score_table
from charprobe_lite.eval.study.cost import Forecast, table
from charprobe_lite.eval.study.progress import watching
from charprobe_lite.eval.study.run import Display, ScoredStudy
from charprobe_lite.eval.study.status import StudyStatus

DISPLAY = Display(note, conversion_bar, watching)


def print_scores(study: ScoredStudy) -> None:
    """The scores, quant type by quant type."""
    console = table_console(140)
    for quant, scores in scores_by_quant(study.scores).items():
        weights = study.weights.get(quant or "")
        first, file = scores.by_cell[0], quant or "no model"
        if weights:
            file += f", {weights.bits_per_weight:.2f} bits per weight"
        console.print(score_table(scores.by_cell, f"{first.persona} on {first.base} ({file})"))
        if scores.by_persona != scores.by_cell:
            console.print(score_table(scores.by_persona, "per persona"))
            console.print(gap_table(scores.comparison))
        console.print(conclusion(scores.by_cell), soft_wrap=True)
    click.echo(f"study: {study.path}")


def print_findings(study: QuantFindings) -> None:
    """The findings of a quantization study: files, differences, trends, the recommendation."""
    console = table_console(160)
    for each in terminal_tables(study.findings):
        console.print(each)
    console.print(study.findings.recommendation, soft_wrap=True)
    click.echo(f"study: {study.path}")


def print_forecast(forecast: Forecast) -> None:
    """The forecast as a table and its totals in words."""
    table_console(140).print(table(forecast))
    for line in forecast.lines():
        click.echo(line)


def print_statuses(statuses: list[StudyStatus]) -> None:
    """A table per study."""
    for status in statuses:
        table_console(140).print(status.table())
