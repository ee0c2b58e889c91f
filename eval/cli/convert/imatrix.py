"""`charprobe-lite convert imatrix`: an importance matrix for the quantizers."""

from __future__ import annotations

from pathlib import Path

import click

from charprobe_lite.eval.cli.convert.output import output_option
from charprobe_lite.eval.cli.progress import conversion_bar
from charprobe_lite.eval.cli.types import FILE


@click.command()
@click.option("--model", required=True, type=FILE, help="A GGUF model, F16 or better.")
@click.option("--text", type=FILE, help="Calibration text [default: the corpus's training texts].")
@click.option(
    "--chunks", default=100, type=click.IntRange(1), help="Most pieces of 512 tokens to run."
)
@output_option
def imatrix(model: Path, text: Path | None, chunks: int, output: Path) -> None:
    """Measure on a text which inputs of each matrix matter, for --imatrix of the quantizers."""
    from charprobe_lite.convert.imatrix import calibration_text, make_imatrix

    with conversion_bar("calibrating") as progress:
        count = make_imatrix(model, calibration_text(text), output, chunks, progress)
    click.echo(f"{output}: {count} chunks of 512 tokens")
