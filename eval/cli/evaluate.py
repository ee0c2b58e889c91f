"""`charprobe-lite eval`: run what is missing of a study and print its scores."""

from __future__ import annotations

import json
from typing import Any

import click

from charprobe_lite.eval.cli.options import (
    base_option,
    classifier_option,
    condition_option,
    given,
    grammar_option,
    json_option,
    names_option,
    persona_option,
    run_options,
    study_option,
    verify_option,
)
from charprobe_lite.eval.cli.progress import note
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models.catalogue import FORMATS, LORA_MODES, STAGES
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import QUANT_TYPES

# options that have a say with one backend only
OF_THE_ENGINE = (
    *("quant", "lora", "budget", "gguf", "adapter", "verify", "dry_run"),
    *("gpu_layers", "threads", "context"),
)
OF_A_SERVER = ("base_url", "model", "timeout")


@click.command("eval")
@base_option
@names_option("--stage", STAGES, help="Training stages; base is the model without an adapter.")
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
@run_options
@click.option("--steps", default=8, show_default=True, type=click.IntRange(1), help="Agent turns.")
@click.option(
    "--backend",
    default="llama.cpp",
    show_default=True,
    type=click.Choice(["llama.cpp", "openai"]),
    help="Run models here, or drive an OpenAI-compatible server (extra: server).",
)
@click.option("--base-url", metavar="URL", help="The server's, mostly http://HOST:PORT/v1.")
@click.option(
    "--model",
    multiple=True,
    metavar="NAME",
    help="A model on the server; several as base=NAME, full/humor=NAME, ...",
)
@click.option(
    "--timeout",
    default=600.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds to wait for a reply of the server.",
)
@click.option("--gguf", type=FILE, help="Your own model: a GGUF file with a chat template.")
@click.option("--adapter", type=FILE, help="Your own persona: a GGUF LoRA, or a PEFT folder.")
@classifier_option
@click.option(
    "--prompts",
    metavar="FILE|pure-dove",
    help="Your own prompts: text, a prompt a line, or rows of Pure-Dove as JSONL or parquet.",
)
@click.option(
    "--scenarios",
    type=FILE,
    help="Your own scenarios: a JSONL or YAML file, or a folder of them; published ones too.",
)
@verify_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only say what would be fetched, made and run, and what it would cost.",
)
@study_option
@json_option
def evaluate(dry_run: bool, as_json: bool, budget: int | str | None, **options: Any) -> None:
    """Measure how much of a persona is left in a chat and in an agent's emails.

    Runs the stages base, distillation and full in the conditions chat (in distribution) and
    agentic_email (tool calls under a grammar until an email is sent), or in the conditions that
    are named, classifies every text and prints how often the persona is detected. Everything is
    recorded in one SQLite file: stopped at any moment, the same command goes on where it was.

    \b
    charprobe-lite eval --persona sarcasm
    charprobe-lite eval --persona all --limit 60,all
    charprobe-lite eval --persona all --condition all --format json,fenced --grammar on,off
    charprobe-lite eval --gguf model.gguf --adapter my-lora.gguf --persona sarcasm
    charprobe-lite eval --backend openai --base-url http://localhost:8000/v1 \\
        --model base=llama --model full/sarcasm=llama-sarcasm
    """
    from charprobe_lite.eval.cli.measure import DISPLAY, show, show_forecast
    from charprobe_lite.eval.study.cost import fit_budget
    from charprobe_lite.eval.study.run import run_study
    from charprobe_lite.eval.study.spec import parse_spec

    _refuse_mixture(options)
    spec = fit_budget(parse_spec(given(options)), budget, note)
    if dry_run:
        if spec.gguf:
            raise BadInput("--dry-run: a file of your own needs no preparation; leave it out")
        show_forecast(spec, as_json)
        return
    study = run_study(spec, DISPLAY)
    if as_json:
        click.echo(json.dumps(study.as_json()))
    else:
        show(study)


def _named(option: str) -> bool:
    """Whether an option was given, rather than left at its default."""
    source = click.get_current_context().get_parameter_source(option)
    return source is not click.core.ParameterSource.DEFAULT


def _refuse_mixture(options: dict[str, Any]) -> None:
    """BadInput for options that have no say with the backend chosen."""
    from importlib.util import find_spec

    served = options["backend"] == "openai"
    for option in OF_THE_ENGINE if served else OF_A_SERVER:
        if _named(option):
            flag = f"--{option.replace('_', '-')}"
            raise BadInput(
                f"{flag}: has no use with --backend openai; leave it out"
                if served
                else f"{flag}: is for a server; add --backend openai"
            )
    if served and not (options["base_url"] and options["model"]):
        raise BadInput("--backend openai: needs --base-url URL and --model NAME")
    if served and not (find_spec("openai") and find_spec("anyio")):
        raise BadInput(
            "--backend openai: openai is not installed; pip install 'charprobe-lite[server]'"
        )
