"""`charprobe-lite train`: make the kit anew from the embedded base and the corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charprobe_lite.eval.cli.options import names_option
from charprobe_lite.eval.cli.progress import progress_bar
from charprobe_lite.models.catalogue import select_names
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS

if TYPE_CHECKING:
    from charprobe_lite.convert.kit.recipe import Recipe


def work_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every recipe takes."""
    folder = click.Path(path_type=Path, file_okay=False)
    command = click.option("--seed", default=0, show_default=True, help="Seed of the recipe.")(
        command
    )
    return click.option(
        "--out",
        default=Path("runs/kit"),
        show_default=True,
        type=folder,
        help="Work folder; the finished kit is OUT/kit.",
    )(command)


@click.group()
def train() -> None:
    """Recipes that make adapters and classifiers (extra: charprobe-lite[train])."""


@train.command()
@work_options
def kit(out: Path, seed: int) -> None:
    """Train tool use, ten personas in two stages and the classifier, and write kit.json.

    Takes hours on 2 CPU cores and uses a CUDA GPU by itself where torch finds one. Stopped at
    any step, the same command goes on with that step.
    """
    with _recipe(out, seed) as recipe:
        recipe.run()
    click.echo(f"kit: {out / 'kit'}")


@train.command()
@work_options
@names_option("--persona", PERSONAS, required=True, help="Personas to train by DPO.")
def dpo(out: Path, seed: int, persona: tuple[str, ...]) -> None:
    """Train a persona's distillation stage by DPO and compare it with the kit's, by SFT.

    Prints, for each, the share of held-out prompts answered in the persona's voice. Needs a work
    folder in which `train kit` has been run to its end.
    """
    chosen = select_names(persona, PERSONAS, "--persona")
    with _recipe(out, seed) as recipe:
        found = {name: recipe.compare_dpo(name) for name in chosen}
    for name, (sft, preference) in found.items():
        click.echo(f"{name}: detected on held-out prompts: SFT {sft:.0%}, DPO {preference:.0%}")


@contextmanager
def _recipe(out: Path, seed: int) -> Iterator[Recipe]:
    """The recipe on this machine, with a progress bar; its files' problems in one line."""
    from importlib.util import find_spec

    for module in ("torch", "peft", "optimum"):
        if find_spec(module) is None:
            raise BadInput(f"train: {module} is not installed; pip install 'charprobe-lite[train]'")
    from charprobe_lite.convert.kit.recipe import Recipe
    from charprobe_lite.models.kit import embedded_base

    with progress_bar() as progress:

        @contextmanager
        def bar(name: str) -> Iterator[Any]:
            task = progress.add_task(name, total=None)
            yield lambda step, total, loss: progress.update(
                task, completed=step, total=total, description=f"{name} loss {loss:.3f}"
            )

        try:
            yield Recipe(
                work=out,
                base=embedded_base(),
                seed=seed,
                report=lambda text: progress.console.print(text, highlight=False),
                progress=bar,
            )
        except OSError as error:
            raise BadInput(
                f"{error.filename or out}: {error.strerror or error}; see --out"
            ) from None
