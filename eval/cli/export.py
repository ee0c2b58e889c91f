"""`charprobe-lite export`: a study as files for other programs."""

import sys
from pathlib import Path

import click

from charprobe_lite.eval.cli.options import json_option
from charprobe_lite.eval.cli.progress import note, print_result
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.eval.export import FORMATS, export_study, export_to
from charprobe_lite.models.errors import BadInput


@click.command()
@click.argument("study", type=FILE)
@click.option(
    "--format",
    "kind",
    default="jsonl",
    metavar="|".join(FORMATS),
    help="Parquet needs the extra tables, inspect the extra inspect.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="File to write, for inspect a new folder; - is stdout  [default: STUDY.FORMAT, "
    "STUDY-inspect].",
)
@click.option(
    "--prompts",
    metavar="FILE|pure-dove",
    help="The study's prompts, if they are not the shipped ones; for inspect.",
)
@click.option(
    "--scenarios",
    type=FILE,
    help="The study's scenarios, if they are not the shipped ones; for inspect.",
)
@json_option
def export(
    study: Path,
    kind: str,
    output: Path | None,
    prompts: str | None,
    scenarios: Path | None,
    as_json: bool,
) -> None:
    """Write a study's rollouts as JSON lines, parquet, CSV or Inspect logs.

    One row per rollout, which `charprobe-lite score` reads without options; JSON lines have the
    turns too. A base-stage row has no persona: it stands for them all. Texts are written as they
    are, so a CSV cell may begin with = + - or @: import it as text into a spreadsheet, or use
    another format. Inspect logs are one per cell, rollouts as messages and tool calls, for
    `inspect view`. A study can be exported while it runs.

    \b
    charprobe-lite export runs/smollm2-135m-seed0.sqlite --format csv -o rollouts.csv
    charprobe-lite export runs/smollm2-135m-seed0.sqlite -o - | jq .text
    charprobe-lite export runs/smollm2-135m-seed0.sqlite --format inspect -o logs
    inspect view --log-dir logs
    """
    from charprobe_lite.eval.store.reader import open_study

    source = open_study(study)
    if output == Path("-"):
        if as_json:
            raise BadInput("--json: stdout has the rollouts with --output -; leave one out")
        export_to(sys.stdout.buffer, source, kind)
        return
    files = export_study(source, kind, output, prompts, scenarios, note)
    names = [str(file) for file in files]
    document = {"format": kind, "rollouts": len(source.rows), "files": names}
    place = files[0] if len(files) == 1 else files[0].parent
    print_result(as_json, document, [f"{place}: {len(source.rows)} rollouts"])
