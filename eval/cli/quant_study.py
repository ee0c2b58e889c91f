"""`charprobe-lite quant-study`: what quantization does to character, against F16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charprobe_lite.eval.cli.options import (
    FILE,
    base_option,
    classifier_option,
    condition_option,
    console_of,
    given,
    grammar_option,
    json_option,
    names_option,
    note,
    persona_option,
    progress_of,
    run_options,
    study_option,
    verify_option,
)
from charprobe_lite.models.catalogue import LORA_MODES, STAGES, select_names
from charprobe_lite.models.defaults import MARGIN, REFERENCE
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import QUANT_TYPES

if TYPE_CHECKING:
    from charprobe_lite.eval.cli.measure import Ran
    from charprobe_lite.eval.quant.findings import QuantStudy
    from charprobe_lite.eval.study.spec import Asked

LADDER = "F16,Q8_0,Q5_1,Q5_0,Q4_1,Q4_0,IQ4_NL"
BOTH = "both"


@click.command("quant-study")
@base_option
@names_option(
    "--quant", QUANT_TYPES, default=[LADDER], help="Weight types; F16 is added where it is missing."
)
@persona_option
@names_option("--stage", STAGES, default=["full"], help="Training stages.")
@condition_option
@grammar_option
@names_option(
    "--lora",
    [*LORA_MODES, BOTH],
    default=["runtime"],
    help="Quantize the base and keep the adapter in F16 on top, merge first and quantize then, "
    "or both.",
)
@run_options
@click.option(
    "--margin",
    default=MARGIN,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="The largest difference from F16 that counts as none.",
)
@click.option(
    "--texts",
    default=4,
    show_default=True,
    type=click.IntRange(0),
    help="Texts of each kind and persona that every file reads beside F16; 0 for none.",
)
@classifier_option
@verify_option
@study_option
@click.option("-o", "--output", type=FILE, help="Write the report into this folder, too.")
@json_option
def quant_study(
    margin: float,
    texts: int,
    budget: int | str | None,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure what quantization does to character and tool calls, each type against F16.

    Asks the same prompts and scenarios with the same seeds of every weight type; measures each
    file's real size, speed and memory, and how far its next tokens are from F16's on the same
    texts; and says with paired intervals what is lost, whether it is equivalent, and which file to
    take. Everything is recorded in one study: stopped at any moment, the same command goes on
    where it was. What eval has run already with the same settings is not run again.

    \b
    charprobe-lite quant-study --persona all --limit 40,25 --lora both -o report
    charprobe-lite quant-study --persona humor,remorse --quant Q8_0,Q4_0 --budget 8GB
    """
    asked = _asked({**options, "texts": texts, "margin": margin}, budget)
    ran, found = measure_against_f16(asked)
    page = _report(ran, found, output) if output else None
    if as_json:
        document = {**found.as_json(), "study": str(ran.path), "report": page and str(page)}
        click.echo(json.dumps(document))
        return
    show(found, ran.path)
    if page:
        click.echo(f"report: {page}")


def _asked(options: dict[str, Any], budget: int | str | None) -> Asked:
    """What is asked, F16 among it."""
    from charprobe_lite.eval.study.spec import checked, fitting

    named = select_names(options["quant"], QUANT_TYPES, "--quant")
    if REFERENCE not in named:
        note(f"{REFERENCE}: added, all others are compared with it")
    lora = [name.replace(BOTH, "all") for name in options["lora"]]
    asked = checked(
        {
            **given(options),
            "quant": (REFERENCE, *named),
            "lora": lora,
            "persona": options["persona"] or ("all",),
        },
        "quant-study",
    )
    return fitting(asked, budget, note)


def refuse_without_f16(asked: Asked) -> None:
    """BadInput for a quantization study in which nothing can be compared."""
    option = asked.named("quant")
    kept = select_names(asked.quant, QUANT_TYPES, option)
    if REFERENCE not in kept:
        raise BadInput(
            f"{option}: needs {REFERENCE}, which all others are compared with; name it, or a "
            "larger --budget"
        )
    if kept == [REFERENCE]:
        raise BadInput(f"{option} {REFERENCE}: add types to compare with it, such as Q8_0,Q4_0")


def measure_against_f16(asked: Asked) -> tuple[Ran, QuantStudy]:
    """Run what is missing, measure what is missing of the files, score it. Raises BadInput."""
    from charprobe_lite.eval.cli.measure import run_asked
    from charprobe_lite.eval.quant.measurement import label_again, measure_fidelity, measure_speed
    from charprobe_lite.eval.quant.records import read_recordings, score_recordings
    from charprobe_lite.eval.store.database import Store
    from charprobe_lite.eval.study.file_cost import distinct

    refuse_without_f16(asked)
    ran = run_asked(asked)
    settings = ran.settings
    with Store(ran.path) as store:
        store.note({"margin": asked.margin})
        measure_speed(store, ran.files, settings, progress_of)
        read = measure_fidelity(store, ran.files, settings, asked.texts or 0, progress_of)
        label_again(store, ran.files[0], settings, progress_of)
        rows = {task.key for task in ran.tasks}
        files = {(each.quant, each.way) for each in distinct(ran.files)}
        study = read_recordings(store).only(rows, files, read)
    found = score_recordings(study, settings.personas, asked.margin, settings.seed)
    if found is None:
        raise BadInput(f"{ran.path}: holds no rollout of {REFERENCE} and another type to compare")
    return ran, found


def _report(ran: Ran, found: QuantStudy, folder: Path) -> Path:
    from charprobe_lite.eval.report import write_report

    return write_report(ran.path, folder, quant_study=found).page


def show(found: QuantStudy, path: Path) -> None:
    """Print what was found: files, differences, trends, and the recommendation."""
    from charprobe_lite.eval.quant.terminal import terminal_tables

    console = console_of(160)
    for table in terminal_tables(found):
        console.print(table)
    console.print(found.recommendation, soft_wrap=True)
    click.echo(f"study: {path}")
