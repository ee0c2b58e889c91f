"""`charprobe-lite score`: scores of any texts or predictions, and how far humans agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charprobe_lite.eval.cli.options import study_scenarios_option
from charprobe_lite.eval.cli.progress import print_result
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models.defaults import LEAST_RESAMPLES
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import file_format

if TYPE_CHECKING:
    from rich.table import Table


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("--text", metavar="COLUMN", help="The texts [default: email_body, text, response].")
@click.option(
    "--label", metavar="COLUMN", help="True labels [default: trait_true, persona, trait]."
)
@click.option(
    "--prediction",
    metavar="COLUMN",
    help="Predicted labels [default: trait_pred, prediction]; without them, or with --classifier, "
    "a classifier reads the texts.",
)
@click.option(
    "--by",
    multiple=True,
    metavar="COLUMN[,COLUMN]",
    help="Groups [default: those of base, stage, condition, quant, format, grammar, lora, "
    "kv_type, technique that the file has]; also family or task, from the ids of published "
    "scenarios.",
)
@click.option(
    "--cluster",
    metavar="COLUMN",
    help="The prompt or scenario of a text [default: cluster, item, scenario_id, scenario, "
    "prompt_id, prompt_idx]; also task, from the ids of published scenarios, or family, from those "
    "or from a study's scenarios.",
)
@study_scenarios_option
@click.option(
    "--human",
    metavar="COLUMN|FILE.json",
    help="Whether a human saw the persona, as present/absent, true/false, 1/0 or yes/no "
    "[default: hand_classification, or classification next to trait]; or what the report page "
    "saved, for a study.",
)
@click.option(
    "--asked",
    metavar="N|COLUMN",
    help="Rollouts asked for in each group, over all its personas: gives the yield and macro-F1's "
    "bounds if every missing text is a miss, and if every one is a hit.",
)
@click.option(
    "--classifier",
    type=FILE,
    help="Your own classifier: a folder with an ONNX model. It reads all texts, also those of a "
    "study and those that have a prediction.",
)
@click.option(
    "--resamples",
    type=click.IntRange(LEAST_RESAMPLES),
    help="Bootstrap resamples of groups [default: 1000 of rows, 10000 of clusters].",
)
@click.option("--seed", default=0, type=click.IntRange(0), help="Seed of the resamples.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, unrounded.")
def score(files: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Score texts or predictions from JSON, JSON lines, CSV, parquet or a study (.sqlite).

    Published result files are read as they are. Macro-F1 comes with an interval from resampled
    prompts or scenarios where the file says which one a text came from, else from resampled rows.
    Of a study it also prints what is lost from chat to agent, condition by condition. Parquet needs
    the extra charprobe-lite[tables].

    \b
    charprobe-lite score results.jsonl
    charprobe-lite score results.jsonl --asked 500 --cluster family
    charprobe-lite score answers.csv --text body --label voice --by model
    charprobe-lite score runs/smollm2-135m-seed0.sqlite --human labels.json
    """
    from charprobe_lite.eval.scores.terminal import class_notes, waterfall_table
    from charprobe_lite.eval.texts.reader import Columns
    from charprobe_lite.eval.texts.scores import classified_files, group_table, score_groups
    from charprobe_lite.eval.texts.studies import score_studies

    human = options["human"]
    marks = Path(human) if human and file_format(Path(human)) == ".json" else None
    names = ("text", "label", "prediction", "cluster", "asked", "scenarios")
    columns = Columns(
        **{name: options[name] for name in names},
        human=None if marks else human,
        by=tuple(n.strip() for names in options["by"] for n in names.split(",") if n.strip()),
    )
    if columns.scenarios and "family" not in (columns.cluster, *columns.by):
        raise BadInput("--scenarios: names families; add --cluster family or --by family")
    texts = classified_files(files, columns, classifier=options["classifier"], marks=marks)
    scores = score_groups(texts, options["seed"], options["resamples"])
    studies = score_studies(texts, options["seed"])
    document = {
        "cells": [score.as_json() for score in scores],
        "waterfall": [
            {"study": str(path), **fall.as_json()}
            for path, study in studies.items()
            for fall in study.waterfalls
        ],
    }
    parts: list[str | Table] = [group_table(scores)]
    for path, study in studies.items():
        if study.waterfalls:
            parts.append(waterfall_table(study.waterfalls, f"{path.name}, from chat to agent"))
            parts += class_notes(study)
    print_result(as_json, document, parts)
