"""`charprobe-lite export`: a study as files for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charprobe_lite.eval.cli.options import FILE, json_option
from charprobe_lite.models.errors import BadInput

if TYPE_CHECKING:
    from charprobe_lite.eval.store.reader import Study

KINDS = ("jsonl", "parquet", "csv", "inspect")


@click.command()
@click.argument("study", type=FILE)
@click.option(
    "--format",
    "kind",
    default="jsonl",
    show_default=True,
    metavar="|".join(KINDS),
    help="Parquet needs the extra tables, inspect the extra inspect.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="File to write, for inspect a new folder  [default: STUDY.FORMAT, STUDY-inspect].",
)
@click.option(
    "--prompts",
    metavar="FILE|pure-dove",
    help="The prompts that the study asked, if not the shipped ones; for inspect.",
)
@click.option(
    "--scenarios",
    type=FILE,
    help="The scenarios that the study asked, if not the shipped ones; for inspect.",
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
    charprobe-lite export runs/smollm2-135m-seed0.sqlite --format inspect -o logs
    inspect view --log-dir logs
    """
    from charprobe_lite.eval.export import files
    from charprobe_lite.eval.store.reader import open_study
    from charprobe_lite.models.atomic import new_file

    if kind not in KINDS:
        raise BadInput(f"--format {kind}: unknown; choose from {', '.join(KINDS)}")
    if kind != "inspect" and (prompts or scenarios):
        raise BadInput("--prompts, --scenarios: have a use with --format inspect only")
    found = open_study(study)
    if kind == "inspect":
        target = output or study.with_name(f"{study.stem}-inspect")
        written = _inspect(found, target, prompts, scenarios)
    else:
        target = output or study.with_suffix(f".{kind}")
        if target.exists() and target.samefile(study):
            raise BadInput(f"{target}: is the study itself; name another -o")
        write = {"jsonl": files.write_jsonl, "csv": files.write_csv, "parquet": files.write_parquet}
        with new_file(target) as part:
            write[kind](found, part)
        written = [target]
    if as_json:
        facts = {"format": kind, "rollouts": len(found.rows), "files": list(map(str, written))}
        click.echo(json.dumps(facts))
        return
    click.echo(f"{target}: {len(found.rows)} rollouts")


def _inspect(study: Study, target: Path, prompts: str | None, scenarios: Path | None) -> list[Path]:
    from charprobe_lite.eval.conditions.transcript import Transcripts
    from charprobe_lite.eval.export.inspect import write_logs
    from charprobe_lite.models.atomic import new_folder
    from charprobe_lite.models.prompts import prompt_file

    transcripts = Transcripts(study.provenance, prompt_file(prompts), scenarios)
    with new_folder(target) as part:
        names = write_logs(study, transcripts, part)
    if transcripts.mismatches:
        click.echo(
            f"{', '.join(transcripts.mismatches)}: differ from the study's, so the messages to the "
            "model are left out; name --prompts and --scenarios",
            err=True,
        )
    return [target / name for name in names]
