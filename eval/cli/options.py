"""What several commands share: options and their types, notes, progress bars, tables' console."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charprobe_lite.models.catalogue import BASES, CONDITIONS, EMBEDDED, GRAMMARS
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.models.quant_types import QUANT_TYPES

if TYPE_CHECKING:
    from rich.console import Console

FILE = click.Path(path_type=Path)


class NameList(click.ParamType[str]):
    """Names from a known list; comma-separated, repeatable, ``all`` for every one."""

    name = "name[,name]"

    def __init__(self, known: Sequence[str]) -> None:
        self.known = list(known)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[Any]:
        """Complete the name after the last comma."""
        from click.shell_completion import CompletionItem

        head, comma, last = incomplete.rpartition(",")
        names = [*self.known, "all"]
        return [CompletionItem(head + comma + name) for name in names if name.startswith(last)]


def names_option(flag: str, known: Sequence[str], **rest: Any) -> Callable[[Any], Any]:
    """An option that takes several of ``known``; `catalogue.choose` expands what it gives."""
    return click.option(flag, multiple=True, type=NameList(known), show_default=True, **rest)


def quant_option(default: str) -> Callable[[Any], Any]:
    """The weight type."""
    return click.option(
        "--quant",
        default=default,
        show_default=True,
        type=click.Choice(QUANT_TYPES),
        metavar="TYPE",
        help="Weight type, as llama.cpp names it: F16, Q8_0, Q4_K_M, ...",
    )


class Shard(click.ParamType[tuple[int, int]]):
    """Which part of the rollouts this machine runs: ``N/OF``, with N from 1 to OF."""

    name = "n/of"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """(number of the part, number of parts)."""
        number, slash, of = str(value).partition("/")
        sound = slash and number.isdecimal() and of.isdecimal() and len(value) < 12
        if not sound or not 1 <= int(number) <= int(of):
            self.fail(f"{value!r}: give N/OF, such as 1/4", param, ctx)
        return int(number), int(of)


class Budget(click.ParamType[int | str]):
    """Memory for a study: a size such as ``8GB`` or ``500MB``, or ``machine``."""

    name = "size|machine"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        """Bytes, or the word."""
        if value == "machine":
            return str(value)
        found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?) ?(MB|GB)", str(value), re.IGNORECASE)
        if not found:
            self.fail(f"{value!r}: give a size such as 8GB or 500MB, or machine", param, ctx)
        return round(float(found[1]) * {"MB": 1e6, "GB": 1e9}[found[2].upper()])


def note(text: str) -> None:
    """Say something beside the result, on stderr."""
    click.echo(text, err=True)


class Limit(click.ParamType[tuple[int | None, int | None]]):
    """Prompts and scenarios per cell: ``N``, ``all``, or ``PROMPTS,SCENARIOS``."""

    name = "n[,n]|all"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int | None, int | None]:
        """(prompts, scenarios); None stands for all."""
        parts = str(value).split(",")
        if len(parts) not in (1, 2):
            self.fail(f"{value!r}: give N, all, or PROMPTS,SCENARIOS", param, ctx)
        numbers = [self._number(part.strip(), param, ctx) for part in parts]
        return numbers[0], numbers[-1]

    def _number(self, text: str, param: Any, ctx: Any) -> int | None:
        if text == "all":
            return None
        if not text.isdecimal() or int(text) < 1:
            self.fail(f"{text!r}: give a number of at least 1, or all", param, ctx)
        return int(text)


base_option = click.option(
    "--base",
    type=NameList(list(BASES)),
    metavar="NAME",
    help="A base of the catalogue (models list); fetched and converted where it has to be "
    f"[default: {EMBEDDED}].",
)
persona_option = names_option("--persona", PERSONAS, help="Personas; several give a macro-F1.")
condition_option = names_option(
    "--condition",
    CONDITIONS,
    help=f"How the checkpoint is asked: {', '.join(CONDITIONS)} [default: chat,agentic_email].",
)
grammar_option = names_option(
    "--grammar", GRAMMARS, help="Tool calls under a grammar or not [default: on]."
)
seed_option = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="The study's seed."
)
repeats_option = click.option(
    "--repeats",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="How often every prompt and scenario is asked, each time with another seed.",
)
shard_option = click.option(
    "--shard",
    type=Shard(),
    help="Run this part of the rollouts only; study merge joins the parts.",
)
budget_option = click.option(
    "--budget",
    type=Budget(),
    help="Leave out the quant types that need more memory, or more disk than there is; machine "
    "is this machine's memory.",
)
limit_option = click.option(
    "--limit",
    default="24,10",
    show_default=True,
    type=Limit(),
    help="Prompts and scenarios per cell: N for both, PROMPTS,SCENARIOS, or all; all in "
    "break_character is every prompt with every suffix.",
)
parallel_option = click.option(
    "--parallel",
    default=8,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Rollouts at once; with 1 a text depends on its seed bit for bit.",
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "metal", "cuda"]),
    help="Where llama.cpp and the classifier run; doctor says what there is.",
)
gpu_layers_option = click.option(
    "--gpu-layers",
    type=click.IntRange(0),
    help="Layers on the GPU [default: all if there is one].",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1), help="CPU threads [default: physical cores]."
)
max_tokens_option = click.option(
    "--max-tokens", default=384, show_default=True, type=click.IntRange(1), help="Tokens per turn."
)
context_option = click.option(
    "--context",
    default=2560,
    show_default=True,
    type=click.IntRange(128),
    help="Tokens that one rollout may fill.",
)
classifier_option = click.option(
    "--classifier", type=FILE, help="Your own classifier: a folder with ONNX ModernBERT."
)
verify_option = click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Check converted files against their originals.",
)
study_option = click.option(
    "--study", type=FILE, help="The study file [default: runs/BASE-seedSEED.sqlite]."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How much a command runs, of which seed, on what: `eval`'s and `quant-study`'s options."""
    for option in reversed(
        (
            *(budget_option, seed_option, repeats_option, shard_option, limit_option),
            *(parallel_option, device_option, gpu_layers_option, threads_option),
            *(max_tokens_option, context_option),
        )
    ):
        command = option(command)
    return command


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as `asked.checked` takes them."""
    found = {name: value for name, value in options.items() if value not in (None, ())}
    prompts, scenarios = found["limit"]
    return {**found, "limit": {"prompts": prompts, "scenarios": scenarios}}


def console_of(width: int) -> Console:
    """Of stdout, for tables that hold names and texts of others: markup in them stays as it is.

    A pipe has no width of its own: ``width`` is enough that nothing is cut.
    """
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width, markup=False)


@contextmanager
def progress_of(name: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar over ``total`` items; calls of what it gives advance it by one."""
    if not total:
        yield lambda: None
        return
    with progress_bar() as progress:
        task = progress.add_task(name, total=total)
        yield lambda: progress.advance(task)


@contextmanager
def conversion_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is told what is done and how much there is, as a conversion knows it."""
    with progress_bar() as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A rich progress bar with an estimate, on stderr."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress
