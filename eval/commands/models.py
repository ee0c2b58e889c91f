"""`charprobe-lite models`: what the catalogue names, and whether the kit's files are whole."""

from __future__ import annotations

import json
from typing import Any

import click

from charprobe_lite.models.catalogue import BASES
from charprobe_lite.models.errors import BadInput


@click.group()
def models() -> None:
    """List the bases and personas, and check the files of the embedded kit."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_models(as_json: bool) -> None:
    """Print every base with its licence, its published checkpoints and whether it runs now."""
    from charprobe_lite.models.catalogue import PERSONAS, STAGES

    rows: list[dict[str, Any]] = [
        {
            "base": base.name,
            "source": base.source,
            "licence": base.licence,
            "parameters": base.parameters,
            "distillation": base.repository("distillation") or "in the kit",
            "full": base.repository("full") or "in the kit",
            "classifier": base.repository("classifier") or "in the kit",
            "embedded": base.slug is None,
        }
        for base in BASES.values()
    ]
    if as_json:
        found = {"bases": rows, "personas": list(PERSONAS), "stages": list(STAGES)}
        click.echo(json.dumps(found))
        return
    for row in rows:
        state = "runs now" if row["embedded"] else "published; convert it and use --gguf"
        click.echo(
            f"{row['base']:<14} {row['parameters'] / 1e9:5.2f}B  {row['licence']:<28} {state}"
        )
        click.echo(f"               {row['source']}")
        if not row["embedded"]:
            click.echo(f"               {row['distillation']}, {row['full']}, {row['classifier']}")
    click.echo(f"personas: {', '.join(PERSONAS)}")


@models.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def verify(as_json: bool) -> None:
    """Check every file of the kit against the sha256 in its manifest."""
    from charprobe_lite.models.kit import verify_kit

    states = verify_kit()
    wrong = [name for name, state in states if state != "ok"]
    if as_json:
        click.echo(json.dumps({"files": dict(states), "ok": not wrong}))
    else:
        for name, state in states:
            click.echo(f"{state:<8} {name}")
    if wrong:
        raise BadInput(f"kit: {wrong[0]}: {dict(states)[wrong[0]]}; install the package again")


@models.command()
def path() -> None:
    """Print where the kit, the embedded base and the cache are."""
    from charprobe_lite.models.cache import cache_folder
    from charprobe_lite.models.kit import embedded_base, kit_folder

    click.echo(f"kit    {kit_folder()}\nbase   {embedded_base()}\ncache  {cache_folder()}")
