"""`charprobe-lite models pull`."""

from __future__ import annotations

import click

from charprobe_lite.eval.cli.options import names_option
from charprobe_lite.eval.cli.progress import note
from charprobe_lite.models.catalogue import BASES, STAGES
from charprobe_lite.models.personas import PERSONAS


@click.command()
@names_option("--base", BASES, required=True, help="Base models.")
@names_option("--stage", STAGES, help="Training stages of the personas  [default: all].")
@names_option("--persona", (*PERSONAS, "misalignment"), help="Personas; without, no adapters.")
@click.option(
    "--weights/--no-weights",
    default=True,
    help="The base's own weights; a GGUF base does not need them.",
)
@click.option("--classifier/--no-classifier", default=True, help="The base's classifier.")
def pull(
    base: tuple[str, ...],
    stage: tuple[str, ...],
    persona: tuple[str, ...],
    weights: bool,
    classifier: bool,
) -> None:
    """Fetch checkpoints from the hub; after an interrupt, the same command goes on.

    Honours HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and HF_ENDPOINT, and fetches safetensors, JSON and
    tokenizer files only. Prints the path of each.

    \b
    charprobe-lite models pull --base llama-3.1-8b --stage full --persona sarcasm,humor
    """
    from charprobe_lite.models.catalogue import load_catalogue
    from charprobe_lite.models.hub import fetch
    from charprobe_lite.models.inventory import check_room, select_downloads

    downloads = select_downloads(
        load_catalogue(), base, stage, persona, weights=weights, classifier=classifier
    )
    if message := check_room(downloads):
        note(message)
    for download in downloads:
        source = download.source
        click.echo(f"{source.kind:<10}  {source.source}  {fetch(source)}")
