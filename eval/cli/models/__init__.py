"""`charprobe-lite models`: list, fetch, find, check and remove the catalogue's entries."""

from __future__ import annotations

import click

from charprobe_lite.eval.cli.models.list import list_models
from charprobe_lite.eval.cli.models.path import path
from charprobe_lite.eval.cli.models.prune import prune
from charprobe_lite.eval.cli.models.pull import pull
from charprobe_lite.eval.cli.models.verify import verify


@click.group()
def models() -> None:
    """List, fetch, find, check and remove bases, persona adapters and classifiers.

    Entries of your own go into the YAML file that CHARPROBE_CATALOGUE names; see docs/published.md.
    """


for command in (list_models, path, prune, pull, verify):
    models.add_command(command)
