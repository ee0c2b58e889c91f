"""`charprobe-lite models path`."""

from __future__ import annotations

import click

from charprobe_lite.models.catalogue import STAGES
from charprobe_lite.models.errors import BadInput


@click.command()
@click.option("--base", help="Print only the path of this base's weights.")
@click.option("--stage", type=click.Choice(STAGES[1:]), help="With --persona: of its adapter.")
@click.option("--persona", help="With --stage: of its adapter.")
@click.option("--classifier", is_flag=True, help="Of the base's classifier.")
def path(base: str | None, stage: str | None, persona: str | None, classifier: bool) -> None:
    """Print the paths of kit, caches and catalogue, or of one checkpoint on this machine.

    \b
    charprobe-lite models path
    charprobe-lite models path --base llama-3.1-8b --stage full --persona sarcasm
    """
    from charprobe_lite.models.cache import cache_folder
    from charprobe_lite.models.catalogue import default_catalogue, load_catalogue, user_catalogue
    from charprobe_lite.models.hub import cache_root
    from charprobe_lite.models.inventory import checkpoint_path
    from charprobe_lite.models.kit import embedded_base, kit_folder

    if base:
        click.echo(checkpoint_path(load_catalogue(), base, stage, persona, classifier))
        return
    if stage or persona or classifier:
        raise BadInput("--stage, --persona, --classifier: belong to a base; name one with --base")
    catalogue = user_catalogue() or f"{default_catalogue()} (missing)"
    click.echo(f"kit        {kit_folder()}\nbase       {embedded_base()}")
    click.echo(f"cache      {cache_folder()}\nhub cache  {cache_root()}\ncatalogue  {catalogue}")
