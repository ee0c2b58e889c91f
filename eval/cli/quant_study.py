"""`charprobe-lite quant-study`: what quantization does to character, against F16."""

from pathlib import Path
from typing import Any

import click

from charprobe_lite.eval.cli.options import (
    SectionedCommand,
    base_option,
    classifier_option,
    condition_option,
    grammar_option,
    input_options,
    instrument_option,
    json_option,
    kv_type_option,
    names_option,
    option_group,
    option_values,
    own_model_options,
    persona_option,
    run_options,
    study_option,
    verify_option,
)
from charprobe_lite.eval.cli.progress import item_bar, note, print_result
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models.catalogue import LORA_MODES, STAGES, select_names
from charprobe_lite.models.defaults import MARGIN, QUANT_STUDY, REFERENCE, TEXTS
from charprobe_lite.models.quant_types import QUANT_TYPES

BOTH = "both"


@click.command("quant-study", cls=SectionedCommand)
@base_option
@names_option(
    "--quant",
    QUANT_TYPES,
    default=[",".join(QUANT_STUDY)],
    help="Weight types; F16 is added if it is missing.",
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
@kv_type_option
@run_options
@click.option(
    "--margin",
    default=MARGIN,
    type=click.FloatRange(0, 1, min_open=True),
    help="The largest difference from F16 that counts as none.",
)
@click.option(
    "--texts",
    default=TEXTS,
    type=click.IntRange(0),
    help="Texts of each kind and persona that F16 and every file read; 0 for none.",
)
@option_group(*own_model_options, instrument_option, classifier_option, *input_options)
@verify_option
@study_option
@click.option("-o", "--output", type=FILE, help="Write the report into this folder, too.")
@json_option
def quant_study(
    budget: int | str | None, output: Path | None, as_json: bool, **options: Any
) -> None:
    """Measure what quantization does to character and tool calls, each type against F16.

    Runs the same prompts and scenarios with the same seeds on every weight type; measures each
    file's real size, speed and memory, and how far its next tokens are from F16's on the same
    texts; and reports with paired intervals what each type loses, whether it is equivalent to F16,
    and which file to take. One study records everything: after an interrupt, the same command
    continues where it stopped, and it does not repeat rollouts of eval with the same settings.

    \b
    charprobe-lite quant-study --persona all --limit 24,25 --lora both -o report
    charprobe-lite quant-study --persona humor,remorse --quant Q8_0,Q4_0 --budget 8GB
    charprobe-lite quant-study --gguf model-F16.gguf --adapter my-lora/ --persona sarcasm
    """
    from charprobe_lite.eval.cli.results import DISPLAY, result_parts
    from charprobe_lite.eval.quant.run import run_quant_study
    from charprobe_lite.eval.report import write_report
    from charprobe_lite.eval.study.cost import fit_budget
    from charprobe_lite.eval.study.spec import parse_spec

    quants = select_names(options["quant"], QUANT_TYPES, "--quant")
    if REFERENCE not in quants:
        note(f"{REFERENCE}: added, all others are compared with it")
    options |= {
        "quant": (REFERENCE, *quants),
        "lora": [name.replace(BOTH, "all") for name in options["lora"]],
        "persona": options["persona"] or ("all",),
    }
    spec = fit_budget(parse_spec(option_values(options)), budget, note)
    study = run_quant_study(spec, DISPLAY, item_bar)
    page = write_report(study.path, output, quant_study=study.findings).page if output else None
    document = {**study.as_json(), "report": page and str(page)}
    print_result(as_json, document, [*result_parts(study), *([f"report: {page}"] if page else [])])
