"""`charprobe-lite train`: make the kit anew from the embedded base and the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from charprobe_lite.models.errors import BadInput


@click.group()
def train() -> None:
    """Recipes that make adapters and classifiers (extra: charprobe-lite[train])."""


@train.command()
@click.option(
    "--out",
    default=Path("runs/kit"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Work folder; the finished kit is OUT/kit.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the whole recipe.")
def kit(out: Path, seed: int) -> None:
    """Train tool use, ten personas in two stages and the classifier, and write kit.json.

    Takes hours on 2 CPU cores and uses a CUDA GPU by itself where torch finds one. Stopped at
    any step, the same command goes on with that step.
    """
    from importlib.util import find_spec

    for module in ("torch", "peft", "optimum"):
        if find_spec(module) is None:
            raise BadInput(
                f"train kit: {module} is not installed; pip install 'charprobe-lite[train]'"
            )
    from charprobe_lite.convert.recipe import Recipe
    from charprobe_lite.eval.commands.options import progress_bar
    from charprobe_lite.eval.speaker import classify, speak
    from charprobe_lite.models.kit import embedded_base

    with progress_bar() as progress:

        @contextmanager
        def bar(name: str) -> Iterator[Any]:
            task = progress.add_task(name, total=None)
            yield lambda step, total, loss: progress.update(
                task, completed=step, total=total, description=f"{name} loss {loss:.3f}"
            )

        Recipe(
            work=out,
            base=embedded_base(),
            speak=speak,
            classify=classify,
            seed=seed,
            report=lambda text: progress.console.print(text, highlight=False),
            progress=bar,
        ).run()
    click.echo(f"kit: {out / 'kit'}")
