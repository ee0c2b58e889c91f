"""`charprobe-lite models verify`."""

from __future__ import annotations

import json

import click

from charprobe_lite.eval.cli.options import json_option
from charprobe_lite.models.errors import BadInput


@click.command()
@json_option
def verify(as_json: bool) -> None:
    """Check every file of the kit against the sha256 in its manifest."""
    from charprobe_lite.models.kit import verify_kit

    states = dict(verify_kit())
    problems = [f"{name}: {state}" for name, state in states.items() if state != "ok"]
    if as_json:
        click.echo(json.dumps({"files": states, "ok": not problems}))
    else:
        for name, state in states.items():
            click.echo(f"{state:<8} {name}")
    if problems:
        raise BadInput(f"kit: {problems[0]}; install the package again")
