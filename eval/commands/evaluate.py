"""`charprobe-lite eval`: run what is missing of a study and print its scores."""

from __future__ import annotations

import json
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from charprobe_lite.eval.commands.options import (
    Limit,
    NameList,
    conversion_bar,
    names_option,
    quant_option,
)
from charprobe_lite.models.catalogue import (
    BASES,
    CONDITIONS,
    EMBEDDED,
    FORMATS,
    GRAMMARS,
    LORA,
    PERSONAS,
    STAGES,
    choose,
)
from charprobe_lite.models.errors import BadInput

if TYPE_CHECKING:
    from charprobe_lite.eval.checkpoints import Files, Wanted
    from charprobe_lite.eval.report import Scores
    from charprobe_lite.eval.store import Store
    from charprobe_lite.eval.study import Settings, Task
    from charprobe_lite.models.gguf_file import Weights

FILE = click.Path(path_type=Path)
DEFAULT_CONDITIONS = ["chat", "agentic_email"]
# options that have a say with one backend only
OF_THE_ENGINE = (
    *("quant", "lora", "gguf", "adapter", "verify", "dry_run"),
    *("gpu_layers", "threads", "context"),
)
OF_A_SERVER = ("base_url", "model", "timeout")


@click.command("eval")
@click.option(
    "--base",
    default=EMBEDDED,
    show_default=True,
    type=NameList(list(BASES)),
    metavar="NAME",
    help="A base of the catalogue (models list); fetched and converted where it has to be.",
)
@names_option("--stage", STAGES, help="Training stages; base is the model without an adapter.")
@names_option("--persona", PERSONAS, help="Personas; several give a macro-F1.")
@names_option(
    "--condition",
    CONDITIONS,
    help=f"How the checkpoint is asked: {', '.join(CONDITIONS)} [default: chat,agentic_email].",
)
@names_option("--format", FORMATS, help="How agents write tool calls [default: json].")
@names_option("--grammar", GRAMMARS, help="Tool calls under a grammar or not [default: on].")
@quant_option("Q8_0")
@click.option(
    "--lora",
    default="runtime",
    show_default=True,
    type=click.Choice(LORA),
    help="Personas as adapters on one loaded base, or merged before quantizing.",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="The study's seed."
)
@click.option(
    "--limit",
    default="24,10",
    show_default=True,
    type=Limit(),
    help="Prompts and scenarios per cell: N for both, PROMPTS,SCENARIOS, or all; all in "
    "break_character is every prompt with every suffix.",
)
@click.option(
    "--parallel",
    default=8,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Rollouts at once; with 1 a text depends on its seed bit for bit.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "metal", "cuda"]),
    help="Where llama.cpp and the classifier run; doctor says what there is.",
)
@click.option(
    "--gpu-layers",
    type=click.IntRange(0),
    help="Layers on the GPU [default: all if there is one].",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads [default: physical cores].")
@click.option("--steps", default=8, show_default=True, type=click.IntRange(1), help="Agent turns.")
@click.option(
    "--max-tokens", default=384, show_default=True, type=click.IntRange(1), help="Tokens per turn."
)
@click.option(
    "--context",
    default=2560,
    show_default=True,
    type=click.IntRange(128),
    help="Tokens that one rollout may fill.",
)
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
@click.option("--classifier", type=FILE, help="Your own classifier: a folder with ONNX ModernBERT.")
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
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Check converted files against their originals.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only say what would be fetched, made and run, and what it would cost.",
)
@click.option("--study", type=FILE, help="The study file [default: runs/BASE-seedSEED.sqlite].")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def evaluate(**options: Any) -> None:
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
    from dataclasses import asdict

    from charprobe_lite.eval.progress import watching
    from charprobe_lite.eval.report import comparison_json
    from charprobe_lite.eval.store import Store
    from charprobe_lite.eval.study import plan, run
    from charprobe_lite.models.gguf_file import weights

    _refuse_mixture(options)
    settings = _settings(options)
    if options["dry_run"]:
        _print_forecast(options, settings)
        return
    files = _files(options, settings)
    path = options["study"] or Path("runs") / f"{files.base}-seed{settings.seed}.sqlite"
    groups = plan(settings, files)
    tasks = [task for group in groups.values() for task in group]
    _note_left_out(settings, tasks)
    with Store(path) as store:
        _pin(store, settings, files)
        with watching(settings.personas) as progress:
            run(groups, settings, files, store, progress)
        scores = _scores(store, tasks, settings)
        held = weights(files.models[0]) if files.models else None
    if options["as_json"]:
        click.echo(
            json.dumps(
                {
                    "cells": [score.as_json() for score in scores.merged],
                    "per_persona": [score.as_json() for score in scores.single],
                    **comparison_json(scores.comparison),
                    "weights": asdict(held) if held else None,
                    "study": str(path),
                }
            )
        )
        return
    _print(scores, held, path)


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


