"""`charprobe-lite convert`: checkpoints, adapters and classifiers to files for a laptop."""

from __future__ import annotations

import click

from charprobe_lite.eval.cli.convert.adapter import convert_adapter
from charprobe_lite.eval.cli.convert.classifier import classifier
from charprobe_lite.eval.cli.convert.imatrix import imatrix
from charprobe_lite.eval.cli.convert.merge import merge
from charprobe_lite.eval.cli.convert.quantize import quantize


@click.group()
def convert() -> None:
    """Make GGUF models, GGUF adapters and ONNX classifiers out of Hugging Face checkpoints.

    Each command reads safetensors (never a pickle), checks what it wrote, and leaves no file
    under its final name when the check fails or the command is stopped.
    """


for _command in (merge, convert_adapter, quantize, imatrix, classifier):
    convert.add_command(_command)
