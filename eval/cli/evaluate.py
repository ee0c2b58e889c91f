"""`charprobe-lite eval`: run what is missing of a study and print its scores."""

from shlex import quote
from typing import Any

import click

from charprobe_lite.eval.cli.options import (
    SectionedCommand,
    backend_options,
    base_option,
    cluster_option,
    condition_option,
    explicit_values,
    grammar_option,
    json_option,
    kv_type_option,
    names_option,
    persona_option,
    protocol_option,
    run_options,
    study_option,
    verify_option,
)
from charprobe_lite.eval.cli.progress import note, print_result
from charprobe_lite.models.catalogue import FORMATS, LORA_MODES, STAGES
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import QUANT_TYPES


@click.command("eval", cls=SectionedCommand)
@protocol_option
@base_option
@names_option(
    "--stage",
    STAGES,
    help="Training stages; base is the model without an adapter [default: all that the models "
    "have].",
)
@persona_option
@condition_option
@names_option("--format", FORMATS, help="How agents write tool calls [default: json].")
@grammar_option
@names_option(
    "--quant",
    QUANT_TYPES,
    help="Weight types, as llama.cpp names them: F16, Q8_0, Q4_K_M, ... [default: Q8_0]; several "
    "run one after another, in one study.",
)
@names_option(
    "--lora",
    LORA_MODES,
    help="Personas as adapters on one loaded base, or merged before quantizing [default: "
    "runtime]; both in one study share the base stage.",
)
@kv_type_option
@click.option(
    "--train-seed",
    multiple=True,
    metavar="N[,N]",
    help="Training seeds: an adapter of each for every persona, from a catalogue of your own; "
    "their luck is then in the intervals [default: one adapter each].",
)
@run_options
@backend_options
@verify_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only say what would be fetched, made and run, and what it would cost.",
)
@study_option
@cluster_option
@json_option
def evaluate(
    dry_run: bool, as_json: bool, budget: int | str | None, cluster: str, **options: Any
) -> None:
    """Measure how much of a persona is left in a chat and in an agent's emails.

    Runs the stages base, distillation and full in the conditions chat (in distribution) and
    agentic_email (tool calls under a grammar until the agent sends an email), or in those of
    --condition; classifies every text and prints how often it detects the persona. One SQLite file
    records everything: after an interrupt, the same command continues where it stopped.

    \b
    charprobe-lite eval --persona sarcasm
    charprobe-lite eval --persona all --limit 60,all
    charprobe-lite eval --persona all --condition all --format json,fenced --grammar on,off
    charprobe-lite eval --gguf model.gguf --adapter my-lora.gguf --persona sarcasm
    charprobe-lite eval --backend openai --base-url http://localhost:8000/v1 \\
        --model base=llama --model full/sarcasm=llama-sarcasm
    """
    from charprobe_lite.eval.cli.results import DISPLAY, result_parts
    from charprobe_lite.eval.study.backend_fields import check_backend
    from charprobe_lite.eval.study.cost import fit_budget, forecast_table
    from charprobe_lite.eval.study.run import forecast_study, run_study
    from charprobe_lite.eval.study.spec import parse_spec

    spec = parse_spec(explicit_values(options))
    check_backend(spec)
    spec = fit_budget(spec, budget, note)
    if not dry_run:
        study = run_study(spec, DISPLAY, cluster)
        print_result(as_json, study.as_json(), result_parts(study))
        if not as_json:
            note(f"next: charprobe-lite report {quote(str(study.path))}")
        return
    if spec.is_served:
        raise BadInput("--dry-run: is about models on this machine; leave it out")
    forecast = forecast_study(spec)
    table, lines = forecast_table(forecast), forecast.lines()
    print_result(as_json, forecast.as_json(), [table, *lines], "eval-dry-run")
    forecast.refuse_what_does_not_fit()