def _stages(options: dict[str, Any]) -> list[str]:
    """The stages asked for; by default those that there can be checkpoints of."""
    from charprobe_lite.eval.checkpoints import ANY, served_names

    names = served_names(options["model"])
    default = ["all"]
    if names and ANY not in names:
        default = list(dict.fromkeys(stage for stage, _ in names))
    elif names or (options["gguf"] and not options["adapter"]):
        default = ["full"]
    elif options["adapter"]:
        default = ["base", "full"]
    return choose(options["stage"] or default, STAGES, "--stage")


def _settings(options: dict[str, Any]) -> Settings:
    from charprobe_lite.eval.study import Settings, runs_a_model
    from charprobe_lite.models.prompts import located_prompts
    from charprobe_lite.runtime.device import gpu_layers

    stages = _stages(options)
    conditions = choose(options["condition"] or DEFAULT_CONDITIONS, CONDITIONS, "--condition")
    if not any(runs_a_model(name) for name in conditions):
        stages = []
    prompts, scenarios = options["limit"]
    served = options["backend"] == "openai"
    return Settings(
        stages=stages,
        personas=_personas(options, stages),
        conditions=conditions,
        prompts=prompts,
        scenarios=scenarios,
        seed=options["seed"],
        parallel=options["parallel"],
        max_tokens=options["max_tokens"],
        max_steps=options["steps"],
        context=options["context"],
        device=options["device"],
        gpu_layers=0 if served else gpu_layers(options["device"], options["gpu_layers"]),
        threads=options["threads"],
        timeout=options["timeout"],
        scenario_file=options["scenarios"],
        prompt_file=located_prompts(options["prompts"]),
        formats=choose(options["format"] or ["json"], FORMATS, "--format"),
        grammars=choose(options["grammar"] or ["on"], GRAMMARS, "--grammar"),
    )


def _personas(options: dict[str, Any], stages: list[str]) -> list[str]:
    """The personas asked for; ``all`` are those that the base has an adapter of."""
    from charprobe_lite.eval.checkpoints import served_names
    from charprobe_lite.models.catalogue import load_catalogue

    catalogue = load_catalogue()
    if options["model"]:
        named = dict.fromkeys(persona for _, persona in served_names(options["model"]) if persona)
        return choose(options["persona"] or list(named), catalogue.personas, "--persona")
    trained = [stage for stage in stages if stage != "base"] or list(STAGES)
    known = [
        persona
        for persona in catalogue.personas
        if options["gguf"]
        or options["adapter"]
        or any(catalogue.adapter(options["base"], stage, persona) for stage in trained)
    ]
    if not options["gguf"]:
        catalogue.base(options["base"])
    return choose(options["persona"], known or list(catalogue.personas), "--persona")


def _files(options: dict[str, Any], settings: Settings) -> Files:
    from dataclasses import replace

    from charprobe_lite.eval import checkpoints
    from charprobe_lite.eval.forecast import forecast
    from charprobe_lite.models.catalogue import load_catalogue

    def note(text: str) -> None:
        click.echo(text, err=True)

    if options["backend"] == "openai":
        names = checkpoints.served_names(options["model"])
        first = names.get(("base", "")) or next(iter(names.values()))
        files = checkpoints.served_files(
            # a name on a server may be a path or a repository: its last part
            options["base"] if _named("base") else PurePosixPath(first).name,
            options["base_url"],
            names,
            settings.stages,
            settings.personas,
        )
    elif not options["gguf"]:
        wanted, catalogue = _wanted(options, settings), load_catalogue()
        forecast(wanted, catalogue, settings).refuse_what_does_not_fit()
        return checkpoints.catalogue_files(wanted, catalogue, note, conversion_bar)
    elif options["lora"] == checkpoints.MERGED:
        raise BadInput(
            "--lora merged: make the merged file first (convert merge) and name it with --gguf"
        )
    else:
        files = checkpoints.own_files(
            options["base"] if _named("base") else options["gguf"].stem,
            options["gguf"],
            options["adapter"],
            settings.stages,
            settings.personas,
            note,
        )
    if options["classifier"]:
        files = replace(files, classifier=options["classifier"], classifier_file=None)
    return files


