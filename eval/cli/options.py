"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from charprobe_lite.eval.cli.types import FILE, Budget, Limit, Name, NameList, Shard
from charprobe_lite.models import defaults
from charprobe_lite.models.catalogue import BASES, CONDITIONS, EMBEDDED, GRAMMARS
from charprobe_lite.models.personas import PERSONAS

Option = Callable[[Any], Any]


def names_option(flag: str, names: Sequence[str], **settings: Any) -> Option:
    """An option that takes several of ``names``; `catalogue.select_names` expands its value."""
    return click.option(flag, multiple=True, type=NameList(names), **settings)


def parallel_option(help: str) -> Option:
    """The number of rollouts at once."""
    return click.option(
        "--parallel", default=defaults.PARALLEL, type=click.IntRange(1, 64), help=help
    )


def context_option(help: str) -> Option:
    """The tokens of one rollout."""
    return click.option("--context", default=defaults.CONTEXT, type=click.IntRange(128), help=help)


def threads_option(default: str) -> Option:
    """The number of CPU threads."""
    return click.option(
        "--threads", type=click.IntRange(1), help=f"CPU threads [default: {default}]."
    )


base_option = click.option(
    "--base",
    type=Name(BASES),
    metavar="NAME",
    help="A base of the catalogue (models list); fetched and converted where necessary "
    f"[default: {EMBEDDED}].",
)
persona_option = names_option("--persona", PERSONAS, help="Personas; several give a macro-F1.")
condition_option = names_option(
    "--condition",
    CONDITIONS,
    help=f"Conditions: {', '.join(CONDITIONS)} [default: {','.join(defaults.CONDITIONS)}].",
)
grammar_option = names_option(
    "--grammar", GRAMMARS, help="Tool calls with a grammar or without [default: on]."
)
budget_option = click.option(
    "--budget",
    type=Budget(),
    help="Leave out quant types that need more memory than this, or more disk than is free; "
    "machine is this machine's memory.",
)
shard_option = click.option(
    "--shard", type=Shard(), help="Run only this part of the rollouts; study merge joins the parts."
)
classifier_option = click.option(
    "--classifier", type=FILE, help="Your own classifier: a folder with ONNX ModernBERT."
)
verify_option = click.option(
    "--verify/--no-verify", default=True, help="Check converted files against their originals."
)
study_option = click.option(
    "--study", type=FILE, help="The study file [default: runs/BASE-seedSEED.sqlite]."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")

RUN_OPTIONS = (
    budget_option,
    click.option("--seed", default=0, type=click.IntRange(0), help="The study's seed."),
    click.option(
        "--repeats",
        default=1,
        type=click.IntRange(1, 1000),
        help="Rollouts per prompt and scenario, each with another seed.",
    ),
    shard_option,
    click.option(
        "--limit",
        default=f"{defaults.PROMPTS},{defaults.SCENARIOS}",
        type=Limit(),
        help="Prompts and scenarios per cell: N for both, PROMPTS,SCENARIOS, or all; all in "
        "break_character is every prompt with every suffix.",
    ),
    parallel_option("Rollouts at once; with 1 a text depends on its seed bit for bit."),
    click.option(
        "--device",
        default="auto",
        type=click.Choice(["auto", "cpu", "metal", "cuda"]),
        help="Device of llama.cpp and the classifier; doctor lists the devices.",
    ),
    click.option(
        "--gpu-layers",
        type=click.IntRange(0),
        help="Layers on the GPU [default: all if there is one].",
    ),
    threads_option("physical cores"),
    click.option(
        "--max-tokens", default=defaults.MAX_TOKENS, type=click.IntRange(1), help="Tokens per turn."
    ),
    context_option("Tokens that one rollout may fill."),
)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The size, the seed and the machine of a run: options of `eval` and `quant-study`."""
    for option in reversed(RUN_OPTIONS):
        command = option(command)
    return command


def option_values(options: dict[str, Any]) -> dict[str, Any]:
    """The options that have a value, as `parse_spec` takes them."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def explicit_values(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user gave: the others keep the defaults of `StudySpec`."""
    context, default = click.get_current_context(), click.core.ParameterSource.DEFAULT
    return {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not default
    }
