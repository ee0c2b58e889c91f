"""Options that several commands share."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from charprobe_lite.eval.cli.types import FILE, Budget, Limit, Name, NameList, Parallel, Shard
from charprobe_lite.models import defaults
from charprobe_lite.models.catalogue import (
    BASES,
    CONDITIONS,
    EMBEDDED,
    ENSEMBLE,
    GRAMMARS,
    INSTRUMENTS,
    MINILM,
    MODERNBERT,
    NGRAM,
    OWN,
    PROTOCOLS,
)
from charprobe_lite.models.personas import NAMED_ONLY, PERSONAS
from charprobe_lite.models.quant_types import KV_DEFAULT, KV_TYPES
from charprobe_lite.models.task_ids import CLUSTERS

Option = Callable[[Any], Any]


def names_option(flag: str, names: Sequence[str], **settings: Any) -> Option:
    """An option that takes several of ``names``; `catalogue.select_names` expands its value."""
    return click.option(flag, multiple=True, type=NameList(names), **settings)


def parallel_option(help: str) -> Option:
    return click.option(
        "--parallel", default=defaults.PARALLEL, type=click.IntRange(1, 64), help=help
    )


def context_option(help: str) -> Option:
    return click.option("--context", default=defaults.CONTEXT, type=click.IntRange(128), help=help)


def threads_option(default: str) -> Option:
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
persona_option = names_option(
    "--persona",
    (*PERSONAS, *NAMED_ONLY),
    help=f"Personas: {', '.join(PERSONAS)}; all is these; {', '.join(NAMED_ONLY)} only by name. "
    "Several give a macro-F1 [default: all; eval has none].",
)
condition_option = names_option(
    "--condition",
    CONDITIONS,
    help=f"Conditions: {', '.join(CONDITIONS)} [default: {','.join(defaults.CONDITIONS)}; with "
    "published --scenarios those of their scaffolds].",
)
grammar_option = names_option(
    "--grammar", GRAMMARS, help="Tool calls with a grammar or without [default: on]."
)
kv_type_option = names_option(
    "--kv-type",
    KV_TYPES,
    help=f"Types of the K and V cache: {', '.join(KV_TYPES)} [default: {KV_DEFAULT}]; a quantized "
    "one has flash attention on.",
)
budget_option = click.option(
    "--budget",
    type=Budget(),
    metavar="SIZE|machine",
    help="Leave out quant types that need more memory than this, or more disk than is free; "
    "machine is this machine's memory.",
)
shard_option = click.option(
    "--shard", type=Shard(), help="Run only this part of the rollouts; study merge joins the parts."
)
instrument_option = names_option(
    "--instrument",
    INSTRUMENTS,
    help=f"What names the persona of a text, one or more of {', '.join(INSTRUMENTS)}; the first "
    f"makes the headline [default: {ENSEMBLE},{MINILM},{NGRAM}; with a classifier of the base's or "
    f"your own {MODERNBERT} or {OWN}, and {NGRAM}].",
)
classifier_option = click.option(
    "--classifier", type=FILE, help="Your own classifier: a folder with an ONNX model."
)
verify_option = click.option(
    "--verify/--no-verify", default=True, help="Check converted files against their originals."
)
study_option = click.option(
    "--study",
    type=FILE,
    help="The study file [default: runs/BASE-seedSEED.sqlite, with --shard "
    "-partNofOF before the ending].",
)
cluster_option = click.option(
    "--cluster",
    default="item",
    type=click.Choice(CLUSTERS),
    help="What intervals resample: prompts and scenarios, or whole families of scenarios.",
)
study_scenarios_option = click.option(
    "--scenarios",
    type=FILE,
    help="The scenarios that the study was run with, which name the families; the shipped and the "
    "published ones need none.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def option_group(*options: Option) -> Option:
    """Several options as one decorator, in the order of the help."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


run_options = option_group(
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
        metavar="N[,N]|all",
        help="Prompts and scenarios per cell: N for both, PROMPTS,SCENARIOS, or all; all in "
        "break_character is every prompt with every suffix.",
    ),
    click.option(
        "--parallel",
        default="auto",
        type=Parallel(),
        help="Rollouts at once; auto times a few decodes on this machine before the first. With 1 "
        "a text depends on its seed bit for bit.",
    ),
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
        "--flash-attention",
        default="auto",
        type=click.Choice(["auto", "on", "off"]),
        help="llama.cpp's flash attention on the CPU; auto times both on this machine.",
    ),
    click.option(
        "--max-tokens", default=defaults.MAX_TOKENS, type=click.IntRange(1), help="Tokens per turn."
    ),
    context_option(
        "Tokens that one rollout may fill; by default more where a scenario needs it. Chats take "
        "what they need."
    ),
)
"""The size, the seed and the machine of a run: options of `eval` and `quant-study`."""

