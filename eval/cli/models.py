"""`charprobe-lite models`: list, fetch, find, check and remove the catalogue's entries."""

import click

from charprobe_lite.eval.cli.options import (
    context_option,
    json_option,
    names_option,
    parallel_option,
)
from charprobe_lite.eval.cli.progress import note, print_result
from charprobe_lite.models.catalogue import BASES, STAGES
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import NAMED_ONLY, PERSONAS


@click.group()
def models() -> None:
    """List, fetch, find, check and remove bases, persona adapters and classifiers.

    Entries of your own go into the YAML file that CHARPROBE_CATALOGUE names; see docs/published.md.
    """


@models.command("list")
@context_option("Tokens per rollout, for the memory.")
@parallel_option("Rollouts at once, for the memory.")
@json_option
def list_models(context: int, parallel: int, as_json: bool) -> None:
    """Print what is published, what is on this machine, and what it costs per quant type."""
    from charprobe_lite.eval.cli.inventory import inventory_tables
    from charprobe_lite.models.catalogue import load_catalogue
    from charprobe_lite.models.inventory import inventory

    document = inventory(load_catalogue(), context, parallel)
    personas = f"personas: {', '.join(document['personas'])}"
    named_only = f"asked by name, not part of all: {', '.join(document['named_only'])}"
    print_result(as_json, document, [*inventory_tables(document), personas, named_only])


@models.command()
@names_option("--base", BASES, required=True, help="Base models.")
@names_option("--stage", STAGES, help="Training stages of the personas  [default: all].")
@names_option(
    "--persona",
    (*PERSONAS, *NAMED_ONLY),
    help=f"Personas, {', '.join(NAMED_ONLY)} only by name; without, no adapters.",
)
@click.option(
    "--weights/--no-weights",
    default=True,
    help="The base's own weights; a GGUF base does not need them.",
)
@click.option("--classifier/--no-classifier", default=True, help="The base's classifier.")
@json_option
def pull(
    base: tuple[str, ...],
    stage: tuple[str, ...],
    persona: tuple[str, ...],
    weights: bool,
    classifier: bool,
    as_json: bool,
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
    rows = []
    for source in (download.source for download in downloads):
        rows.append({"kind": source.kind, "source": source.source, "path": str(fetch(source))})
        if not as_json:
            click.echo(f"{source.kind:<10}  {source.source}  {rows[-1]['path']}")
    print_result(as_json, {"files": rows}, [])


@models.command()
@click.option("--base", help="Print the path of this base's weights.")
@click.option(
    "--stage",
    type=click.Choice(STAGES[1:]),
    help="With --base and --persona: print the adapter's path.",
)
@click.option("--persona", help="With --base and --stage: print the adapter's path.")
@click.option("--classifier", is_flag=True, help="With --base: print its classifier's path.")
@json_option
def path(
    base: str | None, stage: str | None, persona: str | None, classifier: bool, as_json: bool
) -> None:
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
        place = str(checkpoint_path(load_catalogue(), base, stage, persona, classifier))
        print_result(as_json, {"path": place}, [place])
        return
    if stage or persona or classifier:
        raise BadInput("--stage, --persona, --classifier: belong to a base; name one with --base")
    places = {
        "kit": str(kit_folder()),
        "base": str(embedded_base()),
        "cache": str(cache_folder()),
        "hub cache": str(cache_root()),
        "catalogue": str(user_catalogue() or f"{default_catalogue()} (missing)"),
    }
    print_result(as_json, places, (f"{name:<9}  {place}" for name, place in places.items()))


@models.command()
@json_option
def verify(as_json: bool) -> None:
    """Check every file of the kit against the sha256 in its manifest."""
    from charprobe_lite.models.kit import verify_kit

    states = dict(verify_kit())
    problems = [f"{name}: {state}" for name, state in states.items() if state != "ok"]
    lines = (f"{state:<8} {name}" for name, state in states.items())
    print_result(as_json, {"files": states, "ok": not problems}, lines)
    if problems:
        raise BadInput(f"kit: {problems[0]}; install the package again")


@models.command()
@click.option("--hub", is_flag=True, help="Also the catalogue's repositories in the hub's cache.")
@click.option("--yes", is_flag=True, help="Remove the files; without, only list them.")
@json_option
def prune(hub: bool, yes: bool, as_json: bool) -> None:
    """List, or with --yes remove, what charprobe-lite has converted and can convert again.

    Only its own files in its cache, with unfinished ones and locks; with --hub also the
    repositories that the catalogue names, whoever fetched them. Files in use stay.
    """
    from charprobe_lite.models.cache import cached_files, remove
    from charprobe_lite.models.catalogue import load_catalogue
    from charprobe_lite.models.hub import removable_downloads
    from charprobe_lite.models.size_estimates import gigabytes

    items = cached_files()
    if hub:
        items += removable_downloads(load_catalogue().repositories())
    free = remove(items) if yes else [item for item in items if not item.in_use()]
    lines = [
        f"{item.size:>14}  {item.path}{'' if item in free else '  (in use, stays)'}"
        for item in items
    ]
    total = sum(item.size for item in free)
    action = "removed" if yes else "to remove with --yes"
    lines.append(f"{total} bytes ({gigabytes(total)} GB) in {len(free)} places {action}")
    rows = [
        {"path": str(item.path), "bytes": item.size, "in_use": item not in free} for item in items
    ]
    print_result(as_json, {"files": rows, "bytes": total, "removed": yes}, lines)
