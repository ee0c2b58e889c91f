"""`charprobe-lite study plan`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from charprobe_lite.eval.cli.options import budget_option, json_option, shard_option
from charprobe_lite.eval.cli.progress import note
from charprobe_lite.eval.cli.types import FILE


@click.command()
@click.argument("file", type=FILE)
@budget_option
@shard_option
@json_option
def plan(
    file: Path, budget: int | str | None, shard: tuple[int, int] | None, as_json: bool
) -> None:
    """Print the cells of a study file and what they cost in disk, memory and time."""
    from charprobe_lite.eval.cli.study.output import print_forecast, print_statuses
    from charprobe_lite.eval.quant.run import refuse_without_reference
    from charprobe_lite.eval.study.file import forecast_studies, planned_studies
    from charprobe_lite.eval.study.status import study_status

    specs = planned_studies(file, budget, shard, note)
    for spec in specs:
        refuse_without_reference(spec)
    statuses = [study_status(spec) for spec in specs]
    forecasts = forecast_studies(specs)
    if as_json:
        studies = [status.as_json() for status in statuses]
        costs = [{"base": base, **cost.as_json()} for base, cost in forecasts.items()]
        click.echo(json.dumps({"studies": studies, "forecasts": costs}))
    else:
        print_statuses(statuses)
        for forecast in forecasts.values():
            print_forecast(forecast)
    for forecast in forecasts.values():
        forecast.refuse_what_does_not_fit()
