"""`charprobe-lite convert merge`: a base and its adapters to one GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

from charprobe_lite.eval.cli.convert.output import cores_option, output_option, print_files
from charprobe_lite.eval.cli.options import json_option
from charprobe_lite.eval.cli.progress import conversion_bar
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models.quant_types import QUANT_TYPES


@click.command()
@click.option(
    "--base",
    required=True,
    help="A checkpoint folder, a GGUF model of any type, or a base of the catalogue.",
)
@click.option(
    "--adapter",
    multiple=True,
    type=FILE,
    help="A PEFT LoRA folder or a GGUF LoRA; several are added one after another.",
)
@click.option(
    "--quant",
    default="F16",
    type=click.Choice(QUANT_TYPES),
    metavar="TYPE",
    help="Weight type, as llama.cpp names it: F16, Q8_0, Q4_K_M, ...",
)
@click.option("--imatrix", type=FILE, help="Importance matrix for the quantizer (GGUF).")
@click.option(
    "--verify/--no-verify", default=True, help="Compare token ids and logits with the original."
)
@cores_option
@output_option
@json_option
def merge(
    base: str,
    adapter: tuple[Path, ...],
    quant: str,
    imatrix: Path | None,
    verify: bool,
    threads: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Merge LoRA adapters into a base and write one GGUF file, in little memory.

    Converts Llama, Qwen2.5, Gemma 3 (text, and the text part of the multimodal model) and
    SmolLM2 checkpoints. F32, F16, BF16 and Q8_0 are written in one pass; the other types go
    through llama.cpp's quantizer from a temporary F16 file next to the output.

    \b
    charprobe-lite convert merge --base Llama-3.1-8B-Instruct --adapter personas/sarcasm \\
        --quant Q4_K_M -o sarcasm.gguf
    """
    from charprobe_lite.convert.merge import merge_lora

    with conversion_bar(f"writing {output.name}") as progress:
        file = merge_lora(
            *(base, adapter, output, quant),
            verify=verify,
            imatrix=imatrix,
            progress=progress,
            threads=threads,
        )
    print_files([file], as_json)
