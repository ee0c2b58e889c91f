"""`charprobe-lite models prune`."""

from __future__ import annotations

import click


@click.command()
@click.option("--hub", is_flag=True, help="Also the catalogue's repositories in the hub's cache.")
@click.option("--yes", is_flag=True, help="Remove the files; without, only list them.")
def prune(hub: bool, yes: bool) -> None:
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
    for item in items:
        click.echo(f"{item.size:>14}  {item.path}{'' if item in free else '  (in use, stays)'}")
    total = sum(item.size for item in free)
    action = "removed" if yes else "to remove with --yes"
    click.echo(f"{total} bytes ({gigabytes(total)} GB) in {len(free)} places {action}")