protocol_option = click.option(
    "--protocol",
    default="lite",
    type=click.Choice(PROTOCOLS),
    help="How to ask, read and score: lite is this project's own, depth and oct are published "
    "(charprobe-lite protocols). It sets other options, unless they are given.",
)
own_model_options = (
    click.option("--gguf", type=FILE, help="Your own model: a GGUF file with a chat template."),
    click.option("--adapter", type=FILE, help="Your own persona: a GGUF LoRA, or a PEFT folder."),
)
input_options = (
    click.option(
        "--prompts",
        metavar="FILE|pure-dove",
        help="Your own prompts: text, a prompt a line; JSON, JSONL, YAML, CSV or parquet with a "
        "prompt in each row, or with rows of Pure-Dove.",
    ),
    click.option(
        "--scenarios",
        type=FILE,
        help="Your own scenarios: a JSONL or YAML file, or a folder of them; published ones too.",
    ),
)
suffixes_option = click.option(
    "--suffixes",
    type=FILE,
    help="Your own requests of break_character: text, one a line, or a list in JSON or YAML.",
)
decoding_options = (
    click.option(
        "--temperature",
        default=defaults.TEMPERATURE,
        type=click.FloatRange(0, 100),
        help="Sampling temperature; 0 takes the likeliest token.",
    ),
    click.option(
        "--top-p",
        default=defaults.TOP_P,
        type=click.FloatRange(0, 1, min_open=True),
        help="Draw from the likeliest tokens that hold this probability.",
    ),
    click.option(
        "--top-k", default=0, type=click.IntRange(0), help="Draw from so many tokens; 0 is all."
    ),
    click.option(
        "--min-p",
        default=0.0,
        type=click.FloatRange(0, 1),
        help="Leave out tokens below this share of the likeliest one's probability.",
    ),
    click.option(
        "--repetition-penalty",
        default=1.0,
        type=click.FloatRange(0, 100, min_open=True),
        help="Penalty on tokens of the prompt and the reply, as vLLM defines it; 1 is none.",
    ),
    click.option(
        "--bos",
        default="single",
        type=click.Choice(["single", "double"]),
        help="With double the tokenizer adds its token of the beginning to a template that has "
        "one, as vLLM does with texts.",
    ),
    click.option(
        "--seeds",
        default="rollout",
        type=click.Choice(["rollout", "request"]),
        help="A seed of its own for each rollout, or the study's for every request.",
    ),
    click.option(
        "--tool-role",
        default="user",
        type=click.Choice(["user", "template"]),
        help="Show a tool's output in a user turn, or in the template's own tool turn.",
    ),
)

backend_options = option_group(
    click.option(
        "--steps", default=defaults.MAX_STEPS, type=click.IntRange(1), help="Agent turns."
    ),
    suffixes_option,
    *decoding_options,
    click.option(
        "--backend",
        default="llama.cpp",
        type=click.Choice(["llama.cpp", "openai"]),
        help="Run models here, or drive an OpenAI-compatible server (extra: server).",
    ),
    click.option(
        "--base-url", metavar="URL", help="URL of the server, usually http://HOST:PORT/v1."
    ),
    click.option(
        "--model",
        multiple=True,
        metavar="NAME",
        help="A model on the server; several as base=NAME, full/humor=NAME, ...",
    ),
    click.option(
        "--timeout",
        default=defaults.TIMEOUT,
        type=click.FloatRange(1),
        help="Seconds to wait for a reply of the server.",
    ),
    *own_model_options,
    instrument_option,
    classifier_option,
    *input_options,
)
"""The backend, its server, and a user's own model, adapter, classifier and inputs."""


SECTIONS = {
    "What is measured": (
        *("protocol", "base", "stage", "persona", "condition", "format", "grammar", "quant"),
        *("lora", "kv_type", "train_seed", "margin", "texts"),
    ),
    "How much of it": ("limit", "repeats", "seed", "shard", "budget", "dry_run"),
    "Your own files": (
        *("gguf", "adapter", "prompts", "scenarios", "suffixes", "instrument", "classifier"),
    ),
    "A server": ("backend", "base_url", "model", "timeout"),
    "The machine": ("parallel", "device", "gpu_layers", "threads", "flash_attention"),
    "Decoding": (
        *("max_tokens", "context", "steps", "temperature", "top_p", "top_k", "min_p"),
        *("repetition_penalty", "bos", "seeds", "tool_role"),
    ),
}
"""Headings of the help of `eval` and `quant-study`; what is under none is under Results."""


class SectionedCommand(click.Command):
    """A command whose help has its options under SECTIONS."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        records: dict[str, list[tuple[str, str]]] = {name: [] for name in (*SECTIONS, "Results")}
        places = {option: name for name, options in SECTIONS.items() for option in options}
        for parameter in self.get_params(context):
            if record := parameter.get_help_record(context):
                records[places.get(parameter.name or "", "Results")].append(record)
        for name, rows in records.items():
            if rows:
                with formatter.section(name):
                    formatter.write_dl(rows)


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
