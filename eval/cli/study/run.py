"""`charprobe-lite study run` and `resume`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charprobe_lite.eval.cli.options import budget_option, json_option, shard_option
from charprobe_lite.eval.cli.progress import item_bar, note
from charprobe_lite.eval.cli.types import FILE

if TYPE_CHECKING:
    from charprobe_lite.eval.study.spec import StudySpec


@click.command()
@click.argument("file", type=FILE)
@budget_option
@shard_option
@click.option("--study", type=FILE, help="The file to write, instead of the study file's.")
@json_option
def run(
    file: Path,
    budget: int | str | None,
    shard: tuple[int, int] | None,
    study: Path | None,
    as_json: bool,
) -> None:
    """Run what is missing of the studies of a study file, and print their scores.

    Several machines each run a part with --shard 1/4, 2/4, ...; study merge joins them.
    """
    from charprobe_lite.eval.study.file import planned_studies

    _run(planned_studies(file, budget, shard, note, study), as_json)


@click.command()
@click.argument("study", type=FILE)
@json_option
def resume(study: Path, as_json: bool) -> None:
    """Continue a study (SQLite), or all studies of a study file.

    A study records what it is to do, those of eval and quant-study too.
    """
    from charprobe_lite.eval.study.file import planned_studies

    _run(planned_studies(study), as_json)


def _run(specs: list[StudySpec], as_json: bool) -> None:
    from charprobe_lite.eval.cli.study.output import DISPLAY, print_findings, print_scores
    from charprobe_lite.eval.quant.run import refuse_without_reference, run_quant_study
    from charprobe_lite.eval.study.run import run_study

    for spec in specs:
        refuse_without_reference(spec)
    documents = []
    for spec in specs:
        if spec.is_quant_study:
            findings = run_quant_study(spec, DISPLAY, item_bar)
            documents.append(findings.as_json())
            if not as_json:
                print_findings(findings)
        else:
            scored = run_study(spec, DISPLAY)
            documents.append(scored.as_json())
            if not as_json:
                print_scores(scored)
    if as_json:
        click.echo(json.dumps({"studies": documents}))
