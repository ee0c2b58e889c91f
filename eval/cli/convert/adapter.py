"""`charprobe-lite convert adapter`: a PEFT LoRA to a GGUF LoRA."""

from __future__ import annotations

from pathlib import Path

import click

from charprobe_lite.eval.cli.convert.output import output_option, print_files
from charprobe_lite.eval.cli.options import json_option
from charprobe_lite.eval.cli.types import FILE


@click.command("adapter")
@click.option("--adapter", required=True, type=FILE, help="A PEFT LoRA folder.")
@click.option("--base", required=True, type=FILE, help="Its base: a checkpoint folder or a GGUF.")
@output_option
@json_option
def convert_adapter(adapter: Path, base: Path, output: Path, as_json: bool) -> None:
    """Write a PEFT LoRA as a GGUF LoRA, which llama.cpp adds to a loaded base while it runs."""
    from charprobe_lite.convert.gguf_adapter import convert_adapter as write

    print_files([write(adapter, base, output)], as_json)
