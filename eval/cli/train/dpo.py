"""`charprobe-lite train dpo`."""

from __future__ import annotations

from pathlib import Path

import click

from charprobe_lite.eval.cli.options import names_option
from charprobe_lite.eval.cli.train.recipe import open_recipe, out_option, seed_option
from charprobe_lite.models.catalogue import select_names
from charprobe_lite.models.personas import PERSONAS


@click.command()
@out_option
@seed_option
@names_option("--persona", PERSONAS, required=True, help="Personas to train by DPO.")
def dpo(out: Path, seed: int, persona: tuple[str, ...]) -> None:
    """Train a persona's distillation stage by DPO and compare it with the kit's, by SFT.

    Prints, for each, the share of held-out prompts answered in the persona's voice. Needs a work
    folder in which `train kit` has finished.
    """
    personas = select_names(persona, PERSONAS, "--persona")
    with open_recipe(out, seed) as recipe:
        rates = {name: recipe.compare_dpo(name) for name in personas}
    for name, (sft, preference) in rates.items():
        click.echo(f"{name}: detected on held-out prompts: SFT {sft:.0%}, DPO {preference:.0%}")
