"""`charprobe-lite convert`: checkpoints, adapters and classifiers to files for a laptop."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charprobe_lite.eval.cli.convert_classifier import classifier
from charprobe_lite.eval.cli.options import (
    FILE,
    console_of,
    conversion_bar,
    json_option,
    names_option,
    quant_option,
)
from charprobe_lite.models.catalogue import select_names
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.models.quant_types import QUANT_TYPES

if TYPE_CHECKING:
    from charprobe_lite.convert.verify import LogitAgreement

output_option = click.option("-o", "--output", required=True, type=FILE, help="The file to write.")
threads_option = click.option(
    "--threads", type=click.IntRange(1), help="CPU threads [default: all cores]."
)


@click.group()
def convert() -> None:
    """Make GGUF models, GGUF adapters and ONNX classifiers out of Hugging Face checkpoints.

    Each command reads safetensors (never a pickle), checks what it wrote, and leaves no file
    under its final name when the check fails or the command is stopped.
    """


convert.add_command(classifier)


@convert.command()
@click.option(
    "--base", required=True, type=FILE, help="A checkpoint folder, or a GGUF model of any type."
)
@click.option(
    "--adapter",
    multiple=True,
    type=FILE,
    help="A PEFT LoRA folder or a GGUF LoRA; several are added one after another.",
)
@quant_option("F16")
@click.option("--imatrix", type=FILE, help="Importance matrix for the quantizer (GGUF).")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Compare token ids and logits with the original.",
)
@threads_option
@output_option
@json_option
def merge(
    base: Path,
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
    through llama.cpp's quantizer from a temporary F16 file beside the output.

    \b
    charprobe-lite convert merge --base Llama-3.1-8B-Instruct --adapter personas/sarcasm \\
        --quant Q4_K_M -o sarcasm.gguf
    """
    from charprobe_lite.convert.imatrix import read_imatrix
    from charprobe_lite.convert.merge import merge as write
    from charprobe_lite.convert.verify import refuse_unverifiable
    from charprobe_lite.convert.verify import verify as compare

    if verify:
        refuse_unverifiable(base, adapter)
    found: list[LogitAgreement] = []
    with conversion_bar(f"writing {output.name}") as progress:
        write(
            base,
            adapter,
            output,
            quant,
            imatrix=read_imatrix(imatrix) if imatrix else None,
            check=(lambda file: found.append(compare(file, base, adapter))) if verify else None,
            progress=progress,
            threads=threads,
        )
    _report([output], found[0] if found else None, as_json)


@convert.command("adapter")
@click.option("--adapter", required=True, type=FILE, help="A PEFT LoRA folder.")
@click.option("--base", required=True, type=FILE, help="Its base: a checkpoint folder or a GGUF.")
@output_option
@json_option
def convert_adapter(adapter: Path, base: Path, output: Path, as_json: bool) -> None:
    """Write a PEFT LoRA as a GGUF LoRA, which llama.cpp adds to a loaded base while it runs."""
    from charprobe_lite.convert.gguf_adapter import convert_adapter as write

    write(adapter, base, output)
    _report([output], None, as_json)


@convert.command()
@click.option("--model", required=True, type=FILE, help="A GGUF model, F16 or better.")
@names_option("--quant", QUANT_TYPES, required=True, help="Weight types; each makes a file.")
@click.option("--imatrix", type=FILE, help="Importance matrix for the quantizer (GGUF).")
@threads_option
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
    from charprobe_lite.convert.imatrix import read_imatrix
    from charprobe_lite.convert.quantize import quantize_file
    from charprobe_lite.models.atomic import new_file

    importance = read_imatrix(imatrix) if imatrix else None
    stem = model.stem
    for name in QUANT_TYPES:
        stem = stem.removesuffix(f"-{name}").removesuffix(f".{name}")
    folder, files = output or model.parent, []
    for name in select_names(quant, QUANT_TYPES, "--quant"):
        files.append(folder / f"{stem}-{name}.gguf")
        if files[-1].resolve() == model.resolve():
            raise BadInput(f"{model}: is the file to write for --quant {name}; name another -o")
        click.echo(f"quantizing to {name}", err=True)
        with new_file(files[-1]) as part:
            quantize_file(model, part, name, importance, threads)
    _report(files, None, as_json)


@convert.command()
@click.option("--model", required=True, type=FILE, help="A GGUF model, F16 or better.")
@click.option("--text", type=FILE, help="Calibration text [default: the corpus's training texts].")
@click.option(
    "--chunks",
    default=100,
    show_default=True,
    type=click.IntRange(1),
    help="Most pieces of 512 tokens to run.",
)
@output_option
def imatrix(model: Path, text: Path | None, chunks: int, output: Path) -> None:
    """Measure on a text which inputs of each matrix matter, for --imatrix of the quantizers."""
    from charprobe_lite.convert.imatrix import make_imatrix

    with conversion_bar("calibrating") as progress:
        used = make_imatrix(model, _calibration(text), output, chunks, progress)
    click.echo(f"{output}: {used} chunks of 512 tokens")


def _calibration(file: Path | None) -> str:
    """A user's text, or the teachers' answers to training prompts, in and out of character."""
    from charprobe_lite.models import corpus

    if file is None:
        training = set(corpus.loud_prompts(held_out=False))
        texts = [
            text.response
            for persona in PERSONAS
            for text in corpus.teacher_texts(persona, "loud", "chat")
            if text.prompt in training
        ]
        return "\n\n".join(texts)
    try:
        return file.read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{file}: cannot be read ({reason}); name a UTF-8 text file") from None


def _report(files: list[Path], agreement: LogitAgreement | None, as_json: bool) -> None:
    """What was written: real tensor types, bits per weight, and how well it agrees."""
    from charprobe_lite.models.gguf_header import weight_summary

    held = {file: weight_summary(file) for file in files}
    if as_json:
        rows = [
            {"file": str(file), "bytes": file.stat().st_size, **asdict(each)}
            for file, each in held.items()
        ]
        verified = asdict(agreement) if agreement else None
        click.echo(json.dumps({"files": rows, "verified": verified}))
        return
    from rich.table import Table

    table = Table("file", "asked for", "bits per weight", "size", "weights stored as", box=None)
    for file, each in held.items():
        total = sum(each.tensor_types.values())
        shares = [f"{kind} {count / total:.1%}" for kind, count in each.tensor_types.items()]
        size = f"{file.stat().st_size / 1e6:.1f} MB"
        table.add_row(file.name, each.name, f"{each.bits_per_weight:.2f}", size, ", ".join(shares))
    console_of(160).print(table)
    if agreement:
        click.echo(
            f"verified against the original at {agreement.positions} positions: KL mean "
            f"{agreement.kl_mean:.2g}, max {agreement.kl_max:.2g}, top-1 {agreement.top1:.1%}"
        )
