"""`charprobe-lite convert quantize`: a GGUF model in other weight types."""

from __future__ import annotations

from pathlib import Path

import click

from charprobe_lite.eval.cli.convert.output import cores_option, print_files
from charprobe_lite.eval.cli.options import json_option, names_option
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models.catalogue import select_names
from charprobe_lite.models.quant_types import QUANT_TYPES


@click.command()
@click.option("--model", required=True, type=FILE, help="A GGUF model, F16 or better.")
@names_option("--quant", QUANT_TYPES, required=True, help="Weight types; each makes a file.")
@click.option("--imatrix", type=FILE, help="Importance matrix for the quantizer (GGUF).")
@cores_option
@click.option(
    "-o", "--output", type=FILE, help="Folder for MODEL-QUANT.gguf  [default: the model's own]."
)
@json_option
def quantize(
    model: Path,
    quant: tuple[str, ...],
    imatrix: Path | None,
    threads: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Quantize a GGUF model to one or more types, and print what each file really holds.

    Where a matrix's rows are no multiple of a type's block, llama.cpp stores another type: the
    name of a file says what was asked for, the table what it got.
    """
    from charprobe_lite.convert.quantize import quantize as write

    files = []
    for name in select_names(quant, QUANT_TYPES, "--quant"):
        click.echo(f"quantizing to {name}", err=True)
        files.append(write(model, name, output, imatrix, threads))
    print_files(files, as_json)
