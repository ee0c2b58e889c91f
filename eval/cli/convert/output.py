"""What the commands of `convert` share: options, and the table of the files they wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from charprobe_lite.eval.cli.options import threads_option
from charprobe_lite.eval.cli.progress import table_console
from charprobe_lite.eval.cli.types import FILE

if TYPE_CHECKING:
    from charprobe_lite.convert.gguf_file import GGUFFile

output_option = click.option("-o", "--output", required=True, type=FILE, help="The file to write.")
cores_option = threads_option("all cores")


def print_files(files: Sequence[GGUFFile], as_json: bool) -> None:
    """Real tensor types, bits per weight and size, and the agreement of the last file."""
    agreement = files[-1].agreement
    if as_json:
        rows = [
            {"file": str(file.path), "bytes": file.bytes, **asdict(file.weights)} for file in files
        ]
        verified = asdict(agreement) if agreement else None
        click.echo(json.dumps({"files": rows, "verified": verified}))
        return
    from rich.table import Table

    table = Table("file", "asked for", "bits per weight", "size", "weights stored as", box=None)
    for file in files:
        types = file.weights.tensor_types
        total = sum(types.values())
        table.add_row(
            file.path.name,
            file.weights.name,
            f"{file.weights.bits_per_weight:.2f}",
            f"{file.bytes / 1e6:.1f} MB",
            ", ".join(f"{kind} {count / total:.1%}" for kind, count in types.items()),
        )
    table_console(160).print(table)
    if agreement:
        click.echo(
            f"verified against the original at {agreement.positions} positions: KL mean "
            f"{agreement.kl_mean:.2g}, max {agreement.kl_max:.2g}, top-1 {agreement.top1:.1%}"
        )
