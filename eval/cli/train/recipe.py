"""The recipe that the commands of `train` run: its options, and its progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charprobe_lite.eval.cli.progress import progress_bar
from charprobe_lite.models.errors import BadInput

if TYPE_CHECKING:
    from charprobe_lite.convert.kit.recipe import Recipe

out_option = click.option(
    "--out",
    default=Path("runs/kit"),
    type=click.Path(path_type=Path, file_okay=False),
    help="Work folder; the finished kit is OUT/kit.",
)
seed_option = click.option("--seed", default=0, help="Seed of the recipe.")


@contextmanager
def open_recipe(out: Path, seed: int) -> Iterator[Recipe]:
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
