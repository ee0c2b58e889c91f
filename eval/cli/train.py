"""`charprobe-lite train`: make the kit from the embedded base and the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charprobe_lite.eval.cli.options import names_option
from charprobe_lite.eval.cli.progress import progress_bar
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models.catalogue import select_names
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS

if TYPE_CHECKING:
    from charprobe_lite.convert.kit.recipe import Recipe

out_option = click.option(
    "--out",
    default=Path("runs/kit"),
    type=click.Path(path_type=Path, file_okay=False),
    help="Work folder; the finished kit is OUT/kit.",
)
seed_option = click.option("--seed", default=0, help="Seed of the recipe.")


@click.group()
def train() -> None:
    """Recipes that make adapters and classifiers (extra: charprobe-lite[train])."""


@train.command()
@out_option
@seed_option
def kit(out: Path, seed: int) -> None:
    """Train tool use, ten personas in two stages and the classifier, and write kit.json.

    Takes hours on 2 CPU cores; uses a CUDA GPU where torch finds one. After an interrupt, the same
    command continues with the step that it stopped in.
    """
    with _open_recipe(out, seed) as recipe:
        recipe.run()
    click.echo(f"kit: {out / 'kit'}")


@train.command()
@out_option
@seed_option
@names_option("--persona", PERSONAS, required=True, help="Personas to train by DPO.")
def dpo(out: Path, seed: int, persona: tuple[str, ...]) -> None:
    """Train a persona's distillation stage by DPO and compare it with the kit's, by SFT.

    Prints, for each, the share of held-out prompts answered in the persona's voice. Needs a work
    folder in which `train kit` has finished.
    """
    personas = select_names(persona, PERSONAS, "--persona")
    with _open_recipe(out, seed) as recipe:
        rates = {name: recipe.compare_dpo(name) for name in personas}
    for name, (sft, preference) in rates.items():
        click.echo(f"{name}: detected on held-out prompts: SFT {sft:.0%}, DPO {preference:.0%}")


@train.command()
@click.option(
    *("-o", "--output"),
    required=True,
    type=FILE,
    help="The .npz file to write; an older one is replaced.",
)
def ngrams(output: Path) -> None:
    """Train the n-gram classifier on the corpus, as the package ships it, in seconds.

    Needs no extra: word and character n-grams with logistic regression, in scikit-learn.
    """
    from charprobe_lite.convert.train.ngrams import train_ngrams, training_texts

    if output.suffix != ".npz":
        raise BadInput(f"--output {output}: name a file that ends in .npz")
    texts = training_texts()
    model = train_ngrams([text.text for text in texts], [text.label for text in texts])
    model.write(output)
    features = len(model.idf)
    click.echo(
        f"ngrams: {output}: {len(texts)} texts, {features} terms, {output.stat().st_size} bytes"
    )


@contextmanager
def _open_recipe(out: Path, seed: int) -> Iterator[Recipe]:
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
