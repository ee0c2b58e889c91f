"""`charprobe-lite study status`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from charprobe_lite.eval.cli.options import json_option
from charprobe_lite.eval.cli.types import FILE


@click.command()
@click.argument("study", type=FILE)
@json_option
def status(study: Path, as_json: bool) -> None:
    """Print how far a study (SQLite) or study file is, cell by cell; also while it runs."""
    from charprobe_lite.eval.cli.study.output import print_statuses
    from charprobe_lite.eval.study.file import read_specs
    from charprobe_lite.eval.study.status import study_status

    statuses = [study_status(spec) for spec in read_specs(study)]
    if as_json:
        click.echo(json.dumps({"studies": [each.as_json() for each in statuses]}))
    else:
        print_statuses(statuses)
