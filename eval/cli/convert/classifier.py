"""`charprobe-lite convert classifier`: a ModernBERT classifier folder to ONNX files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from charprobe_lite.eval.cli.options import json_option, names_option
from charprobe_lite.eval.cli.progress import table_console
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models.catalogue import select_names

TYPES = ("fp32", "int8", "fp16")


@click.command()
@click.option(
    "--model",
    required=True,
    type=FILE,
    help="A folder with config.json, safetensors and tokenizer.json.",
)
@names_option("--type", TYPES, default=["fp32,int8"], help="Files to write; fp16 is for GPUs.")
@click.option("--verify/--no-verify", default=True, help="Compare logits with torch.")
@click.option("-o", "--output", required=True, type=FILE, help="The new folder to write.")
@json_option
def classifier(
    model: Path, type: tuple[str, ...], verify: bool, output: Path, as_json: bool
) -> None:
    """Write a ModernBERT classifier as ONNX files, which ONNX Runtime runs without torch.

    The new folder gets its labels (id2label) and its tokenizer, too, and goes to `eval
    --classifier`, which takes model.onnx (fp32) where the folder has it: with --type int8 the
    folder has only the faster file. Logits are compared with torch on chat answers and emails
    of the corpus; a difference is the largest of any logit.

    \b
    charprobe-lite convert classifier --model llama-3.1-8b-it-pt-classifier -o ears
    """
    from charprobe_lite.convert.onnx import export_classifier

    files = export_classifier(model, output, select_names(type, TYPES, "--type"), verify)
    if as_json:
        rows = [{**asdict(file), "file": str(output / file.file)} for file in files]
        click.echo(json.dumps({"files": rows}))
        return
    from rich.table import Table

    table = Table("file", "size", "max logit difference", "same label as torch", box=None)
    for file in files:
        difference = "-" if file.difference is None else f"{file.difference:.2g}"
        agreement = "-" if file.agreement is None else f"{file.agreement:.1%}"
        table.add_row(file.file, f"{file.bytes / 1e6:.1f} MB", difference, agreement)
    table_console(160).print(table)
