"""`charprobe-lite models`: what the catalogue names, fetched, found, checked and removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charprobe_lite.eval.cli.options import console_of, json_option, names_option
from charprobe_lite.models.catalogue import BASES, STAGES, select_names
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS

if TYPE_CHECKING:
    from charprobe_lite.models.cache import Removable
    from charprobe_lite.models.catalogue import Catalogue
    from charprobe_lite.models.catalogue_schema import Base, Source


@click.group()
def models() -> None:
    """List, fetch, find, check and remove bases, persona adapters and classifiers.

    Entries of your own go into the YAML file that CHARPROBE_CATALOGUE names; see docs/published.md.
    """


@models.command("list")
@click.option(
    "--context",
    default=2560,
    show_default=True,
    type=click.IntRange(128),
    help="Tokens per rollout, for the memory.",
)
@click.option(
    "--parallel",
    default=8,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Rollouts at once, for the memory.",
)
@json_option
def list_models(context: int, parallel: int, as_json: bool) -> None:
    """Print what is published, what is on this machine, and what it costs per quant type."""
    from charprobe_lite.eval.cli.inventory import inventory, tables
    from charprobe_lite.models.catalogue import load_catalogue

    found = inventory(load_catalogue(), context, parallel)
    if as_json:
        click.echo(json.dumps(found))
        return
    console = console_of(160)
    for table in tables(found):
        console.print(table)
    click.echo(f"personas: {', '.join(found['personas'])}")


@models.command()
@names_option("--base", tuple(BASES), required=True, help="Base models.")
@names_option("--stage", STAGES, help="Training stages of the personas  [default: all].")
@names_option("--persona", (*PERSONAS, "misalignment"), help="Personas; without, no adapters.")
@click.option(
    "--weights/--no-weights",
    default=True,
    show_default=True,
    help="The base's own weights; not needed beside a GGUF base.",
)
@click.option(
    "--classifier/--no-classifier", default=True, show_default=True, help="The base's classifier."
)
def pull(
    base: tuple[str, ...],
    stage: tuple[str, ...],
    persona: tuple[str, ...],
    weights: bool,
    classifier: bool,
) -> None:
    """Fetch checkpoints from the hub; stopped at any moment, the same command goes on.

    Honours HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and HF_ENDPOINT, and fetches safetensors, JSON and
    tokenizer files only. Prints where each one is.

    \b
    charprobe-lite models pull --base llama-3.1-8b --stage full --persona sarcasm,humor
    """
    from charprobe_lite.models.catalogue import load_catalogue
    from charprobe_lite.models.hub import fetch

    catalogue = load_catalogue()
    wanted: list[tuple[Source, Base]] = []
    for name in select_names(base, list(catalogue.bases), "--base"):
        chosen = catalogue.base(name)
        wanted += [(chosen, chosen)] if weights else []
        wanted += [(entry, chosen) for entry in _adapters(catalogue, name, stage, persona)]
        reader = catalogue.classifier(name)
        wanted += [(reader, chosen)] if classifier and reader else []
    # what needs a permission comes last, so that its lack holds up nothing else
    wanted.sort(key=lambda pair: pair[0].gated)
    _announce(wanted)
    for entry, _ in wanted:
        click.echo(f"{entry.kind:<10}  {entry.source}  {fetch(entry)}")


def _adapters(
    catalogue: Catalogue, base: str, stage: tuple[str, ...], persona: tuple[str, ...]
) -> list[Source]:
    """The adapters that are published of what was asked for; BadInput when one persona has none."""
    if not persona:
        return []
    stages = select_names(stage or ("all",), STAGES, "--stage")
    personas = select_names(persona, catalogue.personas, "--persona")
    found: list[Source] = []
    for name in personas:
        entries = [catalogue.adapter(base, stage, name) for stage in stages]
        here = [entry for entry in entries if entry]
        named = "all" not in ",".join(persona).split(",")
        if not here and named and stages != ["base"]:
            raise BadInput(
                f"--persona {name}: {base} has no adapter of it in stage {', '.join(stages)}; "
                "see charprobe-lite models list"
            )
        found += here
    return found


def _announce(wanted: list[tuple[Source, Base]]) -> None:
    """Say on stderr what is fetched; BadInput for what the disk cannot hold."""
    import shutil

    from charprobe_lite.eval.cli.inventory import shown
    from charprobe_lite.models.hub import cache_root, downloaded_bytes, local_path
    from charprobe_lite.models.size_estimates import download_bytes

    missing = [pair for pair in wanted if pair[0].repository and not local_path(pair[0])]
    sizes = [(entry, download_bytes(entry, base) or 0) for entry, base in missing]
    needed = sum(max(0, size - downloaded_bytes(entry)) for entry, size in sizes)
    if not missing:
        return
    root = cache_root()
    there = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise BadInput(
            f"{root}: about {shown(needed)} GB to fetch, {shown(free)} GB free; "
            "free space there, name less, or set HF_HOME"
        )
    click.echo(f"fetching {len(missing)}, about {shown(needed)} GB, into {root}", err=True)


@models.command()
@json_option
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
@click.option("--base", help="Print only where this base's weights are.")
@click.option(
    "--stage", type=click.Choice(STAGES[1:]), help="With --persona: where its adapter is."
)
@click.option("--persona", help="With --stage: where its adapter is.")
@click.option("--classifier", is_flag=True, help="Where the base's classifier is.")
def path(base: str | None, stage: str | None, persona: str | None, classifier: bool) -> None:
    """Print where things are: kit, caches and catalogue, or one checkpoint that was fetched.

    \b
    charprobe-lite models path
    charprobe-lite models path --base llama-3.1-8b --stage full --persona sarcasm
    """
    from charprobe_lite.models.cache import cache_folder
    from charprobe_lite.models.catalogue import default_catalogue, user_catalogue
    from charprobe_lite.models.hub import cache_root
    from charprobe_lite.models.kit import embedded_base, kit_folder

    if base:
        click.echo(_one_path(base, stage, persona, classifier))
        return
    if stage or persona or classifier:
        raise BadInput("--stage, --persona, --classifier: belong to a base; name one with --base")
    own = user_catalogue() or f"{default_catalogue()} (not there)"
    click.echo(f"kit        {kit_folder()}\nbase       {embedded_base()}")
    click.echo(f"cache      {cache_folder()}\nhub cache  {cache_root()}\ncatalogue  {own}")


def _one_path(base: str, stage: str | None, persona: str | None, classifier: bool) -> Path:
    from charprobe_lite.models.catalogue import load_catalogue
    from charprobe_lite.models.hub import local_path

    catalogue = load_catalogue()
    entry: Source | None = catalogue.base(base)
    if bool(stage) != bool(persona) or (classifier and persona):
        raise BadInput("--base: add either --stage and --persona, or --classifier, or neither")
    if persona and stage:
        select_names([persona], catalogue.personas, "--persona")
        entry = catalogue.adapter(base, stage, persona)
    elif classifier:
        entry = catalogue.classifier(base)
    if entry is None:
        raise BadInput(f"--base {base}: has no such checkpoint; see charprobe-lite models list")
    found = local_path(entry)
    if found is None:
        raise BadInput(f"{entry.source}: is not on this machine; charprobe-lite models pull")
    return found


@models.command()
@click.option("--hub", is_flag=True, help="Also what the hub's cache holds of the catalogue.")
@click.option("--yes", is_flag=True, help="Remove it; without, it is only listed.")
def prune(hub: bool, yes: bool) -> None:
    """List, or with --yes remove, what charprobe-lite has converted and can convert again.

    Only files of its own in its cache, unfinished ones and locks too; with --hub also the
    repositories that the catalogue names, whoever fetched them. Nothing that is being written.
    """
    from charprobe_lite.eval.cli.inventory import shown
    from charprobe_lite.models.cache import cached_files, remove
    from charprobe_lite.models.catalogue import load_catalogue
    from charprobe_lite.models.hub import removable_downloads

    items = cached_files()
    if hub:
        items += removable_downloads(load_catalogue().repositories())
    gone = remove(items) if yes else [item for item in items if not item.in_use()]
    for item in items:
        click.echo(f"{item.size:>14}  {item.path}{_state(item, gone)}")
    total = sum(item.size for item in gone)
    done = "removed" if yes else "to remove with --yes"
    click.echo(f"{total} bytes ({shown(total)} GB) in {len(gone)} places {done}")


def _state(item: Removable, gone: list[Removable]) -> str:
    return "" if item in gone else "  (in use, stays)"