def _wanted(options: dict[str, Any], settings: Settings) -> Wanted:
    from charprobe_lite.eval.checkpoints import Wanted

    return Wanted(
        base=options["base"],
        stages=settings.stages,
        personas=settings.personas,
        quant=options["quant"],
        lora=options["lora"],
        adapter=options["adapter"],
        classifier=options["classifier"],
        verify=options["verify"],
    )


def _print_forecast(options: dict[str, Any], settings: Settings) -> None:
    from rich.console import Console

    from charprobe_lite.eval.forecast import forecast, table
    from charprobe_lite.models.catalogue import load_catalogue

    if options["gguf"]:
        raise BadInput("--dry-run: a file of your own needs no preparation; leave it out")
    found = forecast(_wanted(options, settings), load_catalogue(), settings)
    if options["as_json"]:
        click.echo(json.dumps(found.as_json()))
    else:
        console = Console(width=None if sys.stdout.isatty() else 140, markup=False)
        console.print(table(found))
        for line in found.lines():
            click.echo(line)
    found.refuse_what_does_not_fit()


def _pin(store: Store, settings: Settings, files: Files) -> None:
    """Record what the study is made with; what must not differ between its runs is checked."""
    import platform
    from importlib.metadata import version

    from charprobe_lite.eval.transcript import hashes

    asked = hashes(settings.prompt_file, settings.scenario_file)
    store.pin(
        {
            "seed": settings.seed,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_tokens,
            "max_steps": settings.max_steps,
            **({} if files.served else {"context": settings.context, "lora": files.lora}),
            **{f"served {role}": name for role, name in files.served.items()},
            **{f"sha256 {name}": digest for name, digest in asked.items()},
            **{f"sha256 {role}": digest for role, digest in files.hashes().items()},
        }
    )
    packages = ("charprobe-lite", "llama-cpp-python", "onnxruntime", "numpy", "tokenizers")
    store.note(
        {
            "packages": {name: version(name) for name in packages},
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "arguments": sys.argv[1:],
            "parallel": settings.parallel,
            "gpu_layers": settings.gpu_layers,
        }
    )


def _scores(store: Store, tasks: list[Task], settings: Settings) -> Scores:
    """Scores of the cells that were asked for, over the items that were asked for."""
    from charprobe_lite.eval.report import score_study

    wanted = {(task.cell, task.persona, task.item.id) for task in tasks}
    rows = [row for row in store.rows() if (row.cell, row.persona, row.item) in wanted]
    return score_study(
        rows, list(dict.fromkeys(t.cell for t in tasks)), settings.personas, settings.seed
    )


def _note_left_out(settings: Settings, tasks: list[Task]) -> None:
    """Name the conditions that do not fit the stages, personas and inputs that were asked for."""
    asked = {task.cell.condition for task in tasks}
    for name in settings.conditions:
        if name not in asked:
            click.echo(f"{name}: left out, nothing to ask with these options", err=True)


def _print(scores: Scores, held: Weights | None, path: Path) -> None:
    from rich.console import Console

    from charprobe_lite.eval.report import finding, gap_table, table

    # a pipe has no width of its own: wide enough that no number is cut
    console = Console() if sys.stdout.isatty() else Console(width=140)
    merged, single = scores.merged, scores.single
    first = merged[0]
    shown = first.quant or "no model"
    if held:
        shown += f", {held.bits_per_weight:.2f} bits per weight"
    console.print(table(merged, f"{first.persona} on {first.base} ({shown})"))
    if single != merged:
        console.print(table(single, "per persona"))
        console.print(gap_table(scores.comparison))
    console.print(finding(merged), soft_wrap=True, markup=False)
    click.echo(f"study: {path}")
