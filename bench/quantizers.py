"""How fast llama.cpp's quantizer writes each quant type that needs no importance matrix.

    python bench/quantizers.py --quant Q4_0,Q4_K_M

Quantizes two layers of Llama 3.1 8B with random weights, and prints millions of weights per core
and second: what `eval --dry-run` counts with.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))

from published_shapes import write_base

from charprobe_lite.convert.merge import merge_lora
from charprobe_lite.convert.quantize import IMATRIX_TYPES, ROW_TYPES, quantize
from charprobe_lite.models.catalogue_schema import Shape
from charprobe_lite.models.quant_types import QUANT_TYPES

SHAPE = Shape(layers=2, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=8192)
TYPES = [name for name in QUANT_TYPES if name not in (*IMATRIX_TYPES, *ROW_TYPES)]


@click.command()
@click.option("--quant", default=",".join(TYPES), help="Quant types [default: all].")
def main(quant: str) -> None:
    """Measure the types one after another."""
    with tempfile.TemporaryDirectory() as folder:
        base, exact = Path(folder) / "base", Path(folder) / "model-F16.gguf"
        weights = write_base(base, SHAPE, None)
        merge_lora(base, [], exact, "F16", verify=False)
        for name in quant.split(","):
            started = time.perf_counter()
            written = quantize(exact, name)
            seconds = time.perf_counter() - started
            rate = weights / seconds / (os.cpu_count() or 1) / 1e6
            click.echo(f"{name:<8} {rate:6.1f} ({seconds:.1f} s)")
            written.path.unlink()


if __name__ == "__main__":
    main()
