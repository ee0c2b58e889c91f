"""`charprobe-lite study merge`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from charprobe_lite.eval.cli.options import json_option
from charprobe_lite.eval.cli.types import FILE


@click.command()
@click.argument("studies", nargs=-1, required=True, type=FILE, metavar="STUDY...")
@click.option("-o", "--output", required=True, type=FILE, help="The new study; must not exist.")
@json_option
def merge(studies: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Join parts of one study into a new file; a rollout of several parts is kept once.

    \b
    charprobe-lite study merge part1.sqlite part2.sqlite -o whole.sqlite
    """
    from charprobe_lite.eval.store.merge import merge_studies

    merged = merge_studies(studies, output)
    if as_json:
        facts = {"study": str(output), "rollouts": merged.rollouts, "added": merged.added}
        click.echo(json.dumps(facts))
        return
    for path, added in zip(studies, merged.added, strict=True):
        click.echo(f"{path}: {added} rollouts")
    click.echo(f"study: {output}, {merged.rollouts} rollouts")
