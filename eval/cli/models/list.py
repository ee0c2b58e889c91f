"""`charprobe-lite models list`."""

from __future__ import annotations

import json

import click

from charprobe_lite.eval.cli.options import context_option, json_option, parallel_option
from charprobe_lite.eval.cli.progress import table_console


@click.command("list")
@context_option("Tokens per rollout, for the memory.")
@parallel_option("Rollouts at once, for the memory.")
@json_option
def list_models(context: int, parallel: int, as_json: bool) -> None:
    """Print what is published, what is on this machine, and what it costs per quant type."""
    from charprobe_lite.models.catalogue import load_catalogue
    from charprobe_lite.models.inventory import inventory

    document = inventory(load_catalogue(), context, parallel)
    if as_json:
        click.echo(json.dumps(document))
        return
    from charprobe_lite.eval.cli.models.tables import inventory_tables

    for table in inventory_tables(document):
        table_console(160).print(table)
    click.echo(f"personas: {', '.join(document['personas'])}")
