"""`charprobe-lite train kit`."""

from __future__ import annotations

from pathlib import Path

import click

from charprobe_lite.eval.cli.train.recipe import open_recipe, out_option, seed_option


@click.command()
@out_option
@seed_option
def kit(out: Path, seed: int) -> None:
    """Train tool use, ten personas in two stages and the classifier, and write kit.json.

    Takes hours on 2 CPU cores; uses a CUDA GPU where torch finds one. After an interrupt, the same
    command continues with the step that it stopped in.
    """
    with open_recipe(out, seed) as recipe:
        recipe.run()
    click.echo(f"kit: {out / 'kit'}")
