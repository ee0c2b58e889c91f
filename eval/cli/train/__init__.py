"""`charprobe-lite train`: make the kit from the embedded base and the corpus."""

from __future__ import annotations

import click

from charprobe_lite.eval.cli.train.dpo import dpo
from charprobe_lite.eval.cli.train.kit import kit


@click.group()
def train() -> None:
    """Recipes that make adapters and classifiers (extra: charprobe-lite[train])."""


train.add_command(kit)
train.add_command(dpo)
