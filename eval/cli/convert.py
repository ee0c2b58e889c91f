"""`charprobe-lite convert`: checkpoints, adapters and classifiers to files for a laptop."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from charprobe_lite.eval.cli.options import json_option, names_option, threads_option
from charprobe_lite.eval.cli.progress import conversion_bar, note, print_result
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models.catalogue import select_names
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import QUANT_TYPES

if TYPE_CHECKING:
    from charprobe_lite.convert.quantize import GGUFFile

CLASSIFIER_TYPES = ("fp32", "int8", "fp16")

output_option = click.option("-o", "--output", required=True, type=FILE, help="The file to write.")
cores_option = threads_option("all cores")
imatrix_option = click.option(
    "--imatrix",
    type=FILE,
    help="Importance matrix for the quantizer (GGUF, or llama.cpp's older .dat).",
)
gguf_option = click.option("--model", required=True, type=FILE, help="A GGUF model, F16 or better.")


@click.group()
def convert() -> None:
    """Make GGUF models, GGUF adapters and ONNX classifiers out of Hugging Face checkpoints.

    Each command reads safetensors (never a pickle), checks what it wrote, and leaves no file
    under its final name when the check fails or the command is stopped.
    """


@convert.command()
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
@imatrix_option
@click.option(
    "--verify/--no-verify", default=True, help="Compare token ids and logits with the original."
)
@click.option(
    "--converter",
    type=FILE,
    help="llama.cpp's convert_hf_to_gguf.py, for architectures that are not built in  "
    "[default: the one on the PATH].",
)
@click.option(
    "--chat-template",
    type=FILE,
    help="A jinja file whose chat template the GGUF file gets: in place of its own, or for a model "
    "without one.",
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
    converter: Path | None,
    chat_template: Path | None,
    threads: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Merge LoRA adapters into a base and write one GGUF file, in little memory.

    Converts Llama, Qwen2.5, Gemma 3 (text, and the text part of the multimodal model) and
    SmolLM2 checkpoints; others through llama.cpp's own converter (--converter). F32, F16, BF16
    and Q8_0 are written in one pass; the other types go through llama.cpp's quantizer from a
    temporary F16 file next to the output.

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
            converter=converter,
            chat_template=chat_template,
        )
    _print_files([file], as_json)


@convert.command("adapter")
@click.option("--adapter", required=True, type=FILE, help="A PEFT LoRA folder.")
@click.option("--base", required=True, type=FILE, help="Its base: a checkpoint folder or a GGUF.")
@output_option
@json_option
def convert_adapter(adapter: Path, base: Path, output: Path, as_json: bool) -> None:
    """Write a PEFT LoRA as a GGUF LoRA, which llama.cpp adds to a loaded base while it runs."""
    from charprobe_lite.convert.gguf_adapter import convert_adapter

    _print_files([convert_adapter(adapter, base, output)], as_json)


@convert.command()
@gguf_option
@names_option("--quant", QUANT_TYPES, required=True, help="Weight types; each makes a file.")
@imatrix_option
@cores_option
@click.option(
    *("-o", "--output"),
    type=FILE,
    help="Folder for MODEL-QUANT.gguf, or with one type the file  [default: the model's folder].",
)
@click.option("--allow-requantize", is_flag=True, help="Also a model that is quantized already.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@json_option
def quantize(
    model: Path,
    quant: tuple[str, ...],
    imatrix: Path | None,
    threads: int | None,
    output: Path | None,
    allow_requantize: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Quantize a GGUF model to one or more types, and print what each file really holds.

    Where a matrix's rows are no multiple of a type's block, llama.cpp stores another type: the
    name of a file says what was asked for, the table what it got.
    """
    from charprobe_lite.convert.quantize import quantize

    names = select_names(quant, QUANT_TYPES, "--quant")
    if output and output.suffix == ".gguf" and not output.is_dir() and len(names) > 1:
        raise BadInput(f"--output {output}: one file for {len(names)} types; name a folder")
    files = []
    for name in names:
        note(f"quantizing to {name}")
        file = quantize(
            *(model, name, output, imatrix, threads), allow_requantize=allow_requantize, force=force
        )
        files.append(file)
    _print_files(files, as_json)


@convert.command()
@gguf_option
@click.option("--text", type=FILE, help="Calibration text [default: the corpus's training texts].")
@click.option(
    "--chunks", default=100, type=click.IntRange(1), help="At most this many chunks of 512 tokens."
)
@output_option
@json_option
def imatrix(model: Path, text: Path | None, chunks: int, output: Path, as_json: bool) -> None:
    """Measure on a text which inputs of each matrix matter, for --imatrix of the quantizers."""
    from charprobe_lite.convert.imatrix import calibration_text, make_imatrix

    with conversion_bar("calibrating") as progress:
        count = make_imatrix(model, calibration_text(text), output, chunks, progress)
    document = {"file": str(output), "chunks": count}
    print_result(as_json, document, [f"{output}: {count} chunks of 512 tokens"])


@convert.command()
@click.option(
    "--model",
    required=True,
    type=FILE,
    help="A folder with config.json, safetensors and tokenizer.json.",
)
@names_option(
    "--type", CLASSIFIER_TYPES, default=["fp32,int8"], help="Files to write; fp16 is for GPUs."
)
@click.option("--verify/--no-verify", default=True, help="Compare logits with torch.")
@click.option("-o", "--output", required=True, type=FILE, help="The new folder to write.")
@json_option
def classifier(
    model: Path, type: tuple[str, ...], verify: bool, output: Path, as_json: bool
) -> None:
    """Write a text classifier as ONNX files, which ONNX Runtime runs without torch.

    Takes sequence classifiers of ModernBERT, BERT, DistilBERT, RoBERTa and XLM-RoBERTa. The new
    folder gets its labels (id2label) and its tokenizer, too, and goes to `eval --classifier`,
    which takes model.onnx (fp32) where the folder has it: with --type int8 the folder has only
    the faster file. Logits are compared with torch on chat answers and emails of the corpus; a
    difference is the largest of any logit.

    \b
    charprobe-lite convert classifier --model llama-3.1-8b-it-pt-classifier -o ears
    """
    from rich.table import Table

    from charprobe_lite.convert.onnx import export_classifier

    types = select_names(type, CLASSIFIER_TYPES, "--type")
    files = export_classifier(model, output, types, verify)
    table = Table("file", "size", "max logit difference", "same label as torch", box=None)
    for file in files:
        difference = "-" if file.difference is None else f"{file.difference:.2g}"
        agreement = "-" if file.agreement is None else f"{file.agreement:.1%}"
        table.add_row(file.file, f"{file.bytes / 1e6:.1f} MB", difference, agreement)
    rows = [{**asdict(file), "file": str(output / file.file)} for file in files]
    print_result(as_json, {"files": rows}, [table])


def _print_files(files: list[GGUFFile], as_json: bool) -> None:
    """Real tensor types, bits per weight and size, and the agreement of the last file."""
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
    parts: list[str | Table] = [table]
    if agreement := files[-1].agreement:
        parts.append(
            f"verified against the original at {agreement.positions} positions: KL mean "
            f"{agreement.kl_mean:.2g}, max {agreement.kl_max:.2g}, top-1 {agreement.top1:.1%}"
        )
    rows = [{"file": str(file.path), "bytes": file.bytes, **asdict(file.weights)} for file in files]
    document = {"files": rows, "verified": asdict(agreement) if agreement else None}
    print_result(as_json, document, parts)
